"""Predictions from Python are what `salient score` writes, to the last bit."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.backbone.loading import load_backbone
from pipeline.config import NormaliseConfig, RunConfig, ScoreConfig
from pipeline.errors import ConfigError, CorpusError
from pipeline.heads.model import Head
from pipeline.scoring.files import ScoreOptions, score_files
from pipeline.scoring.loading import load_scorer
from pipeline.scoring.scorer import Scorer
from store import text_hash
from store.layout import ffn
from tests.builders.heads import make_head, write_heads
from tests.builders.runs import GLAD, SAD

COLUMNS = ["mood", "mood_p_glad", "mood_p_sad", "level"]


def many_texts(num_rows: int = 450) -> list[str]:
    """Short and long, some there several times, some blank, some that normalising makes equal."""
    draw = random.Random(0)
    texts = [
        f"it was {' '.join(draw.choices(GLAD + SAD, k=draw.randrange(1, 20)))} {i % 300}"
        for i in range(num_rows - 60)
    ]
    texts += ["", "  ", "so &amp; so", "so & so", "https://a.example/b", "https://c.example"]
    texts += draw.choices(texts, k=num_rows - len(texts))
    draw.shuffle(texts)
    return texts


def made_head(model: Path, classes: tuple[str, ...]) -> Head:
    """With random weights."""
    backbone = load_backbone(model)
    normalise = NormaliseConfig().model_dump()
    features = {ffn(layer): np.arange(20) for layer in (0, 1)}
    return make_head(backbone, features, classes=classes, normalise=normalise)


def scored_by_the_command(
    texts: list[str], run: Path | None, folder: Path, *, heads: Sequence[Path] = ()
) -> pd.DataFrame:
    """The columns of the tasks in the Parquet files, in the texts' order."""
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows([f"r{i}", text] for i, text in enumerate(texts))
    options = ScoreOptions(heads=heads)
    score_files([folder / "in.csv"], run, folder / "scores", options=options)
    table = pa.concat_tables(
        pq.read_table(path, partitioning=None) for path in folder.glob("scores/date=*/*.parquet")
    )
    assert len(table) == len(texts)
    order = {name: i for i, name in enumerate(table["id"].to_pylist())}
    return table.take([order[f"r{i}"] for i in range(len(texts))]).to_pandas()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return many_texts()


@pytest.fixture
def small_blocks(own_run: RunConfig) -> Path:
    """A run whose scoring cuts its input into several blocks and forgets some texts."""
    path = Path(own_run.run_dir).parent / "run.toml"
    path.write_text(path.read_text() + "[score]\nblock_rows = 64\ncache_texts = 150\n")
    return path


