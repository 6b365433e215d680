"""Label sets end to end: a text has any subset of the labels."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from sklearn import metrics as sk

from pipeline import stages
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.heads.activations import stored_activations
from pipeline.heads.drift import REFERENCE_FILE, Reference
from pipeline.heads.evaluation import evaluate_task
from pipeline.heads.model import Head
from pipeline.planning.costs import MeasureOptions
from pipeline.planning.exchange import entry_for
from pipeline.planning.planner import make_plan
from pipeline.probes.model import load_probe
from pipeline.report.scores import judging
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.scoring.files import score_files
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.layout import ffn
from store.tables import read_arrays
from tests.builders.runs import TOPICS, write_topics_run


@pytest.fixture(scope="module")
def topics_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """The configuration of a finished run on label sets."""
    config = write_topics_run(tmp_path_factory.mktemp("topics"), tiny_bert)
    stages.run(RunConfig.load(config))
    return config


def test_labels_are_kept_as_json_arrays_in_order(topics_run: Path) -> None:
    config = RunConfig.load(topics_run)
    store = ActivationStore.open(config.store.path)
    assert dict(store.label_spec("topics")) == {"type": "multilabel", "classes": list(TOPICS)}
    sets = [json.loads(one) for one in store.labels("topics")["label"].to_pylist()]
    assert [] in sets
    assert all(one == [name for name in TOPICS if name in one] for one in sets)
    # Of a list column the labels are those of the training rows, and rows without a value lack one.
    assert store.label_spec("tags")["classes"] == ["animal", "beast", "glad", "sad"]
    assert store.labels("tags").num_rows < store.labels("topics").num_rows
    rows = load_target(store, config.task("topics")).rows("train")
    assert rows.targets.dtype == np.int8 and rows.targets.shape == (len(rows), len(TOPICS))
    assert not rows.targets[:, TOPICS.index("never")].any()


def test_heads_beat_the_majority(topics_run: Path) -> None:
    config = RunConfig.load(topics_run)
    metrics = read_metrics(RunFolder(Path(config.run_dir)))["tasks"]
    for name, task in metrics.items():
        majority, chosen = task["baselines"]["majority"], task["chosen"]
        assert chosen["test"][task["metric"]] > majority["test"][task["metric"]] + 0.1
        assert majority["gain"]["low"] > 0
        low, high = chosen["test_interval"]["micro_f1"]
        assert low <= chosen["test"]["micro_f1"] <= high
        assert set(task["labels"]) == set(load_classes(config, name))
        assert "frozen" not in task and "ensemble" not in task
    assert metrics["topics"]["labels"]["never"] == {"f1": None, "interval": None, "rows": 0}
    assert metrics["topics"]["labels"]["animal"] == metrics["topics"]["labels"]["beast"]


def load_classes(config: RunConfig, task: str) -> tuple[str, ...]:
    store = ActivationStore.open(config.store.path)
    return load_target(store, config.task(task)).classes


def test_reported_metrics_are_scikit_learns_on_the_saved_head(topics_run: Path) -> None:
    config = RunConfig.load(topics_run)
    folder = RunFolder(Path(config.run_dir))
    store = ActivationStore.open(config.store.path)
    head = Head.load(folder.head("topics"))
    rows = load_target(store, config.task("topics")).rows("test")
    outputs = head.outputs(stored_activations(head, store, rows.positions))
    decided = head.decide(head.probabilities(outputs))
    assert decided.shape == rows.targets.shape and decided.dtype == bool
    np.testing.assert_array_equal(decided, head.decision_outputs(outputs) > 0)
    found = read_metrics(folder)["tasks"]["topics"]["chosen"]["test"]
    options = {"zero_division": np.nan}
    for name, average in (("macro_f1", "macro"), ("micro_f1", "micro")):
        expected = sk.f1_score(rows.targets, decided, average=average, **options)
        assert found[name] == pytest.approx(expected)
    ranking = sk.label_ranking_average_precision_score(rows.targets, outputs)
    assert found["lrap"] == pytest.approx(ranking)


def test_gains_of_a_ranking_are_those_of_the_printed_scores(
    topics_run: Path, tmp_path: Path
) -> None:
    """Thresholds of a label's own put labels in another order, which is none of their ranking."""
    data = RunConfig.load(topics_run).model_dump(mode="json")
    shutil.copytree(data["run_dir"], tmp_path / "run")
    config = RunConfig.from_dict(data | {"run_dir": str(tmp_path / "run")}, origin=topics_run)
    folder = RunFolder(tmp_path / "run").head("tags")
    thresholds = np.array([0.9, 0.1, 0.6, 0.3])
    replace(Head.load(folder), thresholds=thresholds).save(folder)
    snapshot = ActivationStore.open(config.store.path).snapshot_id
    found = evaluate_task(config, snapshot, config.task("tags"))
    scores = found["chosen"]["test"]
    before = read_metrics(RunFolder(tmp_path / "run"))["tasks"]["tags"]["chosen"]["test"]
    assert scores["lrap"] == pytest.approx(before["lrap"])
    assert scores["micro_f1"] != pytest.approx(before["micro_f1"])
    for baseline in found["baselines"].values():
        assert baseline["gain"]["value"] == pytest.approx(scores["lrap"] - baseline["test"]["lrap"])


