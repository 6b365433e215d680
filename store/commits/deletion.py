"""Deleting: tombstones for the records that are stored, and no trace in a plan under way.

On a disk a plan is changed after the tombstones are committed, on a bucket by that very commit. Its
positions stay what they are: a row that was to come loses id and text, or goes on under the next id
of the same append with the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store.commits.planning import AppendPlan
from store.errors import StoreInputError
from store.records import (
    DELETED_SCHEMA,
    INDEX,
    SAMPLE_SCHEMA,
    IndexPart,
    SampleIndex,
    Snapshot,
    WriteTable,
)

Mask = npt.NDArray[np.bool_]


def doomed_records(
    index: SampleIndex, ids: Sequence[str] | None, author_ids: Sequence[str] | None
) -> pa.Table:
    """The living records (id, position) with one of these ids or authors."""
    doomed = _is_doomed(index.records, ids, author_ids)
    return index.records.filter(pa.array(doomed)).select(DELETED_SCHEMA.names)


def _is_doomed(
    table: pa.Table, ids: Sequence[str] | None, author_ids: Sequence[str] | None
) -> Mask:
    found = np.zeros(len(table), bool)
    for name, values in (("id", ids), ("author_id", author_ids)):
        if values is not None:
            wanted = pa.array([str(value) for value in values], pa.string())
            found |= pc.is_in(table[name], value_set=wanted).to_numpy()
    return found


def known_authors(
    where: str, plan: AppendPlan | None, index: SampleIndex, author_ids: Sequence[str]
) -> set[str]:
    """Those of some authors that samples have, stored or to come.

    Args:
        where: the store, for the error.
        plan: under way, if any.
        index: of the last commit.
        author_ids: asked for.

    Raises:
        StoreInputError: no sample names its author.
    """
    columns = [table["author_id"] for table in (index.records, *_planned(plan))]
    if all(column.null_count == len(column) for column in columns):
        raise StoreInputError(
            f"{where}: this store keeps no authors (no sample names one), so it cannot delete by"
            " author; set author = COLUMN under [[corpus]] and extract anew, or delete by id"
        )
    wanted = pa.array([str(name) for name in author_ids], pa.string())
    found: set[str] = set()
    for column in columns:
        found.update(pc.unique(column.filter(pc.is_in(column, value_set=wanted))).to_pylist())
    return found


def planned_ids(
    plan: AppendPlan | None, ids: Sequence[str] | None, author_ids: Sequence[str] | None
) -> set[str]:
    """Those of some ids, or of some authors, that the plan under way names."""
    found: set[str] = set()
    for table in _planned(plan):
        found.update(_ids(table, _is_doomed(table, ids, author_ids)))
    return found


def _planned(plan: AppendPlan | None) -> list[pa.Table]:
    """Ids and authors of the plan under way; none without one."""
    if plan is None:
        return []
    return [table.select(["id", "author_id"]) for table in (plan.table("samples"), plan.aliases())]


def add_tombstones(write: WriteTable, snapshot: Snapshot, doomed: pa.Table) -> Snapshot:
    """Write the tombstones; returns `snapshot` with them (not yet published)."""
    part = IndexPart("deleted", write(f"{INDEX}/deleted", doomed))
    return replace(snapshot, index=(*snapshot.index, part), has_dead=True)


class PlanWithout(NamedTuple):
    """A plan's tables once something is deleted.

    Attributes:
        ids: what was to come and will not.
        tables: those that change, in the order in which they are written on a disk: an heir that
            is an alias too is recognised, one that is neither were lost.
    """

    ids: set[str]
    tables: dict[str, pa.Table]


def plan_without(
    plan: AppendPlan,
    snapshot: Snapshot,
    index: SampleIndex,
    ids: Sequence[str] | None,
    author_ids: Sequence[str] | None,
) -> PlanWithout:
    """A plan less ids, authors and what a snapshot has deleted.

    Writers of its blocks go on: what they computed of a deleted text comes to a position that
    nobody sees.

    Args:
        plan: under way.
        snapshot: without what was deleted of it.
        index: of that.
        ids: to delete.
        author_ids: whose samples to delete.
    """
    rows = plan.table("samples")
    # Of committed rows the plan keeps what every reader sees, and no more.
    start = plan.record.start
    num_committed = min(max(snapshot.num_samples - start, 0), len(rows))
    seen = index.visible_rows(start, start + num_committed).select(SAMPLE_SCHEMA.names)
    if plan.record.kind == "backfill":
        return PlanWithout(set(), {} if seen.equals(rows) else {"samples": seen})
    coming = rows.slice(num_committed)
    aliases, replaced = plan.aliases(), plan.replaced()
    gone_rows = _is_doomed(coming, ids, author_ids)
    gone_aliases = _is_doomed(aliases, ids, author_ids)
    planned = {*_ids(coming, gone_rows), *_ids(aliases, gone_aliases)}
    later = aliases.filter(pa.array(~gone_aliases))
    coming, heirs = _without(coming, gone_rows, later, start + num_committed)
    lost = pa.array(sorted(planned), pa.string())
    kept = pc.invert(pc.is_in(replaced["id"], value_set=lost))
    pairs = {
        "samples": (rows, pa.concat_tables([seen, coming])),
        "aliases": (aliases, later.filter(pa.array(~heirs))),
        "replaced": (replaced, replaced.filter(kept)),
    }
    changed = {name: after for name, (before, after) in pairs.items() if not after.equals(before)}
    return PlanWithout(planned, changed)


def _ids(table: pa.Table, chosen: Mask) -> list[str]:
    return list(table["id"].filter(pa.array(chosen)).to_pylist())


def _without(coming: pa.Table, gone: Mask, aliases: pa.Table, start: int) -> tuple[pa.Table, Mask]:
    """The rows to come, of which some are deleted, and which aliases took such a row over.

    The hash of a deleted row's text stays, by which a compaction knows that there is something to
    remove.
    """
    position = aliases["position"].to_numpy()
    heirs = np.zeros(len(aliases), bool)
    heir_of = np.full(len(coming), -1, np.int64)
    inside = np.flatnonzero((position >= start) & (position < start + len(coming)))[::-1]
    own = aliases["id"].take(pa.array(inside)).to_pylist()
    names = coming["id"].take(pa.array(position[inside] - start)).to_pylist()
    for number, name, row_id in zip(inside.tolist(), own, names, strict=True):
        if name == row_id:  # it took over before, and who deleted then died here
            heirs[number] = True
        else:
            heir_of[position[number] - start] = number  # reversed: the first alias wins
    taken = gone & (heir_of >= 0)
    heirs[heir_of[taken]] = True
    heir = aliases.take(pa.array(heir_of, mask=~taken))
    columns = {}
    for field in SAMPLE_SCHEMA:
        column = coming[field.name]
        if field.name in ("id", "created_at", "author_id"):
            column = pc.if_else(pa.array(gone), heir[field.name], column)
        elif field.name == "text":
            lost = pa.array(gone & ~taken)
            column = pc.if_else(lost, pa.scalar(None, field.type), column)
        columns[field.name] = column
    return pa.table(columns, schema=SAMPLE_SCHEMA), heirs
