"""Runs and scores that earlier versions wrote still open and go on (formats/README.md)."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from pipeline import stages
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.extraction.golden import read_golden
from pipeline.heads.activations import stored_activations
from pipeline.heads.model import Head
from pipeline.neurons.ablation import AblationOptions, ablate
from pipeline.probes.model import load_probe
from pipeline.report.inspection import inspect
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.scoring.cascade import Cascade
from pipeline.scoring.files import ScoreOptions, score_files
from store import ActivationStore
from store.layout import Source, ffn
from store.tables import read_table, write_json
from store.upkeep.compaction import compact
from store.upkeep.garbage import gc
from store.upkeep.inspection import verify

FORMATS = Path(__file__).parent / "formats"
TOLERANCE = 2e-3
"""Of probabilities and outputs; float16 activations of another processor differ by this much."""


@pytest.fixture(params=sorted(p.name for p in FORMATS.iterdir() if (p / "run").is_dir()))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what a version wrote."""
    copy = tmp_path / "old"
    shutil.copytree(FORMATS / request.param, copy)
    facts = json.loads((copy / "expected.json").read_text(encoding="utf-8"))
    for name, time_ns in facts["modified_ns"].items():  # the ledger knows files by it, git does not
        os.utime(copy / name, ns=(time_ns, time_ns))
    return copy


