"""Salient's activation store: plain Zarr v3, written fast, committed safely.

    from store import ActivationStore, StoreSchema

See `store.activations` for the way through an append and a read.
"""

from store.activations import ActivationStore
from store.blocks import Block
from store.errors import ChangedTextError, DamagedShardError, SalientError, StoreError
from store.plans import AppendPlan
from store.samples import text_hash
from store.schema import ArrayLayout, StoreSchema
from store.snapshots import Snapshot

__all__ = [
    "ActivationStore",
    "AppendPlan",
    "ArrayLayout",
    "Block",
    "ChangedTextError",
    "DamagedShardError",
    "SalientError",
    "Snapshot",
    "StoreError",
    "StoreSchema",
    "text_hash",
]
