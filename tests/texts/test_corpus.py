"""Labelled sets: formats, labels, ids, splits, and the messages for what cannot be read."""

import gzip
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import CorpusSource, NormaliseConfig, SplitConfig, TaskConfig
from pipeline.errors import CorpusError
from pipeline.texts.corpus import Corpus, describe_corpus, load_corpus
from pipeline.texts.rows import read_rows
from pipeline.texts.sources import _values, short_names
from pipeline.texts.splits import SPLITS
from store import text_hash
from store.errors import MissingExtra
from tests.builders.paths import SHARED
from tests.builders.tables import made_rows, write_csv, write_jsonl

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data here")

MOOD = TaskConfig(name="mood", type="classification")
FORCE = TaskConfig(name="force", type="regression")


def load(
    *sources: Mapping[str, Any],
    tasks: Sequence[TaskConfig] = (MOOD,),
    seed: int = 0,
    fractions: SplitConfig = SplitConfig(),  # noqa: B008 - frozen
) -> Corpus:
    return load_corpus(
        [CorpusSource(**source) for source in sources],
        tasks,
        normalise=NormaliseConfig(),
        seed=seed,
        split_fractions=fractions,
    )


def message(*sources: Mapping[str, Any], tasks: Sequence[TaskConfig] = (MOOD,)) -> str:
    with pytest.raises(CorpusError) as caught:
        load(*sources, tasks=tasks)
    text = str(caught.value)
    assert "\n" not in text
    return text


def content(corpus: Corpus) -> dict[str, list[tuple[Any, ...]]]:
    """The corpus as sorted rows, apart from ids."""
    texts = dict(
        zip(
            corpus.samples.column("id").to_pylist(),
            corpus.samples.column("text").to_pylist(),
            strict=True,
        )
    )
    return {
        task: sorted((texts[row["id"]], row["split"], row["label"]) for row in table.to_pylist())
        for task, table in corpus.labels.items()
    }


# --- formats ------------------------------------------------------------------------------------


def test_every_format_gives_the_same_corpus(tmp_path: Path) -> None:
    rows = made_rows()
    rows[3]["text"] = 'she said "no", then\nleft; https://t.co/x &amp; @bob \u2028 é'
    rows[4]["text"] = '"quoted all over"'
    jsonl = write_jsonl(tmp_path / "a.jsonl", rows)
    write_csv(tmp_path / "a.csv", rows)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    floats = table.set_column(2, "mood", table.column("mood").cast(pa.float64()))
    pq.write_table(floats, tmp_path / "floats.pq")
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    (tmp_path / "noname").write_bytes((tmp_path / "a.jsonl").read_bytes())
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    labels = {"mood": "mood", "force": "force"}
    source = {"id": "id", "labels": labels}
    tasks = (MOOD, FORCE)
    expected = load({"path": jsonl, **source}, tasks=tasks)
    assert expected.samples.num_rows == len(rows)
    assert expected.classes == {"mood": ("0", "1", "2")}
    for path in sorted(tmp_path.iterdir()):
        corpus = load({"path": str(path), **source}, tasks=tasks)
        assert corpus.samples.equals(expected.samples), path
        assert corpus.labels["mood"].equals(expected.labels["mood"]), path
        assert corpus.labels["force"].equals(expected.labels["force"]), path


def test_samples_and_labels_have_their_columns(tmp_path: Path) -> None:
    rows = made_rows()
    rows[0] |= {"text": "@anna R&amp;D", "when": "Wed Oct 10 20:19:24 +0000 2018"}
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    corpus = load({"path": path, "id": "id", "time": "when", "labels": {"mood": "mood"}})
    assert corpus.samples.schema.names == ["id", "text", "text_hash", "author_id", "created_at"]
    assert corpus.samples.slice(0, 1).to_pylist() == [
        {
            "id": "1000",
            "text": "@user R&D",
            "text_hash": text_hash("@user R&D"),
            "author_id": None,
            "created_at": 1539202764,
        }
    ]
    assert corpus.samples.column("created_at").null_count == len(rows) - 1
    assert corpus.labels["mood"].schema.names == ["id", "split", "label"]
    assert sum(corpus.report.splits["mood"].values()) == len(rows)
    json.dumps(corpus.report.to_dict())


@pytest.mark.parametrize("raw", [True, False])
def test_tsv_quotes_are_text_or_wrap_fields(tmp_path: Path, raw: bool) -> None:
    texts = ['"Worry is a down payment" she said', '"all of it"', 'inner "quotes" here', "none"]
    path = tmp_path / "a.tsv"
    if raw:
        lines = [f"{i}\t{text}\t{i % 2}" for i, text in enumerate(texts)]
    else:
        wrapped = ['"' + text.replace('"', '""') + '"' for text in texts]
        lines = [f"{i}\t{text}\t{i % 2}" for i, text in enumerate(wrapped)]
    path.write_text("id\ttext\tmood\n" + "\n".join(lines) + "\n")
    (block,) = read_rows(path, ["text"])
    assert block.columns["text"] == texts
    assert block.lines == [2, 3, 4, 5]


