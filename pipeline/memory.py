"""How much memory a layer's fits need, and how many layers fit at a time. Pure but for the look.

A layer task holds its raw values if they fit; else they are read shard by shard on every pass. The
rest (Gram, factor, directions, buffers) it needs in any case.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ProbeError

USABLE = 0.8
"""Share of the free memory that is planned with."""
VECTORS_PER_COLUMN = 30
"""Float64 vectors that a column of a lock-step solve keeps: directions, gradients, optima."""
BUFFER_BYTES = 128 * 1024 * 1024
"""Block buffers, small factors and BLAS's own."""


@dataclass(frozen=True)
class LayerNeed:
    """Bytes that fitting one layer takes.

    Attributes:
        raw: the stored values of all training and validation rows.
        rest: all else.
    """

    raw: int
    rest: int


@dataclass(frozen=True)
class MemoryPlan:
    """How layers are spread.

    Attributes:
        at_a_time: layers fitted at the same time.
        raw_bytes: bytes of raw values that each may hold.
        streams: whether that is less than a layer has.
    """

    at_a_time: int
    raw_bytes: int
    streams: bool


def layer_need(
    *,
    num_rows: int,
    num_features: int,
    itemsize: int,
    num_columns: int,
    num_fits: int,
    matrix_bytes: int,
    samples_per_shard: int,
) -> LayerNeed:
    """What one layer takes.

    Args:
        num_rows: training and validation rows together.
        num_features: features of the layer.
        itemsize: bytes of a stored value.
        num_columns: outputs over all targets and folds, solved together.
        num_fits: targets and folds.
        matrix_bytes: of Gram matrices, their factors and the like.
        samples_per_shard: rows that are read at once.
    """
    columns = VECTORS_PER_COLUMN * 8 * num_columns * (num_features + 1)
    labels = 16 * num_fits * num_rows
    shard = 2 * itemsize * num_features * samples_per_shard
    return LayerNeed(
        itemsize * num_rows * num_features,
        matrix_bytes + columns + labels + shard + BUFFER_BYTES,
    )


def plan_memory(need: LayerNeed, *, free: int, workers: int) -> MemoryPlan:
    """As many layers at a time as fit, at most ``workers``; one that streams if none fits whole.

    Raises:
        ProbeError: not even a streamed layer fits.
    """
    usable = int(USABLE * free)
    at_a_time = min(workers, usable // (need.raw + need.rest))
    if at_a_time >= 1:
        return MemoryPlan(at_a_time, need.raw, streams=False)
    if need.rest > usable:
        raise ProbeError(
            f"a layer's fits need {need.rest / 1e9:.1f} GB beside its activations, and"
            f" {free / 1e9:.1f} GB of memory are free; use a machine with more memory, or fewer"
            " poolings"
        )
    return MemoryPlan(1, usable - need.rest, streams=True)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, its control group and its limits."""
    found = [1 << 62]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        values = [line.strip() for name in (limit, usage) for line in _lines(name)[:1]]
        if len(values) == 2 and all(value.isdigit() for value in values):
            # The page cache counts as used; the kernel gives it back when it is needed.
            cached = sum(
                int(line.split()[1])
                for line in _lines(str(Path(limit).with_name("memory.stat")))
                if line.startswith(("inactive_file ", "active_file "))
            )
            found.append(int(values[0]) - int(values[1]) + cached)
    for kind, field in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            used = [line for line in _lines("/proc/self/status") if line.startswith(field)]
            found.append(soft - (1024 * int(used[0].split()[1]) if used else 0))
    return max(0, min(found))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
