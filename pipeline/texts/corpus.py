"""Labelled text sets -> one Arrow table of texts and one label table per task.

``corpus_of(config)`` reads every source, normalises the texts, finds identical and nearly identical
ones, reads the labels and gives every labelled row its split. Nothing is guessed: what cannot be
read is a ``CorpusError`` that names file and line; what is left out (empty texts, rows without
labels, texts that would leak from one split to another) is counted in ``Corpus.report``.

    corpus = corpus_of(config)
    corpus.samples            # id, text, text_hash, author_id, created_at: every text once
    corpus.labels["emotion"]  # id, split, label: every labelled row
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, cast

import pyarrow as pa

from pipeline.config import CorpusSource, NormaliseConfig, RunConfig, SplitConfig, TaskConfig
from pipeline.errors import CorpusError, listed
from pipeline.progress import counted
from pipeline.texts.counts import count_lines, label_counts, no_classes
from pipeline.texts.duplicates import least_hashes
from pipeline.texts.filters import row_filter
from pipeline.texts.labels import (
    BadLabel,
    cannot_be_told,
    not_a_class,
    read_classes,
    read_flags,
    read_numbers,
    read_sets,
    sorted_classes,
)
from pipeline.texts.normalise import normaliser
from pipeline.texts.rows import EmptyFile, MadeIds, exact_ids, unreadable_time
from pipeline.texts.sources import SPLIT_NAMES, SourceFile, label_names, source_files
from pipeline.texts.splits import (
    SPLITS,
    Label,
    Row,
    assign_splits,
    later_split_only,
    rarest_first,
)
from pipeline.texts.timestamps import parse_time
from store import text_hash

SAMPLES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_hash", pa.string()),
        ("author_id", pa.string()),
        ("created_at", pa.int64()),
    ]
)
LABEL_REMEDY = "mend or blank the label, or change the task's type or labels"


@dataclass(frozen=True)
class CorpusReport:
    """What was read and what was left out; the per-task counts are keyed by task."""

    folders: tuple[str, ...] = ()
    """Of each folder or pattern of files, in a line: how many, and which were left out."""
    rows_read: int = 0
    rows_filtered: int = 0
    """Left out by ``where``."""
    rows_over_limit: int = 0
    empty_dropped: int = 0
    """Rows whose text is blank after normalisation."""
    unlabelled_dropped: int = 0
    """Rows without a label for any task."""
    duplicate_texts: int = 0
    """Kept rows beyond the first of each text."""
    rows_drawn: int = 0
    """Rows whose split was drawn."""
    near_duplicate_groups: int = 0
    """Groups of two or more different texts that are nearly the same; all are kept."""
    near_duplicate_texts: int = 0
    """Different texts in those groups."""
    labels_missing: dict[str, int] = field(default_factory=dict)
    leaks_dropped: dict[str, int] = field(default_factory=dict)
    """Labelled rows left out because a later given split has the same text."""
    near_leaks: dict[str, int] = field(default_factory=dict)
    """Training texts with a near-duplicate in val or test; only given splits have any. Kept."""
    conflicting_texts: dict[str, int] = field(default_factory=dict)
    """Texts whose rows have different labels; they are kept."""
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    """Labelled rows per split."""
    splits_given: dict[str, list[str]] = field(default_factory=dict)
    """Splits that columns or files give some labelled rows."""
    splits_drawn: dict[str, list[str]] = field(default_factory=dict)
    """Splits that are drawn for rows of the task without one, or because no row gives them."""
    label_counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Rows of each class or label per split, or the range of the numbers."""
    warnings: tuple[str, ...] = ()
    """What is odd about the labels, in sentences."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Corpus:
    """Texts and labels, ready for extraction and probing.

    ``samples`` has one row per text in the order of ids; ``labels[task]`` one per labelled row:
    ``id`` of the sample, ``split``, ``label`` (string for classes, float64 for regression; of a
    label set the JSON array of its labels in order).
    ``classes[task]`` are the classes of a classification or labels of a multilabel task in order.
    """

    samples: pa.Table
    labels: dict[str, pa.Table]
    classes: dict[str, tuple[str, ...]]
    report: CorpusReport


@dataclass(frozen=True)
class _KeptRow:
    """One row to keep, with all that is used of it."""

    file: SourceFile
    line: int
    id: str
    text: str
    text_hash: str
    author_id: str | None
    created_at: int | None
    split: str | None
    labels: dict[str, Label]


def corpus_of(config: RunConfig) -> Corpus:
    """The texts and labels that a run's configuration names; see :func:`load_corpus`."""
    return load_corpus(
        config.corpus,
        config.tasks,
        normalise=config.normalise,
        seed=config.seed,
        split_fractions=config.splits,
    )


