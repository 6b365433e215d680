"""Workers that share no folder score into a bucket."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")

from pipeline.heads import Drift
from pipeline.scoring.distributed import ScoreRecipe, _score_sent
from pipeline.scoring.files import score_files
from pipeline.scoring.held import scores_at
from pipeline.scoring.scorer import Scored
from tests.builders.buckets import bucket, bucket_server  # noqa: F401
from tests.builders.cluster_processes import ClusterProcesses, on_cluster
from tests.builders.runs import write_mood_csv


def test_heads_tables_and_scores_travel_in_messages(
    bucket: str,  # noqa: F811
    finished_run: Path,
    tmp_path: Path,
) -> None:
    write_mood_csv(tmp_path / "new.csv", num_rows=120, seed=5)
    cluster = ClusterProcesses(tmp_path / "cluster", 2)
    try:
        config = on_cluster(finished_run, cluster.address, score={"block_rows": 20})
        run = tmp_path / "run.json"
        run.write_text(json.dumps(config.model_dump(mode="json")))
        report = score_files([tmp_path / "new.csv"], run, bucket)
    finally:
        cluster.close()
    assert report.problem is None and report.scored == 120
    score_files([tmp_path / "new.csv"], finished_run, tmp_path / "scores")
    one, two = (
        pa.concat_tables(scores_at(place).tables(["id", "text_hash", "mood", "mood_p_sad"]))
        for place in (bucket, tmp_path / "scores")
    )
    one, two = one.sort_by("id"), two.sort_by("id")
    assert one.drop_columns("mood_p_sad").equals(two.drop_columns("mood_p_sad"))
    pair = (table["mood_p_sad"].to_numpy() for table in (one, two))
    np.testing.assert_allclose(*pair, atol=1e-5)


def test_a_recipe_with_heads_names_no_folder(finished_run: Path) -> None:
    folder = finished_run.parent / "run" / "heads"
    head = next(one.parent for one in finished_run.parent.rglob("head.json"))
    recipe = ScoreRecipe.of([head], model=None, device="cpu", trust_remote_code=False).with_heads()
    assert recipe.heads == () and str(folder) not in repr(recipe.heads)
    assert {name for name, _ in recipe.packed[0]} >= {"head.json"}
    assert recipe.load().tasks


class Echo:
    """A scorer whose scores are the rows."""

    def score_table(self, table: pa.Table) -> Scored:
        return Scored(table, Drift({}))


def test_heads_go_only_to_workers_that_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScoreRecipe, "load", lambda _: Echo())
    recipe = ScoreRecipe((), None, "cpu", False, "a run", packed=((("head.json", b"{}"),),))
    tables = [(number, pa.table({"number": [number]})) for number in range(6)]
    session = OneWorker()
    found = [*_score_sent(session, recipe, tables)]  # type: ignore[arg-type]
    assert [(carried, one.table["number"].to_pylist()) for carried, one in found] == [
        (number, [number]) for number in range(6)
    ]
    # Two are under way before the first answer comes; each is turned back and sent once more.
    assert len(session.sent) == 6 + 2 and session.sent.count(True) == 2


class OneWorker:
    """A session of this process, with two tasks under way."""

    gpu = False

    def __init__(self) -> None:
        self.sent: list[bool] = []

    def stream(self, function: Any, tasks: Iterator[Any], **_: Any) -> Iterator[tuple[int, Any]]:
        under_way, coming = deque[Any](), enumerate(tasks)
        while True:
            under_way.extend(itertools.islice(coming, 2 - len(under_way)))
            if not under_way:
                return
            index, (recipe, rows) = under_way.popleft()
            self.sent.append(bool(recipe.packed))
            yield index, function(recipe, rows)
