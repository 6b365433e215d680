"""How many labels of each kind there are, told before any model runs; and what is odd about them.

    counts = label_counts(task, table, classes)   # split -> rows, and classes or a range of numbers
    count_lines(counts)                           # a table for people
    check_counts(task, counts, by_folds=True)     # refuses what cannot be learnt or judged
    doubts(task, counts, by_folds=True)           # what to look at, in sentences

A column of numbers or of free text that is learnt as classes costs hours and says nothing, so it
stops here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import TaskConfig
from pipeline.errors import CorpusError, listed
from pipeline.progress import counted
from pipeline.texts.splits import SPLITS

Counts = Mapping[str, Mapping[str, Any]]
"""Split -> ``rows`` and ``labels`` (class or label -> rows); of numbers ``min, median, max``
and how many different ``values``."""
LEAST_TRAINED = 3
"""Training rows of a class below which nothing can be learnt about it."""
FEW_HELD_OUT = 5
"""Held-out rows of a class below which its score is luck."""
MOST_LINES = 20
"""Classes that are listed for people."""
DIFFER = "differ in case, spaces or Unicode form only"
_TEXT_WORDS = 4
"""Words of a usual label from which on it reads like a text."""


def label_counts(task: TaskConfig, table: pa.Table, classes: Sequence[str]) -> dict[str, Any]:
    """What a task's labels are, split by split.

    Args:
        task: whose they are.
        table: ``split, label`` of its rows, as a corpus has them.
        classes: in order; none of numbers.

    Returns:
        :data:`Counts` of the splits that have rows, JSON-ready.
    """
    found: dict[str, Any] = {}
    for split in SPLITS:
        own = table.filter(pc.equal(table["split"], split))["label"]
        if not len(own):
            continue
        found[split] = {"rows": len(own)}
        if task.type == "regression":
            values = own.to_numpy()
            low, middle, high = np.quantile(values, [0, 0.5, 1]).tolist()
            found[split] |= {"min": low, "median": middle, "max": high}
            found[split]["values"] = len(np.unique(values))
            continue
        cells = own.to_pylist()
        if task.type == "multilabel":
            cells = [name for cell in cells for name in json.loads(cell)]
        number = Counter(cells)
        found[split]["labels"] = {name: number[name] for name in classes}
    return found


def count_lines(counts: Counts) -> list[str]:
    """The counts as lines of a table, a column for each split; the commonest classes first where
    there are too many for all."""
    cells = {split: _cells(own) for split, own in counts.items()}
    names = list(next(iter(cells.values()), {}))
    left_out = ""
    if len(names) > MOST_LINES:
        first = next(iter(counts.values()))["labels"]
        names = sorted(names, key=lambda name: -first[name])[:MOST_LINES]
        left_out = f"and {counted(len(first) - len(names), 'other')}"
    shown = {name: _short(name) for name in names}
    wide = max(map(len, shown.values()), default=0)
    width = 2 + max((len(own[name]) for own in cells.values() for name in names), default=0)
    width = max(width, 7)
    lines = [" " * wide + "".join(f"{split:>{width}}" for split in cells)]
    for name in names:
        row = "".join(f"{own[name]:>{width}}" for own in cells.values())
        lines.append(f"{shown[name]:<{wide}}{row}")
    return [*lines, left_out] if left_out else lines


def _cells(own: Mapping[str, Any]) -> dict[str, str]:
    if "labels" in own:
        return {name: f"{number:,}" for name, number in own["labels"].items()}
    return {name: f"{own[name]:.4g}" for name in ("min", "median", "max")}


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def check_counts(task: TaskConfig, counts: Counts, *, by_folds: bool = True) -> None:
    """Refuse classes and splits too small to learn and judge.

    Args:
        task: whose they are.
        counts: of its labels.
        by_folds: training and validation rows judge heads together, out of fold.

    Raises:
        CorpusError: naming the classes, their rows and the remedy.
    """
    if task.type == "regression" or "train" not in counts:
        return
    where = f"task {task.name!r}"
    if task.type == "multilabel":
        return
    trained = {name: number for name, number in counts["train"]["labels"].items() if number}
    rare = {name: number for name, number in trained.items() if number < LEAST_TRAINED}
    if rare:
        told = listed(f"{_short(name)!r} ({number})" for name, number in rare.items())
        remedy = (
            f"add rows of {'it' if len(rare) == 1 else 'them'}, join with another class by"
            " `label_names` of the corpus entry, or leave these rows out (blank the label, or"
            " `where`)"
        )
        if any(name in names for names in spelled_alike(trained) for name in rare):
            remedy = "; ".join(_spellings(task, counts))
        raise CorpusError(
            f"{where}: too few training rows of the {'class' if len(rare) == 1 else 'classes'}"
            f" {told}; each needs at least {LEAST_TRAINED}: {remedy}"
        )
    for split in [split for split in ("val", "test")[by_folds:] if split in counts]:
        there = [name for name, number in counts[split]["labels"].items() if number]
        if len(there) == 1:
            raise CorpusError(
                f"{where}: {_all_rows(counts[split]['rows'], split)} the one class {there[0]!r}, so"
                " that nothing can be told apart there; label more texts, or give the splits"
                " yourself (`split` of the corpus entry)"
            )


def _all_rows(number: int, split: str) -> str:
    return f"the only {split} row has" if number == 1 else f"all {number} {split} rows have"


def no_classes(task: TaskConfig, counts: Counts, *, in_python: bool) -> str:
    """What is to be said of labels that are no classes, as most are in one training row only.

    Args:
        task: whose they are.
        counts: of its labels.
        in_python: the labels were handed over, and come from no file.

    Returns:
        A sentence; "" of classes.
    """
    trained = {name: number for name, number in counts["train"]["labels"].items() if number}
    alone = [name for name, number in trained.items() if number == 1]
    if len(trained) < 3 or 2 * len(alone) <= len(trained):
        return ""
    return (
        f"{len(trained)} different {_noun(task)} in {counts['train']['rows']} training rows, and"
        f" {len(alone)} of them in one row only, such as {_examples(alone)}: "
        + _what_instead(task, list(trained), in_python=in_python)
    )


def _noun(task: TaskConfig) -> str:
    return "labels" if task.type == "multilabel" else "classes"


def _examples(names: Sequence[str]) -> str:
    return ", ".join(repr(_short(name)) for name in names[:3])


def _what_instead(task: TaskConfig, names: Sequence[str], *, in_python: bool) -> str:
    """What a column with nearly as many values as rows may be, and what to do."""
    numbers, text, other = (
        ("take SalientRegressor", "give the classes as y", "give labels with few different values")
        if in_python
        else (
            'set type = "regression"',
            "name the column of classes under `labels` of the corpus entry",
            "name a column with few different values under `labels` of the corpus entry, or join"
            f" {_noun(task)} by its `label_names`",
        )
    )
    if all(map(_is_number, names)):
        return (
            f"is this a regression? For numbers {numbers}; of classes there are too few rows each"
        )
    if np.median([len(name.split()) for name in names]) >= _TEXT_WORDS:
        return f"did you name the text column as the label? Then {text}"
    return f"is it free text, or an id? Then {other}"


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def doubts(task: TaskConfig, counts: Counts, *, by_folds: bool) -> Iterator[str]:
    """What is odd about a task's labels, in sentences.

    Args:
        task: whose they are.
        counts: of its labels.
        by_folds: training and validation rows judge heads together, out of fold.

    Yields:
        A sentence each.
    """
    for spelled in _spellings(task, counts):
        yield f"task {task.name!r}: {spelled}"
    yield from _two_values(task, counts)
    if task.type != "classification" or "train" not in counts:
        return
    for split in [split for split in ("val", "test") if split in counts]:
        labels = counts[split]["labels"]
        few = [name for name in labels if labels[name] < FEW_HELD_OUT]
        if few and len(few) < len(labels) and not (by_folds and split == "val"):
            told = listed(f"{_short(name)!r} ({labels[name]})" for name in few)
            yield (
                f"task {task.name!r}: fewer than {FEW_HELD_OUT} {split} rows of {told}: the score"
                " of such a class is luck, and so is its part in macro averages"
            )


def _two_values(task: TaskConfig, counts: Counts) -> Iterator[str]:
    if task.type != "regression" or "train" not in counts:
        return
    own = counts["train"]
    if own.get("values", 3) == 2:
        yield (
            f"task {task.name!r}: a regression on two different values, {own['min']:g} and"
            f' {own["max"]:g}; if they are classes, set type = "classification"'
        )


def _spellings(task: TaskConfig, counts: Counts) -> Iterator[str]:
    """Classes that differ by case, spaces or the Unicode form only."""
    if task.type == "regression":
        return
    total: Counter[str] = Counter()
    for own in counts.values():
        total.update(own["labels"])
    renamed = []
    for names in _by_spelling(total):
        kept = max(names, key=lambda name: total[name])
        renamed += [f"{_quoted(name)} = {_quoted(kept)}" for name in names]
        if len(names) > 1:
            told = " and ".join(f"{name!r} ({counted(total[name], 'row')})" for name in names)
            yield f"{told} {DIFFER}, and are different {_noun(task)}"
    if not spelled_alike(total):
        return
    if len(_by_spelling(total)) > MOST_LINES:
        yield "to join these, mend the file, or map them by `label_names`"
        return
    yield (
        "to join these, write in the corpus entry: label_names ="
        f" {{ {task.name} = {{ {', '.join(renamed)} }} }}; or mend the file"
    )


def spelled_alike(names: Iterable[str]) -> list[list[str]]:
    """Those labels, in groups, that have one plain spelling."""
    return [own for own in _by_spelling(names) if len(own) > 1]


def _by_spelling(names: Iterable[str]) -> list[list[str]]:
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(plain_spelling(name), []).append(name)
    return [*alike.values()]


def plain_spelling(name: str) -> str:
    """A label without what its spellings may differ in: case, runs of spaces, Unicode form."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", folded)).strip()


def _quoted(name: str) -> str:
    """As a TOML string, which JSON's are."""
    return json.dumps(name, ensure_ascii=False)