def test_tweeteval_folder_and_single_files(tmp_path: Path) -> None:
    for split, count in (("train", 30), ("val", 10), ("test", 10)):
        texts = [f"{split} text {i}" for i in range(count)]
        (tmp_path / f"{split}_text.txt").write_text("\n".join(texts) + "\n")
        (tmp_path / f"{split}_labels.txt").write_text("\n".join(str(i % 2) for i in range(count)))
    (tmp_path / "mapping.txt").write_text("0\tvery sad\n1\tjoy")
    corpus = load({"path": str(tmp_path), "labels": {"mood": "label"}})
    assert corpus.classes["mood"] == ("joy", "very sad")
    assert corpus.report.splits["mood"] == {"train": 30, "val": 10, "test": 10}
    single = {split: str(tmp_path / f"{split}_text.txt") for split in SPLITS}
    assert content(load({**single, "labels": {"mood": "label"}})) == content(corpus)
    (tmp_path / "test_labels.txt").write_text("0\n1\n")
    assert "10 texts, but test_labels.txt has 2 labels" in message(
        {"path": str(tmp_path), "labels": {"mood": "label"}}
    )
    (tmp_path / "test_labels.txt").write_text("0\n" * 9 + "7\n")
    assert "line 10: label '7' is not in mapping.txt" in message(
        {"path": str(tmp_path), "labels": {"mood": "label"}}
    )


def test_hub_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install .+\[hub\]'"):
        load({"hub": "some/set", "labels": {"mood": "label"}}, tasks=(MOOD,))


def test_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_rows(40)
    table = pa.table(
        {
            "text": [row["text"] for row in rows],
            "label": pa.array([*(row["mood"] % 2 for row in rows[1:]), -1]),
        }
    )

    class Split:
        features: ClassVar[dict[str, Any]] = {
            "text": None,
            "label": SimpleNamespace(names=["no", "yes"]),
        }

        def with_format(self, _: str) -> "Split":
            return self

        def __getitem__(self, _: slice) -> pa.Table:
            return table

    module = ModuleType("datasets")
    module.load_dataset = lambda *_, **__: {"train": Split(), "unsupervised": Split()}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    corpus = load({"hub": "some/set", "labels": {"mood": "label"}})
    assert corpus.classes["mood"] == ("no", "yes")
    assert corpus.report.rows_read == 40
    assert corpus.report.labels_missing["mood"] == 1
    assert "no column 'lable'; did you mean 'label'?" in message(
        {"hub": "some/set", "labels": {"mood": "lable"}}
    )


def test_hub_set_with_lists_of_classes() -> None:
    feature = SimpleNamespace(feature=SimpleNamespace(names=["no", "yes"]))
    column = pa.chunked_array([[[0, 1], [], None, [1]]])
    assert _values(column, feature) == ['["no","yes"]', "[]", None, '["yes"]']


# --- labels -------------------------------------------------------------------------------------


def test_spellings_of_one_class(tmp_path: Path) -> None:
    spellings: list[Any] = [1, 1.0, "1", " 1 ", 0, "0.0", 0.0, "0"]
    rows = [row | {"mood": spellings[i % 8]} for i, row in enumerate(made_rows())]
    corpus = load({"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": "mood"}})
    assert corpus.classes["mood"] == ("0", "1")
    truths: list[Any] = [True, "true", "TRUE", False, "False", "false"]
    rows = [row | {"mood": truths[i % 6]} for i, row in enumerate(rows)]
    source = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": "mood"}}
    assert load(source).classes["mood"] == ("false", "true")
    named = TaskConfig(name="mood", type="classification", labels=("True", "False"))
    assert load(source, tasks=[named]).classes["mood"] == ("True", "False")


def test_whole_number_classes_are_in_numerical_order(tmp_path: Path) -> None:
    rows = [row | {"mood": i % 12} for i, row in enumerate(made_rows(120))]
    corpus = load({"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": "mood"}})
    assert corpus.classes["mood"] == tuple(map(str, range(12)))


def test_a_class_may_be_called_like_a_missing_value(tmp_path: Path) -> None:
    rows = [row | {"mood": ["nan", "none", None][i % 3]} for i, row in enumerate(made_rows())]
    named = TaskConfig(name="mood", type="classification", labels=("nan", "none"))
    source = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": "mood"}}
    corpus = load(source, tasks=[named])
    assert Counter(corpus.labels["mood"].column("label").to_pylist()) == {"nan": 20, "none": 20}