def test_another_chosen_head_has_no_scores_of_labels(topics_run: Path) -> None:
    folder = RunFolder(Path(RunConfig.load(topics_run).run_dir))
    entry, head = read_metrics(folder)["tasks"]["topics"], Head.load(folder.head("topics"))
    assert entry_for(entry, head) == entry
    other = replace(head, card=replace(head.card, selection="by hand"))
    found = entry_for(entry, other)
    assert "labels" not in found and found["chosen"]["test"] == {}
    for name in ("loss", "judged_on", "score", "calibration"):
        assert found["chosen"][name] == head.card.metrics[name]
    assert judging(found) == judging(entry)
    assert entry_for(found, head) == entry  # and back


def test_equal_labels_get_equal_models(topics_run: Path) -> None:
    config = RunConfig.load(topics_run)
    probe = load_probe(RunFolder(Path(config.run_dir)), "topics", ffn(1))
    assert probe.weights.shape[0] == len(TOPICS)
    animal, beast = TOPICS.index("animal"), TOPICS.index("beast")
    np.testing.assert_allclose(probe.weights[animal], probe.weights[beast], atol=1e-5)
    never = TOPICS.index("never")
    assert not probe.weights[never].any() and probe.bias[never] < -10


@pytest.mark.parametrize("kind", ["stack", "dense"])
def test_a_label_that_no_text_has_does_not_drift(topics_run: Path, kind: str) -> None:
    config = RunConfig.load(topics_run)
    path = RunFolder(Path(config.run_dir)).head("topics", kind)
    reference = Reference.from_arrays(read_arrays(path / REFERENCE_FILE))
    is_watched = np.isfinite(reference.edges[: len(TOPICS)]).any(axis=1)
    assert dict(zip(TOPICS, is_watched, strict=True)) == {n: n != "never" for n in TOPICS}