def load_corpus(
    sources: Sequence[CorpusSource],
    tasks: Sequence[TaskConfig],
    *,
    normalise: NormaliseConfig,
    seed: int,
    split_fractions: SplitConfig,
) -> Corpus:
    """Read all sources and give every labelled row its split.

    Identical texts (after normalisation) are one sample. Given splits are kept, except that a text
    in two splits of a task stays in the later one only; splits that a task lacks are drawn: seeded,
    stratified by label, near-duplicates together, independent of the order of the rows.

    Raises:
        CorpusError: a file, column, label, id or time cannot be used, or a task has an empty split.
    """
    counts: Counter[str] = Counter()
    missing = {task.name: 0 for task in tasks}
    rows: list[_KeptRow] = []
    notes: list[str] = []
    files = source_files(sources, notes=notes)
    for _, parts in groupby(files, key=lambda file: (id(file.source), file.whole)):
        rows += _read_table(list(parts), tasks, normalise, seed, counts, missing)
    _check_ids(rows)
    for task in tasks:
        if not any(task.name in row.labels for row in rows):
            raise _no_labels(task, files, counts)
    counts["unlabelled"] = sum(not row.labels for row in rows)
    rows = [row for row in rows if row.labels]
    groups = least_hashes({row.text_hash: row.text for row in rows})
    splits = _splits(rows, groups, tasks, split_fractions, seed)
    ids = _sample_ids(rows)
    labels, classes, leaks, near_leaks, conflicts = {}, {}, {}, {}, {}
    for task in tasks:
        labelled = [
            (row, split) for row, split in zip(rows, splits, strict=True) if task.name in row.labels
        ]
        keep = later_split_only((row.text_hash, split) for row, split in labelled)
        kept = [pair for pair, kept in zip(labelled, keep, strict=True) if kept]
        leaks[task.name] = len(labelled) - len(kept)
        near_leaks[task.name] = _num_near_leaks(kept, groups)
        if task.type == "regression":
            _check_numbers(task, kept)
        else:
            found = _classes(task, kept)
            if len(found) < 2:
                where = [file.where for file in files if task.name in file.source.labels]
                raise _too_few_classes(task, where, found, labelled, kept)
            classes[task.name] = found
        conflicts[task.name] = _num_conflicts(task.name, kept)
        labels[task.name] = _label_table(task, kept, ids, classes.get(task.name, ()))
    samples = _sample_table(rows, ids)
    shared = [size for size in Counter(groups.values()).values() if size > 1]
    origin = {task.name: _given_and_drawn(task, rows) for task in tasks}
    report = CorpusReport(
        folders=tuple(notes),
        rows_read=counts["read"],
        rows_filtered=counts["filtered"],
        rows_over_limit=counts["over_limit"],
        empty_dropped=counts["empty"],
        unlabelled_dropped=counts["unlabelled"],
        duplicate_texts=len(rows) - samples.num_rows,
        rows_drawn=sum(row.split != split for row, split in zip(rows, splits, strict=True)),
        near_duplicate_groups=len(shared),
        near_duplicate_texts=sum(shared),
        labels_missing=missing,
        leaks_dropped=leaks,
        near_leaks=near_leaks,
        conflicting_texts=conflicts,
        splits={name: _split_sizes(name, table) for name, table in labels.items()},
        splits_given={name: given for name, (given, _) in origin.items()},
        splits_drawn={name: drawn for name, (_, drawn) in origin.items()},
        label_counts={
            task.name: label_counts(task, labels[task.name], classes.get(task.name, ()))
            for task in tasks
        },
    )
    return Corpus(samples, labels, classes, report)


