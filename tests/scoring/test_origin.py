"""What a folder of scores says of what made it, and of what changed since."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.commands.line import run_command
from pipeline.heads.model import Head
from pipeline.report.inspection import describe, inspect
from pipeline.scoring import origin
from pipeline.scoring.deletion import delete_scores
from pipeline.scoring.files import score_files
from pipeline.scoring.origin import as_metadata, public, with_origin
from pipeline.scoring.parts import ORIGIN, row_files
from pipeline.scoring.place import SCORE_CARD, WrongPlace, read_score_card
from pipeline.scoring.prepared import ScoreOptions
from store.tables import write_json
from tests.builders.dumps import v1, write_tweets
from tests.builders.heads import write_heads
from tests.builders.runs import RUN_TOML
from tests.builders.scoring import run_without_model

NIGHT = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
LATER = datetime(2026, 11, 24, 2, 30, tzinfo=UTC)
FACTS = {"filters": {"languages": ["en"], "since": None}, "engine": {"device": "cpu"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    root = tmp_path_factory.mktemp("origin")
    for head in write_heads(root / "made", tiny_bert):
        target = root / "run" / "heads" / head.name / "chosen"
        target.parent.mkdir(parents=True)
        head.rename(target)
    (root / "run.toml").write_text(RUN_TOML.format(model=tiny_bert))
    write_tweets(root / "dump", [v1(i) for i in range(6)])
    write_tweets(root / "more", [v1(i) for i in range(6, 9)])
    return root


def card_of(folder: Path) -> dict[str, Any]:
    found = read_score_card(folder)
    assert found is not None
    return found


def test_a_scored_folder_says_what_made_it(place: Path, tmp_path: Path, tiny_bert: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    score_files([place / "dump"], place / "run.toml", out, say=said.append, languages=("en",))
    card = card_of(out)
    made = card["origin"]
    for task, head in made["heads"].items():
        folder = place / "run" / "heads" / task / "chosen"
        assert head["fingerprint"] == Head.load(folder).fingerprint
        assert head["folder"] == public(str(folder))
    assert made["backbone"]["model"] == public(str(tiny_bert))
    assert made["backbone"]["extraction_fingerprint"] == card["extraction_fingerprint"]
    assert {*made["engine"]} == {"device", "kernels", "stored_dtype", "workers"}
    assert made["filters"]["languages"] == ["en"] and made["salient"] and made["since"]
    assert made["normalise"] and "changes" not in card
    # The files say the same, and go on saying it when rows are taken out.
    delete_scores(out, [v1(0)["id_str"]])
    for part in row_files(out):
        metadata = json.loads(pq.read_schema(part).metadata[ORIGIN])
        assert metadata == {
            "fingerprint": card["fingerprint"],
            **{key: value for key, value in made.items() if key != "since"},
        }
    text = "\n".join(describe(inspect(out)))
    assert "origin" in text and "kernels" in text and made["backbone"]["fingerprint"] in text


def test_other_filters_are_said_in_one_line_and_kept_with_their_date(
    place: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "out", list[str]()
    run = place / "run.toml"
    score_files([place / "dump"], run, out, languages=("en",), say=said.append)
    score_files([place / "dump"], run, out, languages=("en",), say=said.append)
    assert not [line for line in said if "other than" in line]
    score_files([place / "dump"], run, out, retweets="drop", say=said.append)
    (line,) = (one for one in said if "other than" in one)
    assert 'filters.languages ["en"] -> []' in line and "filters.retweets keep -> drop" in line
    (change,) = card_of(out)["changes"]
    assert change["what"]["filters.retweets"] == ["keep", "drop"]
    assert change["at"] == card_of(out)["origin"]["since"]


def test_other_heads_are_refused(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    heads = [path.parent for path in (place / "run").glob("heads/*/chosen/head.json")]
    score_files([place / "dump"], output=out, options=ScoreOptions(heads=heads[:1]))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(WrongPlace, match="holds scores of other heads"):
        score_files([place / "more"], output=out, options=ScoreOptions(heads=heads))
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_folder_of_an_earlier_version_learns_it_without_a_word(tmp_path: Path) -> None:
    write_tweets(tmp_path / "dump", [v1(0)])
    out, said = tmp_path / "out", list[str]()
    run_without_model([tmp_path / "dump"], out)
    assert "origin" not in card_of(out)
    assert pq.read_schema(row_files(out)[0]).metadata.get(ORIGIN) is None
    run_without_model([tmp_path / "dump"], out, origin=FACTS, at=NIGHT, say=said.append)
    assert card_of(out)["origin"] == {**FACTS, "since": "2026-11-23T02:30:00+00:00"}
    assert not said
    run_without_model([tmp_path / "dump"], out, origin=FACTS, at=LATER, dry_run=True)
    assert card_of(out)["origin"]["since"].startswith("2026-11-23")


def test_changes_are_kept_in_order_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    first, line = with_origin({}, FACTS, NIGHT)
    assert line is None and first == {"origin": {**FACTS, "since": "2026-11-23T02:30:00+00:00"}}
    assert with_origin(first, FACTS, LATER) == (first, None)
    gpu = {**FACTS, "engine": {"device": "cuda", "kernels": "torch"}}
    second, line = with_origin(first, gpu, LATER)
    assert line == (
        "other than since 2026-11-23T02:30:00+00:00: engine.device cpu -> cuda, engine.kernels null"
        " -> torch; rows that are there stay as they are"
    )
    assert second["origin"]["since"] == "2026-11-24T02:30:00+00:00"
    assert second["changes"] == [
        {
            "at": "2026-11-24T02:30:00+00:00",
            "what": {"engine.device": ["cpu", "cuda"], "engine.kernels": [None, "torch"]},
        }
    ]
    monkeypatch.setattr(origin, "MOST_CHANGES", 1)
    third, _ = with_origin(second, FACTS, LATER)
    assert [one["what"]["engine.device"] for one in third["changes"]] == [["cuda", "cpu"]]
    assert json.loads(as_metadata(FACTS, "f")) == {"fingerprint": "f", **FACTS}


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("roberta-base", "roberta-base"),
        ("/data/bert", "/data/bert"),
        ("https://me:secret@hub.example/bert?token=abc", "https://hub.example/bert"),
        ("s3://bucket/bert", "s3://bucket/bert"),
    ],
)
def test_nothing_secret_is_written(place: str, shown: str) -> None:
    assert public(place) == shown


def test_the_home_folder_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert public(f"{tmp_path}/models/bert") == "~/models/bert"
    assert public(f"{tmp_path}2/bert") == f"{tmp_path}2/bert"


def test_heads_of_a_hub_say_their_commit(tmp_path: Path) -> None:
    cached = tmp_path / "models--ann--mood-heads" / "snapshots" / "c0ffee" / "heads" / "mood"
    assert origin._place(cached) == {"hub": "ann/mood-heads", "commit": "c0ffee"}
    pulled = tmp_path / "pulled" / "heads" / "mood"
    pulled.mkdir(parents=True)
    assert origin._place(pulled) == {"folder": public(str(pulled))}
    write_json(tmp_path / "pulled" / "hub.json", {"repository": "ann/mood-heads", "commit": "1f"})
    assert origin._place(pulled) == {"hub": "ann/mood-heads", "commit": "1f"}


@pytest.mark.parametrize("option", ["--format", "--out-format"])
def test_the_command_makes_a_delta_table(place: Path, tmp_path: Path, option: str) -> None:
    out = tmp_path / "out"
    words = ["score", str(place / "dump"), "--run", str(place / "run.toml"), "--out", str(out)]
    assert run_command([*words, option, "delta", "--quiet"]) == 0
    assert json.loads((out / SCORE_CARD).read_text())["format_version"] == 4
    assert DeltaTable(out).count() == 6
    assert run_command([*words, "--quiet"]) == 2  # plain Parquet there, which it is not