def test_scores_are_the_heads_outputs(topics_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(topics_run)
    store = ActivationStore.open(config.store.path)
    source = tmp_path / "in.csv"
    text = (topics_run.parent / "tweets.csv").read_text(encoding="utf-8")
    source.write_text(text + '999,"",2024-05-01T12:00:00Z,,,,,,\n', encoding="utf-8")
    report = score_files([source], topics_run, tmp_path / "out")
    table = ds.dataset(tmp_path / "out", partitioning="hive", exclude_invalid_files=True)
    rows = {row["id"]: row for row in table.to_table().to_pylist()}
    assert len(rows) == report.read == 241
    assert rows["999"]["topics"] is None and rows["999"]["topics_p_glad"] is None
    head = Head.load(RunFolder(Path(config.run_dir)).head("topics"))
    samples = store.samples()
    outputs = head.outputs(stored_activations(head, store, samples["position"].to_numpy()))
    probability = head.probabilities(outputs)
    decided = head.decide(probability)
    seen = set()
    for id, own, mask in zip(samples["id"].to_pylist(), probability, decided, strict=True):
        expected = [name for name, one in zip(TOPICS, mask, strict=True) if one]
        assert rows[id]["topics"] == expected
        seen.add(len(expected))
        found = [rows[id][f"topics_p_{name}"] for name in TOPICS]
        np.testing.assert_allclose(found, own, atol=2e-3)
    assert 0 in seen and max(seen) > 1
    for column in (read_pandas(tmp_path / "out"), read_duckdb(tmp_path / "out")):
        assert column == {id: row["topics"] for id, row in rows.items()}
    drift = json.loads(next((tmp_path / "out" / "_drift").glob("*.json")).read_text())
    assert set(drift["tasks"]["topics"]["dates"]["2024-05-01"]["classes"]["shares"]) == set(TOPICS)


def read_pandas(path: Path) -> dict[str, list[str] | None]:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(path)
    found = zip(table["id"], table["topics"], strict=True)
    return {id: None if own is None else list(own) for id, own in found}


def read_duckdb(path: Path) -> dict[str, list[str] | None]:
    duckdb = pytest.importorskip("duckdb", reason="needs the extra: salient-neurons[dev]")
    files = str(path / "date=*" / "*.parquet")
    return dict(duckdb.sql(f"select id, topics from read_parquet('{files}')").fetchall())


@pytest.mark.slow
def test_workers_give_the_same_scores(topics_run: Path, tmp_path: Path) -> None:
    source = topics_run.parent / "tweets.csv"
    score_files([source], topics_run, tmp_path / "one")
    text = topics_run.read_text(encoding="utf-8")
    other = topics_run.parent / "processes.toml"
    other.write_text(text + '[cluster]\nkind = "processes"\nworkers = 2\n', encoding="utf-8")
    score_files([source], other, tmp_path / "two")

    def read(path: Path) -> list[dict[str, object]]:
        table = ds.dataset(path, partitioning="hive", exclude_invalid_files=True).to_table()
        return table.sort_by("id").select(["id", "topics", "tags"]).to_pylist()

    assert read(tmp_path / "one") == read(tmp_path / "two")


def test_what_looks_at_a_run_takes_label_sets(
    topics_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(topics_run)
    assert run_command(["inspect", str(topics_run.parent / "run")]) == 0
    assert "labels, " in capsys.readouterr().out
    assert run_command(["rank", run]) == 2
    assert "multilabel" in capsys.readouterr().err
    assert run_command(["ablate", run, "--top", "2", "--draws", "1"]) == 0
    capsys.readouterr()
    assert run_command(["plan", run, "--cascade"]) == 2
    assert "is multilabel" in capsys.readouterr().err
    plan = make_plan([topics_run], measuring=MeasureOptions(rounds=1))
    assert set(plan.picked.heads) == {"topics", "tags"}
    page = str(tmp_path / "report.html")
    assert run_command(["report", run, "--images", "none", "--out", page]) == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ">never</td>" in html
    for title in ("Score by label", "Calibration", "Label by label"):
        assert html.count(f">{title}</h3>") == 2


def test_the_figures_of_label_sets_name_their_labels(topics_run: Path) -> None:
    pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")
    from pipeline.report.facts import read_run
    from pipeline.report.figures import task_figures
    from pipeline.report.labelsets import MOST_LABELS, by_label

    topics, tags = read_run(topics_run).tasks
    found = topics.predictions
    assert found is not None
    wrong = found.targets.copy()
    wrong[:5] = 1 - wrong[:5]
    missing = replace(topics, predictions=replace(found, decided=wrong))
    names = {figure.name for figure in task_figures(missing)}
    assert {"compared", "by-label", "missed", "calibration"} <= names and "confusion" not in names
    # Of a ranking there is no score of whoever gives every label.
    captions = {figure.name: figure.caption for figure in task_figures(tags)}
    assert "Every label" not in captions["compared"]
    assert "every label" in {f.name: f.caption for f in task_figures(topics)}["by-layer"]
    number = MOST_LABELS + 2
    many = replace(
        found,
        classes=tuple(map(str, range(number))),
        **{
            name: np.repeat(getattr(found, name)[:, :1], number, axis=1)
            for name in ("targets", "decided", "probability")
        },
    )
    drawn = by_label(replace(topics, predictions=many))
    assert drawn is not None and f"{MOST_LABELS} most frequent of {number} labels" in drawn.caption


def test_the_explorer_shows_label_sets(topics_run: Path) -> None:
    pytest.importorskip("panel", reason="needs the extra: salient-neurons[explore]")
    from pipeline.explorer.atlas import Atlas, Neuron
    from pipeline.explorer.choices import subset
    from pipeline.explorer.exports import texts_csv
    from pipeline.explorer.fragments import explain_html

    config = RunConfig.load(topics_run)
    atlas = Atlas.open(config.store.path, run=config.run_dir)
    labels = atlas.texts.labels("topics")
    assert labels is not None and labels.values.shape == (atlas.store.num_samples, len(TOPICS))
    some = int(np.flatnonzero(labels.known & (labels.values[:, :4].sum(axis=1) == 0))[0])
    both = int(np.flatnonzero(labels.values[:, TOPICS.index("animal")] == 1)[0])
    names = atlas.texts.label_names("topics", [some, both])
    assert names[0] == "no label" and "animal, beast" in names[1]
    values = atlas.values(Neuron(1, "mean", 3))
    found = atlas.distribution(values, "topics")
    assert found is not None and [name for name, _ in found.names] == [*TOPICS, "no label"]
    assert dict(found.names)["never"] == 0
    text = atlas.texts.at([both])[0]
    decisions = list(atlas.decisions(atlas.sample(both), text))
    for decision in decisions:
        assert set(decision.probabilities) == set(load_classes(config, decision.task))
        assert decision.reasons
    # Each label that is given has reasons of its own, the most probable first.
    about = [one.about for one in decisions if one.task == "topics"]
    assert sorted(map(str, about)) == sorted(decisions[-1].outcome.split(", "))
    without = subset(atlas.texts, "topics", label="no label")
    assert without[some] and not without[both]
    html = explain_html(atlas, None, position=both)
    assert html.count("what speaks for and against the label") == len(decisions)
    assert html.count('<p class="soft">glad ') == 1  # probabilities, once
    shown = {"highest": np.array([some, both])}
    exported = texts_csv(atlas, "topics", Neuron(1, "mean", 3), shown, {"mean": values})
    rows = list(csv.DictReader(io.StringIO(exported)))
    assert json.loads(rows[0]["label"]) == [] and "animal" in json.loads(rows[1]["label"])
