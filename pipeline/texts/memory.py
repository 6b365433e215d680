"""A labelled text set from memory: the corpus and the target of one task, with no test split.

    texts = normalised(texts, config.normalise)
    corpus = memory_corpus(texts, labels, task, val=0.15, seed=0)
    target = memory_target(corpus, task, store)     # brings its texts along: the store needs none

A text's id is its hash: the same text is the same sample, in whatever list it comes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from pipeline.config import NormaliseConfig, TaskConfig
from pipeline.errors import CorpusError
from pipeline.texts.corpus import SAMPLES_SCHEMA, Corpus, CorpusReport
from pipeline.texts.counts import label_counts, no_classes
from pipeline.texts.duplicates import least_hashes
from pipeline.texts.labels import MOST, cannot_be_told
from pipeline.texts.normalise import normaliser
from pipeline.texts.splits import Label, Row, assign_splits, rarest_first
from pipeline.texts.targets import Target
from store import ActivationStore, text_hash

WEIGHT = "weight"
"""Column of a label table: how much a row counts in fits."""


def normalised(texts: Sequence[str], normalise: NormaliseConfig) -> list[str]:
    """The texts as a model reads them; blank ones are ``""``."""
    clean = normaliser(normalise)
    return [text if text.strip() else "" for text in map(clean, texts)]


def memory_corpus(
    texts: Sequence[str],
    labels: Sequence[Label],
    task: TaskConfig,
    *,
    weights: Sequence[float] | None = None,
    val: float,
    seed: int,
) -> Corpus:
    """The corpus of one task over texts in memory, a row each, in splits train and val.

    The validation rows are drawn as of a file: seeded, stratified by label, near-duplicates
    together, independent of the order of the rows.

    Args:
        texts: ``n`` normalised texts, none of them blank.
        labels: ``n`` classes, numbers or label sets; classes and labels are those of ``task``.
        task: with its classes.
        weights: ``n`` weights of the rows in fits; None for all alike.
        val: share of the texts in the validation split.
        seed: of the draw.

    Raises:
        CorpusError: too few texts for two splits, or numbers that cannot be learnt.
    """
    if task.type == "regression":
        _check_numbers([float(label) for label in labels if not isinstance(label, tuple)])
    if task.type == "classification":
        rows = {"rows": len(labels), "labels": Counter(map(str, labels))}
        if told := no_classes(task, {"train": rows}, in_python=True):
            raise CorpusError(f"y: {told}")
    hashes = [text_hash(text) for text in texts]
    different = dict(zip(hashes, texts, strict=True))
    groups = least_hashes(different)
    drawn = frozenset({"val"})
    plan = [
        Row(one, groups[one], None, drawn, (label,))
        for one, label in zip(hashes, rarest_first(labels), strict=True)
    ]
    splits = assign_splits(plan, fractions={"val": val}, seed=seed)
    if len(set(splits)) < 2:
        raise CorpusError(
            f"{len(texts)} rows, whose texts are {len(set(groups.values()))} groups of"
            " near-duplicates: too few to train on some and choose penalties on others; give more"
            " rows that differ"
        )
    ids = sorted(different)
    samples = pa.table(
        {
            "id": ids,
            "text": [different[one] for one in ids],
            "text_hash": ids,
            "author_id": [None] * len(ids),
            "created_at": [None] * len(ids),
        },
        schema=SAMPLES_SCHEMA,
    )
    table = _label_table(task, hashes, splits, labels, weights)
    classes = {} if task.labels is None else {task.name: task.labels}
    shared = [size for size in Counter(groups.values()).values() if size > 1]
    report = CorpusReport(
        rows_read=len(texts),
        duplicate_texts=len(texts) - len(ids),
        rows_drawn=len(texts),
        near_duplicate_groups=len(shared),
        near_duplicate_texts=sum(shared),
        splits={task.name: dict(Counter(splits))},
        splits_drawn={task.name: ["val"]},
        label_counts={task.name: label_counts(task, table, task.labels or ())},
    )
    return Corpus(samples, {task.name: table}, classes, report)


def _check_numbers(values: Sequence[float]) -> None:
    if (most := max(values, key=abs)) and abs(most) > MOST:
        raise CorpusError(f"y holds {most:g}, beyond {MOST:g}; divide it by a constant")
    if (problem := cannot_be_told(values)) is not None:
        raise CorpusError(problem)


def _label_table(
    task: TaskConfig,
    ids: Sequence[str],
    splits: Sequence[str],
    labels: Sequence[Label],
    weights: Sequence[float] | None,
) -> pa.Table:
    """``id, split, label`` and, where given, ``weight``, in an order that is not the rows'."""

    def stored(label: Label) -> str | float:
        if not isinstance(label, tuple):
            return label
        return json.dumps([one for one in task.labels or () if one in label], ensure_ascii=False)

    own = [1.0] * len(ids) if weights is None else weights
    rows = sorted(zip(ids, splits, map(stored, labels), own, strict=True))
    kind = pa.float64() if task.type == "regression" else pa.string()
    kinds = {"id": pa.string(), "split": pa.string(), "label": kind, WEIGHT: pa.float64()}
    columns = map(list, zip(*rows, strict=True))
    table = pa.table(dict(zip(kinds, columns, strict=True)), schema=pa.schema(kinds.items()))
    return table.drop_columns([WEIGHT]) if weights is None else table


def memory_target(corpus: Corpus, task: TaskConfig, store: ActivationStore) -> Target:
    """The target of a corpus from memory, over a store that holds its texts' activations."""
    samples = corpus.samples
    texts = dict(zip(samples["id"].to_pylist(), samples["text"].to_pylist(), strict=True))
    return Target(task, corpus.classes.get(task.name, ()), corpus.labels[task.name], store, texts)
