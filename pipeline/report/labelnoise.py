"""Labels that the out-of-fold outputs of a run's chosen heads most doubt, to be looked at again.

    found = read_label_doubts(Path("runs/demo/run"), limit=20)["sentiment"]
    found.sentence                          # how many, and how far that is to be believed
    found.table                             # text, given and likely label, the most doubted first

Classes go by confident learning (:mod:`pipeline.measures.confident`), label sets label by label;
of values those whose residuals are outliers are doubted. The rows are the training and validation
texts that judged the heads: each is spoken of by a head that was fitted without it and its
near-duplicates. Test labels are not looked at: who mends those by what a head says tests nothing.

A doubt is none of the labels' alone: what a head cannot tell apart looks like noise, too. A
near-duplicate that has the likely label is evidence of another kind, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, HeadError
from pipeline.heads import Head, read_held_out, wanted_tasks
from pipeline.measures import OUTLIER, DoubtedLabels, doubted_labels, doubted_values
from pipeline.probes import known_groups
from pipeline.progress import counted
from pipeline.report.digits import four
from pipeline.report.sheets import csv_text
from pipeline.runfolder import RunFolder, finished_metrics, open_snapshot, run_config
from pipeline.texts import StoredTexts, Target, load_target, sample_texts
from store import ActivationStore
from store.disk import write_file
from store.errors import SalientError
from store.tables import write_table

Array = NDArray[Any]
SPLITS = ("train", "val")
DOUBTS_SHOWN = 20
"""Rows of a task."""
FORMATS = (".parquet", ".pq", ".csv")


@dataclass(frozen=True)
class Pair:
    """A given and a likely label.

    Attributes:
        given, likely: their names.
        doubted: rows that are given the one and doubted for the other.
        estimated: how many of the one are estimated to be the other.
    """

    given: str
    likely: str
    doubted: int
    estimated: float


@dataclass(frozen=True)
class LabelDoubts:
    """What is doubted of a task's labels.

    Attributes:
        task, type: the task's.
        num_labels: labels that were looked at: rows, or rows times labels for label sets.
        num_rows: their rows, of ``num_labelled`` training and validation rows.
        num_doubted: doubted labels.
        num_wrong: how many labels confident learning estimates to be wrong; None for values.
        agreement: share of labels that are also the most probable ones out of fold; None for
            values.
        pairs: the given and the likely labels of them, the most doubts first.
        table: the doubted rows, the most doubted first, up to the limit asked for: ``id``,
            ``split``, ``given``, ``likely``, ``doubt`` (the probability that is not
            the given label's, or the robust deviations of a residual), ``near_duplicates``,
            ``of_the_likely_label`` (how many of those have it) and ``text``.
        note: what is missing, and why.
    """

    task: str
    type: str
    num_labels: int
    num_rows: int
    num_labelled: int
    num_doubted: int
    num_wrong: float | None
    agreement: float | None
    pairs: tuple[Pair, ...]
    table: pa.Table
    note: str | None = None

    @property
    def sentence(self) -> str:
        """How many are doubted, and how far that is to be believed."""
        first = f"{self.num_doubted:,} of {counted(self.num_labels, 'label')} ({self._rows})"
        if self.num_wrong is None or self.agreement is None:
            return (
                f"{first} lie more than {OUTLIER:g} robust deviations from the out-of-fold value;"
                " some of any distribution's do"
            )
        return (
            f"{first} are doubted. Not all of them are wrong: what the head cannot tell apart is"
            f" doubted, too, and out of fold it agrees with {self.agreement:.0%} of the labels."
            f" Confident learning estimates {self.num_wrong:,.0f} wrong labels; it counts the"
            " head's own errors among them, so expect fewer"
        )

    def first(self, limit: int) -> LabelDoubts:
        """The same with the first rows of the table only."""
        return replace(self, table=self.table.slice(0, limit))

    @property
    def _rows(self) -> str:
        if self.num_rows == self.num_labelled:
            return "training and validation rows"
        return f"the {self.num_rows:,} of {self.num_labelled:,} rows that judged the head"

    def facts(self) -> dict[str, Any]:
        """As a JSON object."""
        plain = {
            name: getattr(self, name)
            for name in ("type", "num_labels", "num_rows", "num_labelled", "num_doubted")
        }
        plain |= {"num_wrong_estimated": self.num_wrong, "agreement": self.agreement}
        plain |= {"pairs": [vars(pair) for pair in self.pairs], "rows": self.table.to_pylist()}
        return plain | ({} if self.note is None else {"note": self.note})


def read_label_doubts(
    path: Path, tasks: Sequence[str] = (), *, limit: int | None = None, store: str | None = None
) -> dict[str, LabelDoubts]:
    """Task -> its doubted labels, of a finished run.

    Args:
        path: the run's folder or its TOML file.
        tasks: names of tasks; default all.
        limit: rows of each task's table; None for all that are doubted.
        store: where the run's store is; default where the run says.

    Raises:
        ConfigError: no finished run there, an unknown task, a limit below 1.
        SalientError: no outputs, store or labels, or damaged ones.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: must be 1 or more")
    if not (path.is_dir() or path.suffix == ".toml"):
        raise ConfigError(f"{path}: not a run; name a run's folder or its TOML file")
    config = run_config(path, store=store)
    folder = RunFolder(Path(config.run_dir))
    metrics = finished_metrics(folder)
    opened = open_snapshot(config, metrics.get("snapshot"))
    return {
        name: doubts_of(config, opened, name, limit=limit)
        for name in wanted_tasks(tasks, list(metrics["tasks"]))
    }


def doubts_of(
    config: RunConfig, store: ActivationStore, task: str, *, limit: int | None = None
) -> LabelDoubts:
    """The doubted labels of one task; ``store`` at the run's snapshot, ``limit`` as above.

    Raises:
        SalientError: no outputs, store or labels, or damaged ones.
    """
    rows = _Rows.of(config, store, task)
    kind = {"regression": _values, "multilabel": _label_sets}.get(rows.head.card.type, _classes)
    found = kind(rows)
    shown = found.rows if limit is None else found.rows[:limit]
    table, note = _table(config, store, rows, found, shown)
    size = rows.outputs.shape[1] if rows.head.multilabel else 1
    return LabelDoubts(
        task,
        rows.head.card.type,
        len(rows.outputs) * size,
        len(rows.outputs),
        rows.num_labelled,
        len(found.rows),
        found.num_wrong,
        found.agreement,
        found.pairs,
        table,
        note,
    )


@dataclass(frozen=True)
class _Rows:
    """Labelled rows with what a head says of them out of fold.

    Attributes:
        positions, splits, targets, groups: of ``n`` rows; groups of near-duplicates, if known.
        outputs: ``(n, outputs)`` float32.
        num_labelled: training and validation rows, these and those that did not judge.
    """

    head: Head
    positions: Array
    splits: Array
    targets: Array
    groups: Array | None
    outputs: Array
    num_labelled: int

    @classmethod
    def of(cls, config: RunConfig, store: ActivationStore, task: str) -> _Rows:
        target: Target = load_target(store, config.task(task))
        path = RunFolder(Path(config.run_dir)).head(task)
        head = Head.load(path)
        if head.card.classes != target.classes:
            raise HeadError(
                f"{path}: was trained on the classes {list(head.card.classes)}, the store has"
                f" {list(target.classes)}; run `salient run` with this configuration first"
            )
        held_out = read_held_out(path, head)
        parts = [target.rows(split) for split in SPLITS]  # type: ignore[arg-type]
        positions = np.concatenate([part.positions for part in parts])
        targets = np.concatenate([part.targets for part in parts])
        splits = np.repeat(SPLITS, [len(part) for part in parts])
        groups = known_groups(config, store, target, positions)
        place = np.searchsorted(held_out["positions"], positions)
        place = np.minimum(place, len(held_out["positions"]) - 1)
        there = np.flatnonzero(held_out["positions"][place] == positions)
        return cls(
            head,
            positions[there],
            splits[there],
            targets[there],
            None if groups is None else groups[there],
            held_out["outputs"][place[there]],
            len(positions),
        )

    def twins(self, row: int) -> Array:
        """Rows of other near-duplicates of a row."""
        if self.groups is None:
            return np.empty(0, np.int64)
        same = np.flatnonzero(self.groups == self.groups[row])
        return np.asarray(same[same != row])


@dataclass(frozen=True)
class _Found:
    """Doubts of any type of task, ``k`` in all.

    Attributes:
        rows: ``(k,)`` int64.
        given, likely: ``k`` names.
        doubt: ``(k,)`` float64.
        agrees: for each, targets ``(m, …)`` -> mask ``(m,)`` of those with the likely label.
    """

    rows: Array
    given: list[str]
    likely: list[str]
    doubt: Array
    agrees: list[Any]
    pairs: tuple[Pair, ...] = ()
    num_wrong: float | None = None
    agreement: float | None = None


def _classes(rows: _Rows) -> _Found:
    names, probability = rows.head.card.classes, rows.head.probabilities(rows.outputs)
    found = doubted_labels(rows.targets, probability)
    likely = found.likely[found.rows]
    return _Found(
        found.rows,
        [names[i] for i in rows.targets[found.rows]],
        [names[i] for i in likely],
        1 - found.confidence[found.rows],
        [lambda targets, wanted=wanted: targets == wanted for wanted in likely],
        tuple(sorted(_pairs(found, rows.targets, names), key=lambda pair: -pair.doubted)),
        found.num_wrong,
        float((probability.argmax(axis=1) == rows.targets).mean()),
    )


def _pairs(found: DoubtedLabels, given: Array, names: Sequence[str]) -> Iterator[Pair]:
    counts = np.zeros_like(found.joint)
    np.add.at(counts, (given[found.rows], found.likely[found.rows]), 1)
    for i, j in np.argwhere(counts).tolist():
        yield Pair(names[i], names[j], int(counts[i, j]), float(found.wrong_by_class[i, j]))


def _label_sets(rows: _Rows) -> _Found:
    """Each label by itself: whether a text has it is one of two classes."""
    probability = rows.head.probabilities(rows.outputs)
    which, number, given, likely, doubt, agrees = [], [], [], [], [], []
    pairs, num_wrong = list[Pair](), 0.0
    for label, name in enumerate(rows.head.card.classes):
        truth, names = rows.targets[:, label].astype(np.int64), (f"not {name}", name)
        both = np.stack([1 - probability[:, label], probability[:, label]], axis=1)
        found = doubted_labels(truth, both)
        pairs += _pairs(found, truth, names)
        num_wrong += found.num_wrong
        for row in found.rows.tolist():
            has = int(found.likely[row])
            which.append(row)
            number.append(label)
            given.append(names[1 - has])
            likely.append(names[has])
            doubt.append(1 - float(found.confidence[row]))
            agrees.append(lambda targets, label=label, has=has: targets[:, label] == has)
    order = np.argsort(-np.array(doubt, np.float64), kind="stable")
    return _Found(
        np.array(which, np.int64)[order],
        [given[i] for i in order],
        [likely[i] for i in order],
        np.array(doubt, np.float64)[order],
        [agrees[i] for i in order],
        tuple(sorted(pairs, key=lambda pair: -pair.doubted)),
        num_wrong,
        float(((probability > 0.5) == (rows.targets > 0)).mean()),
    )


def _values(rows: _Rows) -> _Found:
    given, predicted = rows.targets, rows.outputs[:, 0].astype(np.float64)
    found = doubted_values(given, predicted)
    halfway = (given + predicted) / 2

    def nearer(row: int) -> Any:
        above = predicted[row] > given[row]
        return lambda targets: (targets > halfway[row]) == above

    return _Found(
        found.rows,
        [four(float(given[row])) for row in found.rows],
        [four(float(predicted[row])) for row in found.rows],
        np.abs(found.deviation[found.rows]),
        [nearer(row) for row in found.rows.tolist()],
    )


def _table(
    config: RunConfig, store: ActivationStore, rows: _Rows, found: _Found, shown: Array
) -> tuple[pa.Table, str | None]:
    """The rows ``shown``, the first of those found, and what is missing of them."""
    stored, positions = StoredTexts(store), rows.positions[shown]
    texts, note = stored.at(positions), None
    if None in texts:
        try:
            texts = [*sample_texts(store, positions, config)]
        except (SalientError, OSError) as error:
            note = f"no texts: {error}"
    twins = [rows.twins(row) for row in shown.tolist()]
    agree = [
        int(same(rows.targets[own]).sum()) for own, same in zip(twins, found.agrees, strict=False)
    ]
    count = len(shown)
    columns = {
        "id": pa.array(stored.ids(positions), pa.string()),
        "split": pa.array(rows.splits[shown].tolist(), pa.string()),
        "given": pa.array(found.given[:count], pa.string()),
        "likely": pa.array(found.likely[:count], pa.string()),
        "doubt": pa.array(found.doubt[:count].astype(np.float64)),
        "near_duplicates": pa.array([len(own) for own in twins], pa.int64()),
        "of_the_likely_label": pa.array(agree, pa.int64()),
        "text": pa.array(texts, pa.string()),
    }
    return pa.table(columns), note


def twin_note(row: dict[str, Any]) -> str:
    """What is said of a row's near-duplicates: ``2 of 3 agree`` with the likely label."""
    count, agree = row["near_duplicates"], row["of_the_likely_label"]
    return f"{agree} of {count} agree" if count else ""


def doubt_table(found: LabelDoubts) -> Group:
    """A task's doubted labels for the terminal: how many, which for which, and the rows."""
    parts: list[Any] = [f"[bold]{escape(found.task)}[/]: {escape(found.sentence)}"]
    parts += [f"  {escape(line)}" for line in pair_lines(found)]
    if found.note:
        parts.append(escape(found.note))
    if len(found.table):
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
        for name in ("doubt", "id", "split", "given", "likely", "near-duplicates"):
            table.add_column(name, justify="right" if name == "doubt" else "left", overflow="fold")
        table.add_column("text", ratio=1, min_width=24, overflow="fold")
        for row in found.table.to_pylist():
            cells = (row["id"], row["split"], row["given"], row["likely"], twin_note(row))
            text = "" if row["text"] is None else row["text"]
            table.add_row(
                f"{row['doubt']:.2f}", *(escape(_printable(one)) for one in (*cells, text))
            )
        parts.append(table)
    if len(found.table) < found.num_doubted:
        parts.append(f"{len(found.table):,} of {found.num_doubted:,} shown; see --limit and --out")
    return Group(*parts)


def pair_lines(found: LabelDoubts, limit: int = 6) -> Iterator[str]:
    """The most frequent pairs of given and likely labels, a line each."""
    for pair in found.pairs[:limit]:
        yield f"given {pair.given}, likely {pair.likely}: {pair.doubted:,} doubted"
    if len(found.pairs) > limit:
        rest = sum(pair.doubted for pair in found.pairs[limit:])
        yield f"{counted(len(found.pairs) - limit, 'other pair')}: {rest:,} doubted"


def _printable(text: str) -> str:
    """In one line, control characters escaped."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode()
        for sign in " ".join(text.split())
    )


def write_doubts(path: Path, found: Iterable[LabelDoubts]) -> None:
    """The doubted rows of some tasks, with a column ``task``, as Parquet or CSV; in CSV no text is
    a formula (:mod:`pipeline.report.sheets`).

    Raises:
        ConfigError: another ending of the file's name, or a folder.
    """
    check_doubts_path(path)
    tables = [
        one.table.add_column(0, "task", pa.array([one.task] * len(one.table), pa.string()))
        for one in found
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.concat_tables(tables)
    if path.suffix.lower() == ".csv":
        write_file(path, [csv_text(table.column_names, _rows_of(table)).encode()])
    else:
        write_table(path, table)


def _rows_of(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def check_doubts_path(path: Path) -> None:
    """Raises:
    ConfigError: what :func:`write_doubts` does not write.
    """
    if path.suffix.lower() not in FORMATS or path.is_dir():
        raise ConfigError(f"--out {path}: name a file that ends with {', '.join(FORMATS)}")
