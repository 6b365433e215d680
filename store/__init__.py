"""Salient's activation store: plain Zarr v3, written fast, committed safely.

    from store import ActivationStore, StoreSchema

In: blocks of activations with their samples and labels. Out: snapshots that any xarray or zarr
opens, and reads that check every byte. `store.activations` shows the way through an append and a
read.

From the ground up: `store.disk` (whole files, locks), `store.layout` (where each number lies),
`store.records` (what a snapshot shows), `store.commits` (how one comes to be), `store.reading`,
`store.upkeep`; `store.tables` keeps the small tables of runs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
