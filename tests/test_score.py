from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import NormaliseConfig, RunConfig
from pipeline.errors import ConfigError, ScoreError
from pipeline.heads import Head
from pipeline.metrics import predictions
from pipeline.runfolder import RunFolder
from pipeline.score import InputBlock, Scorer, score_blocks
from pipeline.scoring import read_input, score_files
from pipeline.targets import load_target
from store import ActivationStore, text_hash
from tests.conftest import write_mood_csv


def scores(folder: Path) -> pa.Table:
    files = sorted(folder.glob("date=*/*.parquet"))
    tables = [pq.read_table(file, partitioning=None) for file in files]
    return pa.concat_tables(tables).sort_by("id")


@pytest.fixture(scope="module")
def scorer(finished_run: Path) -> Scorer:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    return Scorer([Head.load(folder.head(task.name)) for task in config.tasks])


def test_scoring_a_stored_text_gives_what_the_stored_activations_give(
    scorer: Scorer, finished_run: Path, tmp_path: Path
) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    assert scorer.check_parity(store, 40) < 1e-3
    write_mood_csv(tmp_path / "in.csv")
    report, folder = score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")
    assert (report.read, report.scored, report.quarantined) == (160, 160, 0)
    table = scores(folder)
    head = next(head for head in scorer.heads if head.card.task == "mood")
    target = load_target(store, config.task("mood"))
    positions = store.positions(table["id"].to_pylist())
    stored = {e.layer: store.read_matrix(layer=e.layer, samples=positions) for e in head.layers}
    expected = predictions(head.outputs_full(stored), regression=False)
    found = [target.classes.index(name) for name in table["mood"].to_pylist()]
    assert np.mean(found == expected) == 1.0
    both = np.stack([table[f"mood_p_{name}"].to_numpy() for name in target.classes])
    np.testing.assert_allclose(both.sum(0), 1, atol=1e-6)
    assert sorted(p.name for p in folder.glob("date=*")) == [
        f"date=2024-05-0{day}" for day in (1, 2, 3)
    ]


def test_only_the_needed_blocks_are_loaded(scorer: Scorer) -> None:
    assert scorer.extractor.backbone.num_layers == scorer.depth + 1


def test_a_rerun_adds_nothing_and_a_grown_file_only_what_is_new(
    finished_run: Path, tmp_path: Path
) -> None:
    write_mood_csv(tmp_path / "in.csv", num_rows=50)
    score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    report, _ = score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")
    assert (report.scored, report.already_scored) == (0, 50)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")} == before
    write_mood_csv(tmp_path / "in.csv", num_rows=80)
    report, folder = score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")
    assert (report.scored, report.already_scored) == (30, 50)
    ids = scores(folder)["id"].to_pylist()
    assert len(ids) == len(set(ids)) == 80


def test_empty_texts_and_repeated_ids_are_counted(scorer: Scorer, tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "text"], ["1", "a happy cat"], ["2", "  "], ["1", "a happy cat"], ["3", "dog"]]
        )
    blocks = read_input(
        tmp_path / "in.csv",
        format="auto",
        text="text",
        id=None,
        normalise=NormaliseConfig(),
        block_rows=2,
    )
    report = score_blocks(blocks, scorer, tmp_path / "out")
    assert (report.read, report.scored, report.empty, report.repeated_ids) == (4, 3, 1, 1)
    table = scores(tmp_path / "out")
    assert table["id"].to_pylist() == ["1", "2", "3"]
    assert table["mood"].to_pylist()[1] is None
    assert table["level"].to_pylist()[1] is None


def test_tweets_are_scored_and_notices_counted(finished_run: Path, tmp_path: Path) -> None:
    tweets = [
        {"id": 2**60 + i, "id_str": str(2**60 + i), "text": f"happy cat {i}", "lang": "en",
         "created_at": "Fri Jan 01 07:29:00 +0000 2021", "user": {"id_str": "5"}}
        for i in range(5)
    ]  # fmt: skip
    lines = [json.dumps(t) for t in tweets]
    lines.insert(2, '{"delete": {"status": {"id": 1, "id_str": "1", "user_id": 2}}}')
    lines.insert(4, '{"broken')
    (tmp_path / "dump.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "toml").mkdir()
    data = RunConfig.load(finished_run).model_dump(mode="json")
    with pytest.raises(ScoreError, match="1 of 6 rows could not be scored"):
        score_files([tmp_path / "dump.jsonl"], Path(data["run_dir"]), tmp_path / "out")
    table = scores(tmp_path / "out")
    assert table["id"].to_pylist() == [str(2**60 + i) for i in range(5)]
    assert {str(t)[:10] for t in table["created_at"].to_pylist()} == {"2021-01-01"}
    (bad,) = (tmp_path / "out" / "quarantine").glob("*.parquet")
    assert pq.read_table(bad)["line"].to_pylist() == [5]


def test_unreadable_rows_of_a_text_file_are_quarantined(scorer: Scorer, tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(i), "text": f"happy cat {i}"}) for i in range(30)]
    lines[12] = '{"id": "12", "text": '
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    options = {"text": "text", "id": "id", "normalise": NormaliseConfig(), "block_rows": 8}
    blocks = read_input(tmp_path / "in.jsonl", format="jsonl", **options)
    report = score_blocks(blocks, scorer, tmp_path / "out")
    assert (report.read, report.scored, report.quarantined) == (30, 29, 1)
    (bad,) = (tmp_path / "out" / "quarantine").glob("*.parquet")
    assert pq.read_table(bad)["line"].to_pylist() == [13]


