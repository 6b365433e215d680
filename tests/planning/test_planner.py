"""Planning: every depth's score and measured cost, the Pareto front and the picks."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbone.loading import load_backbone
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, ExtractError, HeadError
from pipeline.heads.activations import all_features
from pipeline.heads.model import Head
from pipeline.measures.metrics import utility
from pipeline.planning import exchange, planner
from pipeline.planning.costs import MeasureOptions, measuring_rows, rows_of
from pipeline.planning.depth import Option, Plan, PlannedHead, Speed
from pipeline.planning.outcome import plan_runs
from pipeline.planning.planner import make_plan
from pipeline.report.scores import gain_line
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.scoring.scorer import Scorer
from store.layout import Source, ffn
from store.tables import read_json, read_table
from tests.builders.models import FFN_WIDTH
from tests.builders.runs import write_mood_csv

ONCE = MeasureOptions(rounds=1)


@pytest.fixture(scope="module")
def plan(finished_run: Path) -> Plan:
    return make_plan([finished_run], measuring=ONCE)


def run_folder(config: Path) -> RunFolder:
    return RunFolder(Path(RunConfig.load(config).run_dir))


# --- planning -----------------------------------------------------------------------------------


def head(depth: int, score: float, features: int = 1) -> PlannedHead:
    name = f"depth_{depth:03d}"
    return PlannedHead(name, depth, "sparse", score, 0, 1, score, features, f"{name} {score}")


grades = st.integers(0, 8).map(lambda n: n / 8)
some_heads = st.dictionaries(st.integers(0, 4), grades, min_size=1).map(
    lambda found: [head(depth, score) for depth, score in found.items()]
)


@given(st.dictionaries(st.sampled_from(["mood", "rude", "level"]), some_heads, min_size=1))
def test_sets_lose_least_of_all_sets_of_their_depth(heads: dict[str, list[PlannedHead]]) -> None:
    metrics = {"mood": "macro_f1", "rude": "accuracy", "level": "mae"}
    every: dict[int, list[tuple[float, float]]] = {}
    for chosen in product(*heads.values()):
        losses = [
            max(utility(metrics[task], h.score) for h in own) - utility(metrics[task], one.score)
            for (task, own), one in zip(heads.items(), chosen, strict=True)
        ]
        depth = max(one.depth for one in chosen)
        every.setdefault(depth, []).append((max(losses), sum(losses) / len(losses)))
    found = planner.sets_by_depth(heads, metrics)
    assert [max(h.depth for h in one.values()) for one in found] == sorted(every)
    for one, depth in zip(found, sorted(every), strict=True):
        assert one.keys() == heads.keys()
        best = min(every[depth])
        assert planner.loss_of(one, heads, metrics) == pytest.approx(best[0])


def test_sets_of_the_example_in_the_docs() -> None:
    scores = {"mood": (0.70, 0.74, 0.73), "level": (0.50, 0.48, 0.47)}
    heads = {
        task: [head(depth, one) for depth, one in enumerate(own)] for task, own in scores.items()
    }
    found = planner.sets_by_depth(heads, {"mood": "macro_f1", "level": "pearson"})
    assert [[one["mood"].depth, one["level"].depth] for one in found] == [[0, 0], [1, 0], [2, 0]]


def option(depth: int, loss: float, texts_per_s: float) -> Option:
    speed = Speed(texts_per_s, 10 * texts_per_s, (1.0,))
    return Option(depth, {"mood": head(depth, 1 - loss)}, loss, 1, 1.0, 1.0, speed)


some_options = st.lists(st.tuples(grades, st.integers(1, 9).map(float)), min_size=1).map(
    lambda found: [option(i, *pair) for i, pair in enumerate(found)]
)


@given(some_options)
def test_the_front_is_what_nothing_beats(options: list[Option]) -> None:
    points = {(o.speed.texts_per_s, -o.loss) for o in options}
    unbeaten = {
        (speed, gain)
        for speed, gain in points
        if not any(s >= speed and g >= gain and (s, g) != (speed, gain) for s, g in points)
    }
    front = planner.front_of(options)
    found = [(options[i].speed.texts_per_s, -options[i].loss) for i in front]
    assert set(found) == unbeaten and len(found) == len(unbeaten)
    assert found == sorted(found, reverse=True)


@given(some_options, grades, st.none() | st.integers(1, 9).map(float))
def test_picks(options: list[Option], tolerance: float, limit: float | None) -> None:
    fast = [o for o in options if limit is None or o.speed.texts_per_s >= limit]
    if not fast:
        with pytest.raises(HeadError, match="no depth reaches"):
            planner.picks_of(options, tolerance=tolerance, min_texts_per_s=limit)
        return
    picks = planner.picks_of(options, tolerance=tolerance, min_texts_per_s=limit)
    least = min(o.loss for o in fast)
    assert options[picks["best"]] == next(o for o in fast if o.loss == least)
    assert options[picks["smallest"]] == next(o for o in fast if o.loss <= least + tolerance)


# --- a run --------------------------------------------------------------------------------------


def test_every_depth_has_its_score_and_cost(plan: Plan, finished_run: Path) -> None:
    folder = run_folder(finished_run)
    assert [one.depth for one in plan.options] == [0, 1, 2]
    for one in plan.options:
        assert set(one.heads) == {"mood", "level"}
        assert max(h.depth for h in one.heads.values()) == one.depth
        assert one.speed.texts_per_s > 0 and one.speed.tokens_per_s > one.speed.texts_per_s
    mood = {h.depth: h for h in plan.tasks[0].heads}
    rows = read_table(folder.sweep("mood")).to_pylist()
    for depth, head in mood.items():
        known = {(r["score"], r["low"], r["high"]) for r in rows if r["depth"] == depth}
        assert (head.score, head.low, head.high) in known
    assert plan.options[plan.picks["best"]].loss == pytest.approx(0)


def test_operations_are_those_of_the_formula(
    plan: Plan, finished_run: Path, tiny_bert: Path
) -> None:
    whole = load_backbone(tiny_bert)
    hidden, width = whole.hidden_size, FFN_WIDTH
    rows = measuring_rows(RunConfig.load(finished_run), 256)
    lengths = [len(whole.tokenizer(text)["input_ids"]) for text in rows["text"].to_pylist()]
    tokens = sum(lengths)
    assert plan.measured["num_tokens"] == tokens and plan.measured["num_texts"] == len(lengths)
    for one in plan.options:
        folders = [run_folder(finished_run).head(task, h.name) for task, h in one.heads.items()]
        reads = all_features([Head.load(folder) for folder in folders])
        if max(source.depth for source in reads) < 0:  # the embeddings alone
            assert one.flops_per_token == 0
            continue
        attention = 4 * 2 * hidden * hidden
        linear = (one.depth + 1) * attention + one.depth * 2 * 2 * hidden * width
        if Source("hidden", one.depth + 1) in reads:  # behind the last block, which is whole then
            linear += 2 * 2 * hidden * width
        else:
            linear += 2 * hidden * len(np.unique(reads[ffn(one.depth)] % width))
        products = (one.depth + 1) * 2 * 2 * hidden * sum(n * n for n in lengths)
        assert one.flops_per_token == pytest.approx((linear * tokens + products) / tokens)
        assert one.flops_per_text == pytest.approx((linear * tokens + products) / len(lengths))


def test_scorers_of_a_plan_are_those_that_scoring_makes(plan: Plan) -> None:
    shared = planner.load_scorers(plan.tasks, [one.heads for one in plan.options])
    assert len(shared) > 1
    rows = rows_of(["it was happy today", "a sad dog", ""])
    for one, scorer in zip(plan.options, shared, strict=True):
        folders = [task.run.head(task.name, one.heads[task.name].name) for task in plan.tasks]
        alone = Scorer.load(folders)
        assert scorer.depth == alone.depth == one.depth
        mine, theirs = scorer.score_table(rows).table, alone.score_table(rows).table
        names = [name for name in theirs.column_names if name.startswith(("mood_p", "level"))]
        assert len(names) == 3
        for name in names:
            pair = (table[name].fill_null(0).to_numpy() for table in (mine, theirs))
            np.testing.assert_allclose(*pair, atol=1e-5)


def test_texts_from_a_file_and_none_at_all(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    write_mood_csv(tmp_path / "new.csv", num_rows=50, seed=3)
    assert len(measuring_rows(config, 20, texts=tmp_path / "new.csv")) == 20
    assert len(measuring_rows(config, 10)) == 10
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "new.csv", "a.csv")
        archive.write(tmp_path / "new.csv", "b.csv")
    MeasureOptions(texts=tmp_path / "z.zip" / "a.csv").check()
    assert len(measuring_rows(config, 20, texts=tmp_path / "z.zip" / "a.csv")) == 20
    (tmp_path / "none.txt").write_text("\n\n")
    with pytest.raises(ExtractError, match="no texts in it"):
        measuring_rows(config, 10, texts=tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="no such file"):
        measuring_rows(config, 10, texts=tmp_path / "nothing.txt")
    store = config.store.model_copy(update={"path": str(tmp_path / "gone")})
    moved = config.model_copy(update={"store": store})
    with pytest.raises(ExtractError, match=r"no stored texts .* --texts FILE"):
        measuring_rows(moved, 10)


def test_applying_a_plan_and_going_back(own_run: RunConfig) -> None:
    home = Path(own_run.run_dir)
    folder, before = RunFolder(home), read_metrics(RunFolder(home))
    heads = {t: Head.load(folder.head(t)).fingerprint for t in before["tasks"]}
    best = make_plan([home], pick="best", tolerance=0.5, measuring=ONCE)
    shallow = make_plan([home], pick="smallest", tolerance=9.0, measuring=ONCE)
    assert shallow.picked.depth == 0
    applied = exchange.apply(shallow)
    assert applied.chosen == shallow.picked
    after = read_metrics(folder)
    for task, entry in after["tasks"].items():
        card = Head.load(folder.head(task)).card
        assert card.depth == entry["chosen"]["depth"] == 0
        assert Head.load(folder.head(task)).fingerprint == shallow.picked.heads[task].fingerprint
        assert (folder.head(task) / "reference.safetensors").is_file()
        was = before["tasks"][task]
        known = [was[k] for k in ("frozen", "sparse", "ensemble", "states") if was[k]["depth"] == 0]
        if was["chosen"]["depth"] > 0 and card.num_features not in [
            k["num_features"] for k in known
        ]:
            assert entry["chosen"]["test"] == {} and entry["gain"] == {}
            assert "after the test split was read" in (gain_line(entry) or "")
            assert entry["evaluated"]["chosen"] == was["chosen"]
        assert not [path for path in folder.head(task).parent.iterdir() if path.name[0] == "."]
    chosen = folder.head("mood")
    chosen.rename(chosen.with_name(".chosen.old"))  # as an exchange leaves it that is killed
    exchange.apply(shallow)  # again changes nothing
    assert read_metrics(folder) == after
    with pytest.raises(HeadError, match="another head by now"):
        other = {task: head(h.depth, 0.0) for task, h in best.picked.heads.items()}
        options = tuple(Option(o.depth, other, o.loss, 1, 1.0, 1.0, o.speed) for o in best.options)
        exchange.apply(Plan(best.tasks, options, best.chosen, (0,), best.picks, "best", 0, None))
    # The report still stands, and what the run had chosen comes back with its test scores.
    assert run_command(["inspect", str(home)]) == 0
    for task in before["tasks"]:
        own = make_plan([home], tasks=[task], measuring=ONCE)
        depth = before["tasks"][task]["chosen"]["depth"]
        back = {"back": next(i for i, one in enumerate(own.options) if one.depth == depth)}
        exchange.apply(replace(own, picks=back, pick="back"))
    assert {t: Head.load(folder.head(t)).fingerprint for t in before["tasks"]} == heads
    assert read_metrics(folder) == before


def test_what_is_asked_for_is_done_with_the_plan(own_run: RunConfig) -> None:
    home, told = RunFolder(Path(own_run.run_dir).resolve()), []
    found = plan_runs(
        [home.path],
        tasks=["mood"],
        tolerance=9.0,
        apply=True,
        measuring=ONCE,
        on_plan=lambda facts, run: told.append((facts["chosen"]["depth"], run)),
    )
    assert told == [(0, home)]
    assert Head.load(home.head("mood")).card.depth == 0
    assert found.written == (home.plan,)
    assert json.loads(json.dumps(found.facts)) == read_json(home.plan)


def test_the_command(
    own_run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(own_run.run_dir)
    toml = str(home.parent / "run.toml")
    assert run_command(["plan", str(home), "--rounds", "1", "-q"]) == 0
    text = capsys.readouterr().out
    assert "smallest: " in text and "texts/s" in text and "chosen" in text
    assert all((home / "figures" / f"plan.{suffix}").stat().st_size for suffix in ("png", "svg"))
    arguments = ["--task", "mood", "--min-texts-per-s", "1", "--rounds", "1", "-q", "--json"]
    assert run_command(["plan", toml, *arguments]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == read_json(home / "plan.json")
    assert facts["pick"] == "best" and list(facts["tasks"]) == ["mood"]
    for words, code, message in (
        (["--min-texts-per-s", "1e12"], 1, "no depth reaches"),
        (["--pick", "worst"], 2, "choose one of best, smallest"),
        (["--task", "moood"], 2, "there are heads for mood, level"),
        (["--texts", str(tmp_path / "none")], 2, "no such file"),
        ([toml], 2, "two runs have a task of one name"),
    ):
        assert run_command(["plan", str(home), *words, "--rounds", "1", "-q"]) == code
        assert message in capsys.readouterr().err
    assert run_command(["plan", str(tmp_path), "-q"]) == 2
    assert "no run here" in capsys.readouterr().err


def test_an_unfinished_run(own_run: RunConfig) -> None:
    home = Path(own_run.run_dir)
    shutil.rmtree(home / "heads" / "mood" / "depth_000")
    plan = make_plan([home], tasks=["mood"], measuring=ONCE)
    assert [one.depth for one in plan.options] == [1, 2]
    (home / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="salient consolidate"):
        make_plan([home])
