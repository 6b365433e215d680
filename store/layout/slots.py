"""Pure planning: which samples go in which shard, and which bytes of it a read needs.

A *slot* is one shard's worth of sample positions, `[slot * S, (slot + 1) * S)`. A *block* is the
part of one slot that one unit of work fills. Nothing here touches a disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Block:
    """Sample positions `[start, stop)`, all inside shard slot `slot`."""

    slot: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def plan_blocks(start: int, stop: int, *, samples_per_shard: int) -> tuple[Block, ...]:
    """Cut positions `[start, stop)` at the slot boundaries."""
    blocks = []
    while start < stop:
        slot = start // samples_per_shard
        end = min(stop, (slot + 1) * samples_per_shard)
        blocks.append(Block(slot, start, end))
        start = end
    return tuple(blocks)


class SlotPick(NamedTuple):
    """Samples wanted from one slot: columns inside the slot, and where they go in the result."""

    slot: int
    columns: slice | npt.NDArray[np.int64]
    target: slice | npt.NDArray[np.int64]


def pick_slots(
    samples: slice | npt.NDArray[np.int64], *, num_samples: int, samples_per_shard: int
) -> Iterator[SlotPick]:
    """Group wanted positions `(n,)` by slot, in slot order, so that each shard is visited once."""
    if isinstance(samples, slice):
        start, stop, step = samples.indices(num_samples)
        if step == 1:
            for block in plan_blocks(start, stop, samples_per_shard=samples_per_shard):
                offset = block.slot * samples_per_shard
                yield SlotPick(
                    block.slot,
                    slice(block.start - offset, block.stop - offset),
                    slice(block.start - start, block.stop - start),
                )
            return
        samples = np.arange(start, stop, step, dtype=np.int64)
    slots = samples // samples_per_shard
    order = np.argsort(slots, kind="stable")
    bounds = np.flatnonzero(np.diff(slots[order])) + 1
    for target in np.split(order, bounds):
        if len(target):
            slot = int(slots[target[0]])
            yield SlotPick(slot, samples[target] - slot * samples_per_shard, target)


def merge_runs(rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Runs `(start, stop)` of adjacent row numbers in sorted unique `rows`: one read each."""
    if len(rows) == 0:
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate(([0], cuts))]
    stops = rows[np.concatenate((cuts - 1, [len(rows) - 1]))] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
