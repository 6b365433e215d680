"""Adding layers or hidden states to samples that are already stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from store.commits.planning import Draft, new_plan_id
from store.errors import StoreInputError
from store.layout import StoreSchema
from store.records import (
    ALIAS_SCHEMA,
    DELETED_SCHEMA,
    SAMPLE_SCHEMA,
    PlanRecord,
    SampleIndex,
    Snapshot,
)


def backfill_layers(
    schema: StoreSchema,
    *,
    layers: Sequence[int],
    hidden_layers: Sequence[int],
    hidden_size: int | None,
    poolings: Sequence[str],
) -> dict[str, tuple[int, ...]]:
    """The layers a backfill must bring, by array; StoreError where the layout cannot take them."""
    extra = [name for name in poolings if name not in schema.poolings]
    if extra:
        raise StoreInputError(
            f"pooling {extra[0]!r} cannot be added: each shard holds all poolings of its layer "
            f"({', '.join(schema.poolings)}); extract into a second store with poolings "
            f"{extra} and join the two by sample id"
        )
    if layers and not schema.layers:
        raise StoreInputError(
            "FFN layers cannot be added to a store of hidden states only; extract a new store"
        )
    if hidden_layers and schema.hidden_size is None and hidden_size is None:
        raise StoreInputError("hidden states need hidden_size: this store has none yet")
    if hidden_size is not None and schema.hidden_size not in (None, hidden_size):
        raise StoreInputError(
            f"hidden_size is {schema.hidden_size} in this store, not {hidden_size}"
        )
    wanted = {
        "ffn": tuple(layer for layer in layers if layer not in (schema.layers or ())),
        "hidden": tuple(layer for layer in hidden_layers if layer not in schema.hidden_layers),
    }
    if schema.peaks:
        wanted["peak"] = wanted["ffn"]
    schema.with_layers(  # validates the numbers
        layers=wanted["ffn"], hidden_layers=wanted["hidden"], hidden_size=hidden_size
    )
    return {name: new for name, new in wanted.items() if new}


def draft_backfill(
    snapshot: Snapshot,
    index: SampleIndex,
    layers: dict[str, tuple[int, ...]],
    hidden_size: int | None,
) -> Draft:
    """A plan whose blocks are the committed slots and whose samples are the stored texts.

    Deleted samples are computed as empty texts.

    Raises:
        StoreError: the store keeps no texts.
    """
    schema = snapshot.schema
    check_texts(schema)
    samples = index.visible_rows(0, snapshot.num_samples).select(SAMPLE_SCHEMA.names)
    missing = samples["text"].null_count - int(index.dead.sum())
    if missing:
        raise StoreInputError(
            f"{missing} of this store's samples came without a text, so nothing can be computed for"
            " them; extract a new store, with all that is wanted"
        )
    record = PlanRecord(
        id=new_plan_id(),
        kind="backfill",
        digest=backfill_digest(layers, hidden_size),
        start=0,
        stop=snapshot.num_samples,
        num_known=0,
        layers=layers,
        hidden_size=hidden_size,
    )
    if not layers:
        return Draft(replace(record, stop=0), {})
    tables = {
        "samples": samples,
        "aliases": ALIAS_SCHEMA.empty_table(),
        "replaced": DELETED_SCHEMA.empty_table(),
    }
    return Draft(record, tables)


def check_texts(schema: StoreSchema) -> None:
    """Refuse a store without texts."""
    if not schema.store_text:
        raise StoreInputError(
            "this store keeps no texts, so nothing can be computed for its samples; extract a new"
            " store, with all that is wanted"
        )


def backfill_digest(layers: dict[str, tuple[int, ...]], hidden_size: int | None) -> str:
    """Fingerprint of a backfill request."""
    return hashlib.blake2b(
        json.dumps(["backfill", layers, hidden_size]).encode(), digest_size=16
    ).hexdigest()
