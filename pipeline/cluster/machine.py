"""What this machine has: cores and free memory, as the limits of its control group allow."""

from __future__ import annotations

import os
import resource
from pathlib import Path


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


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
