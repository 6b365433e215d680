"""Commands that write, as stages that can be killed, beside what the same leaves undisturbed.

matrix = Commands(model)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Imported here for the server of forks, which then has them at hand.
import pipeline.report.charts
import pipeline.report.figures
import pipeline.scoring.files
import pipeline.stages  # noqa: F401
from pipeline.commands.line import run_command
from pipeline.commands.stopping import GentleStop, stopped_code, was_stopped
from pipeline.scoring.following import Following, follow_files
from store import ActivationStore, SalientError
from store.upkeep.inspection import verify
from tests.builders.dumps import FIRST_ID, assert_same_scores, quarantine, scores, v1
from tests.builders.forking import start
from tests.builders.framed import FRAMED, PACKED, framed
from tests.builders.heads import write_heads
from tests.builders.mortal import stop_at
from tests.builders.paths import ROOT
from tests.builders.posts import SHAPES
from tests.builders.runs import RUN_TOML, write_mood_csv, write_mood_run

NUM_TWEETS = 60
SCORE_TOML = "[score]\nblock_rows = 10\nbuffer_rows = 25\ncache_texts = 20\n"
FEW, ALL_ROWS = 40, 64
CASES = ROOT / "tests" / "data" / "cases"
REFUSED = {"float_ids.csv", "sentiment140.csv"}
"""Cases that fail a run."""
COMING = 7
"""Files that come at a time."""

Words = tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command that is killed and given again.

    Attributes:
        words: after `salient`; `FOLDER` stands for the folder of all.
        prepare: makes what is there before, given the folder and the model.
        compare: what differs in a folder from one that was left in peace.
        before: commands that have run before, and what else was done to the folder.
        thens: names in `THENS` that may come between the kill and the same again.
        after: commands that come when all is over, before the comparison.
    """

    words: Words
    prepare: Callable[[Path, Path], None]
    compare: Callable[[Path, Path], list[str]]
    before: tuple[Words | Callable[[Path], None], ...] = ()
    thens: tuple[str, ...] = ()
    after: tuple[Words, ...] = ()


# --- folders ------------------------------------------------------------------------------------


def labelled(folder: Path, model: Path) -> None:
    """A small labelled set and a configuration; shards of 16 samples."""
    config = write_mood_run(folder, model, num_rows=ALL_ROWS)
    text = config.read_text(encoding="utf-8").replace("_per_shard = 64", "_per_shard = 16")
    text += 'kinds = ["dense", "sparse"]\n'
    config.write_text(text, encoding="utf-8")
    write_mood_csv(folder / "few.csv", num_rows=FEW)


def labelled_few(folder: Path, model: Path) -> None:
    """The same; of the texts only some are there when the command runs first."""
    labelled(folder, model)
    text = (folder / "run.toml").read_text(encoding="utf-8")
    (folder / "few.toml").write_text(text.replace("tweets.csv", "few.csv"), encoding="utf-8")


def labelled_final(folder: Path, model: Path) -> None:
    """The same; of the hidden states only the final one is stored."""
    labelled(folder, model)
    text = (folder / "run.toml").read_text(encoding="utf-8")
    text = text.replace("[store]", '[store]\nhidden = "final"')
    (folder / "run.toml").write_text(text, encoding="utf-8")


def dumps(folder: Path, model: Path) -> None:
    """A run of which there are only heads, and three dumps: dates, repeats, bad lines."""
    for head in write_heads(folder / "made", model):
        target = folder / "run" / "heads" / head.name / "chosen"
        target.parent.mkdir(parents=True)
        head.rename(target)
    (folder / "run.toml").write_text(RUN_TOML.format(model=model) + SCORE_TOML)
    lines = []
    for i in range(NUM_TWEETS):
        day = f"Fri Jan {1 + i % 4:02d} 07:29:00 +0000 2021"
        lines.append(json.dumps(v1(i, created_at=day, text=f"the happy dog {i} sat")))
        if i % 9 == 0:
            lines.append('{"broken": ' + str(i))
    for name, some in (("a", lines[:40]), ("b", lines[35:60]), ("c", lines[55:])):
        (folder / name).write_text("\n".join(some))


