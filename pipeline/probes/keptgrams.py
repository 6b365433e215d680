"""A layer's Gram matrix, kept in the run folder and extended when samples were appended.

Some five rows a feature make a Gram that preconditions every solve on the layer
(:mod:`pipeline.linear.solver`). It affects how many passes a fit takes and never its optimum, so a
Gram of fewer or older rows serves too. ``layer_gram`` reads the kept one, brings it to the present
standardisation, adds what it lacks, or makes it; ``write_part`` makes a share of it elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.linear import CPU, Design, Standardiser, StoreDesign, design_gram, sample_step
from store import ActivationStore, StoreError
from store.layout import Source
from store.tables import read_arrays, write_arrays

Array = NDArray[Any]


@dataclass(frozen=True)
class RowGram:
    """The Gram matrix of some rows of a store.

    Attributes:
        positions: ``(m,)`` int64, increasing.
        standardiser: what the rows were standardised with.
        gram: ``(features, features)`` float32.
    """

    positions: Array
    standardiser: Standardiser
    gram: Array

    @classmethod
    def of(
        cls,
        store: ActivationStore,
        source: Source,
        positions: Array,
        standardiser: Standardiser,
        device: torch.device,
    ) -> RowGram:
        """Of rows read from the store, one shard at a time, made on a device."""
        positions = np.sort(positions)
        design = StoreDesign(store, source, positions, standardiser, memory_bytes=0, device=device)
        return cls(positions, standardiser, design_gram(design))

    def rebased(self, standardiser: Standardiser) -> RowGram:
        """The same rows standardised otherwise; exact where these rows have the old mean."""
        old = self.standardiser
        ratio = old.scale / standardiser.scale
        shift = (old.mean - standardiser.mean) / standardiser.scale
        gram = self.gram * ratio
        gram *= ratio[:, None]
        if np.abs(shift).max(initial=0) > 1e-6:
            gram += np.outer(np.float32(len(self.positions)) * shift, shift)
        return RowGram(self.positions, standardiser, gram)

    def plus(self, other: RowGram) -> RowGram:
        """Of the rows of both."""
        there = other.rebased(self.standardiser)
        positions = np.sort(np.concatenate([self.positions, other.positions]))
        return replace(self, positions=positions, gram=self.gram + there.gram)

    def write(self, path: Path, extraction: str) -> None:
        """Write as safetensors; ``extraction`` is the store's fingerprint."""
        arrays = {
            "positions": self.positions,
            "mean": self.standardiser.mean,
            "scale": self.standardiser.scale,
            "gram": self.gram,
            "extraction": np.frombuffer(extraction.encode(), np.uint8),
        }
        write_arrays(path, arrays)

    @classmethod
    def read(cls, path: Path, extraction: str) -> RowGram | None:
        """What :meth:`write` wrote; None if missing, damaged or of another extraction."""
        try:
            arrays = read_arrays(path)
            if arrays["extraction"].tobytes().decode() != extraction:
                return None
            size, positions, gram = len(arrays["mean"]), arrays["positions"], arrays["gram"]
            if gram.shape != (size, size) or positions.ndim != 1 or arrays["scale"].ndim != 1:
                return None
            standardiser = Standardiser(arrays["mean"], arrays["scale"], np.inf)
            return cls(positions, standardiser, gram)
        except (StoreError, KeyError, TypeError, UnicodeDecodeError):
            return None


def part_path(path: Path, part: int) -> Path:
    """Where a share of a Gram lies until it is put together."""
    return path.with_name(f"{path.stem}.part-{part:04d}{path.suffix}")


def write_part(
    path: Path,
    store: ActivationStore,
    source: Source,
    positions: Array,
    part: int,
    num_parts: int,
    device: torch.device = CPU,
) -> None:
    """Write the Gram of one share of a layer's sample of rows, standardised by stored moments.

    Args:
        path: of the whole Gram.
        store: where the rows are.
        source: a stored source.
        positions: all training rows.
        part: which share, counted from 0.
        num_parts: how many there are.
        device: where it is made.
    """
    if RowGram.read(path, store.schema.fingerprint) is not None:
        return
    standardiser = Standardiser.from_moments(*store.moments(source.site, layer=source.layer))
    every = sample_step(len(positions), len(standardiser.mean))
    share = np.array_split(np.sort(positions)[::every], num_parts)[part]
    RowGram.of(store, source, share, standardiser, device).write(
        part_path(path, part), store.schema.fingerprint
    )


def layer_gram(
    path: Path,
    store: ActivationStore,
    source: Source,
    positions: Array,
    design: Design,
    *,
    keep: bool = True,
) -> Array:
    """The Gram matrix of a design's rows, or of a sample of them scaled to their number.

    Args:
        path: where it is kept.
        store: where the rows are.
        source: a stored source.
        positions: ``(n,)`` int64 of the design's rows.
        design: the standardised rows.
        keep: write it when it is new.

    Returns:
        ``(features, features)`` float32.
    """
    positions = np.sort(positions)
    every = sample_step(len(positions), design.num_features)
    sample = positions[::every]
    extraction = store.schema.fingerprint
    known = _gather(path, extraction)
    fresh = not path.is_file()
    if known is not None and np.isin(known.positions, positions).all():
        known = known.rebased(design.standardiser)
        lacking = len(sample) - len(known.positions)
        unseen = positions[~np.isin(positions, known.positions)]
        if lacking > 0 and len(unseen):
            step = max(1, len(unseen) // lacking)
            added = unseen[::step][:lacking]
            more = RowGram.of(store, source, added, design.standardiser, design.device)
            known = known.plus(more)
            fresh = True
    else:
        known = RowGram(sample, design.standardiser, design_gram(design, every))
        if every > 1:
            known = replace(known, gram=known.gram * np.float32(len(sample) / len(positions)))
        fresh = True
    if keep and fresh:
        known.write(path, extraction)
    for part in _parts(path):
        part.unlink(missing_ok=True)
    return known.gram * np.float32(len(positions) / len(known.positions))


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.part-*{path.suffix}"))


def _gather(path: Path, extraction: str) -> RowGram | None:
    """The kept Gram, or the sum of its parts."""
    known = RowGram.read(path, extraction)
    if known is not None:
        return known
    for part in _parts(path):
        share = RowGram.read(part, extraction)
        if share is not None:
            known = share if known is None else known.plus(share)
    return known
