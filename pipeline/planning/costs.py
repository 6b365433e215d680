"""What scoring costs: operations counted, throughput measured, on texts like those of the run.

    rows = measuring_rows(config, 256)
    shallow, deep = measure([shallow_scorer, deep_scorer], rows, rounds=3)
    shallow.texts_per_s, flops(shallow_scorer, rows)

Scorers are timed in rounds that take them in turn, so that a busy spell of the machine strikes all
of them alike, from texts to predictions: tokenising and heads included, reading and writing not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, ExtractInputError
from pipeline.events import Tally
from pipeline.heads import Head
from pipeline.planning.depth import Speed
from pipeline.scoring import Scored, Scorer
from pipeline.texts import (
    InputOptions,
    Split,
    detect,
    load_target,
    read_blocks,
    sample_texts,
    split_place,
    usual_columns,
)
from store import ActivationStore, text_hash
from store.errors import SalientError

Array = NDArray[Any]
NUM_TEXTS = {"cpu": 256, "cuda": 4096}
"""Texts that throughput is measured on, by device; a GPU is not busy with less."""
ROUNDS = 5


def flops(scorer: Scorer, rows: pa.Table) -> tuple[float, float]:
    """Operations a text and a token of some rows."""
    texts = rows["text"].to_pylist()
    backbone, encoded = scorer.extractor.backbone, scorer.extractor.encode(texts)
    filled = np.flatnonzero(encoded.lengths)
    batch = backbone.batch(encoded.ids(filled), filled, packed=True)  # only to count: no pads
    flops = scorer.extractor.flops(batch)
    return flops / len(encoded), flops / batch.num_tokens


@dataclass(frozen=True)
class MeasureOptions:
    """What throughput is measured on, and how.

    Attributes:
        texts: a file of texts, read as `salient score` reads it; None for stored texts.
        num_texts: how many of them; None for as many as ``NUM_TEXTS`` has for the device.
        rounds: timed passes over them of every scorer.
        model: the backbone's location, if it moved.
        device: torch device.
        trust_remote_code: the model's own code may run, where the heads ask for it; so it may where
            all runs are TOML files that allow it, of the model that they name.
    """

    texts: Path | None = None
    num_texts: int | None = None
    rounds: int = ROUNDS
    model: str | None = None
    device: str = "auto"
    trust_remote_code: bool = False

    def allows_code(self, heads: Sequence[Head], configs: Sequence[RunConfig]) -> bool:
        """Whether the caller allows the own code of the model that heads of some runs name."""
        moved = self.model is not None
        return self.trust_remote_code or all(
            config.trusts(head.card.extraction["backbone"], moved=moved)
            for head in heads
            for config in configs
        )

    def check(self) -> None:
        """Refuse a file of texts that is not there, before a model is loaded.

        Raises:
            ConfigError: it is not.
        """
        if self.texts is not None:
            _check_texts(self.texts)

    def rows(
        self, config: RunConfig, device: torch.device, splits: Sequence[Split] = ("val", "train")
    ) -> pa.Table:
        """:func:`measuring_rows` for scorers on a device."""
        count = self.num_texts or NUM_TEXTS.get(device.type, NUM_TEXTS["cpu"])
        return measuring_rows(config, count, texts=self.texts, splits=splits)


class Measurable(Protocol):
    """What can be measured: a scorer, or what stands for one."""

    def score_table(self, table: pa.Table) -> Scored:
        """Score one table of rows."""


def measure(scorers: Sequence[Measurable], rows: pa.Table, *, rounds: int) -> list[Speed]:
    """Throughput of each scorer over the same rows: the median of rounds that take them in turn."""
    seconds: list[list[float]] = [[] for _ in scorers]
    num_tokens = 0
    tally = Tally("measured", len(scorers) * (rounds + 1), "passes")
    for number in range(rounds + 1):
        for at, scorer in enumerate(scorers):
            start = time.perf_counter()
            scored = scorer.score_table(rows)
            elapsed = time.perf_counter() - start
            if number:  # the first round warms caches and lanes up
                seconds[at].append(elapsed)
            num_tokens = int(np.sum(scored.table["n_tokens"].to_numpy()))
            tally(number * len(scorers) + at + 1)
    found = []
    for own in seconds:
        middle = statistics.median(own)
        found.append(Speed(len(rows) / middle, num_tokens / middle, tuple(own)))
    return found


def measuring_rows(
    config: RunConfig,
    num_texts: int,
    *,
    texts: Path | None = None,
    splits: Sequence[Split] = ("val", "train"),
) -> pa.Table:
    """Rows to score: different texts, from a run's labelled ones or from a file.

    Args:
        config: the run's configuration.
        num_texts: at most so many, spread evenly over those there are.
        texts: a file to take them from instead, its first ones.
        splits: taken in their order, as far as they are needed to have enough.

    Raises:
        ExtractInputError: the store keeps no texts and the corpus lacks them, or there are none.
        SalientError: the file cannot be read.
    """
    if texts is not None:
        return rows_of(_texts_of_file(texts, config, num_texts))
    try:
        store = ActivationStore.open(config.store.path)
        targets = [load_target(store, task) for task in config.tasks]
        positions = np.empty(0, np.int64)
        for split in splits:
            found = np.concatenate([target.rows(split).positions for target in targets])
            others = np.setdiff1d(found, positions)
            room = min(num_texts - len(positions), len(others))
            picks = np.linspace(0, len(others) - 1, room).astype(np.int64)
            positions = np.concatenate([positions, others[picks]])
        return rows_of(sample_texts(store, np.sort(positions), config))
    except SalientError as error:
        raise ExtractInputError(
            f"no stored texts to measure on ({error}); give some: --texts FILE"
        ) from None


def _check_texts(path: Path) -> None:
    if not split_place(path)[0].is_file():
        what = "is a folder" if path.is_dir() else "no such file of texts"
        raise ConfigError(f"{path}: {what}; name a file, or one in a zip archive")


def _texts_of_file(path: Path, config: RunConfig, num_texts: int) -> list[str]:
    _check_texts(path)
    options = InputOptions(normalise=config.normalise, usual=usual_columns(config.corpus))
    found: dict[str, None] = {}
    for block in read_blocks(path, detect(path, options), options):
        found |= {text: None for text in block.rows["text"].to_pylist() if text and text.strip()}
        if len(found) >= num_texts:
            break
    if not found:
        raise ExtractInputError(f"{path}: no texts in it; give another file")
    return list(found)[:num_texts]


def rows_of(texts: Sequence[str]) -> pa.Table:
    """Texts as rows that a scorer takes: ids are their numbers, times unknown."""
    return pa.table(
        {
            "id": [str(i) for i in range(len(texts))],
            "text": pa.array(texts, pa.string()),
            "text_hash": [text_hash(text) for text in texts],
            "created_at": pa.nulls(len(texts), pa.int64()),
            "source_file": pa.nulls(len(texts), pa.string()),
        }
    )
