"""What a task's report begins with: what was found, what it gains, how far to trust it.

for sentence in opening(task):
    print(sentence)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.measures import FEW_ROWS
from pipeline.progress import counted
from pipeline.report.digits import blocks_read, metric_words, three, two, with_span
from pipeline.report.facts import TaskFacts
from pipeline.report.mistakes import class_rows, worst_confusion
from pipeline.report.scores import COUNTED, interval_of, judged_where, num_layers_of
from pipeline.report.verdict import SURE

JSON = Mapping[str, Any]
COMPARED = {
    "final": "the final hidden state",
    "hidden": "hidden states of the same blocks",
    "random": "random features of the same blocks",
    "layer": "the last block's FFN alone",
    "lexical": "TF-IDF",
}
"""Baselines that are named, in this order, and how."""


def opening(task: TaskFacts) -> tuple[str, ...]:
    """Three sentences: the chosen head and its score, its gains, its mistakes and their weight."""
    return tuple(
        f"{one[0].upper()}{one[1:]}." for one in (_found(task), _gains(task), _trust(task))
    )


def _found(task: TaskFacts) -> str:
    found, chosen = task.metrics, task.metrics["chosen"]
    whole = found.get("baselines", {}).get("all")
    same = whole is not None and whole.get("depth") == chosen["depth"]
    of = f" of {whole['num_features']:,}" if same and whole is not None else ""
    every = same and whole is not None and whole["num_features"] == chosen["num_features"]
    features = f"all {chosen['num_features']:,}" if every else f"{chosen['num_features']:,}{of}"
    value = chosen["test"].get(task.metric)
    ends = interval_of(chosen, task.metric)
    measured = f"is {with_span(value, *ends)} on" if value is not None else "was not measured on"
    return (
        f"the chosen head ({chosen['kind']}) reads"
        f" {blocks_read(chosen['depth'] + 1, num_layers_of(found))}"
        f" and {features} features there; its {metric_words(task.metric)} {measured}"
        f" {found['num_test']:,} test texts"
    )


def _gains(task: TaskFacts) -> str:
    known = task.metrics.get("baselines") or {
        "final": {**task.metrics["hidden"], "gain": task.metrics.get("gain") or {}}
    }
    if note := task.metrics["chosen"].get("note"):
        return f"it was compared with nothing: {note}"
    gains, losses, unsure = [], [], []
    control = _control(task)
    for name, words in COMPARED.items():
        if name == "random" and control:
            continue
        entry = known.get(name, {})
        gain, count = entry.get("gain") or {}, entry.get("num_features")
        value, low, high = (gain.get(key) for key in ("value", "low", "high"))
        if value is None or value == low == high == 0:  # the very head that was chosen
            continue
        if name in COUNTED and count:
            words = f"{count:,} {words}"
        number = with_span(value, low, high, signed=True)
        if low is None or high is None or low <= 0 <= high:
            unsure.append(f"{words} ({number})")
        elif low > 0:
            gains.append(f"{number} over {words}")
        else:
            losses.append(f"{words} ({number})")
    said = []
    if gains:
        said.append(f"it gains {_listed(gains)}")
    if losses:
        said.append(f"it is worse than {_listed(losses)}")
    if unsure:
        said.append(f"it is not surely different from {_listed(unsure)}")
    said += control
    return "; ".join(said) or "it was compared with nothing"


def _control(task: TaskFacts) -> list[str]:
    """Salient against as many random features, out of fold; nothing where that was not tried."""
    random = task.metrics.get("baselines", {}).get("random") or {}
    same = ("depth", "num_features")
    found = [
        one
        for one in task.metrics.get("by_size") or ()
        if all(one[key] == random.get(key) for key in same)
    ]
    if not found:
        return []
    entry = found[0]
    count, where = entry["num_features"], judged_where(task.metrics)
    gain = entry.get("gain") or {}
    value, low, high = (gain.get(key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        scores = [three(entry[name]["score"]) for name in ("salient", "random")]
        return [
            f"as a control, {count:,} salient features score {scores[0]} {where}, as many random"
            f" ones {scores[1]}"
        ]
    number = f"{with_span(value, low, high, signed=True)} {where}"
    if low > 0:
        return [f"as a control, {count:,} salient features gain {number} over as many random ones"]
    how = "are worse" if high < 0 else "are not surely better"
    return [f"as a control, {count:,} salient features {how} than as many random ones ({number})"]


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _trust(task: TaskFacts) -> str:
    said = [*_mistakes(task), *_calibrated(task)]
    count = task.metrics["num_test"]
    low, high = interval_of(task.metrics["chosen"], task.metric)
    if task.metrics["chosen"]["test"].get(task.metric) is None:
        said.append("its test score is not known")
    elif low is None or high is None:
        said.append(f"{counted(count, 'test text')} are too few for an interval: trust no digit")
    elif count < FEW_ROWS:
        said.append(f"{counted(count, 'test text')} are few: the score is rough")
    else:
        said.append(f"the score is sure to ±{(high - low) / 2:.3f}")
    choice = task.metrics["chosen"].get("choice", {})
    for name, what in (("constant", "a constant"), ("conventional", "the final hidden state")):
        other = choice.get(name)
        if other and other["difference"] + SURE * other["standard_error"] > 0:
            said.append(f"out of fold it is not surely better than {what}")
    return "; ".join([*said, *_doubts(task)])


def _doubts(task: TaskFacts) -> Iterator[str]:
    found = task.doubts
    if found is None or not found.num_doubted:
        return
    labels = counted(found.num_labels, "label")
    if found.agreement is None:
        yield f"it doubts {found.num_doubted:,} of {labels} that it learned from"
    else:
        yield (
            f"out of fold it agrees with {found.agreement:.0%} of the {labels} that it learned from"
            f" and doubts {found.num_doubted:,}, some of which are its own mistakes"
        )


def _mistakes(task: TaskFacts) -> Iterator[str]:
    found = task.predictions
    if found is None:
        return
    if not found.classes:
        off = float(np.median(np.abs(found.targets - found.decided)))
        yield f"half of its values are off by less than {two(off)}"
        return
    if found.multilabel:
        rows = [row for row in class_rows(found) if row.f1 is not None]
        if found.right == 1:
            yield "it makes no mistake there"
        elif rows:
            worst = min(rows, key=lambda row: (row.f1, row.name))
            chance = "" if worst.chance is None else f", by chance {three(worst.chance)}"
            yield (
                f"its weakest label is {worst.name} (F1 {three(worst.f1)}{chance},"
                f" {counted(worst.rows, 'text')}); {found.right:.0%} of the texts are given exactly"
                " their labels"
            )
        return
    worst_pair = worst_confusion(found)
    if worst_pair is None:
        yield "it makes no mistake there"
    else:
        yield (
            f"its most frequent mistake is {worst_pair.label} taken for {worst_pair.decided}"
            f" ({worst_pair.count} of {worst_pair.rows})"
        )


def _calibrated(task: TaskFacts) -> Iterator[str]:
    found = task.predictions
    if found is None or found.probability is None or found.multilabel:
        return
    if len(found.targets) < FEW_ROWS:  # which tell nothing of it
        return
    bins = found.reliability()
    if bins.shown:
        yield (
            f"its probabilities are off by {three(bins.error)} on average, of which chance makes"
            f" {three(bins.chance)}"
        )
    else:
        yield (
            "its probabilities are off by no more than chance makes of"
            f" {counted(int(bins.count.sum()), 'text')}"
        )


def warnings_of(card: JSON) -> tuple[str, ...]:
    """What was said of the corpus when it was read; nothing in older runs."""
    corpus = card.get("corpus")
    found = corpus.get("warnings") if isinstance(corpus, Mapping) else None
    return tuple(map(str, found)) if isinstance(found, list) else ()


def label_counts(card: JSON, task: str) -> Mapping[str, Mapping[str, Any]]:
    """Split -> class -> rows of a task, if ``run.json`` has them."""
    corpus = card.get("corpus")
    counts = corpus.get("label_counts") if isinstance(corpus, Mapping) else None
    own = counts.get(task) if isinstance(counts, Mapping) else None
    if not isinstance(own, Mapping):
        return {}
    return {
        split: entry["labels"]
        for split, entry in own.items()
        if isinstance(entry, Mapping) and isinstance(entry.get("labels"), Mapping)
    }
