"""Which samples are new: the pure part of planning an append."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.errors import ChangedTextError
from store.records import ALIAS_SCHEMA, DELETED_SCHEMA, Positions, SampleIndex


@dataclass(frozen=True)
class Selection:
    """What of the given samples is new: the pure result of `select_new`."""

    new: pa.Table
    aliases: pa.Table
    replaced: pa.Table
    num_known: int


def select_new(samples: pa.Table, index: SampleIndex, *, replace_changed: bool) -> Selection:
    """Split samples into new rows, further ids of known texts, and known ones.

    Args:
        samples: `SAMPLE_SCHEMA`.
        index: what the store knows.
        replace_changed: a known id with another text becomes a new version instead of an error.

    Raises:
        ChangedTextError: an id comes with two texts.
    """
    ids = disk.one_array(samples["id"])
    hashes = disk.one_array(samples["text_hash"])
    first_of_id = _first_occurrence(ids)
    clash = np.flatnonzero(
        pc.not_equal(hashes, hashes.take(pa.array(first_of_id))).to_numpy(zero_copy_only=False)
    )
    if len(clash):
        raise ChangedTextError(
            f"samples: id {ids[clash[0]].as_py()!r} comes twice with different texts "
            f"(rows {first_of_id[clash[0]]} and {clash[0]}); keep one of them"
        )
    once = first_of_id == np.arange(len(ids))

    known = index.positions(ids)
    changed = np.zeros(len(ids), bool)
    at = np.flatnonzero(known >= 0)
    stored = index.hashes_at(known[at])
    changed[at] = pc.not_equal(stored, hashes.take(pa.array(at))).to_numpy(zero_copy_only=False)
    if changed.any() and not replace_changed:
        row = int(np.flatnonzero(changed)[0])
        raise ChangedTextError(
            f"samples: {int(changed.sum())} known ids come with another text, the first is "
            f"{ids[row].as_py()!r} (row {row}); give the text a new id, or delete the stored one "
            f"(`salient store delete STORE --id {ids[row].as_py()}`, --ids-file for many); from "
            'Python changed="replace" stores a new version'
        )
    candidate = once & ((known < 0) | changed)
    by_hash = index.positions_by_hash(hashes)
    rows = np.flatnonzero(candidate)
    fresh = rows[by_hash[rows] < 0]
    leader = fresh[_first_occurrence(hashes.take(pa.array(fresh)))]
    is_new = leader == fresh
    new_rows = fresh[is_new]

    positions = by_hash.copy()
    number = np.full(len(ids), -1, np.int64)
    number[new_rows] = index.num_rows + np.arange(len(new_rows))
    positions[fresh] = number[leader]
    alias_rows = np.sort(np.concatenate([rows[by_hash[rows] >= 0], fresh[~is_new]]))
    aliases = samples.take(pa.array(alias_rows)).append_column(
        "position", pa.array(positions[alias_rows])
    )
    replaced = np.flatnonzero(once & changed)
    return Selection(
        new=samples.take(pa.array(new_rows)),
        aliases=aliases.select(ALIAS_SCHEMA.names),
        replaced=pa.table(
            {"id": ids.take(pa.array(replaced)), "position": known[replaced]},
            schema=DELETED_SCHEMA,
        ),
        num_known=len(ids) - len(new_rows),
    )


def _first_occurrence(values: pa.Array) -> Positions:
    """For each value, the index at which it first occurs."""
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    if len(codes) == 0:
        return np.zeros(0, np.int64)
    _, first = np.unique(codes, return_index=True)
    return np.asarray(first[codes], np.int64)


def samples_digest(samples: pa.Table, *options: str) -> str:
    """Fingerprint of an append request: the ids and texts, in order."""
    digest = hashlib.blake2b("\0".join(options).encode(), digest_size=16)
    for name in ("id", "text_hash"):
        digest.update("\0".join(samples[name].to_pylist()).encode() + b"\1")
    return digest.hexdigest()
