"""The tables of a task's report, for the page and as CSV.

for table in page_tables(task, card):
    table.csv()         # bytes, numbers unrounded
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.digits import NONE, metric_words, three, with_span
from pipeline.report.facts import TaskFacts
from pipeline.report.labelnoise import twin_note
from pipeline.report.mistakes import Mistake, Predictions, class_rows, set_words
from pipeline.report.opening import label_counts
from pipeline.report.scores import judging, remarks, score_rows
from pipeline.report.sheets import csv_text
from pipeline.report.terminal import ablation_rows, fitted_line
from pipeline.report.voices import stance

JSON = Mapping[str, Any]
TOP_NGRAMS = 12
TOP_PAIRS = 12
MOST_CHARACTERS = 400
"""Of a text that is shown."""
FEW_CHARACTERS = 140
"""Of one of several texts in a cell."""


@dataclass(frozen=True)
class Cell:
    """What is more than text in a table.

    Attributes:
        text: of the cell.
        href: where it leads.
        texts: a list in it.
        bar: its length in per cent.
    """

    text: str = ""
    href: str = ""
    texts: tuple[str, ...] = ()
    bar: float | None = None


@dataclass(frozen=True)
class PageTable:
    """A table.

    Attributes:
        name: stem of its CSV file.
        title: plain text.
        caption: plain text, with ```code``` in backticks.
        heads: head and kind of each column: "name", "number", "free" (words that wrap) or "text".
        rows: cells.
        raw: column -> values for the CSV.
        bold: numbers of rows that stand out.
        notes: sentences below it.
        wide: whether it takes the page's whole width.
    """

    name: str
    title: str
    caption: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    raw: Mapping[str, Sequence[Any]]
    bold: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    wide: bool = field(default=True)

    @property
    def stacked(self) -> bool:
        """Whether a phone shows each row's cells below each other: texts need the width."""
        return self.wide and any(kind == "text" for _, kind in self.heads)

    def csv(self) -> bytes:
        """UTF-8, with a head."""
        return csv_of(self.raw)