def test_numbers_are_places_in_the_named_classes(tmp_path: Path) -> None:
    named = TaskConfig(name="mood", type="classification", labels=("sad", "flat", "glad"))
    source = {"path": write_jsonl(tmp_path / "a.jsonl", made_rows()), "labels": {"mood": "mood"}}
    corpus = load(source, tasks=[named])
    assert corpus.classes["mood"] == ("sad", "flat", "glad")
    assert Counter(corpus.labels["mood"].column("label").to_pylist()) == dict.fromkeys(
        named.labels or (), 20
    )
    numeric = TaskConfig(name="mood", type="classification", labels=("1", "2"))
    assert "mood '0' is none of the classes '1', '2'" in message(source, tasks=[numeric])


def test_missing_labels_are_counted(tmp_path: Path) -> None:
    rows = made_rows(80)
    for i, missing in enumerate((None, "", "  ", float("nan"), "NaN")):
        rows[i]["mood"] = missing
    del rows[5]["mood"]
    rows[6] |= {"mood": None, "force": None}
    source = {
        "path": write_jsonl(tmp_path / "a.jsonl", rows),
        "id": "id",
        "labels": {"mood": "mood", "force": "force"},
    }
    corpus = load(source, tasks=(MOOD, FORCE))
    assert corpus.report.labels_missing == {"mood": 7, "force": 1}
    assert corpus.report.unlabelled_dropped == 1
    assert corpus.samples.num_rows == 79
    assert corpus.labels["mood"].num_rows == 73
    assert corpus.labels["force"].num_rows == 79


def test_unknown_label_names_the_row_and_the_choices(tmp_path: Path) -> None:
    rows = [row | {"mood": "glad" if row["mood"] else "sad"} for row in made_rows()]
    rows[11]["mood"] = "gald"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    named = TaskConfig(name="mood", type="classification", labels=("sad", "glad"))
    source = {"path": path, "labels": {"mood": "mood"}}
    assert message(source, tasks=[named]) == (
        f"{path}: line 12: mood 'gald' is none of the classes 'sad', 'glad', did you mean 'glad'?"
        "; mend or blank the label, or change the task's type or labels"
    )
    force = message({"path": path, "labels": {"force": "mood"}}, tasks=[FORCE])
    assert "line 1: mood 'sad' is not a number" in force


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda value, i: 3, " training values are 3, so there is nothing to learn; give"),
        (lambda value, i: value + 1e8, "which float32 cannot tell at that size; subtract a const"),
        (lambda value, i: 1.7e9 + 3600 * value, "standard deviation of"),
        (lambda value, i: value - 1e300 * (i == 4), "line 5: force '-1e+300' is beyond 1e+15; div"),
    ],
)
def test_numbers_that_float32_cannot_tell_apart(
    tmp_path: Path, change: Callable[[float, int], float], match: str
) -> None:
    rows = [row | {"force": change(i % 7 / 2, i)} for i, row in enumerate(made_rows())]
    source = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"force": "force"}}
    assert match in message(source, tasks=[FORCE])


@pytest.mark.parametrize("change", [lambda v: v + 2000, lambda v: v * 1e12, lambda v: v * 1e-20])
def test_numbers_of_any_unit(tmp_path: Path, change: Callable[[float], float]) -> None:
    rows = [row | {"force": change(i % 7 / 2)} for i, row in enumerate(made_rows())]
    source = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"force": "force"}}
    found = load(source, tasks=[FORCE]).labels["force"].column("label").to_pylist()
    assert sorted(found) == sorted(row["force"] for row in rows)


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    rows = made_rows()
    files = {
        split: write_jsonl(tmp_path / f"{split}.jsonl", part)
        for split, part in (("train", rows[:40]), ("val", rows[40:50]), ("test", rows[50:]))
    }
    rows[55]["mood"] = 9
    write_jsonl(tmp_path / "test.jsonl", rows[50:])
    assert "line 6: mood '9' is none of the classes '0', '1', '2' of the training rows" in message(
        {**files, "labels": {"mood": "mood"}}
    )


SETS = [["tea", "rain"], ["rain"], [], ["bus", "tea"], None]


def set_rows(count: int = 80) -> list[dict[str, Any]]:
    return [row | {"sets": SETS[i % len(SETS)]} for i, row in enumerate(made_rows(count))]


def sets_of(corpus: Corpus) -> list[list[str]]:
    table = corpus.labels["mood"].sort_by("id")
    return [json.loads(label) for label in table["label"].to_pylist()]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "array", "separated", "columns"])
