"""Two passes: easy texts leave early, nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.backbone.loading import load_backbone
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, HeadError, ScoreError
from pipeline.planning import exchange
from pipeline.planning.costs import MeasureOptions, rows_of
from pipeline.planning.depth import Plan, Speed
from pipeline.planning.planner import make_plan
from pipeline.planning.thresholds import build
from pipeline.runfolder import RunFolder
from pipeline.scoring.cascade import NEVER, Cascade, CascadeScorer
from pipeline.scoring.files import ScoreOptions, score_files
from pipeline.scoring.scorer import Scorer
from store.layout import ffn
from store.tables import read_json, write_json
from tests.builders.dumps import scores
from tests.builders.heads import make_head
from tests.builders.models import FFN_WIDTH, TEXTS
from tests.builders.runs import write_mood_csv

CLASSES = ("glad", "mad", "sad")
ONCE = MeasureOptions(rounds=1)


# --- two passes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorers(tiny_bert: Path) -> tuple[Scorer, Scorer]:
    """Two tasks' heads at depth 0, and at depth 2, on the weights of one backbone."""
    whole = load_backbone(tiny_bert)
    draw = np.random.default_rng(1)

    def heads(depth: int) -> list[Any]:
        features = {ffn(i): draw.choice(2 * FFN_WIDTH, 20, replace=False) for i in range(depth + 1)}
        return [
            make_head(whole, features, task="mood", classes=CLASSES, seed=depth),
            make_head(whole, features, task="rude", seed=depth + 10),
        ]

    return Scorer(heads(0), backbone=whole), Scorer(heads(2), backbone=whole)


def confidence(table: pa.Table, task: str, classes: tuple[str, ...]) -> np.ndarray:
    columns = [table[f"{task}_p_{name}"].fill_null(1).to_numpy() for name in classes]
    return np.max(columns, axis=0)


def test_thresholds_that_none_or_all_reach(scorers: tuple[Scorer, Scorer]) -> None:
    early, full = scorers
    rows = rows_of([*TEXTS, "the cat sat", "the cat sat"])
    filled = [bool(text.strip()) for text in rows["text"].to_pylist()]
    shallow, plain = (scorer.score_table(rows).table for scorer in scorers)
    none = CascadeScorer(early, full, {"mood": NEVER, "rude": NEVER})
    found = none.score_table(rows).table
    # Texts without content have no predictions either way, and stay out of the second pass.
    np.testing.assert_array_equal(none.leaves(shallow), ~np.array(filled))
    alone = full.score_table(rows.filter(pa.array(filled))).table
    assert found.filter(pa.array(filled)).equals(alone)
    assert found.schema == plain.schema and found["id"].equals(plain["id"])
    only = rows.filter(pa.array(filled))
    assert none.score_table(only).table.equals(full.score_table(only).table)
    every = CascadeScorer(early, full, {"mood": 0.0, "rude": 0.0})
    assert every.score_table(rows).table.equals(shallow)
    # All tasks must be sure.
    one = CascadeScorer(early, full, {"mood": 0.0, "rude": NEVER})
    assert one.score_table(only).table.equals(full.score_table(only).table)


@pytest.mark.parametrize("threshold", [0.4, 0.55, 0.7])
def test_rows_are_those_of_either_head(scorers: tuple[Scorer, Scorer], threshold: float) -> None:
    early, full = scorers
    texts = [f"{text} {extra}" for text in TEXTS for extra in ("cat", "it was the dog", "")]
    rows = rows_of(texts)
    scorer = CascadeScorer(early, full, {"mood": threshold, "rude": threshold})
    shallow = early.score_table(rows).table
    leaves = (confidence(shallow, "mood", CLASSES) >= threshold) & (
        confidence(shallow, "rude", ("no", "yes")) >= threshold
    )
    deep = full.score_table(rows.filter(pa.array(~leaves))).table
    halves = list(scorer.score([rows, rows.slice(0, 3), rows]))
    found = halves[0].table
    assert found.filter(pa.array(leaves)).equals(shallow.filter(pa.array(leaves)))
    assert found.filter(pa.array(~leaves)).equals(deep)
    assert found["id"].equals(rows["id"])
    assert halves[2].table.equals(found) and len(halves[1].table) == 3
    assert scorer.score_table(rows).table.equals(found)


def test_heads_that_do_not_fit(scorers: tuple[Scorer, Scorer], tiny_bert: Path) -> None:
    early, full = scorers
    with pytest.raises(HeadError, match="other classes"):
        CascadeScorer(early, full, {"mood": 0.5})
    whole = load_backbone(tiny_bert)
    level = Scorer([make_head(whole, {ffn(0): [1, 2]}, task="level", classes=())], backbone=whole)
    with pytest.raises(HeadError, match="no confidence"):
        CascadeScorer(level, level, {"level": 0.5})


# --- a run --------------------------------------------------------------------------------------


@pytest.fixture
def home(own_run: RunConfig) -> Path:
    """The folder of a finished run."""
    return Path(own_run.run_dir)


def planned(run: Path, *tasks: str) -> Plan:
    """A plan with the deepest heads chosen, and costs as if blocks were all that costs."""
    plan = make_plan([run], tasks=tasks, measuring=ONCE)

    def speed(depth: int) -> Speed:
        return Speed(1 / (depth + 1), 1.0, (1.0,))

    options = tuple(replace(one, speed=speed(one.depth)) for one in plan.options)
    return replace(plan, options=options, picks={"best": len(options) - 1}, pick="best")


def deepest(run: Path, *tasks: str) -> Plan:
    return exchange.apply(planned(run, *tasks))


