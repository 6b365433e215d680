"""Memory as a contract: what a process is expected to take for its blocks, and what it came to.

    before = resident_bytes()                        # the model is loaded, no block is begun
    ...                                              # a block is computed and written
    Footprint.now(before, len(block), bytes_per_text, device)

Both go into the event of each block, after Cubed, whose tasks report the same two.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple

import torch

BLOCKS_AT_A_TIME = 2
"""One is computed while the one before is written."""


class Footprint(NamedTuple):
    """Memory of a process that works on blocks, in bytes."""

    estimated: int = 0
    """Expected: what it had before, and the blocks in work at a time."""
    peak: int = 0
    """Most that it has had in its life."""
    gpu: int = 0
    """Most GPU memory that its tensors have taken."""

    @classmethod
    def now(
        cls, before: int, num_texts: int, bytes_per_text: int, device: torch.device
    ) -> Footprint:
        """That of a process which has just written a block.

        Args:
            before: what it had with the model loaded.
            num_texts: of the block.
            bytes_per_text: of activations, as they are stored.
            device: that it computes on.
        """
        gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        expected = before + BLOCKS_AT_A_TIME * num_texts * bytes_per_text
        return cls(expected, peak_bytes(), gpu)

    def most(self, other: Footprint) -> Footprint:
        """The larger of each."""
        return Footprint(*map(max, self, other))


def resident_bytes() -> int:
    """Memory that this process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return peak_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Most memory that this process has had in its life."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