def test_label_sets_of_every_form(tmp_path: Path, form: str) -> None:
    rows, labels = set_rows(), "sets"
    task = TaskConfig(name="mood", type="multilabel", labels=("tea", "rain", "bus"))
    expected = [sorted(own, key=(task.labels or ()).index) for own in SETS if own is not None] * 16
    source: dict[str, Any] = {"id": "id", "labels": {"mood": labels}}
    if form == "jsonl":
        source["path"] = write_jsonl(tmp_path / "a.jsonl", rows)
    elif form == "parquet":
        source["path"] = str(tmp_path / "a.parquet")
        pq.write_table(pa.Table.from_pylist(rows), source["path"])
    else:
        for row in rows:
            own = row.pop("sets")
            if form == "columns":
                values = {name: "" if own is None else int(name in own) for name in ("bus", "tea")}
                row |= values | {"rain": "" if own is None else str("rain" in own)}
            elif form == "array" or not own:
                row["sets"] = "" if own is None else json.dumps(own)
            else:
                row["sets"] = " | ".join(own)
        source["path"] = str(tmp_path / "a.csv")
        if form == "columns":
            source["labels"] = {"mood": ("bus", "tea", "rain")}
        write_csv(tmp_path / "a.csv", rows)
    corpus = load(source, tasks=[task])
    assert corpus.classes["mood"] == task.labels
    assert sets_of(corpus) == expected
    assert corpus.report.labels_missing == {"mood": 16}


def test_labels_of_sets_are_found_in_training_or_are_the_columns(tmp_path: Path) -> None:
    task = TaskConfig(name="mood", type="multilabel")
    path = write_jsonl(tmp_path / "a.jsonl", set_rows())
    assert load({"path": path, "labels": {"mood": "sets"}}, tasks=[task]).classes["mood"] == (
        ("bus", "rain", "tea")
    )
    flags = [row | {"b": 0, "a": i % 2, "c": i % 3 == 0} for i, row in enumerate(made_rows())]
    path = write_jsonl(tmp_path / "a.jsonl", flags)
    columns = {"path": path, "id": "id", "labels": {"mood": ("c", "b", "a")}}
    corpus = load(columns, tasks=[task])
    assert corpus.classes["mood"] == ("c", "b", "a")
    assert sets_of(corpus)[:4] == [["c"], ["a"], [], ["c", "a"]]
    numbers = [row | {"sets": [0, 2] if i % 2 else [1]} for i, row in enumerate(made_rows())]
    named = TaskConfig(name="mood", type="multilabel", labels=("x", "y", "z"))
    path = write_jsonl(tmp_path / "a.jsonl", numbers)
    corpus = load({"path": path, "id": "id", "labels": {"mood": "sets"}}, tasks=[named])
    assert sets_of(corpus)[:2] == [["y"], ["x", "z"]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("['tea', rain]", 'is no list of labels; write ["a", "b"] or a|b'),
        ("[null]", "has an element that is no label"),
        ('[["tea"]]', "has an element that is no label"),
        ("tea|", "has an element that is no label"),
        ('{"tea": 1}', 'is no list of labels; write ["a", "b"] or a|b'),
        ("tee", "'tee' is none of the classes 'tea', 'rain', did you mean 'tea'?"),
    ],
)
def test_what_is_no_label_set_is_named(tmp_path: Path, value: str, expected: str) -> None:
    rows = [row | {"sets": "tea|rain"} for row in made_rows()]
    rows[10]["sets"] = value
    write_csv(tmp_path / "a.csv", rows)
    task = TaskConfig(name="mood", type="multilabel", labels=("tea", "rain"))
    source = {"path": str(tmp_path / "a.csv"), "labels": {"mood": "sets"}}
    found = message(source, tasks=[task])
    assert "line 12: sets " in found and expected in found and "mend or blank" in found


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (["tea", "rain", "tea, rain"], 4),
        (["tea,rain", "tea,bus", "bus,rain"], 2),
        (["wool|tea", '["rain"]', "rain, tea"], 4),
        (["joy, glee", "anger, rage", "none"], None),
        (["tea", "rain", '["tea, rain"]'], None),
    ],
)
def test_commas_between_labels_are_not_in_their_names(
    tmp_path: Path, cells: list[str], line: int | None
) -> None:
    rows = [row | {"sets": cells[i % 3]} for i, row in enumerate(made_rows())]
    write_csv(tmp_path / "a.csv", rows)
    source = {"path": str(tmp_path / "a.csv"), "labels": {"mood": "sets"}}
    task = TaskConfig(name="mood", type="multilabel")
    if line is None:
        assert len(load(source, tasks=[task]).classes["mood"]) == 3
        return
    found = message(source, tasks=[task])
    assert f"line {line}: sets {cells[line - 2]!r} looks like several labels; set sep" in found
    assert "name it under `labels`" in found


