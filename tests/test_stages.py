from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.errors import CorpusError, ExtractError, HeadError, ProbeError
from pipeline.heads.consolidation import check_heads
from pipeline.heads.model import Head
from pipeline.probes.memory import layer_needs
from pipeline.probes.model import load_probe
from pipeline.probes.probing import load_targets
from pipeline.runfolder import RunFolder, open_run, read_card, read_metrics
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.errors import SalientError
from store.layout import ffn, stored_sources
from tests.builders.models import needs_onednn
from tests.builders.runs import write_mood_run


def test_reported_test_metrics_are_those_of_the_saved_probes(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    target = load_target(store, config.task("mood"))
    test = target.rows("test")
    probe = load_probe(RunFolder(Path(config.run_dir)), "mood", ffn(1))
    x = xr.open_zarr(config.store.path).ffn.sel(layer=1).values.reshape(-1, store.num_samples).T
    guess = probe.outputs(x[test.positions].astype(np.float32))[:, 0] > 0
    reported = read_metrics(RunFolder(Path(config.run_dir)))["tasks"]["mood"]["layers"][1]["test"][
        "accuracy"
    ]
    assert reported == pytest.approx(np.mean(guess == test.targets))


def test_running_again_computes_nothing_and_changes_nothing(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    folder = Path(config.run_dir)
    before = {p: p.read_bytes() for p in folder.rglob("*.safetensors")}
    snapshot = ActivationStore.open(config.store.path).snapshot_id
    metrics = read_metrics(RunFolder(Path(config.run_dir)))
    report = stages.extract(config)
    assert report.num_new == 0
    assert not any(result.computed for result in stages.probe(config))
    assert stages.consolidate(config) == metrics
    assert ActivationStore.open(config.store.path).snapshot_id == snapshot
    assert {p: p.read_bytes() for p in folder.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_processes_give_the_results_of_threads(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    expected = read_metrics(RunFolder(Path(config.run_dir)))
    data = config.model_dump(mode="json")
    data["run_dir"] = str(tmp_path / "run")
    data["cluster"] = {"kind": "processes", "workers": 2}
    other = RunConfig.from_dict(data, origin=finished_run)
    found = stages.run(other)
    assert found["tasks"] == expected["tasks"]


def test_the_number_of_workers_does_not_matter(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    data = config.model_dump(mode="json")
    data["run_dir"] = str(tmp_path / "run")
    data["cluster"] = {"kind": "local", "workers": 1}
    other = RunConfig.from_dict(data, origin=finished_run)
    stages.extract(other)
    stages.probe(other)
    for task in config.tasks:
        for source in stored_sources(ActivationStore.open(config.store.path).schema):
            first = load_probe(RunFolder(Path(config.run_dir)), task.name, source)
            second = load_probe(RunFolder(Path(other.run_dir)), task.name, source)
            # More BLAS threads add up in another order; nothing else may differ.
            np.testing.assert_allclose(first.weights, second.weights, atol=1e-4)
            np.testing.assert_allclose(first.fold_weights, second.fold_weights, atol=1e-4)


def test_a_damaged_probe_alone_is_fitted_again(tmp_path: Path, tiny_bert: Path) -> None:
    config = RunConfig.load(write_mood_run(tmp_path, tiny_bert, num_rows=100))
    stages.extract(config)
    stages.probe(config)
    before = load_probe(RunFolder(Path(config.run_dir)), "mood", ffn(1))
    (tmp_path / "run" / "probes" / "mood" / "layer_001.json").unlink()
    said: list[str] = []
    results = stages.probe(config, say=said.append)
    assert [(r.task, r.source) for r in results if r.computed] == [("mood", ffn(1))]
    assert sum("done before" in line for line in said) == 2 * (3 + 4) - 1
    after = load_probe(RunFolder(Path(config.run_dir)), "mood", ffn(1))
    np.testing.assert_allclose(before.weights, after.weights, atol=1e-3)


def test_damaged_heads_are_made_again(own_run: RunConfig) -> None:
    folder = RunFolder(Path(own_run.run_dir))
    before, chosen = read_metrics(folder), folder.head("mood")
    for path, is_left in (
        (chosen / "head.safetensors", True),
        (chosen / "head.json", False),
        (folder.head("mood", "sparse") / "reference.safetensors", True),
        (folder.head("mood", "depth_001") / "held_out.safetensors", False),
    ):
        kept = path.read_bytes()
        if is_left:
            path.write_bytes(b"half")
        else:
            path.unlink()
        with pytest.raises(SalientError, match=str(path.parent)):
            check_heads(folder, "mood")
        path.write_bytes(kept)
    check_heads(folder, "mood")
    (chosen / "head.json").unlink()
    said: list[str] = []
    assert stages.consolidate(own_run, say=said.append) == before
    assert any(line.startswith("heads: made again (") for line in said)
    assert Head.load(chosen).card.task == "mood"
    said.clear()
    assert stages.consolidate(own_run, say=said.append) == before
    assert said == ["heads: done before"]


def test_folds_are_made_again_when_the_texts_are_back(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=60)
    toml = path.read_text(encoding="utf-8")
    path.write_text(toml.replace("[store]", "[store]\nkeep_text = false"), encoding="utf-8")
    config = RunConfig.load(path)
    stages.extract(config)
    (tmp_path / "tweets.csv").rename(tmp_path / "away.csv")
    record = RunFolder(Path(config.run_dir)).groups("mood")
    said: list[str] = []
    stages.probe(config, say=said.append)
    lacks = "its texts are neither in the store nor in the corpus files"
    assert sum(lacks in line for line in said) == 2 and not record.exists()
    said.clear()
    assert not any(result.computed for result in stages.probe(config, say=said.append))
    (tmp_path / "away.csv").rename(tmp_path / "tweets.csv")
    said.clear()
    assert all(result.computed for result in stages.probe(config, say=said.append))
    assert record.is_file() and not any(lacks in line for line in said)


def test_layers_that_do_not_fit_are_streamed(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.load(write_mood_run(tmp_path, tiny_bert, num_rows=100))
    stages.extract(config)
    whole = stages.probe(config)
    shutil.rmtree(tmp_path / "run" / "probes")
    _, store = open_run(config)
    need = layer_needs(config, store, load_targets(config, store))
    free = int((need.rest + need.raw / 2) / 0.8)
    monkeypatch.setattr("pipeline.probes.memory.task_memory", lambda *_: (2, free))
    said: list[str] = []
    streamed = stages.probe(config, say=said.append)
    assert any("read again on every pass" in line for line in said)
    for first, second in zip(whole, streamed, strict=True):
        assert (first.task, first.source) == (second.task, second.source)
        assert first.val_score == pytest.approx(second.val_score, abs=0.05)
    shutil.rmtree(tmp_path / "run" / "probes")
    monkeypatch.setattr("pipeline.probes.memory.task_memory", lambda *_: (2, need.rest))
    with pytest.raises(ProbeError, match="more memory"):
        stages.probe(config)


def test_stages_out_of_order_say_what_to_run(tmp_path: Path, tiny_bert: Path) -> None:
    config = RunConfig.load(write_mood_run(tmp_path, tiny_bert))
    with pytest.raises(ProbeError, match="no run here"):
        stages.probe(config)
    stages.extract(config)
    with pytest.raises(ProbeError, match="salient probe"):
        stages.consolidate(config)
    text = (tmp_path / "run.toml").read_text().replace("folds = 3", "folds = 2")
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ProbeError, match="another configuration"):
        stages.probe(RunConfig.load(tmp_path / "run.toml"))
    shutil.rmtree(tmp_path / "activations")
    with pytest.raises(ExtractError, match="no activation store"):
        stages.probe(config)


def test_more_texts_are_appended_and_the_old_snapshot_stays(
    tmp_path: Path, tiny_bert: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=100)
    config = RunConfig.load(path)
    first = stages.extract(config)
    old = ActivationStore.open(config.store.path)
    write_mood_run(tmp_path, tiny_bert, num_rows=160)
    second = stages.extract(config)
    assert (first.num_new, second.num_new) == (100, 60)
    new = ActivationStore.open(config.store.path)
    assert new.num_samples == 160
    again = ActivationStore.open(config.store.path, snapshot=old.snapshot_id)
    np.testing.assert_array_equal(again.read_matrix(layer=2), new.read_matrix(layer=2)[:100])


def test_a_store_of_another_model_is_refused(tmp_path: Path, tiny_bert: Path) -> None:
    from tests.builders.models import make_tiny_model

    config = RunConfig.load(write_mood_run(tmp_path, tiny_bert))
    stages.extract(config)
    other = make_tiny_model("distilbert", tmp_path / "other")
    changed = RunConfig.load(write_mood_run(tmp_path, other))
    with pytest.raises(ExtractError, match="made with other settings"):
        stages.extract(changed)


@needs_onednn
def test_the_run_records_the_engine_that_ran(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    text = path.read_text()
    path.write_text(text.replace("[backbone]", '[backbone]\nengine = "onednn"'))
    config = RunConfig.load(path)
    assert stages.extract(config).engine == read_card(RunFolder(Path(config.run_dir)))["engine"]
    assert read_card(RunFolder(Path(config.run_dir)))["engine"] == "onednn"
    monkeypatch.setattr("pipeline.onednn.available", lambda dtype: False)
    path.write_text(text)  # the store's engine, if it can be had
    stages.extract(RunConfig.load(path))
    assert read_card(RunFolder(Path(config.run_dir)))["engine"] == "torch"


def test_a_store_that_holds_more_than_asked_for_says_so(own_run: RunConfig) -> None:
    data = own_run.model_dump(mode="json")
    for sites, count in (["ffn"], 1), (["ffn", "hidden"], 0):
        said: list[str] = []
        data["store"]["sites"] = sites
        origin = Path(own_run.run_dir).parent / "run.toml"
        stages.extract(RunConfig.from_dict(data, origin=origin), say=said.append)
        found = [line for line in said if "and heads read these too" in line]
        assert len(found) == count and all(own_run.store.path in line for line in found)


def test_changed_settings_never_meet_old_probes_or_heads(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=100)
    stages.run(RunConfig.load(path))
    path.write_text(path.read_text().replace("C = [1e-2, 1e-1]", "C = [1e-6]"))
    config = RunConfig.load(path)
    stages.extract(config)
    with pytest.raises(ProbeError, match="with this configuration"):
        stages.consolidate(config)
    assert all(r.computed for r in stages.probe(config) if r.task == "mood")
    metrics = stages.consolidate(config)
    assert {layer["source"] for layer in metrics["tasks"]["mood"]["layers"]} == {0, 1, 2}
    shutil.rmtree(tmp_path / "run" / "heads")
    assert stages.consolidate(config) == metrics
    assert Head.load(tmp_path / "run" / "heads" / "mood" / "chosen").card.task == "mood"


def test_corrected_texts_never_meet_old_probes(tmp_path: Path, tiny_bert: Path) -> None:
    config = write_mood_run(tmp_path, tiny_bert)
    table = tmp_path / "tweets.csv"
    lines = table.read_text().splitlines()
    splits = ["split", *("train" if i % 4 else ("val", "test")[i % 8 // 4] for i in range(160))]
    rows = [f"{line},{split}" for line, split in zip(lines, splits, strict=True)]
    wrong = [row.replace("happy", "today").replace("sad", "today") for row in rows[1:]]
    config.write_text(config.read_text().replace('id = "id"', 'id = "id"\nsplit = "split"'))
    settings = RunConfig.load(config)
    digests = []
    for content in ([rows[0], *wrong], rows):
        table.write_text("\n".join(content) + "\n")
        shutil.rmtree(settings.store.path, ignore_errors=True)
        stages.extract(settings)
        store = ActivationStore.open(settings.store.path)
        digests.append(load_target(store, settings.task("mood")).digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (('type = "classification"', 'type = "classification"\npositive = "gald"'), "'gald'"),
        (("folds = 3", "folds = 90"), "90 are needed"),
        (('run_dir = "run"', 'run_dir = "tweets.csv"'), "cannot be written"),
        (("[store]", '[store]\npoolings = ["meen"]'), r"poolings.*'meen'; did you mean 'mean'"),
        (("[head]", '[head]\nranking = "foo"'), r"head\.ranking: .*'weight', 'l2'.* not 'foo'"),
        (('mood = "mood"', 'mood = "id"'), "'id': 60 different classes.*is this a regression"),
        (('mood = "mood"', 'mood = "text"'), "60 different classes.*text column as the label"),
        (
            ("[head]", '[head]\nfolds_by = "time"'),
            r"'mood': .* 'time' .* 1 of 49 lack it \(ids '10{16}15'\); fill in the column",
        ),
    ],
)
def test_what_would_stop_a_run_late_stops_it_early(
    tmp_path: Path, tiny_bert: Path, change: tuple[str, str], match: str
) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=60)
    path.write_text(path.read_text().replace(*change))
    tweets = tmp_path / "tweets.csv"
    lines = tweets.read_text().splitlines()
    for place in (2, 16):
        lines[place] = re.sub("2024-05-0.T12:00:00Z", "", lines[place])
    tweets.write_text("\n".join(lines) + "\n")
    with pytest.raises(SalientError, match=match):
        stages.extract(RunConfig.load(path))
    assert not (tmp_path / "activations").exists()


def test_what_is_odd_about_labels_is_told_before_a_model_is_loaded(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=60)
    tweets = tmp_path / "tweets.csv"
    lines = tweets.read_text(encoding="utf-8").splitlines()
    rows = [line.replace(",glad,", ",Glad,") if at % 4 else line for at, line in enumerate(lines)]
    tweets.write_text("\n".join(rows) + "\n", encoding="utf-8")
    said: list[str] = []
    monkeypatch.setattr("pipeline.stages.extract_here", None)  # which loads it
    corpus = stages.prepare(RunConfig.load(path), say=said.append)
    assert not (tmp_path / "run").exists() and not (tmp_path / "activations").exists()
    counts = corpus.report.to_dict()["label_counts"]["mood"]
    assert sum(sum(own["labels"].values()) for own in counts.values()) == 58
    text = "\n".join(said)
    assert "  task mood: train " in text and "    sad " in text and "    median " in text
    for told in (
        "'Glad' (",
        'label_names = { mood = { "Glad" = "Glad", "glad" = "Glad", "sad" = "sad" } }',
        "49 training and validation rows, by which heads are judged: fewer than 100",
        "9 test rows, by which scores are reported: fewer than 20, too few for an interval",
    ):
        assert any(told in warning for warning in corpus.report.warnings), told
        assert f"warning: task 'mood': {told}" in text or told in text


def test_texts_that_are_stored_without_their_time_are_named(
    tmp_path: Path, tiny_bert: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=60)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('time = "created_at"\n', ""), encoding="utf-8")
    stages.extract(RunConfig.load(path))
    path.write_text(text + 'folds_by = "time"\n', encoding="utf-8")
    config = RunConfig.load(path)
    with pytest.raises(CorpusError, match=r"'time' .* 51 texts .* another store\.path, or take"):
        stages.extract(config)
    store = ActivationStore.open(config.store.path)
    store.delete(store.samples()["id"].to_pylist())
    stages.extract(config)
    assert stages.probe(config)


def test_too_small_a_feature_budget_is_named(finished_run: Path, tmp_path: Path) -> None:
    data = RunConfig.load(finished_run).model_dump(mode="json")
    data["run_dir"] = str(tmp_path / "run")
    data["head"] |= {"kinds": ["sparse"], "max_features": 1, "eta": [0.9]}
    with pytest.raises(
        HeadError, match=r"larger than head\.max_features = 1 \(raise it, or lower head\.eta\)"
    ):
        stages.run(RunConfig.from_dict(data, origin=finished_run))


def test_two_runs_at_once_end_alike(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=80)
    with path.open("a", encoding="utf-8") as file:
        file.write('eta = [0.25]\nkinds = ["sparse"]\n')
    command = [sys.executable, "-m", "pipeline", "run", str(path), "--json", "--quiet"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    ends = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], ends
    first, second = (json.loads(out) for out, _ in ends)
    assert first == second
