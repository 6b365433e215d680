"""What a figure was measured on: the processor and what of it decides how fast matrices multiply.

    python tests/benchmarks/machine.py

Read from Linux's ``/proc/cpuinfo`` and ``/sys``; what they do not say is left empty.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

FEATURES = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_bf16", "amx_int8", "asimd", "asimddp", "sve", "sve2", "bf16", "i8mm"),
)
"""Linux's names of what matrix kernels are written for; ``asimd`` is NEON."""


def describe_machine() -> dict[str, Any]:
    """Name, cores, threads, features, caches and load, JSON-ready."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "processor": facts.get("model name", facts.get("CPU part", "")),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "features": [feature for feature in FEATURES if feature in flags],
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "caches": _caches(),
        "load": round(os.getloadavg()[0], 1),
    }


def _caches() -> dict[str, str]:
    """Level -> size, as Linux writes it; instructions' caches left out."""
    sizes = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (cache / "type").read_text().strip() != "Instruction":
            level = (cache / "level").read_text().strip()
            sizes[f"L{level}"] = (cache / "size").read_text().strip()
    return sizes


def machine_line(machine: dict[str, Any]) -> str:
    """``describe_machine`` on one line."""
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{' '.join(machine['features'])}, torch {machine['torch_kernels']}, {caches}, "
        f"load {machine['load']}"
    )


if __name__ == "__main__":
    print(json.dumps(describe_machine(), indent=2))