def _read_table(
    parts: Sequence[SourceFile],
    tasks: Sequence[TaskConfig],
    normalise: NormaliseConfig,
    seed: int,
    counts: Counter[str],
    missing: dict[str, int],
) -> list[_KeptRow]:
    """The rows of a table, which is one file or several.

    Raises:
        CorpusError: also where no file has a row, or none that ``where`` keeps.
    """
    source = parts[0].source
    filters = {column: row_filter(column, wanted) for column, wanted in source.where.items()}
    names = {task.name: label_names(source, task.name) for task in tasks}
    rows: list[_KeptRow] = []
    empty: EmptyFile | None = None
    num_before = counts["kept"]
    for file in parts:
        try:
            columns, lines, made = _read_columns(file, filters, counts)
        except EmptyFile as error:
            empty = error  # as some parts are
            continue
        rows += _rows_of(file, tasks, normalise, names, columns, lines, made, counts, missing)
        counts["kept"] += len(lines)
    num_lines = counts["kept"] - num_before
    if num_lines == 0:
        if empty is not None and len(parts) == 1:
            raise empty
        wanted_rows = ", ".join(f"{name} = {value!r}" for name, value in source.where.items())
        raise CorpusError(
            f"{parts[0].whole}: no row has {wanted_rows}; check the corpus entry's where"
            if source.where
            else f"{parts[0].whole}: its {counted(len(parts), 'file')} have no rows of data"
        )
    if not rows:
        raise CorpusError(
            f"{parts[0].whole}: column {source.text!r} is empty in all {counted(num_lines, 'row')}"
            f"{' that `where` keeps' * bool(source.where)}, once normalised; name the column of"
            " texts under `text`"
        )
    if source.limit is not None and len(rows) > source.limit:
        counts["over_limit"] += len(rows) - source.limit
        rows = sorted(rows, key=lambda row: (_sampling_key(row, seed), row.id))[: source.limit]
    return rows


def _read_columns(
    file: SourceFile, filters: Mapping[str, Callable[[str | None], bool]], counts: Counter[str]
) -> tuple[dict[str, list[str | None]], list[int], list[str]]:
    """The used columns of the rows that ``where`` keeps, their lines, and ids made of these."""
    source = file.source
    optional = (
        source.id,
        source.time,
        source.author,
        source.split,
        *(name for task in source.labels for name in _label_columns(source, task)),
        *filters,
    )
    wanted = [source.text, *(name for name in optional if name is not None)]
    columns: dict[str, list[str | None]] = {name: [] for name in wanted}
    lines: list[int] = []
    made: list[str] = []
    numbering = MadeIds(file.name)
    for block in file.read(wanted):
        places = numbering.of(block.lines)
        keep: Sequence[int] = range(len(block.lines))
        for name, keeps in filters.items():
            values = block.columns[name]
            keep = [row for row in keep if keeps(values[row])]
        counts["read"] += len(block.lines)
        counts["filtered"] += len(block.lines) - len(keep)
        for name in columns:
            columns[name] += [block.columns[name][row] for row in keep]
        lines += [block.lines[row] for row in keep]
        made += [places[row] for row in keep]
    return columns, lines, made


def _rows_of(
    file: SourceFile,
    tasks: Sequence[TaskConfig],
    normalise: NormaliseConfig,
    names: Mapping[str, Mapping[str, str] | None],
    columns: dict[str, list[str | None]],
    lines: list[int],
    made: list[str],
    counts: Counter[str],
    missing: dict[str, int],
) -> list[_KeptRow]:
    """What is used of a file's rows, without those whose text is empty."""
    source = file.source
    labels = {
        task.name: _labels(file, task, columns, lines, names[task.name])
        for task in tasks
        if task.name in source.labels
    }
    ids = exact_ids(file.where, columns[source.id], lines) if source.id else [None] * len(lines)
    clean = normaliser(normalise)
    rows = []
    for row, line in enumerate(lines):
        text = clean(columns[source.text][row] or "")
        if not text.strip():
            counts["empty"] += 1
            continue
        found = {name: values[row] for name, values in labels.items()}
        for name in [name for name, value in found.items() if value is None]:
            missing[name] += 1
        rows.append(
            _KeptRow(
                file=file,
                line=line,
                id=ids[row] or made[row],
                text=text,
                text_hash=text_hash(text),
                author_id=(columns[source.author][row] or None) if source.author else None,
                created_at=_time(file, columns[source.time][row], line) if source.time else None,
                split=_given_split(file, columns[source.split][row], line)
                if source.split
                else file.split,
                labels={name: value for name, value in found.items() if value is not None},
            )
        )
    return rows


