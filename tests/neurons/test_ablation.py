"""Ablation: what is silenced, in the model as a user would load it, and what the report says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import stages
from pipeline.backbone.loading import load_backbone
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ExtractError, HeadError
from pipeline.extraction.extractor import Extractor
from pipeline.heads.model import Head
from pipeline.measures.bootstrap import LEAST_ROWS
from pipeline.measures.metrics import score
from pipeline.neurons.ablation import AblationOptions, ablate
from pipeline.neurons.arms import token_means
from pipeline.report.terminal import ablation_rows, fitted_line
from pipeline.runfolder import RunFolder
from pipeline.texts.lookup import sample_texts
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.layout import Source, final_hidden
from store.tables import read_json, write_json
from tests.builders.models import make_tiny_model
from tests.builders.reference import Reference, hooked
from tests.builders.runs import write_mood_run


def expected_value(config: RunConfig, task: str, neurons: Mapping[int, Any], values: Any) -> Any:
    """The metric of both heads with Hugging Face's own model, text by text."""
    store = ActivationStore.open(config.store.path)
    target = load_target(store, config.task(task))
    rows = target.rows("val")
    texts = store.samples()["text"].to_pylist()
    reference = Reference(Path(config.backbone.model))
    with hooked(reference, neurons, values):
        ffn, hidden = reference.pooled([texts[i] for i in rows.positions], max_length=99)
    folder = RunFolder(Path(config.run_dir))
    found = {
        Source(site, i): layer.reshape(-1, len(rows)).T.astype(np.float16).astype(np.float32)
        for site, layers in (("ffn", ffn), ("hidden", hidden))
        for i, layer in enumerate(layers)
    }
    final = final_hidden(store.schema)
    head, conventional = (Head.load(folder.head(task, n)) for n in ("chosen", "baseline_final"))
    outputs = {
        "chosen": head.decision_outputs(head.outputs_full(found)),
        "hidden": conventional.decision_outputs(conventional.outputs_full({final: found[final]})),
    }
    metric = config.task(task).selection_metric
    return {
        name: score(metric, rows.targets, own, positive=target.positive)
        for name, own in outputs.items()
    }


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_report_equals_a_run_by_hand(own_run: RunConfig, fill: str) -> None:
    lines: list[str] = []
    options = AblationOptions(top=4, fill=fill, draws=2, layers=(0, 1, 2))
    report = ablate(own_run, options=options, say=lines.append)
    assert report == read_json(Path(own_run.run_dir) / "ablation.json")
    results = [line for line in lines if "silencing" in line]
    assert len(results) == 2 * 4
    store = ActivationStore.open(own_run.store.path)
    for name, task in report["tasks"].items():
        assert task["num_silenced"] == 12
        neurons = {int(layer): chosen for layer, chosen in task["neurons"].items()}
        train = load_target(store, own_run.task(name)).rows("train").positions
        values = {
            i: token_means(store, i, train)[chosen] if fill == "mean" else 0.0
            for i, chosen in neurons.items()
        }
        plain = expected_value(own_run, name, {}, {})
        expected = expected_value(own_run, name, neurons, values)
        for head in ("chosen", "hidden"):
            entry = task[head]
            assert entry["baseline"] == pytest.approx(plain[head], abs=1e-3)
            assert entry["salient"]["value"] == pytest.approx(expected[head], abs=1e-3)
            change = entry["salient"]["value"] - entry["baseline"]
            assert entry["salient"]["change"] == pytest.approx(change)
            low, high = entry["salient"]["interval"]
            assert low <= change <= high
            assert len(entry["random"]["values"]) == 2
            gap = entry["salient"]["change"] - entry["random"]["change"]
            assert entry["difference"]["change"] == pytest.approx(gap)


def test_both_heads_are_fitted_on_the_same_rows_and_the_report_says_which(
    own_run: RunConfig,
) -> None:
    """Of the validation texts both have seen the labels, so their levels there are too good."""
    for split, fitted in (("train", True), ("val", True), ("test", False)):
        options = AblationOptions(top=1, draws=1, split=split)
        task = ablate(own_run, tasks=["mood"], options=options)["tasks"]["mood"]
        assert task["fitted"] == (["chosen", "hidden"] if fitted else [])
        line = fitted_line(task)
        assert (line is not None) == fitted
        if line is not None:
            kind = task["head"]["kind"]
            assert line.startswith(f"fitted on these texts: chosen ({kind}), final hidden state;")
    config = own_run.model_copy(
        update={"head": own_run.head.model_copy(update={"judge": "validation"})}
    )
    stages.run(config)
    for split, found in (("train", ["chosen", "hidden"]), ("val", [])):
        options = AblationOptions(top=1, draws=1, split=split)
        assert ablate(config, tasks=["mood"], options=options)["tasks"]["mood"]["fitted"] == found


def test_nothing_silenced_changes_nothing(own_run: RunConfig) -> None:
    task = ablate(own_run, tasks=["mood"], options=AblationOptions(top=0))["tasks"]["mood"]
    for head in ("chosen", "hidden"):
        for what in ("salient", "random", "difference"):
            assert task[head][what]["change"] == 0
            assert task[head][what]["interval"] == [0, 0]