def csv_of(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Columns as CSV in UTF-8; empty where there is no value."""
    return csv_text(columns, zip(*columns.values(), strict=True)).encode()


def page_tables(task: TaskFacts, card: JSON) -> Iterator[PageTable]:
    """The tables that a task has something for, in order; ``card`` is ``run.json``."""
    counts = label_counts(card, task.name)
    makers: tuple[Callable[[], PageTable | None], ...] = (
        lambda: _scores(task),
        lambda: _classes(task, counts),
        lambda: _mistakes(task),
        lambda: _neurons(task),
        lambda: _ngrams(task),
        lambda: _pairs(task),
        lambda: _doubts(task),
        lambda: _ablation(task),
    )
    for make in makers:
        if (table := make()) is not None:
            yield table


def shortened(text: str, most: int) -> str:
    """In one line, and no longer than that."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} …"


def _set_raw(labels: str | Sequence[str]) -> str:
    """The same for a CSV: sets are JSON arrays, as in the store."""
    return labels if isinstance(labels, str) else json.dumps(list(labels), ensure_ascii=False)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> its values, None where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _numbers(*heads: str) -> tuple[tuple[str, str], ...]:
    return tuple((head, "number") for head in heads)


def _scores(task: TaskFacts) -> PageTable:
    rows = list(score_rows(task.metrics))
    shown = [
        ("test", "test [95 % CI]"), ("gain", "gain of the chosen head [95 % CI]"),
        ("score", "score"), ("loss", "loss"), ("blocks", "blocks"), ("features", "features"),
    ]  # fmt: skip
    shown = [(key, head) for key, head in shown if any(getattr(row, key) for row in rows)]
    said = judging(task.metrics)
    why = str((task.metrics["chosen"].get("choice") or {}).get("why") or "").rstrip(".")
    notes = [one for one in (*remarks(task.metrics), why) if one]
    return PageTable(
        "scores",
        f"Scores: {metric_words(task.metric)}",
        f"Test: {task.metrics['num_test']:,} texts, read once, at the end. {said[0].upper()}"
        f"{said[1:]}. Best single layers are those of the best validation score.",
        (("model", "name"), *_numbers(*(head for _, head in shown))),
        tuple((row.model, *(getattr(row, key) for key, _ in shown)) for row in rows),
        columns_of([row.numbers for row in rows]),
        frozenset(i for i, row in enumerate(rows) if row.chosen),
        tuple(f"{one[0].upper()}{one[1:]}." for one in notes),
    )


def _classes(task: TaskFacts, counts: Mapping[str, Mapping[str, Any]]) -> PageTable | None:
    found = task.predictions
    if found is None or not found.classes:
        return None
    rows = list(class_rows(found))
    spans = {name: entry["interval"] for name, entry in task.metrics.get("labels", {}).items()}
    splits = [(split, counts[split]) for split in ("train", "val") if split in counts]
    cells, raw = [], []
    for row in rows:
        ends = spans.get(row.name) or (None, None)
        f1 = three(row.f1) if row.name not in spans or row.f1 is None else with_span(row.f1, *ends)
        known = [own.get(row.name) for _, own in splits]
        numbers = [NONE if one is None else f"{one:,}" for one in known]
        chance = (three(row.chance),) if found.multilabel else ()  # classes have the majority
        shares = (three(row.precision), three(row.recall), f1, *chance)
        cells.append((row.name, *shares, f"{row.rows:,}", f"{row.decided:,}", *numbers))
        raw.append({**vars(row), **{split: own.get(row.name) for split, own in splits}})
    one = "label" if found.multilabel else "class"
    what = f"{one.capitalize()} by {one}"
    heads = ["precision", "recall", "F1", "test texts", "decided so"]
    heads[3:3] = ["chance"] if found.multilabel else []
    heads += [{"train": "training", "val": "validation"}[split] for split, _ in splits]
    return PageTable(
        "classes",
        what,
        f"The chosen head on the test texts (n = {len(found.targets):,}), each"
        f" {one} by itself."
        + (" Chance: the F1 of whoever gives it to every text." if found.multilabel else ""),
        ((one, "name"), *_numbers(*heads)),
        tuple(cells),
        columns_of(raw),
        notes=_set_notes(found),
        wide=found.multilabel,
    )


def _set_notes(found: Predictions) -> tuple[str, ...]:
    """How many labels a text has, and is given; nothing of classes."""
    if not found.multilabel:
        return ()
    has, given = (float(own.sum(axis=1).mean()) for own in (found.targets, found.decided))
    none = [int((own.sum(axis=1) == 0).sum()) for own in (found.targets, found.decided)]
    return (
        f"A text has {has:.2f} labels on average and is given {given:.2f};"
        f" {none[0]:,} have none, {none[1]:,} are given none;"
        f" {found.right:.0%} are given exactly their labels.",
    )


def _mistakes(task: TaskFacts) -> PageTable | None:
    if not task.mistakes:
        return None
    sets = task.metrics["type"] == "multilabel"
    values = task.metrics["type"] == "regression"
    kept = any(one.text is not None for one in task.mistakes)
    kind = "free" if sets else "name"  # sets may be long
    return PageTable(
        "mistakes",
        "Furthest off" if values else "Most confident mistakes",
        ("Test texts whose values the chosen head misses furthest" if values
         else "Test texts that the chosen head gets wrong, the surest first")
        + (", by the label of which it is wrongly surest" if sets else "")
        + ". To be read, not mended: whoever changes test labels by what a head says tests nothing."
        + ("" if kept else " The store keeps no texts (`keep_text = true` would)."),
        (
            ("text", "text"), ("labels" if sets else "label", kind), ("decided", kind),
            *([("wrongly", "name")] if sets else []),
            ("off by" if values else "probability", "number"), ("id", "name"),
        ),
        tuple(
            (
                "" if one.text is None else shortened(one.text, MOST_CHARACTERS),
                set_words(one.label), set_words(one.decided), *([one.wrong or ""] if sets else []),
                three(one.sure), one.id,
            )
            for one in task.mistakes
        ),
        columns_of([_mistake_raw(one) for one in task.mistakes]),
    )  # fmt: skip


def _mistake_raw(one: Mistake) -> dict[str, Any]:
    own = {**vars(one), "label": _set_raw(one.label), "decided": _set_raw(one.decided)}
    if one.wrong is None:
        del own["wrong"]
    return own


def _neurons(task: TaskFacts) -> PageTable | None:
    if not task.neurons:
        return None
    signed = any(one.weight is not None for one in task.neurons)
    texts = any(one.texts for one in task.neurons)
    heads = [("neuron", "name")]
    heads += [("speaks", "name")] * signed + [("texts that excite it most", "text")] * texts
    heads += [("weight", "number")] * signed + [("share", "number")]
    rows, raw = [], []
    for one in task.neurons:
        place = f"{one.neuron} · layer {one.layer} · {one.pooling}"
        cells: list[str | Cell] = [Cell(place, one.address(task.name))]
        if signed:
            kind, weight = task.metrics["type"], one.weight
            cells.append("" if weight is None else stance(kind, one.towards, weight))
        if texts:
            cells.append(Cell(texts=tuple(shortened(t, FEW_CHARACTERS) for t in one.texts)))
        if signed:
            cells.append(NONE if one.weight is None else f"{one.weight:+.3f}")
        cells.append(f"{one.share:.2%}")
        rows.append(tuple(cells))
        raw.append({**vars(one), "texts": json.dumps(one.texts, ensure_ascii=False)})
    return PageTable(
        "neurons",
        "Most important neurons",
        "By their share of their layer's squared importance; layers are counted from 0. Weights are"
        " of the layer's probe, on the standardised activation"
        + (", of a class against the average of all" if _of_classes(task) else "")
        + ". Texts are of the training and validation splits; the highest alone mislead, the"
        " explorer has those in between. A neuron leads to it, where it runs.",
        tuple(heads),
        tuple(rows),
        columns_of(raw),
    )


def _of_classes(task: TaskFacts) -> bool:
    return bool(task.metrics["type"] == "classification")


def _ngrams(task: TaskFacts) -> PageTable | None:
    if task.ngrams is None:
        return None
    rows = task.ngrams.slice(0, TOP_NGRAMS).to_pylist()
    return PageTable(
        "ngrams",
        "Most important n-grams",
        "Of the chosen head, by their share of all n-grams' squared importance.",
        (("n-gram", "text"), ("speaks for", "name"), ("share", "number")),
        tuple((row["ngram"], row["towards"], f"{row['share']:.2%}") for row in rows),
        columns_of(task.ngrams.to_pylist()),
        wide=False,
    )


def _pairs(task: TaskFacts) -> PageTable | None:
    pairs = [] if task.doubts is None else task.doubts.pairs[:TOP_PAIRS]
    if task.doubts is None or not pairs:
        return None
    most = pairs[0].doubted
    return PageTable(
        "doubted-pairs",
        "Doubted labels, pair by pair",
        "Labels that are given to texts, and those that the head finds likelier.",
        (("given", "name"), ("likely", "name"), ("doubted", "number"), ("", "bar")),
        tuple(
            (one.given, one.likely, f"{one.doubted:,}", Cell(bar=100 * one.doubted / most))
            for one in pairs
        ),
        columns_of([vars(one) for one in task.doubts.pairs]),
        wide=False,
    )


def _doubts(task: TaskFacts) -> PageTable | None:
    if task.doubts is None:
        return None
    found = task.doubts
    rows = found.table.to_pylist()
    caption = f"{found.sentence}." + (f" {found.note}." if found.note else "")
    if rows:
        caption += (
            f" The most doubted {len(rows)} of {found.num_doubted:,};"
            " `salient inspect RUN --labels --out FILE` writes them all."
        )
    return PageTable(
        "doubts",
        "Labels to look at again",
        caption,
        (
            ("text", "text"), ("given", "name"), ("likely", "name"), ("doubt", "number"),
            ("near-duplicates", "name"), ("split", "name"), ("id", "name"),
        ),
        tuple(
            (
                shortened(row["text"] or "", MOST_CHARACTERS), row["given"], row["likely"],
                f"{row['doubt']:.2f}", twin_note(row), row["split"], row["id"],
            )
            for row in rows
        ),
        columns_of(rows),
    )  # fmt: skip


def _ablation(task: TaskFacts) -> PageTable | None:
    report = task.ablation
    if report is None:
        return None
    rows = list(ablation_rows(report))
    note = fitted_line(report)
    return PageTable(
        "ablation",
        "Neurons silenced in the model",
        f"{report['num_silenced']:,} of {report['num_neurons']:,} neurons set to {report['fill']};"
        f" {metric_words(report['metric'])} on {report['num_texts']:,} {report['split']} texts;"
        f" random: mean of {report['draws']} draws{f'; {note}' if note else ''}.",
        (("head", "name"), ("silenced", "name"), *_numbers("score", "change", "95 % CI")),
        tuple((row.head, row.silenced, row.score, row.change, row.interval) for row in rows),
        columns_of([vars(row) for row in rows]),
        wide=False,
    )
