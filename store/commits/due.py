"""Which aliases and replacements of a plan a commit may publish, as the store is at that moment.

Between plan and commit samples may be deleted. What the commit then does:

    an alias of a row that died         the row lives again, under the alias: its text and numbers
                                        are all there, for no compaction runs beside a plan
    an alias of a row compacted away    is left out, with a warning; appended again it is new, and
                                        computed. It takes a plan of an earlier version, or one
                                        that was put back: compaction waits for plans
    a replacement of a deleted record   is left out: there is nothing to replace
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.commits.planning import AppendPlan
from store.records import (
    ALIAS_SCHEMA,
    DELETED_SCHEMA,
    Positions,
    SampleIndex,
)

logger = logging.getLogger(__name__)
MAX_NAMED = 5


class DueRecords(NamedTuple):
    """What a commit publishes beside rows.

    Attributes:
        aliases: `ALIAS_SCHEMA`.
        replaced: `DELETED_SCHEMA`.
        changing: positions committed before whose visible id or text changes by it.
    """

    aliases: pa.Table
    replaced: pa.Table
    changing: Positions


def due_records(
    plan: AppendPlan, index_of_last: Callable[[], SampleIndex], rows: pa.Table, *, complete: bool
) -> DueRecords:
    """Choose among a plan's aliases and replacements.

    Args:
        plan: being committed.
        index_of_last: gives the last commit's index.
        rows: what the commit adds, `ROW_SCHEMA`.
        complete: no blocks are left. Aliases wait for that; a replacement goes with its new row,
            so that an id never has two.
    """
    aliases, replaced = plan.aliases(), plan.replaced()
    if not complete:
        aliases = ALIAS_SCHEMA.empty_table()
        replaced = replaced.filter(pc.is_in(replaced["id"], value_set=disk.one_array(rows["id"])))
    if not len(aliases) and not len(replaced):
        nothing = np.zeros(0, np.int64)
        return DueRecords(ALIAS_SCHEMA.empty_table(), DELETED_SCHEMA.empty_table(), nothing)
    index = index_of_last()
    position = replaced["position"].to_numpy()
    replaced = replaced.filter(pa.array(index.positions(replaced["id"]) == position))
    aliases, revived = _due_aliases(plan, index, rows, aliases)
    changing = np.concatenate([replaced["position"].to_numpy(), revived])
    return DueRecords(aliases, replaced, changing)


def _due_aliases(
    plan: AppendPlan, index: SampleIndex, rows: pa.Table, aliases: pa.Table
) -> tuple[pa.Table, Positions]:
    """The aliases that a commit publishes, and the positions that live again by them."""
    position = aliases["position"].to_numpy()
    stop = index.num_rows + len(rows)
    if len(position) and not 0 <= position.min() <= position.max() < stop:
        what = f"an alias of position {int(position.max())}, of {stop:,}"
        raise disk.damaged(plan.where, what, plan.remedy)
    stored = position < index.num_rows
    known = index.positions(aliases["id"]) == position
    known[~stored] = _own_ids(rows, position[~stored] - index.num_rows, aliases, ~stored)
    died, lost = np.zeros((2, len(aliases)), bool)
    died[stored] = index.dead[position[stored]]
    if died.any():
        has_text = pc.is_valid(index.rows(["text_hash"])["text_hash"]).to_numpy()
        lost[died] = ~has_text[position[died]]
    if lost.any():
        some = ", ".join(aliases["id"].filter(pa.array(lost)).to_pylist()[:MAX_NAMED])
        logger.warning(
            "%s: %d ids are left out, for the texts that they share with others were deleted and "
            "compacted away since the append was planned; append them again (%s)",
            plan.where,
            int(lost.sum()),
            some,
        )
    return aliases.filter(pa.array(~known & ~lost)), position[died & ~lost]


def _own_ids(
    rows: pa.Table, numbers: Positions, aliases: pa.Table, chosen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which of some aliases are the very ids of the rows that they point to: `(chosen,)`."""
    own = disk.one_array(rows["id"]).take(pa.array(numbers))
    same = pc.equal(own, disk.one_array(aliases["id"].filter(pa.array(chosen))))
    return np.asarray(same.fill_null(False).to_numpy(zero_copy_only=False), bool)