def _label_columns(source: CorpusSource, task: str) -> tuple[str, ...]:
    """The columns that a source's labels of a task are read from."""
    columns = source.labels[task]
    return (columns,) if isinstance(columns, str) else columns


def _labels(
    file: SourceFile,
    task: TaskConfig,
    columns: dict[str, list[str | None]],
    lines: list[int],
    names: Mapping[str, str] | None,
) -> Sequence[Label | None]:
    own = {name: columns[name] for name in _label_columns(file.source, task.name)}
    values = next(iter(own.values()))
    try:
        if task.type == "regression":
            return read_numbers(values)
        if task.type == "classification":
            return read_classes(values, classes=task.labels, names=names)
        if len(own) > 1:
            return read_flags(own)
        return read_sets(values, classes=task.labels, separator=file.source.separator, names=names)
    except BadLabel as error:
        column = f"{next(iter(own))} " if len(own) == 1 else ""
        raise CorpusError(
            f"{file.where}: line {lines[error.row]}: {column}{error}; {LABEL_REMEDY}"
        ) from None


def _time(file: SourceFile, value: str | None, line: int) -> int | None:
    if value is None or not value.strip():
        return None
    seconds = parse_time(value)
    if seconds is None:
        raise unreadable_time(file.where, line, str(file.source.time), value)
    return seconds


def _given_split(file: SourceFile, value: str | None, line: int) -> str:
    split = SPLIT_NAMES.get((value or "").strip().lower())
    if split is None:
        raise CorpusError(
            f"{file.where}: line {line}: {file.source.split} {value!r} is no split; "
            f"write one of {', '.join(SPLIT_NAMES)}"
        )
    return split


