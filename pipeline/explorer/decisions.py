"""What a head says of one text, and which features say it.

decision, *_ = decide(head, vectors, schema, text="a happy cat")
decision.outcome, decision.reasons[0].contribution, decision.carried
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import HeadError
from pipeline.explorer.places import Neuron, neuron_at
from pipeline.heads import Head, contributions, text_activations
from pipeline.report import set_words
from store.layout import NGRAMS, Source, StoreSchema

Array = NDArray[Any]
NUM_REASONS = 12
"""Contributions that are shown of a decision; the rest is summed up."""


@dataclass(frozen=True)
class Reason:
    """A feature's part in a decision: ``weight`` times ``standardised``, in logits.

    ``neuron`` is None where ``name`` is that of a hidden state's unit or of an n-gram.
    """

    name: str
    neuron: Neuron | None
    contribution: float
    standardised: float


@dataclass(frozen=True)
class Decision:
    """What one head says of one text; of label sets one for each label that it gives.

    Attributes:
        task: the task's name.
        outcome: class name, the labels or the value.
        probabilities: class -> probability; empty for regression.
        reasons: the largest contributions to the outcome, by size.
        rest: the sum of all other contributions.
        num_others: how many these are.
        carried: the reasons' share of the sum of all contributions' sizes.
        about: the label that the reasons are of, where labels are decided for by themselves.
    """

    task: str
    outcome: str
    probabilities: Mapping[str, float]
    reasons: tuple[Reason, ...]
    rest: float
    num_others: int = 0
    carried: float = 1.0
    about: str | None = None


def decide(
    head: Head, vectors: Mapping[Source, Array], schema: StoreSchema, text: str | None = None
) -> Iterator[Decision]:
    """What a head says of one text, and its largest reasons; of label sets those of each label that
    it gives, the most probable first, or of the most probable one where it gives none.

    Args:
        head: the head.
        vectors: source -> ``(features,)`` activations of the text, as stored.
        schema: of the store that they are from.
        text: itself, which heads with n-grams read.

    Raises:
        HeadError: it reads the text, and there is none.
    """
    slices = {s: vectors[s][at] for s, at in head.features.items() if s in vectors}
    if len(slices) < len(head.features):
        if text is None:
            raise HeadError(
                f"task {head.card.task!r}: its head reads the text, which is not stored"
            )
        beside: Mapping[Source, Any] = text_activations(head, [text])
        slices |= {source: rows.toarray()[0] for source, rows in beside.items()}
    found = contributions(head, slices)
    classes = head.card.classes
    probabilities: dict[str, float] = {}
    decided: list[int | None] = [None]
    outcome = f"{found.outputs[0]:.4g}"
    if classes:
        probability = head.probabilities(found.outputs[None])
        probabilities = dict(zip(classes, probability[0].tolist(), strict=True))
        if head.multilabel:
            given = head.decide(probability)[0]
            order = np.argsort(-probability[0], kind="stable")
            decided = order[given[order]].tolist() or order[:1].tolist()
            outcome = set_words(tuple(np.array(classes)[given]))
        else:
            decided = head.decide(probability).tolist()
            outcome = classes[decided[0] or 0]
    for one in decided:
        about = classes[one] if head.multilabel and one is not None else None
        towards = found.towards(one, alone=head.multilabel)
        reasons = _reasons(head, schema, towards, found.standardised)
        yield Decision(head.card.task, outcome, probabilities, *reasons, about)


def _reasons(
    head: Head,
    schema: StoreSchema,
    towards: Mapping[Source, Array],
    standardised: Mapping[Source, Array],
) -> tuple[tuple[Reason, ...], float, int, float]:
    """The largest contributions; the sum of all others and their number; the share that the largest
    carry."""
    sources = list(towards)
    parts = np.concatenate([towards[source] for source in sources])
    scaled = np.concatenate([standardised[source] for source in sources])
    features = np.concatenate([head.features[source] for source in sources])
    owner = np.repeat(np.arange(len(sources)), [len(towards[s]) for s in sources])
    order = np.argsort(-np.abs(parts), kind="stable")
    first, others = order[:NUM_REASONS], order[NUM_REASONS:]
    terms = () if head.lexicon is None else head.lexicon.terms
    reasons = tuple(
        _reason(schema, terms, sources[owner[at]], int(features[at]), parts[at], scaled[at])
        for at in first.tolist()
    )
    size = float(np.abs(parts).sum())
    carried = float(np.abs(parts[first]).sum()) / size if size > 0 else 1.0
    return reasons, float(parts[others].sum()), len(others), carried


def _reason(
    schema: StoreSchema,
    terms: Sequence[str],
    source: Source,
    feature: int,
    part: float,
    standardised: float,
) -> Reason:
    if source == NGRAMS:
        return Reason(terms[feature], None, float(part), float(standardised))
    pooling, unit = divmod(feature, schema.array(source.site).width)
    name = f"{source.label}, {schema.poolings[pooling]}, {unit}"
    neuron = neuron_at(schema, source.layer, feature) if source.site == "ffn" else None
    return Reason(name, neuron, float(part), float(standardised))
