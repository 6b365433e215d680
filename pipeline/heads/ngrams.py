"""Which n-grams a head goes by: the table beside those of the neurons' importance.

    ngram_table(head).slice(0, 10)           # the ten most important ones

Each head folder whose head reads n-grams has it as ``ngrams.parquet``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.heads.model import Head
from pipeline.probes import feature_importance, importance_shares
from store.layout import NGRAMS

Array = NDArray[Any]
NGRAMS_FILE = "ngrams.parquet"


def ngram_table(head: Head) -> pa.Table | None:
    """The n-grams that a head reads, the most important first; None if it reads none.

    Returns:
        A row per n-gram: ``ngram`` (``word "not good"``), ``importance`` float32 (the L2 norm of
        its weights over the outputs, as of neurons), ``rank`` (0 is first), ``share`` of the
        squared importance of all, ``towards`` (the class or label that it speaks for most, ``not
        LABEL``, or ``higher`` and ``lower`` values), and a column ``weight_OUTPUT`` for each
        output: of two classes the second alone has one.
    """
    linear = [part for part in head.parts if part.dense is None]
    edges = [own for part in linear for own in part.edges if own.source == NGRAMS]
    if head.lexicon is None or not edges:
        return None
    features = head.features[NGRAMS]
    weights = np.zeros((len(edges[0].weights), len(features)))
    for own in edges:
        weights[:, np.searchsorted(features, own.features)] += own.weights / len(head.parts)
    importance = feature_importance(weights)
    order = np.argsort(-importance, kind="stable")
    terms, towards = head.lexicon.terms, _towards(head, weights)
    columns: dict[str, Any] = {
        "ngram": [terms[features[at]] for at in order],
        "importance": importance[order].astype(np.float32),
        "rank": np.arange(len(order), dtype=np.int32),
        "share": importance_shares(importance)[order].astype(np.float32),
        "towards": [towards[at] for at in order],
    }
    names = head.card.classes or ("value",)
    for name, row in zip(names[-len(weights) :], weights, strict=True):
        columns[f"weight_{name}"] = row[order].astype(np.float32)
    return pa.table(columns)


def _towards(head: Head, weights: Array) -> list[str]:
    classes = head.card.classes
    if head.multilabel:
        most = np.abs(weights).argmax(axis=0)
        return [
            classes[label] if weights[label, at] >= 0 else f"not {classes[label]}"
            for at, label in enumerate(most.tolist())
        ]
    if len(weights) > 1:  # the outputs' common part decides nothing
        return [classes[best] for best in weights.argmax(axis=0).tolist()]
    low, high = classes or ("lower", "higher")
    return [high if weight > 0 else low for weight in weights[0].tolist()]