def test_numbers_are_those_of_the_command(
    small_blocks: Path, texts: list[str], tmp_path: Path
) -> None:
    expected = scored_by_the_command(texts, small_blocks, tmp_path)
    scorer = load_scorer([small_blocks])
    assert scorer.reading.block_rows == 64 and scorer.tasks == ("mood", "level")
    blank = np.array([not text.strip() for text in texts])
    assert 0 < blank.sum() < 30 and len(set(texts)) < len(texts)

    mood = scorer.predict(texts, "mood")
    assert mood.shape == (len(texts),) and list(mood[blank]) == [None] * blank.sum()
    assert [one for one in mood if one] == expected["mood"].dropna().tolist()
    proba = scorer.predict_proba(texts, task="mood")
    assert proba.dtype == np.float32 and scorer.classes("mood") == ("glad", "sad")
    np.testing.assert_array_equal(proba, expected[COLUMNS[1:3]].to_numpy())
    level = scorer.predict(pd.Series(texts), "level")
    assert level.dtype == np.float64
    np.testing.assert_array_equal(level, expected["level"].to_numpy())

    frame = pd.DataFrame({"text": texts, "n": 1.5}, index=[f"x{i}" for i in range(len(texts))])
    before = frame.copy()
    found = scorer.predict_frame(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert [*found.columns] == ["text", "n", *COLUMNS] and found.index.equals(frame.index)
    pd.testing.assert_frame_equal(
        found[COLUMNS].reset_index(drop=True), expected[COLUMNS], check_exact=True
    )


def test_a_folder_gives_what_its_file_does(
    own_run: RunConfig, texts: list[str], tmp_path: Path
) -> None:
    """With the default blocks, and the command given the run's folder."""
    run = Path(own_run.run_dir)
    expected = scored_by_the_command(texts, run, tmp_path)
    found = load_scorer([run], tasks=["level"])
    np.testing.assert_array_equal(found.predict(texts), expected["level"].to_numpy())


def test_frames_may_come_without_end(finished_run: Path, texts: list[str]) -> None:
    scorer = load_scorer([finished_run])
    scorer.reading = ScoreConfig(block_rows=40)
    drawn = count()

    def frames() -> Iterator[pd.DataFrame]:
        for number in drawn:
            start = 30 * number % 300
            yield pd.DataFrame({"said": [*texts[start : start + 90], None]})

    found = list(islice(scorer.predict_frames(frames(), "said", prefix="p_"), 4))
    assert next(drawn) < 15  # a few ahead, no more
    whole = scorer.predict_frame(pd.DataFrame({"text": texts}))
    for number, frame in enumerate(found):
        assert [*frame.columns] == ["said", *(f"p_{name}" for name in COLUMNS)]
        assert frame.loc[90, [f"p_{name}" for name in COLUMNS]].isna().all()
        values = frame["p_level"].to_numpy()[:90]
        expected = whole["level"].to_numpy()[30 * number : 30 * number + 90]
        np.testing.assert_allclose(values, expected, rtol=1e-5)  # other texts beside them


def test_a_scorer_is_used_inside_its_own_stream(finished_run: Path) -> None:
    """The next frames are computed in another thread meanwhile."""
    scorer, texts = load_scorer([finished_run]), many_texts(900)
    frames = [pd.DataFrame({"text": texts[start : start + 150]}) for start in range(0, 900, 150)]
    expected = list(scorer.predict_frames(frames))
    alone = scorer.predict_proba(texts[:150], "mood")
    for found, own in zip(scorer.predict_frames(frames), expected, strict=True):
        # To rounding: another number of threads may move an activation by a float16 step.
        beside = scorer.predict_proba(texts[:150], "mood")
        np.testing.assert_allclose(beside, alone, atol=2e-3)
        pd.testing.assert_frame_equal(found, own, atol=2e-3)


def test_threads_share_a_scorer(finished_run: Path) -> None:
    """As those of a web server do; texts of which some are cut to the context."""
    scorer, texts = load_scorer([finished_run]), many_texts(300)
    texts[::15] = [" ".join([text] * 30) for text in texts[::15]]
    parts = [texts[start : start + 100] for start in range(0, 200, 50)]
    expected = [scorer.predict_proba(part, "mood") for part in parts]

    def work(number: int) -> None:
        for _ in range(10):
            found = scorer.predict_proba(parts[number], "mood")
            # To rounding: another number of threads may move an activation by a float16 step.
            np.testing.assert_allclose(found, expected[number], atol=2e-3)

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(work, range(len(parts))))


def test_tables_and_texts_agree(finished_run: Path, texts: list[str]) -> None:
    """A generator of tables through ``score``, cut as ``predict`` cuts."""
    scorer = load_scorer([finished_run])
    scorer.reading = ScoreConfig(block_rows=100, cache_texts=0)
    different = [text for text in dict.fromkeys(texts) if "http" not in text and "&" not in text]

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(different), 100):
            some = different[start : start + 100]
            yield pa.table(
                {
                    "id": some,
                    "text": some,
                    "text_hash": [text_hash(text) for text in some],
                    "created_at": pa.nulls(len(some), pa.int64()),
                    "source_file": ["t"] * len(some),
                }
            )

    table = pa.concat_tables(scored.table for scored in scorer.score(tables()))
    level = scorer.predict(different, "level")
    np.testing.assert_array_equal(level, table["level"].to_numpy())


def test_label_sets_are_masks(tiny_bert: Path, tmp_path: Path) -> None:
    head = made_head(tiny_bert, ("one", "two", "three"))
    card = replace(head.card, type="multilabel", metric="macro_f1")
    replace(head, card=card).save(tmp_path / "topics")
    words = [f"it was {word} {i}" for i, word in enumerate((*GLAD, *SAD) * 2)] + [""]
    scorer = load_scorer([tmp_path / "topics"])
    mask, proba = scorer.predict(words), scorer.predict_proba(words)
    assert mask.dtype == bool and mask.shape == proba.shape == (len(words), 3)
    assert not mask[-1].any() and np.isnan(proba[-1]).all() and 0 < mask.mean() < 1
    expected = scored_by_the_command(words, None, tmp_path, heads=[tmp_path / "topics"])["made"]
    for row, names in zip(mask, expected, strict=True):
        listed = [] if names is None else list(names)
        assert [name for name, on in zip(scorer.classes(), row, strict=True) if on] == listed