def test_another_backbone_or_other_heads_are_refused(
    scorer: Scorer, finished_run: Path, tmp_path: Path
) -> None:
    from tests.tiny_models import make_tiny_model

    other = make_tiny_model("distilbert", tmp_path / "other")
    with pytest.raises(ScoreError, match="not the backbone"):
        Scorer(scorer.heads, model=str(other))
    with pytest.raises(ScoreError, match="two heads for one task"):
        Scorer([scorer.heads[0], scorer.heads[0]])
    write_mood_csv(tmp_path / "in.csv", num_rows=3)
    score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")
    with pytest.raises(ScoreError, match="scores of other heads"):
        score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out", tasks=["mood"])
    with pytest.raises(ConfigError, match="--task 'moood'"):
        score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out", tasks=["moood"])
    with pytest.raises(ConfigError, match="no such input"):
        score_files([tmp_path / "none.csv"], finished_run, tmp_path / "out")


def test_an_id_with_another_text_is_set_aside(finished_run: Path, tmp_path: Path) -> None:
    for day, text in (("day1", "a happy cat"), ("day2", "an angry dog")):
        (tmp_path / day).mkdir()
        (tmp_path / day / "texts.txt").write_text(text + "\n")
    score_files([tmp_path / "day1" / "texts.txt"], finished_run, tmp_path / "out")
    with pytest.raises(ScoreError, match="1 of 1 rows could not be scored"):
        score_files([tmp_path / "day2" / "texts.txt"], finished_run, tmp_path / "out")
    assert len(scores(tmp_path / "out")) == 1
    (bad,) = (tmp_path / "out" / "quarantine").glob("*.parquet")
    assert pq.read_table(bad)["reason"].to_pylist() == [
        "id 'texts:1': scored before with another text"
    ]


def test_one_broken_file_does_not_stop_the_others(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    write_mood_csv(tmp_path / "in.csv", num_rows=5)
    with pytest.raises(ScoreError, match=r"empty\.jsonl.*5 scored"):
        score_files([tmp_path / "empty.jsonl", tmp_path / "in.csv"], finished_run, tmp_path / "out")
    assert len(scores(tmp_path / "out")) == 5


def test_a_named_text_column_is_taken_at_its_word(finished_run: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(i), "text": "dirty", "clean": "happy"}) for i in range(3)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    score_files([tmp_path / "in.jsonl"], finished_run, tmp_path / "out", text="clean")
    assert scores(tmp_path / "out")["text_hash"].to_pylist() == [text_hash("happy")] * 3
    with pytest.raises(ScoreError, match="'nosuch'"):
        score_files([tmp_path / "in.jsonl"], finished_run, tmp_path / "o2", text="nosuch")


def test_every_tensor_counts_for_the_fingerprint(scorer: Scorer) -> None:
    head = scorer.heads[0]
    last = head.layers[-1]
    moved = replace(last, bias=last.bias + 1)
    assert replace(head, layers=(*head.layers[:-1], moved)).fingerprint != head.fingerprint


def test_folders_that_are_no_scores_are_refused(finished_run: Path, tmp_path: Path) -> None:
    write_mood_csv(tmp_path / "in.csv", num_rows=3)
    config = RunConfig.load(finished_run)
    for folder in (config.store.path, config.run_dir):
        with pytest.raises(ScoreError, match="no folder for scores"):
            score_files([tmp_path / "in.csv"], finished_run, Path(folder))
    score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")
    next((tmp_path / "out").glob("date=*/*.parquet")).write_bytes(b"broken")
    with pytest.raises(ScoreError, match="damaged"):
        score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")


def test_changed_activations_are_noticed(scorer: Scorer, finished_run: Path) -> None:
    class Shifted(ActivationStore):
        def read_matrix(self, *args, **options):
            return super().read_matrix(*args, **options) * 1.05

    store = Shifted.open(RunConfig.load(finished_run).store.path)
    with pytest.raises(ScoreError, match="differ from the stored ones"):
        scorer.check_parity(store, 8)


def test_killed_runs_lose_and_double_nothing(finished_run: Path, tmp_path: Path) -> None:
    write_mood_csv(tmp_path / "in.csv", num_rows=400)
    config = RunConfig.load(finished_run)
    data = config.model_dump(mode="json") | {"score": {"block_rows": 25}}
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from pipeline import scoring\n"
        "from pipeline.config import RunConfig\n"
        f"data = json.loads({json.dumps(json.dumps(data))})\n"
        "config = RunConfig.from_dict(data, origin=Path('x'))\n"
        "scoring._configuration = lambda _: config\n"
        "print('ready', flush=True)\n"
        "scoring.score_files([Path('in.csv')], Path('x'), Path('out'),\n"
        "                    say=lambda line: print(line, flush=True))\n"
        "print('finished', flush=True)\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    draw = np.random.default_rng(0)
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "rows read" in line and attempt < 5 and draw.random() < 0.4:
                time.sleep(draw.random() * 0.02)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        process.wait()
    assert process.returncode == 0
    ids = scores(tmp_path / "out")["id"].to_pylist()
    assert ids == sorted(str(10**18 + i) for i in range(400))
    write_mood_csv(tmp_path / "same.csv", num_rows=400)
    whole, _ = score_files([tmp_path / "same.csv"], finished_run, tmp_path / "whole")
    assert whole.scored == 400
    columns = [c for c in scores(tmp_path / "whole").column_names if c != "source_file"]
    a, b = (scores(tmp_path / name).select(columns) for name in ("out", "whole"))
    for name in columns:
        if pa.types.is_floating(a[name].type):
            np.testing.assert_allclose(a[name].to_numpy(), b[name].to_numpy(), atol=2e-3)
        else:
            assert a[name].equals(b[name])


def test_input_blocks_may_have_no_bad_rows() -> None:
    assert InputBlock(pa.table({"id": ["1"]})).bad is None