@pytest.fixture
def expected(old: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((old / "expected.json").read_text(encoding="utf-8"))["run"]
    return found


def scores(folder: Path) -> pa.Table:
    return ds.dataset(folder, partitioning="hive").to_table().sort_by("id")


def check_scores(table: pa.Table, rows: list[dict[str, Any]]) -> None:
    found = {row["id"]: row for row in table.to_pylist()}
    for row in rows:
        for name in ("mood_p_glad", "level"):
            assert found[row["id"]][name] == pytest.approx(row[name], abs=TOLERANCE)
        if abs(row["mood_p_glad"] - 0.5) > TOLERANCE:
            assert found[row["id"]]["mood"] == row["mood"]


def test_its_store(old: Path, expected: dict[str, Any]) -> None:
    store = ActivationStore.open(old / "activations")
    assert verify(store).sound, str(verify(store))
    positions = store.positions(expected["ids"])
    found = store.read_matrix(layer=1, samples=positions)
    np.testing.assert_array_equal(found, np.array(expected["activations"], np.float32))
    assert compact(store).num_samples == 10
    assert gc(store, keep=1).snapshots
    assert verify(store).sound
    np.testing.assert_array_equal(store.read_matrix(layer=1, samples=positions), found)


def test_its_heads(old: Path, expected: dict[str, Any]) -> None:
    config = RunConfig.load(old / "run.toml")
    store = ActivationStore.open(config.store.path)
    positions = store.positions(expected["ids"])
    samples = store.samples()
    texts = samples["text"].take(np.searchsorted(samples["position"], positions))
    for name, outputs in expected["outputs"].items():
        head = Head.load(old / "run" / "heads" / name)
        stored = stored_activations(head, store, positions, texts=texts.to_pylist)
        np.testing.assert_allclose(head.outputs(stored), outputs, atol=TOLERANCE, err_msg=name)
    folder = RunFolder(Path(config.run_dir))
    for task in config.tasks:
        for layer in range(3):
            assert np.isfinite(load_probe(folder, task.name, ffn(layer)).weights).all()
        for kind in ("importance", "rankings", "overlaps", "stability", "selectivity", "sweep"):
            assert len(read_table(folder.path / kind / f"{task.name}.parquet"))
    assert Cascade.load(folder).tasks["mood"].early_depth < 2


def test_running_again(old: Path, expected: dict[str, Any]) -> None:
    """On the old store as it is, without hidden states; a further text is appended to it."""
    config = RunConfig.load(old / "run.toml")
    folder = RunFolder(Path(config.run_dir))
    before = read_golden(folder.golden)
    assert before is not None and {ffn(i) for i in range(3)} <= set(before)
    is_grown = Source("hidden", 3) not in before  # the first version kept no hidden states
    said: list[str] = []
    metrics = stages.run(config, say=said.append)
    if is_grown:
        assert not any("done before" in line for line in said)  # folds parted near-duplicates
        assert any("--hidden all` adds the others" in line for line in said)
    assert set(metrics["tasks"]) == set(expected["metrics"]["tasks"])
    golden = read_golden(folder.golden)
    assert golden is not None and Source("hidden", 3) in golden
    for source, values in before.items():
        np.testing.assert_array_equal(golden[source], values)
    said.clear()
    assert stages.run(config, say=said.append) == metrics == read_metrics(folder)
    assert sum("done before" in line for line in said) == 2 * (4 if is_grown else 7) + 1
    with (old / "texts.csv").open("a", encoding="utf-8") as file:
        file.write("77,it was a glad dog,2024-05-01T12:00:00Z,glad,1.0\n")
    assert stages.extract(config).num_new == 1
    store = ActivationStore.open(config.store.path)
    assert store.positions(["77"])[0] == store.num_samples - 1
    assert verify(store).sound


def test_scoring_goes_on(old: Path, expected: dict[str, Any]) -> None:
    """Nothing twice, a new file is added; and scored anew, everything gets the same scores."""
    inputs = [old / "texts.csv", old / "tweets.jsonl"]
    here = ScoreOptions(model=str(old / "bert"), device="cpu")
    score = partial(score_files, run=old / "run.toml", options=here, max_errors=0.5)
    for _ in range(2):  # what an earlier version has read may be read once more
        again = score(inputs, output=old / "scores").to_dict()
        assert (again["scored"], again["inputs"]["failed"]) == (0, 0)
    assert again["inputs"]["unchanged"] == 2
    shutil.copyfile(old / "texts.csv", old / "renamed.csv")  # the same ids in another file
    (old / "more.csv").write_text("id,text\n1,happy cat today\n88,sad dog\n", encoding="utf-8")
    inputs += [old / "renamed.csv", old / "more.csv"]
    found = score(inputs, output=old / "scores").to_dict()
    assert found["scored"] == 1
    table = scores(old / "scores")
    assert max(Counter(table["id"].to_pylist()).values()) == 1
    assert len(table) == expected["num_scores"] + 1
    check_scores(table, expected["scores"])
    for path in (old / "scores").glob("_ledger.sqlite*"):
        path.unlink()
    found = score(inputs[-1:], output=old / "scores").to_dict()
    assert found["scored"] == 0
    score(inputs[:2], output=old / "new")
    check_scores(scores(old / "new"), expected["scores"])


def test_its_delta_table_goes_on(old: Path, expected: dict[str, Any]) -> None:
    """The same rows once each, and a new one, also once the ledger is gone."""
    out = old / "scores-delta"
    if not out.exists():
        pytest.skip("this version wrote no Delta table")
    (old / "more.csv").write_text("id,text\n1,happy cat today\n88,sad dog\n", encoding="utf-8")
    here = ScoreOptions(model=str(old / "bert"), device="cpu")
    score = partial(score_files, run=old / "run.toml", options=here, out_format="delta")
    assert score([old / "texts.csv", old / "more.csv"], output=out).scored == 1
    for path in out.glob("_ledger.sqlite*"):
        path.unlink()
    assert score([old / "more.csv"], output=out).scored == 0
    table = DeltaTable(out).to_pyarrow_table()
    assert len({*table["id"].to_pylist()}) == len(table) == expected["num_scores"] + 1
    check_scores(table, expected["scores"])


def test_looking_and_planning(old: Path) -> None:
    for name, kind in (
        ("activations", "store"),
        ("run", "run"),
        ("run/heads/mood/chosen", "head"),
        ("scores", "scores"),
        ("run.toml", "config"),
    ):
        assert inspect(old / name)["kind"] == kind
        assert run_command(["inspect", str(old / name)]) == 0
    run = str(old / "run.toml")
    assert run_command(["report", run, "--images", "none", "--scores", str(old / "scores")]) == 0
    page = (old / "run" / "report.html").read_text(encoding="utf-8")
    assert "mood" in page
    model = ["--model", str(old / "bert"), "--device", "cpu"]
    assert run_command(["plan", run, "--num-texts", "8", "--rounds", "1", *model]) == 0
    cascaded = ["score", str(old / "texts.csv"), "--run", run, "--cascade", *model]
    assert run_command([*cascaded, "--task", "mood", "--out", str(old / "cascaded")]) == 0


def test_ablation_of_its_run(old: Path) -> None:
    """The probe on the final hidden state had no layer in its name."""
    for card in (old / "run" / "heads").rglob("head.json"):
        text = card.read_text(encoding="utf-8")
        moved = json.loads(text.replace('"/fixture/bert"', json.dumps(str(old / "bert"))))
        write_json(card, {name: value for name, value in moved.items() if name != "checksum"})
    config = RunConfig.load(old / "run.toml")
    before = json.loads((old / "run" / "ablation.json").read_text(encoding="utf-8"))["tasks"]
    found = ablate(config, options=AblationOptions(top=5, draws=2))["tasks"]
    for task, entry in before.items():
        for head in ("chosen", "hidden"):
            baseline = found[task][head]["baseline"]
            assert baseline == pytest.approx(entry[head]["baseline"], abs=0.05)