def test_nothing_to_predict(finished_run: Path) -> None:
    scorer = load_scorer([finished_run])
    assert scorer.predict([], "mood").shape == (0,)
    assert scorer.predict_proba([], "mood").shape == (0, 2)
    assert scorer.predict([], "level").dtype == np.float64
    empty = scorer.predict_frame(pd.DataFrame({"text": pd.Series([], dtype=object)}))
    assert [*empty.columns] == ["text", *COLUMNS] and len(empty) == 0


def test_head_folders_are_loaded_too(tiny_bert: Path, tmp_path: Path) -> None:
    folders = write_heads(tmp_path, tiny_bert)
    scorer = load_scorer(folders)
    assert scorer.tasks == ("mood", "level")
    one = load_scorer([tmp_path / "level"])
    texts = ["the cat", "a dog sat"]
    np.testing.assert_array_equal(
        one.predict(texts), Scorer.load([tmp_path / "level"]).predict(texts)
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["a"],), "task: name one of mood, level"),
        ((["a"], "moood"), "did you mean 'mood'"),
        (("a text", "mood"), r"'a text' \(str\) is a single one"),
        ((["a", None], "mood"), "row 1 has no text"),
        ((["a", 3], "mood"), r"row 1 is 3 \(int\)"),
        ((pd.DataFrame({"text": ["a"]}), "mood"), "a DataFrame is a table; give one column"),
    ],
)
def test_bad_texts_and_tasks_are_named(
    finished_run: Path, arguments: tuple[object, ...], says: str
) -> None:
    scorer = load_scorer([finished_run])
    with pytest.raises((ConfigError, CorpusError), match=says):
        scorer.predict(*arguments)  # type: ignore[arg-type]


def test_bad_frames_are_named(finished_run: Path) -> None:
    scorer = load_scorer([finished_run])
    with pytest.raises(ConfigError, match="'level' is a regression and has no probabilities"):
        scorer.predict_proba(["a"], "level")
    frame = pd.DataFrame({"Text": ["a"], "mood": ["glad"]})
    with pytest.raises(CorpusError, match="no column 'text'; did you mean 'Text'"):
        scorer.predict_frame(frame)
    with pytest.raises(CorpusError, match="has a column 'mood' already; give prefix="):
        scorer.predict_frame(frame, "Text")
    assert "p_mood" in scorer.predict_frame(frame, "Text", prefix="p_")
    with pytest.raises(CorpusError, match=r"row 1 \(index 8\) is 4"):
        scorer.predict_frame(pd.DataFrame({"text": ["a", 4]}, index=[7, 8]))
    with pytest.raises(CorpusError, match=r"a list is no pandas\.DataFrame"):
        scorer.predict_frame(["a"])  # type: ignore[arg-type]


def test_what_cannot_be_loaded_is_named(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing there"):
        load_scorer([tmp_path / "gone"])
    with pytest.raises(ConfigError, match="no path to load"):
        load_scorer([])
    with pytest.raises(ConfigError, match="no head here"):
        load_scorer([tmp_path])
    with pytest.raises(ConfigError, match="is a run; load it alone"):
        load_scorer([finished_run, tmp_path])
    with pytest.raises(ConfigError, match="'joy': there are heads for mood, level"):
        load_scorer([finished_run], tasks=["joy"])


def test_a_scorer_shows_what_it_is(finished_run: Path, tiny_bert: Path, tmp_path: Path) -> None:
    scorer = load_scorer([finished_run])
    text, html = repr(scorer), scorer._repr_html_()
    for shown in (
        tiny_bert.name,
        "blocks",
        "mood",
        "level",
        "hidden units",
        "macro_f1",
        " to ",
    ):
        assert shown in text and shown in html, shown
    head = Head.load(Path(RunConfig.load(finished_run).run_dir) / "heads/mood/chosen")
    assert f"runs {head.card.depth + 1} of 3 blocks" in text
    (tmp_path / "x").mkdir()
    folders = write_heads(tmp_path / "x", tiny_bert)
    plain = load_scorer(folders[:1])
    assert "24 neurons" in repr(plain) and "<table>" in plain._repr_html_()


def test_names_of_classes_are_escaped(tiny_bert: Path) -> None:
    html = Scorer([made_head(tiny_bert, ("<script>", "b"))])._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
