"""Scoring files as nobody should write them: every row is accounted for, none ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.scoring.batch import IncompleteScores
from pipeline.scoring.files import ScoreOptions, score_files
from pipeline.scoring.summary import OUTCOMES, ScoreReport
from tests.builders.dumps import jsonl, quarantine, scores, v1
from tests.builders.heads import write_heads
from tests.builders.hostile_dumps import LINE_BYTES, hostile_file


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> list[Path]:
    return write_heads(tmp_path_factory.mktemp("heads"), tiny_bert)


def score(heads: list[Path], output: Path, *inputs: Path) -> ScoreReport:
    options = ScoreOptions(heads=heads)
    try:
        return score_files(
            inputs, None, output, options=options, max_errors=1.0, max_line_bytes=LINE_BYTES
        )
    except IncompleteScores as error:
        return error.report


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (50, 90))])
def test_spoiled_files(heads: list[Path], tmp_path: Path, first: int) -> None:
    inputs = [hostile_file(tmp_path, seed) for seed in range(first, first + 40)]
    found = score(heads, tmp_path / "out", *inputs).to_dict()
    assert found["read"] == sum(found[name] for name in OUTCOMES)
    assert len(scores(tmp_path / "out")) == found["scored"] > 0
    assert len({row["reason"] for row in quarantine(tmp_path / "out")}) > 5


def test_a_text_of_megabytes_is_scored_as_its_beginning(heads: list[Path], tmp_path: Path) -> None:
    sentence = "the happy dog sat on the mat, then it ran. "
    tweets = [v1(0, text=sentence * 20_000), v1(1, text=sentence * 100)]
    (tmp_path / "a.json").write_bytes(jsonl(tweets))
    report = score(heads, tmp_path / "out", tmp_path / "a.json")
    long, short = scores(tmp_path / "out").drop_columns(["id", "text_hash"]).to_pylist()
    assert report.to_dict()["truncated"] == 2 and long["truncated"]
    for name, value in short.items():
        expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        if "gram" not in name:
            assert long[name] == expected, name