def test_scoring_a_run_with_its_cascade(home: Path, tmp_path: Path) -> None:
    run = RunFolder(home)
    plan = deepest(home, "mood")
    cascade, facts = build(plan, loss=0.05, measuring=ONCE)
    cascade.save(run, facts)
    assert Cascade.load(run) == cascade
    mood = facts["tasks"]["mood"]
    assert mood["cascade"] >= mood["plain"] - 0.05
    assert 0 < facts["share_early"] <= 1 and facts["measured"]["cascade"]["texts_per_s"] > 0
    assert facts["early_depth"] < facts["full_depth"] == 2
    gain = (facts["full_depth"] + 1) / (
        facts["early_depth"] + 1 + (1 - facts["share_early"]) * (facts["full_depth"] + 1)
    )
    assert facts["expected_gain"] == pytest.approx(gain)
    write_mood_csv(tmp_path / "new.csv", num_rows=200, seed=7)
    new, plainly = [tmp_path / "new.csv"], ScoreOptions(tasks=["mood"])
    early_too = replace(plainly, cascade=True)
    plain = score_files(new, home, tmp_path / "plain", options=plainly)
    counting = replace(early_too, dry_run=True)
    dry = score_files(new, home, tmp_path / "c", options=counting)
    report = score_files(new, home, tmp_path / "c", options=early_too)
    assert report.fingerprint == dry.fingerprint == cascade.fingerprint != plain.fingerprint
    one, two = scores(tmp_path / "plain"), scores(tmp_path / "c")
    assert one.schema == two.schema and one["id"].equals(two["id"]) and len(two) == 200
    assert set(two["fingerprint"].to_pylist()) == {cascade.fingerprint}
    # Each row is that of the head whose turn it was.
    threshold = cascade.tasks["mood"].threshold
    folders = [run.head("mood", cascade.tasks["mood"].early)]
    score_files(new, output=tmp_path / "early", options=ScoreOptions(heads=folders))
    early = scores(tmp_path / "early")
    classes = [name for name in two.column_names if name.startswith("mood_p")]
    shallow, deep, found = (
        np.stack([table[name].to_numpy() for name in classes]) for table in (early, one, two)
    )
    leaves = shallow.max(axis=0) >= threshold
    # Texts lie in other batches in each pass: rounding can take an activation to the next float16.
    rounding = 2e-3
    clear = np.abs(shallow.max(axis=0) - threshold) > rounding
    assert leaves.any()
    np.testing.assert_allclose(
        found[:, clear], np.where(leaves, shallow, deep)[:, clear], atol=rounding
    )
    # Folders of scores are not mixed; scoring again does nothing.
    for folder, mixed in (("plain", early_too), ("c", plainly)):
        with pytest.raises(ScoreError, match="scores of other heads"):
            score_files(new, home, tmp_path / folder, options=mixed)
    again = score_files(new, home, tmp_path / "c", options=early_too)
    assert again.files_written == 0 and scores(tmp_path / "c").equals(two)


def test_a_cascade_of_other_heads_or_tasks_is_refused(home: Path, tmp_path: Path) -> None:
    run, csv = RunFolder(home), tmp_path / "new.csv"
    write_mood_csv(csv, num_rows=5)
    out, both = tmp_path / "out", ScoreOptions(cascade=True)
    mood = replace(both, tasks=["mood"])
    with pytest.raises(ConfigError, match="no cascade here; run `salient plan"):
        score_files([csv], home, out, options=mood)
    plan = deepest(home, "mood")
    cascade, facts = build(plan, loss=1.0, measuring=ONCE)
    assert facts["share_early"] == 1.0
    cascade.save(run, facts)
    with pytest.raises(ConfigError, match="is for mood, and mood, level are to be scored"):
        score_files([csv], home, out, options=both)
    with pytest.raises(ConfigError, match="goes with --run"):
        score_files([csv], output=out, options=replace(both, heads=[run.head("mood")]))
    config = read_json(run.card)["config"] | {"cluster": {"kind": "processes"}}
    write_json(tmp_path / "there.json", config | {"run_dir": str(home)})
    with pytest.raises(ConfigError, match="on this machine only"):
        score_files([csv], tmp_path / "there.json", out, options=mood)
    exchange.apply(replace(plan, picks={"best": 0}))
    with pytest.raises(ConfigError, match="made for other heads of task 'mood'"):
        score_files([csv], home, out, options=mood)
    write_json(run.cascade, {"format_version": 99})
    with pytest.raises(ConfigError, match="format 99"):
        Cascade.load(run)
    assert not out.exists()


def test_what_cannot_be_built(home: Path) -> None:
    plan = deepest(home, "mood")
    with pytest.raises(ConfigError, match=r"'level' is a regression.* --task mood"):
        build(planned(home), loss=0.01)
    shallow = replace(plan, chosen=plan.options[0])
    with pytest.raises(HeadError, match="no cascade is faster"):
        build(shallow, loss=0.01)
    other = replace(plan.tasks[0], run=RunFolder(home.parent))
    with pytest.raises(ConfigError, match="one run at a time"):
        build(replace(plan, tasks=(*plan.tasks, other)), loss=0.01)


def test_the_command(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command(["plan", str(home), "--cascade", "-q"]) == 2
    assert "'level' is a regression" in capsys.readouterr().err
    plan = deepest(home, "mood")
    monkeypatch.setattr("pipeline.planning.outcome.make_plan", lambda *_, **__: plan)
    words = [
        "plan",
        str(home),
        "--task",
        "mood",
        "--cascade",
        "--loss",
        "0.1",
        "--rounds",
        "1",
        "-q",
    ]
    assert run_command(words) == 0
    text = capsys.readouterr().out
    assert "with the cascade" in text and "cascade.json" in text
    assert run_command([*words, "--json"]) == 0
    assert '"cascade": {' in capsys.readouterr().out
