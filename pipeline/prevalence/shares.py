"""Shares of classes in a folder of scores: a table, and what speaks against it.

report = find_shares(Path("scores"), by="day")
report.table.to_pandas()
write_shares(report, Path("shares.parquet"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.events import Tally
from pipeline.heads import Errors, Head, read_errors, two_sided, wanted_tasks
from pipeline.measures import (
    CORRECTED,
    Confusion,
    LabelSets,
    Shares,
    Slope,
    cannot_tell,
    class_shares,
    is_flat,
    label_shares,
    mean_value,
    misfit,
)
from pipeline.prevalence.assumed import DriftSeen, read_drift
from pipeline.prevalence.errors import errors_of_card, errors_of_heads
from pipeline.prevalence.grouped import ALL, DATES, Group, ScoredTask, read_groups, tasks_of
from pipeline.progress import counted
from pipeline.scoring import SCORE_CARD, check_scores, scores_at
from store.tables import write_table

Array = NDArray[Any]
BY = DATES
FORMAT_VERSION = 1
SURE = 0.01
"""A misfit that chance makes more seldom is said."""
UNEXPLAINED = f"no shares of the classes explain these texts (p < {SURE:g})"
VALUE = "value"
"""What stands for a class where the task is a regression."""
ASSUMPTION = (
    "Corrected shares assume that texts of a class are as texts of that class were in training, and"
    " that only the shares of the classes differ."
)
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("group", pa.string()),
        ("class", pa.string()),
        ("method", pa.string()),
        ("share", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("num_texts", pa.int64()),
        ("num_empty", pa.int64()),
        ("flag", pa.string()),
    ]
)
Row = dict[str, Any]


@dataclass(frozen=True)
class SharesReport:
    """Shares of classes by group.

    Attributes:
        table: a row for each task, group, class and method: ``share`` with its 95 % interval
            ``low`` to ``high`` (the mean value, for a regression), ``num_texts`` with a prediction,
            ``num_empty`` without text, and ``flag``, what speaks against a corrected share, or a
            plain one where none is corrected (null: nothing found).
        by: of the groups; None: one of all texts.
        notes: what a reader should know, a sentence each; the assumption first.
    """

    table: pa.Table
    by: str | None
    notes: tuple[str, ...]


def find_shares(
    folder: Path | str,
    *,
    by: str | None = None,
    tasks: Sequence[str] = (),
    run: Path | None = None,
    heads: Sequence[Path] = (),
) -> SharesReport:
    """Shares of classes among the texts of a folder of scores.

    Args:
        folder: of the scores, or its URL.
        by: "day", "week" (its Monday), "month" or a column of the scores; None: all together.
        tasks: only these; default all.
        run: the run that made the scores; or
        heads: its heads: asked what they get wrong instead of the folder.

    Raises:
        ConfigError: no scores there, no such task or column, or heads that did not make them.
        SalientError: a damaged file.
    """
    check_scores(folder)
    held = scores_at(folder)
    card = held.card()
    if card is None or not card.get("tasks"):
        raise ConfigError(
            f"{folder}: does not say which tasks it is of (no {SCORE_CARD}, or an early one); score"
            " into it once more (`salient score … --out` of this folder), also without new files"
        )
    known = tasks_of(held, card)
    names = wanted_tasks(tasks, [task.name for task in known])
    chosen = [task for task in known if task.name in names]
    if run is not None or heads:
        errors = errors_of_heads(run, heads, card, chosen)
    else:
        errors = errors_of_card(folder, card, chosen)
    drift = read_drift(held, by)
    rows: list[Row] = []
    done = 0
    found = read_groups(held, chosen, by=by)
    tally = Tally("counted", sum(map(len, found.values())), "groups")
    for task in chosen:
        for group, texts in found[task.name].items():
            flag = _drifted(drift.get(task.name), group)
            rows += group_rows(task, group, texts, errors.get(task.name), drift=flag)
            done += 1
            tally(done)
    table = pa.Table.from_pylist(rows, SCHEMA)
    notes = [ASSUMPTION, *_notes(folder, card, chosen, errors, drift, table, by)]
    return SharesReport(table, by, tuple(notes))


def _drifted(seen: DriftSeen | None, group: str) -> str | None:
    dates = () if seen is None else seen.drifted.get(group, ())
    if not dates:
        return None
    when = "" if dates == (group,) else f" on {dates[0]}"
    more = f" and {counted(len(dates) - 1, 'more date')}" if len(dates) > 1 else ""
    return f"the activations drifted{when}{more} (moved shares can do this, too)"


def _notes(
    folder: Path | str,
    card: Mapping[str, Any],
    tasks: Sequence[ScoredTask],
    errors: Mapping[str, Errors],
    drift: Mapping[str, DriftSeen],
    table: pa.Table,
    by: str | None,
) -> Iterator[str]:
    for task in (task for task in tasks if task.name not in errors):
        yield (
            f"Task {task.name}: plain shares only: the folder does not say what the heads"
            " get wrong (they are of an earlier version, or another head's); give --run RUN, the"
            " run that made them, or --heads FOLDER."
        )
    if "cascade" in card:
        yield (
            "The scores were made with --cascade: texts that left early were decided by smaller"
            " heads, whose errors are not known; corrected shares are of the whole head's errors."
        )
    why = "groups are no dates" if by not in (None, "date", *DATES) else f"{folder} has none"
    for task in (task for task in tasks if task.name not in drift and task.name in errors):
        yield (
            f"Task {task.name}: not held against drift reports ({why}); the texts' own"
            " fit was tested."
        )
    for task in tasks:
        if (found := errors.get(task.name)) is not None:
            yield from _corrected_by(task.name, found)
    flags = {
        (row["task"], row["group"])
        for row in table.select(["task", "group", "flag"]).to_pylist()
        if row["flag"] is not None
    }
    if flags:
        yield (
            f"{counted(len(flags), 'group')} with a flag: something speaks against these shares"
            " (of a hundred groups, or labels by themselves, chance flags about one); label"
            " some of the texts and compare before you rely on them."
        )


def _corrected_by(task: str, found: Errors) -> Iterator[str]:
    chosen = "held out of the fits (head, thresholds and calibration were chosen on them)"
    if isinstance(found, Slope):
        yield (
            f"Task {task}: a regression; shares are mean values, corrected by"
            f" {counted(found.num_rows, 'row')} {chosen}."
        )
    elif isinstance(found, LabelSets):
        number = len(found.members) - bool(found.num_rest)
        rest = f", the rest ({counted(found.num_rest, 'row')}) as one" * bool(found.num_rest)
        yield (
            f"Task {task}: corrected by {counted(found.confusion.num_rows, 'row')} {chosen}:"
            f" {counted(number, 'label set')}, each as a class{rest}; a label's share is the sum of"
            " its sets'."
        )
    else:
        yield f"Task {task}: corrected by {counted(found[0].num_rows, 'row')} {chosen}."
        if len(found) > 1:
            yield (
                f"Task {task}: few rows share a label set, so each label is corrected by itself:"
                " texts without it are assumed to be as in training, which fails where the other"
                " labels' shares move."
            )


# -- one group -------------------------------------------------------------------------------------


def group_rows(
    task: ScoredTask,
    group: str,
    texts: Group,
    errors: Errors | None,
    *,
    drift: str | None = None,
) -> Iterator[Row]:
    """The rows of one group under one task.

    Args:
        task: the task.
        group: its name.
        texts: of the group.
        errors: of the head; None: plain shares only.
        drift: what drift reports say against the assumption.
    """
    base = {
        "task": task.name,
        "group": group,
        "num_texts": texts.num_texts,
        "num_empty": texts.num_empty,
    }
    for name, method, share, flags in _found(task, texts, errors):
        if drift is not None and (method in CORRECTED or errors is None):
            flags = [*flags, drift]
        bounds = {
            key: _number(value) for key, value in zip(("share", "low", "high"), share, strict=True)
        }
        said = "; ".join(flags) or None
        yield {**base, "class": name, "method": method, **bounds, "flag": said}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


Found = tuple[str, str, tuple[float, float, float], list[str]]
"""Class, method, share with its interval, flags."""


def _found(task: ScoredTask, texts: Group, errors: Errors | None) -> Iterator[Found]:
    if task.type == "regression":
        yield from _of_values(texts, errors if isinstance(errors, Slope) else None)
        return
    values, _ = texts.sample()
    known: Sequence[Confusion | None] = errors if isinstance(errors, tuple) else (None,)
    number = max(texts.num_texts, 1)
    if task.type == "classification":
        probability = values.astype(np.float64)
        mean = texts.sums / number
        yield from _of_classes(task.classes, probability, texts.counts, mean, texts, known[0])
        return
    each = known if isinstance(errors, tuple) else (None,) * len(task.classes)
    for i, (name, own) in enumerate(zip(task.classes, each, strict=True)):
        counts = np.array([texts.num_texts - texts.counts[i], texts.counts[i]])
        mean = two_sided(texts.sums[i : i + 1] / number)[0]
        found = _of_classes(("", name), two_sided(values[:, i]), counts, mean, texts, own, label=i)
        yield from (one for one in found if one[0])
    if isinstance(errors, LabelSets):
        shares = label_shares(values, errors, num_texts=texts.num_texts)
        misfit = errors.misfit(values) if texts.num_texts else 1.0
        yield from _said(task.classes, shares, misfit, errors.cannot_tell())


def _of_classes(
    names: Sequence[str],
    probability: Array,
    counts: Array,
    mean: Array,
    texts: Group,
    confusion: Confusion | None,
    *,
    label: int | None = None,
) -> Iterator[Found]:
    shares = class_shares(probability, counts, confusion, mean=mean)
    chance, hidden = 1.0, np.zeros(len(names), bool)
    if confusion is not None and texts.num_texts:
        _, decided = texts.sample()
        index = decided.argmax(axis=1) if label is None else decided[:, label].astype(np.int64)
        chance = misfit(confusion.cells(probability, index), confusion)
        hidden = cannot_tell(confusion.confusion)
    yield from _said(names, shares, chance, hidden)


def _said(
    names: Sequence[str], shares: Mapping[str, Shares], chance: float, hidden: Array
) -> Iterator[Found]:
    """Shares by method with what speaks against them: a misfit, classes that no head tells."""
    against = [UNEXPLAINED] if chance <= SURE else []
    for method, share in shares.items():
        for i, name in enumerate(names):
            flags = list(against) if method in CORRECTED else []
            if method in CORRECTED and hidden[i]:
                flags.append("the head hardly tells this class from the others")
            if not share.converged:
                flags.append("not converged")
            yield name, method, (share.value[i], share.low[i], share.high[i]), flags


def _of_values(texts: Group, slope: Slope | None) -> Iterator[Found]:
    number = max(texts.num_texts, 1)
    mean = float(texts.sums[0] / number)
    spread = float(np.sqrt(max(texts.squares[0] / number - mean * mean, 0.0)))
    for method, share in mean_value(mean, spread, texts.num_texts, slope).items():
        flat = method in CORRECTED and slope is not None and is_flat(slope)
        flags = ["predictions hardly follow the true values"] if flat else []
        yield VALUE, method, _bounds(share), flags


def _bounds(share: Shares) -> tuple[float, float, float]:
    return float(share.value[0]), float(share.low[0]), float(share.high[0])


def shares_of_outputs(head: Head, outputs: Array, *, num_empty: int = 0) -> pa.Table:
    """Shares of classes among texts in memory, as the rows of ``SharesReport.table``.

    Args:
        head: that made the outputs; of an earlier version: plain shares only.
        outputs: ``(n, outputs)`` of texts that are not empty.
        num_empty: texts left out.
    """
    card = head.card
    task = ScoredTask(card.task, card.type, card.classes)
    texts = Group.of(task)
    if card.type == "regression":
        values, decided = outputs, np.zeros((len(outputs), 0), bool)
    else:
        values = head.probabilities(outputs)
        decided = head.decide(values)
        if not head.multilabel:
            decided = decided[:, None] == np.arange(len(card.classes))
    order = np.random.default_rng(0).permutation(len(values)).astype(np.uint64)
    texts.add(order, np.asarray(values, np.float32), decided)
    texts.num_empty += num_empty
    errors = card.metrics.get("errors")
    known = None if errors is None else read_errors(errors, card.type, len(card.classes))
    return pa.Table.from_pylist(list(group_rows(task, ALL, texts, known)), SCHEMA)


def write_shares(report: SharesReport, path: Path) -> None:
    """Write the table as Parquet, with the notes in its metadata.

    Raises:
        ConfigError: a name that is not of a Parquet file.
    """
    if path.suffix != ".parquet":
        raise ConfigError(f"--out {path}: name a .parquet file")
    facts = {
        "salient.shares_version": str(FORMAT_VERSION),
        "salient.by": report.by or ALL,
        "salient.notes": "\n".join(report.notes),
    }
    write_table(path, report.table.replace_schema_metadata(facts))