def _sampling_key(row: _KeptRow, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:limit:{row.text_hash}".encode(), digest_size=8).digest()


def _check_ids(rows: Sequence[_KeptRow]) -> None:
    first: dict[str, _KeptRow] = {}
    for row in rows:
        other = first.setdefault(row.id, row)
        if other.text_hash != row.text_hash:
            raise CorpusError(
                f"{row.file.where}: line {row.line}: id {row.id!r} has another text in "
                f"{other.file.where}, line {other.line}; leave out the id column to have ids made"
            )


def _splits(
    rows: Sequence[_KeptRow],
    groups: dict[str, str],
    tasks: Sequence[TaskConfig],
    fractions: SplitConfig,
    seed: int,
) -> list[str]:
    given: dict[str, set[str]] = {task.name: set() for task in tasks}
    for row in rows:
        for name in row.labels:
            if row.split is not None:
                given[name].add(row.split)
    every = frozenset(("val", "test"))
    none: frozenset[str] = frozenset()

    def drawable(row: _KeptRow) -> frozenset[str]:
        if row.split is None:
            return every
        if row.split != "train":
            return none
        return none.union(
            *(every - given[task] for task in row.file.source.labels if task in given)
        )

    labels = (rarest_first([row.labels.get(task.name) for row in rows]) for task in tasks)
    plan = [
        Row(
            row.text_hash,
            groups[row.text_hash],
            row.split,
            drawable(row),
            own,
        )
        for row, own in zip(rows, zip(*labels, strict=True), strict=True)
    ]
    return assign_splits(plan, fractions={"val": fractions.val, "test": fractions.test}, seed=seed)


def _given_and_drawn(task: TaskConfig, rows: Sequence[_KeptRow]) -> tuple[list[str], list[str]]:
    """The splits that a task's rows give, and those that are drawn for some."""
    found = {row.split for row in rows if task.name in row.labels}
    drawn = [one for one in ("val", "test") if None in found or one not in found]
    return [one for one in SPLITS if one in found], drawn


def _id_key(id: str) -> tuple[int, str]:
    return len(id), id  # numbers in numerical order


def _sample_ids(rows: Sequence[_KeptRow]) -> dict[str, str]:
    """Text hash -> the first of its rows' ids."""
    ids: dict[str, str] = {}
    for row in rows:
        ids[row.text_hash] = min(ids.get(row.text_hash, row.id), row.id, key=_id_key)
    return ids


def _sample_table(rows: Sequence[_KeptRow], ids: dict[str, str]) -> pa.Table:
    first = {row.id: row for row in reversed(rows) if ids[row.text_hash] == row.id}
    ordered = [first[id] for id in sorted(first, key=_id_key)]
    columns = {name: [getattr(row, name) for row in ordered] for name in SAMPLES_SCHEMA.names}
    return pa.table(columns, schema=SAMPLES_SCHEMA)


def _classes(task: TaskConfig, kept: Sequence[tuple[_KeptRow, str]]) -> tuple[str, ...]:
    """The task's classes; those of the training rows where the configuration does not name them."""
    if task.labels is not None:
        return task.labels

    def labels(row: _KeptRow) -> tuple[str, ...]:
        found = row.labels[task.name]
        return found if isinstance(found, tuple) else (str(found),)

    columns = (_label_columns(row.file.source, task.name) for row, _ in kept)
    classes = next((names for names in columns if len(names) > 1), None)
    classes = classes or sorted_classes(
        label for row, split in kept if split == "train" for label in labels(row)
    )
    if len(classes) < 2:
        return classes  # the caller says why
    trained = [row for row, split in kept if split == "train"]
    number = Counter(label for row in trained for label in labels(row))
    counts = {"train": {"rows": len(trained), "labels": number}}
    if told := no_classes(task, counts, in_python=False):
        own = {one: None for row in trained for one in _label_columns(row.file.source, task.name)}
        where = listed(dict.fromkeys(row.file.where for row in trained))
        raise CorpusError(f"{where}: column {listed(map(repr, own))}: {told}")
    for row, _ in kept:
        for label in labels(row):
            if label not in classes:
                column = row.file.source.labels[task.name]
                raise CorpusError(
                    f"{row.file.where}: line {row.line}: {column} {label!r} "
                    f"{not_a_class(label, classes)} of the training rows; {LABEL_REMEDY}"
                )
    return classes


def _no_labels(
    task: TaskConfig, files: Sequence[SourceFile], counts: Mapping[str, int]
) -> CorpusError:
    own = [file for file in files if task.name in file.source.labels]
    where = listed(dict.fromkeys(file.where for file in own))
    columns = dict.fromkeys(one for f in own for one in _label_columns(f.source, task.name))
    named = f"column{'s' * (len(columns) > 1)} {listed(map(repr, columns))}"
    have = "has" if len(columns) == 1 else "have"
    rows = counted(counts["read"] - counts["filtered"], "row")
    if counts["empty"]:
        rows += f" with a text ({counted(counts['empty'], 'text')} empty)"
    return CorpusError(
        f"{where}: {named} {have} no label of task {task.name!r} in any of {rows}; fill it in, or"
        " name the column of labels under `labels`"
    )


def _too_few_classes(
    task: TaskConfig,
    files: Sequence[str],
    classes: Sequence[str],
    labelled: Sequence[tuple[_KeptRow, str]],
    kept: Sequence[tuple[_KeptRow, str]],
) -> CorpusError:
    names = "labels" if task.type == "multilabel" else "classes"
    noun = "label" if task.type == "multilabel" else "class"
    num_trained = sum(split == "train" for _, split in kept)
    if not num_trained and len(kept) < len(labelled):
        cause = "no training row is left: each has, once normalised, the text of a later split"
        remedy = "keep each text in one split, or set urls or users = false under [normalise]"
    elif not num_trained:
        cause = f"none of {counted(len(kept), 'labelled row')} is in the training split"
        remedy = "check the corpus entry's `split`"
    elif not classes:
        cause = f"all {counted(num_trained, 'training row')} have an empty set of labels"
        remedy = "check the label column"
    else:
        cause = f"all {counted(num_trained, 'training row')} have the one {noun} {classes[0]!r}"
        remedy = f"add rows with another {noun}, or name another label column"
    return CorpusError(
        f"{', '.join(files)}: task {task.name!r}: at least two different {names} in the training"
        f" rows are needed, but {cause}; {remedy}"
    )


def _check_numbers(task: TaskConfig, kept: Sequence[tuple[_KeptRow, str]]) -> None:
    values = [cast(float, row.labels[task.name]) for row, split in kept if split == "train"]
    if values and (problem := cannot_be_told(values)) is not None:
        raise CorpusError(f"task {task.name!r}: {problem}")


def _num_near_leaks(kept: Sequence[tuple[_KeptRow, str]], groups: dict[str, str]) -> int:
    held_out = {groups[row.text_hash] for row, split in kept if split != "train"}
    training = {row.text_hash for row, split in kept if split == "train"}
    return sum(groups[one] in held_out for one in training)


def _num_conflicts(task: str, kept: Sequence[tuple[_KeptRow, str]]) -> int:
    first: dict[str, Label] = {}
    return len(
        {
            row.text_hash
            for row, _ in kept
            if first.setdefault(row.text_hash, row.labels[task]) != row.labels[task]
        }
    )


def _label_table(
    task: TaskConfig,
    kept: Sequence[tuple[_KeptRow, str]],
    ids: dict[str, str],
    classes: Sequence[str],
) -> pa.Table:
    def stored(label: Label) -> str | float:
        if not isinstance(label, tuple):
            return label
        return json.dumps([name for name in classes if name in label], ensure_ascii=False)

    ordered: list[tuple[Any, ...]] = sorted(
        ((ids[row.text_hash], split, stored(row.labels[task.name])) for row, split in kept),
        key=lambda entry: (_id_key(entry[0]), entry[1:]),
    )
    kind = pa.float64() if task.type == "regression" else pa.string()
    schema = pa.schema([("id", pa.string()), ("split", pa.string()), ("label", kind)])
    columns = zip(*ordered, strict=True) if ordered else ((), (), ())
    return pa.table(dict(zip(schema.names, map(list, columns), strict=True)), schema=schema)


def _split_sizes(task: str, table: pa.Table) -> dict[str, int]:
    found = Counter(table.column("split").to_pylist())
    sizes = {split: found[split] for split in SPLITS}
    if empty := [split for split, size in sizes.items() if size == 0]:
        raise CorpusError(
            f"task {task!r}: no labelled rows for {' and '.join(empty)} "
            f"({table.num_rows} in all, near-duplicate texts drawn together); give more rows that"
            " differ, larger split fractions, or the splits themselves"
        )
    return sizes


def describe_corpus(corpus: Corpus) -> str:
    """What was read and what was left out, in a few lines."""
    report = corpus.report
    read, texts = counted(report.rows_read, "row"), counted(len(corpus.samples), "different text")
    lines = [f"corpus: {read} read, {texts}", *(f"  {note}" for note in report.folders)]
    for count, what in (
        (report.rows_filtered, "left out by `where`"),
        (report.empty_dropped, "with an empty text dropped"),
        (report.unlabelled_dropped, "without any label dropped"),
        (report.duplicate_texts, "with the text of an earlier one"),
    ):
        if count:
            lines.append(f"  {counted(count, 'row')} {what}")
    if report.near_duplicate_groups:
        groups = counted(report.near_duplicate_groups, "group")
        together = ", which drawn splits keep together" if report.rows_drawn else ""
        lines.append(
            f"  {counted(report.near_duplicate_texts, 'text')} in {groups} of near-duplicates"
            f"{together}"
        )
    for task, splits in report.splits.items():
        parts = ", ".join(f"{name} {count}" for name, count in splits.items())
        notes = "".join(
            f"; {counted(count, noun)} {what}"
            for count, noun, what in (
                (report.labels_missing.get(task), "label", "missing"),
                (report.leaks_dropped.get(task), "row", "dropped whose text is in a later split"),
                (
                    report.near_leaks.get(task),
                    "training text",
                    "with a near-duplicate in val or test",
                ),
                (report.conflicting_texts.get(task), "text", "with differing labels"),
            )
            if count
        )
        lines.append(f"  task {task}: {parts}{notes}")
        drawn, given = report.splits_drawn.get(task), report.splits_given.get(task, [])
        if drawn and given:
            lines.append(f"    given: {' and '.join(given)} only; {' and '.join(drawn)} drawn")
        elif drawn:
            lines.append(f"    no row gives a split: {' and '.join(drawn)} drawn")
        lines += [f"    {line}" for line in count_lines(report.label_counts.get(task, {}))]
    return "\n".join(lines)