def test_few_texts_have_no_interval(own_run: RunConfig) -> None:
    """Draws of a dozen texts again and again would look sure of a change of nothing."""
    options = AblationOptions(top=1, draws=1, limit=LEAST_ROWS - 1)
    task = ablate(own_run, tasks=["mood"], options=options)["tasks"]["mood"]
    for head in ("chosen", "hidden"):
        for what in ("salient", "random", "difference"):
            assert task[head][what]["interval"] == [None, None]
    assert {row.interval for row in ablation_rows(task)} == {"", "—"}


def test_blocks_make_no_difference_and_reports_of_other_tasks_stay(
    own_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = AblationOptions(share=0.3, draws=1, split="test")
    both = ablate(own_run, options=options)["tasks"]
    monkeypatch.setattr("pipeline.neurons.ablation.BLOCK_BYTES", 0)
    monkeypatch.setattr("pipeline.neurons.ablation.MIN_BLOCK", 7)
    level = ablate(own_run, tasks=["level"], options=options)["tasks"]["level"]
    for head in ("chosen", "hidden"):
        assert level[head]["salient"]["value"] == pytest.approx(
            both["level"][head]["salient"]["value"], abs=1e-3
        )
    ablate(own_run, tasks=["mood"], options=AblationOptions(top=3, limit=10, draws=1))
    kept = read_json(Path(own_run.run_dir) / "ablation.json")["tasks"]
    assert (kept["mood"]["num_texts"], kept["level"]) == (10, level)


def test_texts_come_from_the_corpus_where_the_store_keeps_none(
    tiny_bert: Path, tmp_path: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=40)
    path.write_text(path.read_text().replace("[store]", "[store]\nkeep_text = false"))
    config = RunConfig.load(path)
    stages.extract(config)
    store = ActivationStore.open(config.store.path)
    positions = np.array([5, 0, 5, 31])
    texts = sample_texts(store, positions, config)
    found = Extractor(load_backbone(tiny_bert))(texts).ffn[1].reshape(-1, 4).T
    np.testing.assert_allclose(
        found, store.read_matrix(layer=1, samples=positions), rtol=2e-3, atol=2e-3
    )
    lines = (tmp_path / "tweets.csv").read_text().splitlines()
    (tmp_path / "tweets.csv").write_text("\n".join(line.replace("was", "is") for line in lines))
    with pytest.raises(ExtractError, match="keeps no texts, and 4 of 4"):
        sample_texts(store, positions, config)


# ------------------------------------------------------------------ the command


def test_command(
    own_run: RunConfig, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = finished_run.read_text().replace('"run"', f'"{own_run.run_dir}"')
    for name in ("activations", "tweets.csv"):
        text = text.replace(f'"{name}"', f'"{finished_run.parent / name}"')
    config = tmp_path / "run.toml"
    config.write_text(text)
    run = ["ablate", str(config), "--task", "mood", "--draws", "2"]
    top = ["--top", "5"]
    assert run_command([*run, *top]) == 0
    shown = capsys.readouterr()
    for part in (
        "difference",
        "final hidden state",
        "mean of 2 draws",
        "compare the drops, not the levels",
        "ablation.json",
    ):
        assert part in shown.out
    assert "silencing nothing: macro_f1" in shown.err
    assert run_command([*run, "--with", "mean", "--share", "0.2", "--json", "-q"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["tasks"]["mood"]["share"] == 0.2
    assert shown.err == ""
    for arguments, message in (
        (["--task", "joy"], "--task 'joy': there are heads for mood, level"),
        (["--top", "3", "--share", "0.1"], "--top 3 and --share 0.1: give one of them"),
        (["--top", "9999"], "--top 9999: layer 0 has"),
        (["--share", "1.5"], "--share 1.5: must lie in (0, 1]"),
        (["--share", "0"], "--share 0.0: must lie in (0, 1]"),
        (["--with", "noise"], "--with noise: choose zero or mean"),
        (["--split", "dev"], "--split dev: choose train, val or test"),
        (["--draws", "0"], "--draws 0: must be at least 1"),
        (["--limit", "1"], "--limit 1: must be at least 2"),
        (["--layer", "12"], "--layer 12: the run has layers 0..2"),
    ):
        assert run_command([*("ablate", str(config), "-q"), *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith(f"salient: {message}"), error
        assert error.count("\n") == 1
    shutil.rmtree(own_run.run_dir)
    assert run_command(run) == 2
    assert "not extracted yet: `salient extract" in capsys.readouterr().err


def test_another_model_is_refused(own_run: RunConfig, tmp_path: Path) -> None:
    other = make_tiny_model("roberta", tmp_path / "other")
    folder = RunFolder(Path(own_run.run_dir))
    path = folder.head("mood") / "head.json"
    card = json.dumps(read_json(path)).replace(own_run.backbone.model, str(other))
    write_json(path, json.loads(card))
    with pytest.raises(HeadError, match="not the backbone that"):
        ablate(own_run, tasks=["mood"])