def posts(folder: Path, model: Path) -> None:
    """A run of which there are only heads, and dumps of every kind: shapes, framings, containers;
    ids that several of them have, bad lines."""
    dumps(folder, model)
    for name in "abc":
        (folder / name).unlink()
    (folder / "dumps").mkdir()
    for case in sorted(CASES.iterdir()):
        if case.name not in REFUSED:
            shutil.copy(case, folder / "dumps")
    kinds = zip(SHAPES.items(), cycle(sorted(FRAMED)), cycle(sorted(PACKED)), strict=False)
    for number, ((shape, make), framing, packing) in enumerate(kinds):
        records = [make(4 * (number // 2) + i) for i in range(6)]
        place = folder / "dumps" / f"{number:02d} {shape} {framing} {packing}".replace("/", "-")
        place.write_bytes(PACKED[packing](framed(framing, records)))


def coming_posts(folder: Path, model: Path) -> None:
    """The same; what is there is yet to come."""
    posts(folder, model)
    (folder / "dumps").rename(folder / "staged")
    (folder / "dumps").mkdir()


def damage_scores(folder: Path) -> None:
    """A part that is torn, and a ledger with other bytes in its midst."""
    part = sorted((folder / "scores").glob("date=*/*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-200])
    ledger = folder / "scores" / "_ledger.sqlite"
    content = bytearray(ledger.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    ledger.write_bytes(content)


def name_doomed(folder: Path) -> None:
    """A file with ids, of which one is not there."""
    ids = [str(FIRST_ID + i) for i in (0, 3, 4, 17, 38, 59, 1000)]
    (folder / "ids.txt").write_text("\n".join(ids))


# --- what they hold in the end ------------------------------------------------------------------


def compare_stores(folder: Path, whole: Path) -> list[str]:
    """Two stores of the same extraction: ids, texts, labels; activations but for rounding."""
    one, two = (
        ActivationStore.open(folder / "activations"),
        ActivationStore.open(whole / "activations"),
    )
    faults = [f"stuck: verify: {damage.message}" for damage in verify(one).damage]
    rows, wanted = one.samples(), two.samples()
    ids = rows["id"].to_pylist()
    if len(set(ids)) < len(ids):
        faults.append("doubled: ids")
    if sorted(ids) != sorted(wanted["id"].to_pylist()):
        return [*faults, f"lost: {len(ids)} ids, not {len(wanted)}"]
    if one.schema.hidden_layers and {*one.schema.hidden_layers} != {*two.schema.hidden_layers}:
        return [*faults, f"lost: hidden states {one.schema.hidden_layers}"]
    at, there = one.positions(wanted["id"].to_pylist()), two.positions(wanted["id"].to_pylist())
    for name, layout in two.schema.arrays.items():
        for layer in layout.layers:
            got = one.read_matrix(name, layer=layer, samples=at)
            want = two.read_matrix(name, layer=layer, samples=there)
            if not np.allclose(got, want, atol=2e-3, rtol=2e-3):
                faults.append(f"lost: values of {name}, layer {layer}")
    for task in two.tasks():
        if not one.labels(task).equals(two.labels(task)):
            faults.append(f"lost: labels of {task}")
    return faults


def compare_runs(folder: Path, whole: Path) -> list[str]:
    """Two runs: their stores, metrics, tables and heads."""
    faults = compare_stores(folder, whole)
    names = [
        {str(path.relative_to(root)) for path in (root / "run").rglob("*") if path.is_file()}
        for root in (folder, whole)
    ]
    faults += [f"lost: {name}" for name in sorted(names[1] - names[0])]
    odd = {name for name in names[0] - names[1] if not name.endswith(".tmp")}
    faults += [f"stuck: {name} is left over" for name in sorted(odd)]
    if not (folder / "run" / "metrics.json").exists():
        return faults
    for task in ("mood", "level"):
        one, two = (
            json.loads((root / "run" / "metrics.json").read_text())["tasks"][task]
            for root in (folder, whole)
        )
        if one["chosen"] != two["chosen"] and _score(one) != _score(two):
            faults.append(f"lost: {task} chose {_score(one)}, not {_score(two)}")
    return faults


def _score(report: dict[str, Any]) -> Any:
    return {key: value for key, value in report["chosen"].items() if key in ("kind", "depth")}


def compare_scores(folder: Path, whole: Path) -> list[str]:
    """Two folders of scores: rows and quarantined lines, once each, and no leftovers."""
    faults = []
    found, expected = scores(folder / "scores"), scores(whole / "scores")
    ids, wanted = found["id"].to_pylist(), expected["id"].to_pylist()
    if len(set(ids)) < len(ids):
        faults.append(f"doubled: {sorted({one for one in ids if ids.count(one) > 1})}")
    if missing := sorted({*wanted} - {*ids}):
        faults.append(f"lost: {missing}")
    if odd := sorted({*ids} - {*wanted}):
        faults.append(f"revived: {odd}")
    if not faults:
        try:
            assert_same_scores(found, expected)
        except AssertionError as error:
            faults.append(f"lost: other scores: {str(error)[:300]}")
    bad, wanted_bad = (
        sorted(f"{one['source_file']} {one['line']} {one['excerpt']}" for one in quarantine(root))
        for root in (folder / "scores", whole / "scores")
    )
    if {*bad} != {*wanted_bad}:
        faults.append(f"lost: quarantined lines: {len(bad)}, not {len(wanted_bad)}")
    elif len(bad) > len(wanted_bad):
        faults.append("doubled: quarantined lines")
    left = [path.name for path in (folder / "scores").rglob("*.tmp*")]
    return faults + [f"stuck: {name} is left over" for name in left]


# --- the commands -------------------------------------------------------------------------------

EXTRACT = ("extract", "FOLDER/run.toml", "--quiet")
RUN = ("run", "FOLDER/run.toml", "--quiet")
SCORE_ALL = ("score", *(f"FOLDER/{name}" for name in "abc"))
TO = ("--run", "FOLDER/run.toml", "--out", "FOLDER/scores", "--max-errors", "1", "--quiet")
TO_DELTA = (*TO, "--out-format", "delta")
FOLLOW = ("follow",)
"""Stands for `follow_coming`."""
THENS: dict[str, Words] = {"score another": ("score", "FOLDER/c", *TO)}
COMMANDS: dict[str, Command] = {
    "extract": Command(EXTRACT, labelled, compare_stores),
    "extract, with more texts": Command(
        EXTRACT, labelled_few, compare_stores, before=(("extract", "FOLDER/few.toml", "--quiet"),)
    ),
    "store add": Command(
        ("store", "add", "FOLDER/activations", "--hidden", "all", "--quiet"),
        labelled_final,
        compare_stores,
        before=(EXTRACT,),
    ),
    "run": Command(RUN, labelled, compare_runs),
    "probe": Command(
        ("probe", "FOLDER/run.toml", "--quiet"), labelled, compare_runs, before=(EXTRACT,)
    ),
    "consolidate": Command(
        ("consolidate", "FOLDER/run.toml", "--quiet"),
        labelled,
        compare_runs,
        before=(EXTRACT, ("probe", "FOLDER/run.toml", "--quiet")),
    ),
    "score": Command((*SCORE_ALL, *TO), dumps, compare_scores, thens=("score another",)),
    "score repair": Command(
        ("score", "repair", "FOLDER/scores", "--quiet"),
        dumps,
        compare_scores,
        before=((*SCORE_ALL, *TO), damage_scores),
        after=((*SCORE_ALL, *TO),),
    ),
    "score delete": Command(
        ("score", "delete", "FOLDER/scores", "--ids", "FOLDER/ids.txt", "--quiet"),
        dumps,
        compare_scores,
        before=(("score", "FOLDER/a", "FOLDER/b", *TO), name_doomed),
        thens=("score another",),
        after=((*SCORE_ALL, *TO),),
    ),
    "score, into a Delta table": Command((*SCORE_ALL, *TO_DELTA), dumps, compare_scores),
    "score delete, of a Delta table": Command(
        ("score", "delete", "FOLDER/scores", "--ids", "FOLDER/ids.txt", "--quiet"),
        dumps,
        compare_scores,
        before=(("score", "FOLDER/a", "FOLDER/b", *TO_DELTA), name_doomed),
        after=((*SCORE_ALL, *TO_DELTA),),
    ),
    "score repair, of a Delta table": Command(
        ("score", "repair", "FOLDER/scores", "--quiet"),
        dumps,
        compare_scores,
        before=((*SCORE_ALL, *TO_DELTA), damage_scores),
        after=((*SCORE_ALL, *TO_DELTA),),
    ),
    "score, of every kind": Command(("score", "FOLDER/dumps", *TO), posts, compare_scores),
    "score --follow": Command(FOLLOW, coming_posts, compare_scores),
    "score, with a late file": Command(
        (*SCORE_ALL, *TO), dumps, compare_scores, before=(("score", "FOLDER/b", *TO),)
    ),
}


def follow_coming(folder: Path) -> int:
    """Follow a folder into which some files are renamed after every round, until none is left.

    Returns:
        0, or the code of a command that was told to stop, which it took for a normal end.
    """

    def bring(*_: object) -> None:
        for path in sorted((folder / "staged").iterdir())[:COMING]:
            path.rename(folder / "dumps" / path.name)

    bring()
    stop = GentleStop()
    with stop.heeded():
        report = follow_files(
            folder / "dumps",
            folder / "run.toml",
            folder / "scores",
            following=Following(quiet_s=0, until_idle=True),
            stop=stop,
            on_round=bring,
            max_errors=1.0,
        )
    assert not report.failed, report.failed
    return stopped_code() if was_stopped() else 128 + signal.SIGTERM if stop.is_told else 0


def run_words(words: Words, folder: Path) -> int:
    """Run a command in a process of its own."""
    torch.set_num_threads(1)
    if words == FOLLOW:
        return follow_coming(folder)
    os.environ["SALIENT_CACHE"] = str(folder.with_name("cache"))
    return run_command([word.replace("FOLDER", str(folder)) for word in words])


class Commands:
    """The matrix of `tests.builders.killing`.

    Args:
        model: of the backbone.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._whole: dict[str, Path] = {}

    def prepare(self, stage: str, folder: Path) -> None:
        command = COMMANDS[stage]
        command.prepare(folder, self._model)
        for one in command.before:
            if callable(one):
                one(folder)
            else:
                self._run(one, folder)
        whole = folder.with_name("undisturbed")
        shutil.copytree(folder, whole)
        for words in (command.words, *command.after):
            self._run(words, whole)
        self._whole[stage] = whole

    def thens(self, stage: str) -> Sequence[str]:
        return COMMANDS[stage].thens

    def call(self, stage: str) -> tuple[Callable[..., object], tuple[object, ...]]:
        return run_words, (COMMANDS[stage].words,)

    def between(self, stage: str, folder: Path) -> list[str]:
        return []  # a store's own are in `store_stages`, and scores say nothing until they are done

    def go_on(self, stage: str, folder: Path, then: str | None) -> None:
        if then is not None:
            self._run(THENS[then], folder)
        self._run(COMMANDS[stage].words, folder)

    def faults(self, stage: str, folder: Path, then: str | None) -> list[str]:
        for words in COMMANDS[stage].after:
            self._run(words, folder)
        try:
            return COMMANDS[stage].compare(folder, self._whole[stage])
        except (SalientError, OSError, KeyError, ValueError) as error:
            return [f"stuck: {type(error).__name__}: {error}"]

    @staticmethod
    def _run(words: Words, folder: Path) -> None:
        process = start(stop_at, None, 0, folder, None, run_words, words, folder)
        process.join()
        log = folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8")
        assert process.exitcode == 0, f"{' '.join(words)}: {process.exitcode}: {log[-600:]}"


def made_up() -> Commands:
    """With a tiny model of its own, for `python -m tests.builders.killing`."""
    import tempfile

    from tests.builders.models import make_tiny_model

    return Commands(make_tiny_model("bert", Path(tempfile.mkdtemp())))