def test_lists_and_objects_are_no_classes(tmp_path: Path) -> None:
    rows = [row | {"sets": ["tea", "rain"][: i % 3]} for i, row in enumerate(made_rows())]
    source = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": "sets"}}
    found = message(source)
    assert "line 1: sets '[]' is a list, no class; set type = \"multilabel\" for lists" in found
    write_jsonl(tmp_path / "a.jsonl", [row | {"sets": {"tea": 1}} for row in made_rows()])
    assert """'{"tea":1}' is an object, no class""" in message(source)
    rows = [row | {"sets": "[unk]" if i % 3 else "[1, 2"} for i, row in enumerate(made_rows())]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert load(source).classes["mood"] == ("[1, 2", "[unk]")


def test_what_is_no_flag_is_named(tmp_path: Path) -> None:
    rows = [row | {"tea": i % 2, "rain": 1} for i, row in enumerate(made_rows())]
    rows[10]["tea"] = 2
    source = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": ("tea", "rain")}}
    found = message(source, tasks=[TaskConfig(name="mood", type="multilabel")])
    assert "line 11: '2' in column 'tea' is not 0 or 1; mend or blank" in found


def test_splits_of_label_sets_have_every_label_in_training(tmp_path: Path) -> None:
    rows = [
        row | {"sets": [f"l{i % 7}", f"m{i % 5}", *(["rare"] if i in (3, 90) else [])]}
        for i, row in enumerate(made_rows(200))
    ]
    source = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": "sets"}}
    corpus = load(source, tasks=[TaskConfig(name="mood", type="multilabel")])
    assert len(corpus.classes["mood"]) == 13
    sizes = corpus.report.splits["mood"]
    assert sizes["val"] >= 20 and sizes["test"] >= 20


# --- rows ---------------------------------------------------------------------------------------


def test_empty_texts_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = made_rows()
    for i, empty in enumerate(("", "   ", "\u3000\n", None)):
        rows[i]["text"] = empty
    corpus = load({"path": write_jsonl(tmp_path / "a.jsonl", rows), "labels": {"mood": "mood"}})
    assert corpus.report.empty_dropped == 4
    assert corpus.samples.num_rows == 56


