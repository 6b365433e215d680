"""Where each number of the store lies: the schema, slots of samples, shards and their manifests.

Read first: `schema` (axes, dtypes, chunk sizes) and `shards` (a shard's bytes); `manifests` hold
the checksums and moments of a slot, `documents` and `coordinates` the Zarr metadata, `attributes`
what they say in words. `sources` names what features are read: an array's layer, or what lies
beside the store.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
