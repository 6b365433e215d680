"""Reads of a snapshot: whole layers, salient slices, xarray.

Read first: `view` (what is where) and `reader` (bytes, checked); `dataset` is the xarray face
(`lazy` its arrays, `backend` its engine, `memory` the same of arrays in memory), `codec` makes
plain `xr.open_zarr` fast, and `zarrstore` is what it opens of a bucket, whose manifests are read by
`windows`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
