"""The texts of stored samples by position, with ids and labels: to be found and shown.

    texts = StoredTexts(store)
    texts.find("happy cat")                 # positions
    texts.at([17]), texts.ids([17]), texts.label_names("mood", [17])

Labels of test splits are not read: looking at them would spoil the test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import RunConfig
from pipeline.errors import ExtractError
from pipeline.texts.corpus import corpus_of
from pipeline.texts.duplicates import near_duplicates
from store import ActivationStore

Array = NDArray[Any]
SHOWN_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Labels:
    """A task's labels by position.

    Attributes:
        classes: names in index order; empty for regression.
        values: ``(samples,)`` float64: class index or value, NaN without a label; of label sets
            ``(samples, labels)`` 0 or 1.
    """

    classes: tuple[str, ...]
    values: Array

    @property
    def known(self) -> Array:
        """Mask ``(samples,)`` of those with a label, or a set of them."""
        known = np.isfinite(self.values)
        return known if known.ndim == 1 else known[:, 0]

    def groups(self) -> list[tuple[str, Array]]:
        """Class or label -> mask ``(samples,)`` of those that have it; label sets overlap."""
        if self.values.ndim == 2:
            return [(name, self.values[:, i] == 1) for i, name in enumerate(self.classes)]
        return [(name, self.values == i) for i, name in enumerate(self.classes)]

    def name(self, position: int) -> str:
        """The label of a sample as text; empty where there is none to show."""
        value = self.values[position]
        if np.isnan(value).any():
            return ""
        if self.values.ndim == 2:
            return ", ".join(np.array(self.classes)[value == 1]) or "no label"
        return self.classes[int(value)] if self.classes else f"{value:.3g}"


class StoredTexts:
    """Look-ups in one store; see the module.

    Args:
        store: shown at one snapshot. Its ids and texts are kept in memory.
    """

    def __init__(self, store: ActivationStore) -> None:
        self.store = store
        self._labels: dict[str, Labels | None] = {}

    @cached_property
    def _samples(self) -> pa.Table:
        return self.store.samples().select(["id", "text", "n_tokens", "position"]).combine_chunks()

    @cached_property
    def _positions(self) -> Array:
        return np.asarray(self._samples["position"].to_numpy())

    def at(self, positions: Sequence[int] | Array) -> list[str | None]:
        """The texts at positions ``(n,)``; None where the store keeps hashes only."""
        rows = np.searchsorted(self._positions, np.asarray(positions, np.int64))
        return list(self._samples["text"].take(pa.array(rows)).to_pylist())

    def ids(self, positions: Sequence[int] | Array) -> list[str]:
        """The ids at positions ``(n,)``."""
        rows = np.searchsorted(self._positions, np.asarray(positions, np.int64))
        return list(self._samples["id"].take(pa.array(rows)).to_pylist())

    def num_tokens(self, positions: Sequence[int] | Array) -> Array:
        """The numbers of tokens ``(n,)``, special ones included, at positions ``(n,)``."""
        rows = np.searchsorted(self._positions, np.asarray(positions, np.int64))
        return np.asarray(self._samples["n_tokens"].take(pa.array(rows)).to_numpy())

    def has(self, position: int) -> bool:
        """Whether a living sample is at a position."""
        at = int(np.searchsorted(self._positions, position))
        return at < len(self._positions) and int(self._positions[at]) == position

    def find(self, query: str, limit: int = 20) -> list[int]:
        """Positions of the sample with this id, or of the first whose text contains the query."""
        found = [int(p) for p in self.store.positions([query]) if p >= 0]
        if found or not query.strip():
            return found
        hits = pc.match_substring(self._samples["text"], query, ignore_case=True)
        rows = np.flatnonzero(hits.fill_null(False).to_numpy(zero_copy_only=False))[:limit]
        return [int(position) for position in self._positions[rows]]

    def labels(self, task: str) -> Labels | None:
        """A task's labels of the training and validation splits; None if the store has none."""
        if task not in self._labels:
            self._labels[task] = self._read_labels(task)
        return self._labels[task]

    def _read_labels(self, task: str) -> Labels | None:
        if task not in self.store.tasks():
            return None
        table = self.store.labels(task)
        table = table.filter(pc.is_in(table["split"], value_set=pa.array(SHOWN_SPLITS)))
        positions = self.store.positions(table["id"])
        spec, shape = self.store.label_spec(task), [self.store.num_samples]
        known = spec.get("classes")
        if pa.types.is_floating(table.schema.field("label").type):
            classes: tuple[str, ...] = ()
            labels = table["label"].to_numpy()
        else:
            classes = tuple(known or sorted(set(table["label"].to_pylist())))
            if spec.get("type") == "multilabel":
                sets = [set(json.loads(one)) for one in table["label"].to_pylist()]
                labels = np.array([[float(name in own) for name in classes] for own in sets])
                shape.append(len(classes))
                labels = labels.reshape(-1, len(classes))
            else:
                codes = pc.index_in(table["label"], value_set=pa.array(classes, pa.string()))
                labels = codes.cast(pa.float64()).fill_null(np.nan).to_numpy()
        values = np.full(shape, np.nan)
        there = positions >= 0
        values[positions[there]] = labels[there]
        return Labels(classes, values)

    def label_names(self, task: str, positions: Sequence[int] | Array) -> list[str]:
        """Labels at positions ``(n,)`` as text; empty where there is none to show."""
        labels = self.labels(task)
        if labels is None:
            return [""] * len(positions)
        return [labels.name(int(position)) for position in positions]


def sample_texts(
    store: ActivationStore,
    positions: NDArray[Any],
    config: RunConfig,
    known: Mapping[str, str] | None = None,
) -> list[str]:
    """The normalised texts at some positions.

    Args:
        store: the activation store.
        positions: ``(n,)`` int64, of living samples, in any order.
        config: names the corpus, which is read again if the store keeps hashes only.
        known: text hash -> text, instead of that corpus.

    Raises:
        ExtractError: the store keeps no texts, and the corpus has lost some.
    """
    samples = store.samples()
    rows = np.searchsorted(samples["position"].to_numpy(), positions)
    chosen = samples.take(pa.array(rows))
    if not chosen["text"].null_count:
        return list(chosen["text"].to_pylist())
    if known is None:
        corpus = corpus_of(config).samples
        known = dict(zip(corpus["text_hash"].to_pylist(), corpus["text"].to_pylist(), strict=True))
    hashes = chosen["text_hash"].to_pylist()
    if missing := sum(one not in known for one in hashes):
        raise ExtractError(
            f"{config.store.path}: keeps no texts, and {missing} of {len(hashes)} are not in the"
            " corpus files any more; restore those, or extract with keep_text = true"
        )
    return [known[one] for one in hashes]


def sample_groups(
    store: ActivationStore,
    positions: NDArray[Any],
    config: RunConfig,
    known: Mapping[str, str] | None = None,
) -> NDArray[np.int64]:
    """The group of near-duplicate texts ``(n,)`` int64 of each sample, numbered from 0.

    Near-duplicates are looked for among the samples asked for.

    Args:
        store: the activation store.
        positions: ``(n,)`` int64, of living samples, in any order; rows of one sample are together.
        config: names the corpus, which is read again if the store keeps hashes only.
        known: text hash -> text, instead of that corpus.

    Raises:
        SalientError: the store keeps no texts, and the corpus has lost some of them.
    """
    samples, place = np.unique(positions, return_inverse=True)
    return near_duplicates(sample_texts(store, samples, config, known))[place]
