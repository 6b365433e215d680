"""Phase 2 over a finished run: what is written, and every setting once from end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, HeadError, ProbeError
from pipeline.extraction.golden import read_golden, read_outputs
from pipeline.heads.activations import HELD_OUT_FILE, held_out_outputs, stored_outputs
from pipeline.heads.consolidation import consolidate_task
from pipeline.heads.drift import Reference
from pipeline.heads.model import Head
from pipeline.heads.ranked import ranked_shares
from pipeline.neurons import comparison
from pipeline.probes.importance import feature_importance
from pipeline.probes.model import load_probe
from pipeline.probes.rows import task_rows
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.texts.lookup import sample_texts
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.layout import NGRAMS, ffn
from store.tables import read_arrays, read_table
from tests.builders.runs import write_mood_run

BASELINES = ("all", "final", "final_mean", "final_unit", "hidden", "layer", "lexical", "random")


def changed(finished_run: Path, folder: Path, **head: Any) -> RunConfig:
    """The finished run with other heads, in a copy of its run folder."""
    data = RunConfig.load(finished_run).model_dump(mode="json")
    shutil.copytree(data["run_dir"], folder / "run")
    data["run_dir"] = str(folder / "run")
    data["head"] |= head
    return RunConfig.from_dict(data, origin=finished_run)


def consolidated(config: RunConfig, task: str = "mood") -> RunFolder:
    """Heads of one task of a run whose probes are there."""
    snapshot = ActivationStore.open(config.store.path).snapshot_id
    consolidate_task(config, snapshot, config.task(task))
    return RunFolder(Path(config.run_dir))


def kinds(folder: RunFolder, task: str = "mood") -> set[str]:
    return set(read_table(folder.sweep(task))["kind"].to_pylist())


def test_every_head_folder_is_whole_and_portable(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    folder = RunFolder(Path(config.run_dir))
    golden = read_golden(folder.golden)
    assert golden is not None
    for task in config.tasks:
        rows = task_rows(config, store, load_target(store, task))
        names = {path.name for path in folder.head(task.name).parent.iterdir()}
        wanted = {"chosen", "dense", "frozen", "sparse", "ensemble", "stack", "final", "depth_000"}
        assert wanted | {f"baseline_{name}" for name in BASELINES} <= names
        for name in names:
            shutil.copytree(folder.head(task.name, name), tmp_path / task.name / name)
            head = Head.load(tmp_path / task.name / name)
            if all(source.array for source in head.features):
                recorded = read_outputs(tmp_path / task.name / name)
                assert recorded is not None
                np.testing.assert_allclose(recorded.outputs, head.outputs_full(golden), rtol=1e-6)
            arrays = read_arrays(tmp_path / task.name / name / "reference.safetensors")
            reference = Reference.from_arrays(arrays)
            facts = head.card.provenance
            assert reference.num_rows == len(rows) == facts["num_train"] + facts["num_val"]
            assert head.card.depth == max(0, *(source.depth for source in head.features))
            assert head.card.num_features == sum(map(len, head.features.values()))
            if name.startswith("depth_"):
                assert head.card.depth == int(name.removeprefix("depth_"))
            held_out = read_arrays(tmp_path / task.name / name / HELD_OUT_FILE)
            np.testing.assert_array_equal(held_out["positions"], np.unique(rows.positions))
            assert np.isfinite(held_out["outputs"]).all()


def test_what_is_held_out_is_told_from_what_the_head_says(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    folder = RunFolder(Path(config.run_dir)).head("mood")
    target = load_target(store, config.task("mood"))
    head = Head.load(folder)
    for split, is_known in (("train", True), ("val", True), ("test", False)):
        positions = target.rows(split).positions
        own = stored_outputs(head, store, positions)
        held_out = held_out_outputs(folder, positions, own)
        assert np.array_equal(own, held_out) != is_known
        # Held out or not, they are logits of one scale.
        assert np.corrcoef(own[:, 0], held_out[:, 0])[0, 1] > 0.5


def test_what_a_figure_needs_is_there_for_both_kinds_of_rows(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    for task, entry in read_metrics(folder)["tasks"].items():
        metric, num_rows = entry["metric"], entry["num_judged"]
        chosen = Head.load(folder.head(task)).card
        assert num_rows == chosen.provenance["num_train"] + chosen.provenance["num_val"]
        heads = [entry["chosen"], *(entry["baselines"][name] for name in BASELINES)]
        for head in heads:
            low, high = head["score_interval"]
            assert low <= head["score"] <= high
            low, high = head["test_interval"][metric]
            assert low <= head["test"][metric] <= high
        for baseline in heads[1:]:
            assert {*baseline["gain"]} == {*baseline["score_gain"]} == {"value", "low", "high"}
            apart = entry["chosen"]["score"] - baseline["score"]
            assert baseline["score_gain"]["value"] == pytest.approx(apart)
        tried = read_table(folder.sweep(task)).to_pylist()
        sparse = {
            (r["depth"], r["num_features"]): r["score"] for r in tried if r["kind"] == "sparse"
        }
        found = {
            (size["depth"], size["num_features"]): size["salient"]["score"]
            for size in entry["by_size"]
        }
        assert found == sparse
        for size in entry["by_size"]:
            draws = size["random"]["draws"]
            assert (
                len(draws) == 3 and draws == sorted(draws) and size["random"]["score"] == draws[1]
            )
        assert entry["chosen"]["choice"]["why"].isprintable()


def test_a_head_is_shown_in_a_line(finished_run: Path) -> None:
    folder = RunFolder(Path(RunConfig.load(finished_run).run_dir)).head("mood")
    shown = repr(Head.load(folder))
    assert shown.startswith("<Head mood (") and "of 3 blocks" in shown and "macro_f1" in shown
    assert len(shown) < 120


def test_reported_test_metrics_are_those_of_the_saved_head(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    store = ActivationStore.open(config.store.path)
    target = load_target(store, config.task("mood"))
    test = target.rows("test")
    entry = read_metrics(folder)["tasks"]["mood"]
    found = {name: entry[name] for name in ("chosen", "ensemble", "frozen", "sparse", "dense")}
    found |= {f"baseline_{name}": entry["baselines"][name] for name in BASELINES}
    for name, reported in found.items():
        head = Head.load(folder.head("mood", name))
        outputs = stored_outputs(
            head, store, test.positions, lambda: sample_texts(store, test.positions, config)
        )
        guess = head.decide(head.probabilities(outputs))
        assert reported["test"]["accuracy"] == pytest.approx(np.mean(guess == test.targets)), name
    largest = np.bincount(target.rows("train").targets).argmax()
    majority = entry["baselines"]["majority"]["test"]["accuracy"]
    assert majority == pytest.approx(np.mean(test.targets == largest))
    assert "majority" not in read_metrics(folder)["tasks"]["level"]["baselines"]


def test_the_choice_says_what_it_was_against(finished_run: Path) -> None:
    entry = read_metrics(RunFolder(Path(RunConfig.load(finished_run).run_dir)))["tasks"]
    for task in ("mood", "level"):
        choice = entry[task]["chosen"]["choice"]
        assert choice["loss"] >= choice["best"]["loss"]
        assert choice["standard_errors"] == 3.0
        assert choice["conventional"]["kind"] == "final"
        assert choice["full_depth"]["depth"] == choice["deepest"] == 2


def test_a_budget_with_a_licence(finished_run: Path, tmp_path: Path) -> None:
    config = changed(
        finished_run, tmp_path, select="budget", budget=[20, 60], kinds=["sparse", "frozen"],
        licence="CC-BY-4.0",
    )  # fmt: skip
    folder = consolidated(config)
    head = Head.load(folder.head("mood"))
    assert head.card.licence == "CC-BY-4.0"
    assert head.card.selection.startswith("budget")
    assert head.card.metrics["judged_on"] == "cross_validation"
    card = head.card.provenance
    assert head.card.metrics["num_judged"] == card["num_train"] + card["num_val"]
    rows = read_table(folder.sweep("mood")).to_pylist()
    assert max(row["num_features"] for row in rows) <= 60
    assert all(row["low"] <= row["score"] <= row["high"] for row in rows)


def test_heads_for_rows_that_phase_1_has_not_seen(finished_run: Path, tmp_path: Path) -> None:
    config = changed(
        finished_run, tmp_path, select="top_k", top_k=[8], training="unseen", calibrate=False
    )
    stages.run(config)
    folder = RunFolder(tmp_path / "run")
    head = Head.load(folder.head("mood", "frozen"))
    assert head.thresholds is None and "calibration" not in head.card.metrics
    assert head.card.metrics["judged_on"] == "validation"
    assert head.card.metrics["num_judged"] == head.card.provenance["num_val"]
    # The frozen edges are those of the probe that was fitted without fold 0.
    edges = head.parts[0].edges[0]
    held_out = load_probe(folder, "mood", ffn(0)).without_fold(0).weights
    top = np.sort(np.argsort(-feature_importance(held_out), kind="stable")[:8])
    np.testing.assert_array_equal(edges.features, top)
    ratio = edges.weights / held_out[:, top]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    # Nothing but the training rows was fitted on: all heads say the same of validation rows.
    store = ActivationStore.open(config.store.path)
    val = load_target(store, config.task("mood")).rows("val").positions
    for kind in ("dense", "sparse", "frozen", "final"):
        own = stored_outputs(Head.load(folder.head("mood", kind)), store, val)
        held = held_out_outputs(folder.head("mood", kind), val, np.zeros_like(own))
        np.testing.assert_allclose(own, held, atol=5e-3, rtol=1e-2)


def test_a_ranking_is_needed_by_frozen_heads_only(finished_run: Path, tmp_path: Path) -> None:
    config = changed(finished_run, tmp_path, ranking="anova_f", kinds=["dense", "sparse"])
    assert {"dense", "sparse"} == kinds(consolidated(config))


def test_features_by_another_ranking(finished_run: Path, tmp_path: Path) -> None:
    config = changed(finished_run, tmp_path, ranking="probeless", kinds=["frozen"], eta=[0.2])
    with pytest.raises(HeadError, match="run `salient rank` first"):
        consolidated(config)
    stages.extract(config)
    comparison.rank(config)
    folder = consolidated(config)
    head = Head.load(folder.head("mood"))
    assert head.card.selection == "share 0.2 by probeless"
    source, features = next(iter(head.features.items()))
    probes = {i: load_probe(folder, "mood", ffn(i)) for i in range(3)}
    shares = ranked_shares(folder, "mood", "probeless", probes, ("mean", "max"))[source.layer]
    assert shares.sum() == pytest.approx(1)
    assert shares[features].sum() >= 0.2 > shares[features].sum() - shares[features].min()
    with pytest.raises(HeadError, match=r"'nonsense' is not in .* probeless"):
        ranked_shares(folder, "mood", "nonsense", probes, ("mean", "max"))


@pytest.mark.parametrize(
    ("kind", "task"),
    [("dense", "level"), ("sparse", "mood"), ("frozen", "level"), ("final", "mood")],
)
def test_one_kind_alone(finished_run: Path, tmp_path: Path, kind: str, task: str) -> None:
    folder = consolidated(changed(finished_run, tmp_path, kinds=[kind], eta=[0.2]), task)
    assert kinds(folder, task) == {kind}
    assert Head.load(folder.head(task)).card.kind == kind
    names = {path.name for path in folder.head(task).parent.iterdir()}
    assert {"baseline_final", "baseline_all"} <= names
    assert ("baseline_random" in names) == (kind == "sparse")


def test_sparse_heads_with_too_many_features_are_left_out(
    finished_run: Path, tmp_path: Path
) -> None:
    config = changed(finished_run, tmp_path, eta=[0.05, 0.9], max_features=30)
    rows = read_table(consolidated(config).sweep("mood")).to_pylist()
    sparse = [row["num_features"] for row in rows if row["kind"] == "sparse"]
    assert sparse and max(sparse) <= 30
    data = config.model_dump(mode="json")
    data["head"] |= {"kinds": ["sparse"], "eta": [0.9]}
    none = RunConfig.from_dict(data, origin=finished_run)
    with pytest.raises(HeadError, match=r"none of head\.kinds = .* head\.max_features = 30"):
        consolidated(none)


def test_no_head_runs_deeper_than_it_may(finished_run: Path, tmp_path: Path) -> None:
    folder = consolidated(changed(finished_run, tmp_path, max_depth=0.7, eta=[0.2]))
    rows = read_table(folder.sweep("mood")).to_pylist()
    assert {row["depth"] for row in rows} <= {0, 1}
    assert {row["kind"] for row in rows} == {
        "dense", "states", "sparse", "frozen", "ensemble", "stack",
    }  # fmt: skip
    assert Head.load(folder.head("mood", "baseline_final")).card.depth == 2


RELOADED = """
import json, sys
import numpy as np
from pathlib import Path
from pipeline.heads.activations import stored_outputs
from pipeline.heads.model import Head
from store import ActivationStore
facts = json.loads(sys.stdin.read())
outputs = stored_outputs(
    Head.load(Path(facts["head"])), ActivationStore.open(facts["store"]),
    np.array(facts["positions"]), lambda: facts["texts"],
)
print(json.dumps(outputs.tolist()))
"""


def check_ngrams(head: Head, rows: list[dict[str, Any]]) -> None:
    """The table against what one n-gram alone adds to the output."""
    assert head.lexicon is not None
    features = head.features[NGRAMS]
    assert {row["ngram"] for row in rows} == {head.lexicon.terms[at] for at in features}
    nothing = {source: np.zeros((1, len(own)), np.float32) for source, own in head.features.items()}
    base = head.outputs(nothing)
    for place in (0, 1, len(rows) - 1):
        at = head.lexicon.terms.index(rows[place]["ngram"])
        alone = (features == at).astype(np.float32)[None]
        adds = (head.outputs(nothing | {NGRAMS: alone}) - base).item()
        assert rows[place]["weight_sad"] == pytest.approx(adds, abs=1e-5)
        assert rows[place]["importance"] == pytest.approx(abs(adds), abs=1e-5)
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-4)
    towards = {row["ngram"]: row["towards"] for row in rows if row["rank"] < 20}
    assert set(towards.values()) == {"glad", "sad"}
    for word, mood in (("happy", "glad"), ("angry", "sad")):
        assert towards.get(f'word "{word}"', mood) == mood


def test_heads_that_read_the_texts_too(finished_run: Path, tmp_path: Path) -> None:
    config = changed(finished_run, tmp_path, lexical=True, eta=[0.3])
    folder = consolidated(config)
    store = ActivationStore.open(config.store.path)
    test = load_target(store, config.task("mood")).rows("test").positions
    texts = sample_texts(store, test, config)
    for name in ("dense", "sparse", "stack", "baseline_lexical"):
        path = folder.head("mood", name)
        files = {file.name for file in path.iterdir()}
        assert {"lexicon.json", "head.safetensors", "ngrams.parquet"} <= files
        head = Head.load(path)
        check_ngrams(head, read_table(path / "ngrams.parquet").to_pylist())
        assert NGRAMS in head.features and head.lexicon is not None
        assert any(key.startswith("lexicon.") for key in read_arrays(path / "head.safetensors"))
    assert Head.load(folder.head("mood", "frozen")).lexicon is None
    assert not (folder.head("mood", "frozen") / "ngrams.parquet").exists()
    moved = tmp_path / "moved"
    shutil.copytree(folder.head("mood", "dense"), moved)
    head = Head.load(moved)
    here = stored_outputs(head, store, test, lambda: texts)
    facts = {"head": str(moved), "store": str(config.store.path), "texts": list(texts)}
    there = subprocess.run(
        [sys.executable, "-c", RELOADED],
        input=json.dumps(facts | {"positions": test.tolist()}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert there.returncode == 0, there.stderr
    np.testing.assert_allclose(json.loads(there.stdout), here, atol=1e-5)
    with pytest.raises(HeadError, match="reads the texts"):
        stored_outputs(head, store, test)
    golden = read_outputs(moved)
    assert golden is not None and len(golden.outputs)


def test_folds_of_times(finished_run: Path, tmp_path: Path) -> None:
    config = changed(finished_run, tmp_path, folds_by="time", eta=[0.3])
    store = ActivationStore.open(config.store.path)
    before = load_probe(RunFolder(Path(config.run_dir)), "mood", ffn(1)).fold_weights
    stages.extract(config)
    with pytest.raises(ProbeError, match="no probe"):
        stages.consolidate(config)  # those there are of other folds
    stages.probe(config)
    folder = RunFolder(Path(config.run_dir))
    assert not np.allclose(before, load_probe(folder, "mood", ffn(1)).fold_weights)
    rows = task_rows(config, store, load_target(store, config.task("mood")))
    assert rows.is_shift and len(rows.folds) == 1
    samples = store.samples()
    place = np.searchsorted(samples["position"].to_numpy(), rows.positions)
    _, day = np.unique(samples["created_at"].take(place), return_inverse=True)
    np.testing.assert_array_equal(day, rows.folds[0])
    assert Head.load(consolidated(config).head("mood")).card.metrics["num_judged"] == len(rows)


def test_folds_of_authors(tmp_path: Path, tiny_bert: Path, finished_run: Path) -> None:
    path = write_mood_run(tmp_path / "authors", tiny_bert, num_rows=60)
    csv = path.parent / "tweets.csv"
    header, *lines = csv.read_text(encoding="utf-8").splitlines()
    lines = [f"{line},writer {i % 7}" for i, line in enumerate(lines)]
    csv.write_text("\n".join([f"{header},writer", *lines]) + "\n", encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    text = text.replace('time = "created_at"', 'time = "created_at"\nauthor = "writer"')
    text += 'folds_by = "author"\nkinds = ["sparse"]\neta = [0.3]\n'
    path.write_text(text, encoding="utf-8")
    config = RunConfig.load(path)
    stages.run(config)
    store = ActivationStore.open(config.store.path)
    rows = task_rows(config, store, load_target(store, config.task("mood")))
    samples = store.samples()
    place = np.searchsorted(samples["position"].to_numpy(), rows.positions)
    authors = np.array(samples["author_id"].take(place).to_pylist())
    for author in set(authors):
        assert len(set(rows.folds[0][authors == author])) == 1
    assert len(set(rows.folds[0])) == 3
    data = config.model_dump(mode="json")
    data["head"]["folds"] = 9
    few = RunConfig.from_dict(data, origin=path)
    with pytest.raises(ProbeError, match=r"task 'mood': 9 folds, but .* only 7 different authors"):
        task_rows(few, store, load_target(store, few.task("mood")))
    with pytest.raises(ProbeError, match=r"the store has no author .* name the column"):
        data = RunConfig.load(finished_run).model_dump(mode="json")
        data["corpus"][0]["author"] = "mood"
        data["head"]["folds_by"] = "author"
        other = RunConfig.from_dict(data | {"run_dir": str(tmp_path)}, origin=finished_run)
        store = ActivationStore.open(other.store.path)
        task_rows(other, store, load_target(store, other.task("mood")))


@pytest.mark.parametrize("head", ["", 'judge = "validation"\n'])
def test_folds_of_times_of_splits_that_follow_each_other(
    tmp_path: Path, tiny_bert: Path, head: str
) -> None:
    """The last fold has validation texts only."""
    path = write_mood_run(tmp_path, tiny_bert, num_rows=60)
    csv = path.parent / "tweets.csv"
    header, *lines = csv.read_text(encoding="utf-8").splitlines()
    fields = [line.split(",") for line in lines]
    for i, own in enumerate(fields):
        own[2] = f"2024-05-{1 + i // 2:02d}T12:00:00Z"
        own.append("train" if i < 30 else "val" if i < 48 else "test")
    lines = [f"{header},part", *map(",".join, fields)]
    csv.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    text = text.replace('time = "created_at"', 'time = "created_at"\nsplit = "part"')
    text += f'folds_by = "time"\nkinds = ["dense", "frozen"]\neta = [0.3]\n{head}'
    path.write_text(text, encoding="utf-8")
    config = RunConfig.load(path)
    stages.run(config)
    store, folder = ActivationStore.open(config.store.path), RunFolder(Path(config.run_dir))
    rows = task_rows(config, store, load_target(store, config.task("mood")))
    assert set(rows.folds[0][: rows.num_train]) == {0, 1} and set(rows.folds[0]) == {0, 1, 2}
    probe = load_probe(folder, "mood", ffn(0))
    assert len(probe.fold_weights) == 3
    np.testing.assert_allclose(probe.fold_weights[2], probe.weights, atol=1e-3)


def test_a_few_texts(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=20)
    config = RunConfig.load(path)
    metrics = stages.run(config)
    for task in ("mood", "level"):
        head = Head.load(RunFolder(Path(config.run_dir)).head(task))
        assert head.card.provenance["num_train"] + head.card.provenance["num_val"] < 20
        assert metrics["tasks"][task]["num_test"] >= 2


def test_too_little_memory_is_said_before_anything_is_fitted(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(finished_run, tmp_path)
    monkeypatch.setattr("pipeline.heads.consolidation.free_memory", lambda: 1000)
    with pytest.raises(HeadError, match=r"0\.0 GB are free; lower head\.block_rows"):
        consolidated(config)


def test_settings_that_do_not_fit_are_refused(finished_run: Path, tmp_path: Path) -> None:
    data = RunConfig.load(finished_run).model_dump(mode="json")
    for head, match in (
        ({"kinds": ["sparse", "ensemble"]}, "name both"),
        ({"kinds": ["stack"]}, r"\['stack'\].*made of other kinds.*add 'dense'"),
        ({"kinds": ["final"], "max_depth": 0.5}, r"all blocks, but max_depth = 0\.5; set .* = 1"),
        ({"kinds": ["stack", "dense"]}, r"at least two other kinds.* only 'dense'.*add 'sparse'"),
        ({"kinds": ["stack", "final"]}, r"at least two other kinds.* only 'final'.*add 'dense'"),
        (
            {"kinds": ["stack", "final", "sparse"], "max_depth": 0.5},
            r"max_depth = 0\.5 only 'sparse' is there",
        ),
        ({"judge": "cross_validation", "training": "seen"}, "goes with training"),
        ({"top_k": [0]}, "top_k needs"),
        ({"select": "best"}, "head.select"),
        ({"folds_by": "mood"}, "head.folds_by"),
    ):
        with pytest.raises(ConfigError, match=match):
            RunConfig.from_dict(data | {"head": data["head"] | head}, origin=finished_run)
