"""Labelled sets: formats, labels, ids, splits, and the messages for what cannot be read."""

import csv
import gzip
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CorpusSource, NormaliseConfig, SplitConfig, TaskConfig
from pipeline.errors import CorpusError
from pipeline.texts.corpus import Corpus, load_corpus
from pipeline.texts.formats import FORMATS, detect_format
from pipeline.texts.inputs import READERS, TWEETS
from pipeline.texts.rows import read_rows, read_texts
from pipeline.texts.sources import short_names
from pipeline.texts.splits import SPLITS, Row, assign_splits, deal
from store import text_hash
from tests.builders.paths import SHARED

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data here")

WORDS = ["tea", "rain", "bus", "desk", "moon", "fish", "lamp", "song", "wool", "gate"]
MOOD = TaskConfig(name="mood", type="classification")
FORCE = TaskConfig(name="force", type="regression")


def made_rows(count: int = 60, *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with an id, a text unlike the others, a mood (0, 1, 2) and a force in [0, 1]."""
    rng = random.Random(seed)
    return [
        {
            "id": str(1000 + i),
            "text": f"{rng.choice(WORDS)} {rng.choice(WORDS)} number {i}",
            "mood": i % 3,
            "force": round(rng.random(), 3),
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


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


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


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
    assert "pip install datasets" in message({"hub": "some/set", "labels": {"mood": "label"}})


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


def test_too_few_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", made_rows(4))
    assert "no labelled rows for" in message({"path": path, "labels": {"mood": "mood"}})


LABELS = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))
ROWS = st.builds(
    Row,
    text=st.integers(0, 30).map(str),
    split=st.none(),
    draw=st.just(frozenset(("val", "test"))),
    labels=st.tuples(LABELS, st.one_of(st.none(), st.floats(0, 1))),
)
FRACTIONS = {"val": 0.2, "test": 0.1}


@given(rows=st.lists(ROWS, max_size=80), seed=st.integers(0, 9), order=st.randoms())
def test_a_text_is_never_in_two_drawn_splits(
    rows: list[Row], seed: int, order: random.Random
) -> None:
    splits = assign_splits(rows, fractions=FRACTIONS, seed=seed)
    by_text: dict[str, str] = {}
    for row, split in zip(rows, splits, strict=True):
        assert by_text.setdefault(row.text, split) == split
    shuffled = order.sample(rows, len(rows))
    again = assign_splits(shuffled, fractions=FRACTIONS, seed=seed)
    assert dict(zip([row.text for row in shuffled], again, strict=True)) == by_text


GIVEN = st.sampled_from(["train", "val", "test"])
MIXED = st.one_of(
    ROWS,
    st.builds(
        Row, ROWS.map(lambda row: row.text), GIVEN, st.just(frozenset[str]()), st.just(("a", 0.5))
    ),
)


@given(rows=st.lists(MIXED, max_size=60))
def test_given_splits_stay_and_take_other_rows_along(rows: list[Row]) -> None:
    splits = assign_splits(rows, fractions=FRACTIONS, seed=0)
    given_splits = defaultdict(set)
    for row in rows:
        if row.split is not None:
            given_splits[row.text].add(row.split)
    for row, split in zip(rows, splits, strict=True):
        if row.split is not None:
            assert split == row.split
        elif given_splits[row.text]:
            assert split == max(given_splits[row.text], key=SPLITS.index)


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_every_stratum_is_divided_in_the_same_ratio(sizes: list[int], seed: int) -> None:
    strata = {f"{s}-{i}": (str(s),) for s, size in enumerate(sizes) for i in range(size)}
    drawn = deal(strata, shares=FRACTIONS, seed=seed, cover=[0])
    for s, size in enumerate(sizes):
        counts = Counter(drawn[text] for text in strata if strata[text] == (str(s),))
        assert counts["train"] >= 1
        for split, share in FRACTIONS.items():
            assert abs(counts[split] - share * size) <= 3


# --- what cannot be read ------------------------------------------------------------------------


def test_messages_for_files(tmp_path: Path) -> None:
    labels = {"mood": "mood"}
    missing = str(tmp_path / "none.csv")
    assert message({"path": missing, "labels": labels}).startswith(
        f"{missing}: no such file; check the path"
    )
    assert "needs the TweetEval layout" in message({"path": str(tmp_path), "labels": labels})
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
        (b"text,mood\na,0\nb\xff,1\n", "line 3: not UTF-8: byte 0xff at position 2"),
        (b"\xff\xfet\x00e\x00", "is UTF-16; save it as UTF-8"),
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


# --- unlabelled texts ---------------------------------------------------------------------------


def test_read_texts_streams_blocks(tmp_path: Path) -> None:
    rows = [row | {"when": 1_600_000_000 + i} for i, row in enumerate(made_rows(25))]
    expected = [row["text"] for row in rows]
    write_jsonl(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write_csv(tmp_path / "a.csv", rows)
    (tmp_path / "a.txt").write_text("\n".join(expected))
    header = "\t".join(rows[0])
    body = ["\t".join(map(str, row.values())) for row in rows]
    (tmp_path / "b.txt").write_text("\n".join([header, *body]))
    for path in sorted(tmp_path.iterdir()):
        columns: dict[str, Any] = {} if path.name == "a.txt" else {"id": "id", "time": "when"}
        blocks = list(read_texts(path, block_rows=10, **columns))
        assert [block.num_rows for block in blocks] == [10, 10, 5], path
        table = pa.concat_tables(blocks)
        assert table.column("text").to_pylist() == expected
        if columns:
            assert table.column("id").to_pylist() == [row["id"] for row in rows]
            assert table.column("created_at")[3].as_py() == 1_600_000_003
        else:
            assert table.column("id")[3].as_py() == "a:4"


def test_read_texts_keeps_every_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "@bob"}, {"text": None}, {"text": ""}, {"x": 1}])
    (block,) = read_texts(tmp_path / "a.jsonl")
    assert block.column("text").to_pylist() == ["@user", "", "", ""]
    assert block.column("text_hash")[1].as_py() == text_hash("")


def test_rows_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    data = {
        "a.csv": b'text,mood\na,1\nb\xff,1\nc,1,2\nd,0\ne,"x"y\n"f\ng",0\n',
        "a.tsv": b'text\tmood\na\t1\nb\xff\t1\nc\t1\t2\nd\t0\ne\n"f g\t0\n',
        "a.jsonl": b'{"text": "a"}\n{"text": "\xff"}\n[1]\n{"text": "d"}\n{"te\n{"text": "f"}\n',
    }
    for name, content_ in data.items():
        (tmp_path / name).write_bytes(content_)
        told: list[tuple[int, str, str]] = []
        blocks = list(read_texts(tmp_path / name, on_bad=lambda *bad, to=told: to.append(bad)))
        texts = [text for block in blocks for text in block.column("text").to_pylist()]
        assert [text[0] for text in texts[:2]] == ["a", "d"], name
        assert len(texts) == 3, name
        first = 2 if name == "a.jsonl" else 3
        assert [line for line, _, _ in told] == [first, first + 1, first + 3], name
        with pytest.raises(CorpusError, match=f"line {first}: not UTF-8"):
            list(read_texts(tmp_path / name))


def test_rows_before_a_break_are_kept(tmp_path: Path) -> None:
    rows = made_rows(3000)
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_csv(tmp_path / "a.csv", rows)
    for name in ("a.jsonl", "a.csv"):
        packed = gzip.compress((tmp_path / name).read_bytes())
        (tmp_path / "broken.gz").write_bytes(packed[: len(packed) // 2])
        format = name.removeprefix("a.")
        told: list[tuple[int, str, str]] = []
        blocks = list(
            read_texts(
                tmp_path / "broken.gz", format=format, on_bad=lambda *bad, to=told: to.append(bad)
            )
        )
        texts = [text for block in blocks for text in block.column("text").to_pylist()]
        assert 100 < len(texts) < 2900
        assert texts == [row["text"] for row in rows[: len(texts)]]
        assert len(told) == 1 and "gz breaks off" in told[0][1]


def test_every_format_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no format 'xml'; the formats are csv, tsv"):
        list(read_rows(tmp_path / "a.jsonl", ["text"], format="xml"))
    labelled = set(get_args(CorpusSource.model_fields["format"].annotation))
    assert labelled - {"auto", "hub"} == set(FORMATS) - {"text"}  # plain lines hold no labels
    assert set(READERS) - {TWEETS} == set(FORMATS) - {"tweeteval"}  # whose texts are plain lines


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


def test_formats_are_told_from_name_and_content(tmp_path: Path) -> None:
    for name, data, expected in (
        ("a.csv", "text,label\n", "csv"),
        ("a.csv", "text\tlabel\n", "tsv"),
        ("a.txt", "text\tlabel\n", "tsv"),
        ("a.data", '{"text": 1}', "jsonl"),
        ("a.json", "[]", "jsonl"),
        ("a", "text,label\n", "csv"),
    ):
        (tmp_path / name).write_text(data)
        assert detect_format(tmp_path / name) == expected