def test_identical_texts_are_one_sample(tmp_path: Path) -> None:
    rows = made_rows()
    rows += [row | {"id": f"b{row['id']}", "text": row["text"] + " @x"} for row in rows[:20]]
    rows += [row | {"id": f"c{row['id']}", "text": row["text"] + " @y"} for row in rows[:20]]
    rows[-1]["mood"] = 0 if rows[-1]["mood"] else 1
    corpus = load(
        {"path": write_jsonl(tmp_path / "a.jsonl", rows), "id": "id", "labels": {"mood": "mood"}}
    )
    assert corpus.samples.num_rows == 80
    assert corpus.report.duplicate_texts == 20
    assert corpus.labels["mood"].num_rows == 100
    assert corpus.report.conflicting_texts["mood"] == 1
    splits = defaultdict(set)
    for row in corpus.labels["mood"].to_pylist():
        splits[row["id"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_where_and_limit(tmp_path: Path) -> None:
    rows = made_rows(300)
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    source = {"path": path, "id": "id", "labels": {"force": "force"}}
    corpus = load({**source, "where": {"mood": "1.0"}}, tasks=[FORCE])
    assert corpus.report.rows_filtered == 200
    assert corpus.samples.num_rows == 100
    half = load({**source, "limit": 150}, tasks=[FORCE])
    assert half.samples.num_rows == half.report.rows_over_limit == 150
    random.Random(1).shuffle(rows)
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert load({**source, "limit": 150}, tasks=[FORCE]).samples.equals(half.samples)
    assert not load({**source, "limit": 150}, tasks=[FORCE], seed=1).samples.equals(half.samples)
    assert "no row has mood = '7'" in message({**source, "where": {"mood": "7"}}, tasks=[FORCE])


def test_ids(tmp_path: Path) -> None:
    rows = made_rows()
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    made = load({"path": path, "labels": {"mood": "mood"}})
    assert made.samples.column("id")[0].as_py() == f"{tmp_path.name}/a:1"
    rows[7]["id"] = rows[3]["id"]
    write_jsonl(tmp_path / "a.jsonl", rows)
    source = {"path": path, "id": "id", "labels": {"mood": "mood"}}
    assert f"line 8: id '1003' has another text in {path}, line 4" in message(source)
    rows[7] |= {"text": rows[3]["text"]}
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert load(source).samples.num_rows == 59
    rows[7] |= {"id": 1.344908468193436e18}
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert "line 8: id '1.344908468193436e+18' went through a float" in message(source)


def test_names_are_as_long_as_they_need_to_be() -> None:
    paths = [Path("/data/emotion/train.csv"), Path("/data/joy/train.csv"), Path("/x/joy/train.csv")]
    assert list(short_names(paths).values()) == ["emotion/train", "data/joy/train", "x/joy/train"]
    assert len(set(short_names([Path("/a/t.csv"), Path("/a/t.tsv")]).values())) == 2


# --- splits -------------------------------------------------------------------------------------


def test_given_splits_are_kept_and_leaks_dropped(tmp_path: Path) -> None:
    rows = made_rows(90)
    names = ("train", "Training", "dev", "validation", "TEST", "test")
    rows = [row | {"part": names[i % 6], "mood": i // 6 % 3} for i, row in enumerate(rows)]
    rows[0]["text"] = rows[2]["text"] = rows[4]["text"]  # train, val and test
    rows[6]["text"] = rows[8]["text"]  # train and val
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    source = {"path": path, "id": "id", "split": "part", "labels": {"mood": "mood"}}
    corpus = load(source)
    assert corpus.report.leaks_dropped == {"mood": 3}
    assert corpus.report.splits["mood"] == {"train": 28, "val": 29, "test": 30}
    rows[9]["part"] = "holdout"
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert "line 10: part 'holdout' is no split; write one of train" in message(source)


def test_near_duplicates_share_drawn_splits_and_are_counted_in_given_ones(tmp_path: Path) -> None:
    rows = made_rows(120)
    rows += [
        row | {"id": f"b{row['id']}", "text": f"RT @anna: {row['text']}! #tag"} for row in rows[:40]
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    source = {"path": path, "id": "id", "labels": {"mood": "mood"}}
    corpus = load(source)
    assert corpus.samples.num_rows == 160 and corpus.report.duplicate_texts == 0
    assert corpus.report.near_duplicate_groups == 40
    assert corpus.report.near_duplicate_texts == 80
    assert corpus.report.near_leaks == {"mood": 0}
    splits = {row["id"]: row["split"] for row in corpus.labels["mood"].to_pylist()}
    assert all(splits[row["id"]] == splits[f"b{row['id']}"] for row in rows[:40])
    assert {splits[row["id"]] for row in rows[:40]} == set(SPLITS)
    said = describe_corpus(corpus).splitlines()
    assert "  80 texts in 40 groups of near-duplicates, which drawn splits keep together" in said
    names = [SPLITS[i % 120 // 3 % 3] for i in range(len(rows))]  # two versions in one split
    names[120], names[129] = "test", "val"  # of rows 0 and 9, which are trained on
    names[123], names[126] = "train", "train"  # of rows 3 and 6, which are not
    rows = [row | {"part": name} for row, name in zip(rows, names, strict=True)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    given = load(source | {"split": "part"})
    assert [row["split"] for row in given.labels["mood"].to_pylist()].count("train") == 57
    assert given.labels["mood"].num_rows == 160
    assert given.report.leaks_dropped == {"mood": 0}
    assert given.report.near_leaks == {"mood": 4}
    said = describe_corpus(given)
    assert "4 training texts with a near-duplicate in val or test" in said
    assert "groups of near-duplicates\n" in said  # nothing is drawn


def test_missing_splits_are_drawn_from_training(tmp_path: Path) -> None:
    rows = made_rows(200)
    rows[0]["text"] = rows[199]["text"]  # leaks from training into the given test split
    train = write_jsonl(tmp_path / "train.jsonl", rows[:150])
    test = write_jsonl(tmp_path / "test.jsonl", rows[150:])
    labels = {"mood": "mood"}
    only = load({"train": train, "labels": labels})
    assert only.report.splits["mood"]["test"] == pytest.approx(22, abs=2)
    assert only.report.splits["mood"]["val"] == pytest.approx(22, abs=2)
    both = load({"train": train, "test": test, "labels": labels})
    assert both.report.splits["mood"]["test"] == 50
    assert both.report.splits["mood"]["val"] == pytest.approx(22, abs=2)
    assert both.report.leaks_dropped == {"mood": 1}


def test_drawn_splits_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = made_rows(240)
    rows += [row | {"id": f"x{row['id']}"} for row in rows[:40]]
    sources = {"id": "id", "labels": {"mood": "mood", "force": "force"}}
    tasks = (MOOD, FORCE)
    first = load({"path": write_jsonl(tmp_path / "a.jsonl", rows), **sources}, tasks=tasks)
    random.Random(3).shuffle(rows)
    again = load({"path": write_jsonl(tmp_path / "a.jsonl", rows), **sources}, tasks=tasks)
    assert again.samples.equals(first.samples)
    assert all(again.labels[task.name].equals(first.labels[task.name]) for task in tasks)
    other = load({"path": str(tmp_path / "a.jsonl"), **sources}, tasks=tasks, seed=1)
    assert not other.labels["mood"].equals(first.labels["mood"])


def test_drawn_splits_are_stratified(tmp_path: Path) -> None:
    rows = [row | {"mood": 0 if i % 10 else 1} for i, row in enumerate(made_rows(1000))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    corpus = load({"path": path, "labels": {"mood": "mood", "force": "force"}}, tasks=(MOOD, FORCE))
    mood = Counter((row["label"], row["split"]) for row in corpus.labels["mood"].to_pylist())
    for label, count in (("0", 900), ("1", 100)):
        for split in ("val", "test"):
            assert mood[label, split] == pytest.approx(0.15 * count, abs=3)
    force = defaultdict(list)
    for row in corpus.labels["force"].to_pylist():
        force[row["split"]].append(row["label"])
    means = [sum(values) / len(values) for values in force.values()]
    assert max(means) - min(means) < 0.03


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "https://t.co/{id}"}, "no training row is left: each has, once normalised, the"),
        ({"part": "val"}, "none of 60 labelled rows is in the training split; check the corpus"),
        ({"mood": "glad"}, "all 36 training rows have the one class 'glad'; add rows with another"),
        ({"sets": []}, "all 36 training rows have an empty set of labels; check the label column"),
    ],
)
def test_why_there_are_too_few_classes(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    parts = ["train", "val", "train", "test", "train"]
    rows = [row | {"part": parts[i % 5]} | change for i, row in enumerate(made_rows())]
    for row in rows:
        row["text"] = row["text"].format(**row)
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    column, type = ("sets", "multilabel") if "sets" in change else ("mood", "classification")
    source = {"path": path, "split": "part", "labels": {"mood": column}}
    found = message(source, tasks=[TaskConfig(name="mood", type=type)])
    assert found.startswith(f"{path}: task 'mood': at least two different ")
    assert expected in found


def test_a_column_without_texts_or_labels_is_named(tmp_path: Path) -> None:
    labels = {"mood": "mood"}
    blank = write_jsonl(tmp_path / "a.jsonl", [row | {"text": " "} for row in made_rows()])
    told = "column 'text' is empty in all 60 rows, once normalised; name the column of texts"
    assert message({"path": blank, "labels": labels}).startswith(f"{blank}: {told}")
    for type in ("classification", "regression", "multilabel"):
        path = write_jsonl(tmp_path / "b.jsonl", [row | {"mood": None} for row in made_rows()])
        found = message(
            {"path": path, "labels": labels}, tasks=[TaskConfig(name="mood", type=type)]
        )
        told = "column 'mood' has no label of task 'mood' in any of 60 rows; fill it in, or name"
        assert found.startswith(f"{path}: {told}")
    rows = [row | ({"text": ""} if i % 2 else {"mood": None}) for i, row in enumerate(made_rows())]
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    assert "in any of 60 rows with a text (30 texts empty)" in message(
        {"path": path, "labels": labels}
    )


def test_what_is_given_and_what_is_drawn_is_told(tmp_path: Path) -> None:
    for given, told in (
        (["train"], "    given: train only; val and test drawn"),
        (["train", "train", "train", "test"], "    given: train and test only; val drawn"),
        (None, "    no row gives a split: val and test drawn"),
    ):
        rows = made_rows(120)
        if given:
            rows = [row | {"part": given[i // 3 % len(given)]} for i, row in enumerate(rows)]
        path = write_jsonl(tmp_path / "a.jsonl", rows)
        source = {"path": path, "labels": {"mood": "mood"}} | ({"split": "part"} if given else {})
        corpus = load(source)
        lines = describe_corpus(corpus).splitlines()
        assert told in lines
        classes = [line for line in lines if line.split()[0] in corpus.classes["mood"]]
        assert [sum(map(int, line.split()[1:])) for line in classes] == [
            sum(own["labels"][name] for own in corpus.report.label_counts["mood"].values())
            for name in corpus.classes["mood"]
        ]


def test_too_few_rows(tmp_path: Path) -> None:
    rows = [row | {"mood": i % 2} for i, row in enumerate(made_rows(2))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert "no labelled rows for" in message({"path": path, "labels": {"mood": "mood"}})


# --- what cannot be read ------------------------------------------------------------------------


def test_messages_for_files(tmp_path: Path) -> None:
    labels = {"mood": "mood"}
    missing = str(tmp_path / "none.csv")
    assert message({"path": missing, "labels": labels}).startswith(
        f"{missing}: no such file; check the path"
    )
    assert "the folder holds no files" in message({"path": str(tmp_path), "labels": labels})
    path = tmp_path / "a.csv"
    for data, expected in (
        (b"", "is empty"),
        (b"text,mood\n", "is empty"),
        (
            b"txt,mood\na,1\n",
            "no column 'text'; did you mean 'txt'?; the columns are 'txt', 'mood'",
        ),
        (b"text,moods\na,1\n", "no column 'mood'; did you mean 'moods'?"),
        (b"text,mood\na,b,1\n", "line 2: wrong number of fields: 3, the header has 2"),
        (b'text,mood\na,0\n"a\nb,1\n', "line 3: the row that starts here cannot be read"),
        (b"text,mood\na,0\nb\xff,1\n", "line 3: not UTF-8: byte 0xFF at position 2"),
        (b"\xff\xfet\x00e\x00", "no column 'text'; did you mean 'te'?"),
    ):
        path.write_bytes(data)
        assert expected in message({"path": str(path), "labels": labels})
    path = tmp_path / "a.jsonl"
    for data, expected in (
        (b"\n", "is empty"),
        (b'{"text": "a", "mood": 1}\n{"text": \n', "line 2: not JSON"),
        (b'{"text": "a", "mood": 1}\n[1]\n', "line 2: not a JSON object"),
        (b'{"tweet": "a", "mood": 1}\n', "no column 'text'"),
    ):
        path.write_bytes(data)
        assert expected in message({"path": str(path), "labels": labels})
    path.with_suffix(".parquet").write_bytes(b"PAR1 and nothing else")
    assert "not a readable Parquet file" in message(
        {"path": str(path.with_suffix(".parquet")), "labels": labels}
    )
    (tmp_path / "a.bin").write_bytes(b"one two three")
    assert "cannot tell the format" in message({"path": str(tmp_path / "a.bin"), "labels": labels})
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(b"text,mood\n" + b"a,1\n" * 1000)[:-12])
    assert "gz breaks off before its end" in message({"path": str(packed), "labels": labels})


def test_bad_time(tmp_path: Path) -> None:
    rows = [row | {"when": "2024-01-01"} for row in made_rows()]
    rows[2]["when"] = "yesterday"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert "line 3: when 'yesterday' is no time; write ISO 8601" in message(
        {"path": path, "time": "when", "labels": {"mood": "mood"}}
    )


# --- real sets ----------------------------------------------------------------------------------


@needs_shared
def test_real_tsv_of_intensities() -> None:
    path = SHARED / "affect" / "EI-reg-En-{}-{}.txt"
    for affect, sizes in (("anger", (1701, 388, 1002)), ("joy", (1616, 290, 1105))):
        task = TaskConfig(name=affect, type="regression")
        files = {
            split: str(path).format(affect, name)
            for split, name in (("train", "train"), ("val", "dev"), ("test", "test-gold"))
        }
        source = {**files, "text": "Tweet", "id": "ID", "labels": {affect: "Intensity Score"}}
        corpus = load(source, tasks=[task])
        assert tuple(corpus.report.splits[affect].values()) == sizes
        raw = Path(files["train"]).read_text(encoding="utf-8").splitlines()[1:]
        (block,) = read_rows(files["train"], ["Tweet"])
        assert block.columns["Tweet"] == [line.split("\t")[1] for line in raw]


@needs_shared
def test_real_tweeteval_tasks_share_texts() -> None:
    tasks = [TaskConfig(name=name, type="classification") for name in ("emotion", "offensive")]
    folders = [
        {"path": str(SHARED / "tweeteval" / task.name), "labels": {task.name: "label"}}
        for task in tasks
    ]
    corpus = load(*folders, tasks=tasks)
    assert corpus.report.splits["emotion"] == {"train": 3257, "val": 374, "test": 1421}
    assert corpus.report.splits["offensive"] == {"train": 11902, "val": 1324, "test": 860}
    assert corpus.report.leaks_dropped["offensive"] == 14
    texts = set(corpus.samples.column("text").to_pylist())
    assert len(texts) == corpus.samples.num_rows


@needs_shared
def test_real_mixed_formats_in_one_source() -> None:
    folder = SHARED / "tweeteval" / "sentiment"
    task = TaskConfig(
        name="mood", type="classification", labels=("negative", "neutral", "positive")
    )
    corpus = load(
        {
            "train": str(folder / "train.jsonl.gz"),
            "val": str(folder / "val_text.txt"),
            "test": str(folder / "test_text.txt"),
            "labels": {"mood": "label"},
        },
        tasks=[task],
    )
    assert corpus.report.splits["mood"] == {"train": 45590, "val": 2000, "test": 12284}


@pytest.mark.slow
@needs_shared
def test_real_reviews_in_both_splits_stay_in_the_test_split() -> None:
    files = {split: str(SHARED / "imdb" / f"{split}.jsonl.gz") for split in ("train", "test")}
    corpus = load({**files, "id": "id", "labels": {"mood": "label"}})
    sizes = corpus.report.splits["mood"]
    assert sizes["test"] == 25000
    in_training = {
        row["label"] for row in corpus.labels["mood"].to_pylist() if row["split"] == "val"
    }
    assert in_training == {"0", "1"}
    assert sizes["train"] + sizes["val"] + corpus.report.leaks_dropped["mood"] == 25000
