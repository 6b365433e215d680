"""Submitted jobs: started in a moment, outliving their shell, watched and stopped from anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands.line import run_command
from pipeline.config import ClusterConfig, RunConfig
from pipeline.errors import ClusterError, ConfigError
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.submission import slurm
from pipeline.submission.folder import (
    TRUST,
    JobCard,
    JobFolder,
    JobState,
    find_job,
    is_alive,
    jobs_root,
    process_start,
)
from pipeline.submission.jobs import cancel, describe, dry_run, status_of, submit
from store.errors import SalientError
from store.tables import read_json, write_json
from tests.builders.runs import write_mood_run
from tests.builders.waiting import default_signals, ignored_signals, wait_until


@pytest.fixture(autouse=True)
def own_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of jobs for each test."""
    monkeypatch.setenv("SALIENT_JOBS", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


def test_a_job_outlives_the_shell_that_submitted_it(
    finished_run: Path, tmp_path: Path, tiny_bert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_mood_run(tmp_path / "run", tiny_bert)
    words = f"{sys.executable} -m pipeline submit {path} run --json"
    shell = subprocess.run(
        ["bash", "-c", f"{words}; kill -HUP 0"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=default_signals,
    )
    assert shell.returncode == -signal.SIGHUP
    job = find_job(json.loads(shell.stdout)["job"])
    path.unlink()  # the configuration went with the job
    assert run_command(["logs", job.id, "-f"]) == 0
    printed = capfd.readouterr().out
    assert "extracted 160 of 160 texts" in printed and "chosen" in printed
    assert status_of(job).state == "done", job.log.read_text()
    alone = RunConfig.load(finished_run)
    found = read_metrics(RunFolder(tmp_path / "run" / "run"))
    assert found["tasks"] == read_metrics(RunFolder(Path(alone.run_dir)))["tasks"]
    assert run_command(["status", job.id[:5], "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["state"], facts["stage"], facts["name"]) == ("done", "run", "mood")
    assert run_command(["jobs"]) == 0
    assert job.id in capfd.readouterr().out
    assert run_command(["cancel", job.id]) == 1
    assert "has ended: done" in capfd.readouterr().err


def test_a_job_has_its_own_signals_however_it_is_submitted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys, pipeline.submission.jobs as s, pathlib;"
    code += " s._detach(['/bin/cat', '/proc/self/status'], pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(log)]
    subprocess.run(command, check=True, preexec_fn=ignored_signals)
    wait_until(lambda: log.exists() and "SigCgt" in log.read_text())
    fields = dict(line.split(":\t", 1) for line in log.read_text().splitlines())
    unheard = int(fields["SigIgn"], 16) | int(fields["SigBlk"], 16)
    assert not [number for number in signal.valid_signals() if unheard >> (number - 1) & 1]


def endless_run(folder: Path, model: Path) -> Path:
    """A configuration whose corpus is a pipe that nobody writes to."""
    path = write_mood_run(folder, model)
    (folder / "tweets.csv").unlink()
    os.mkfifo(folder / "tweets.csv")
    return path


def test_a_job_is_cancelled_and_the_same_again_goes_on(tmp_path: Path, tiny_bert: Path) -> None:
    job = submit("extract", endless_run(tmp_path / "run", tiny_bert))
    wait_until(lambda: status_of(job).state == "running")
    cancel(job)
    wait_until(lambda: status_of(job).state != "running")
    facts = describe(job)
    assert facts["state"] == "cancelled", job.log.read_text()
    assert "submit the same again" in facts["note"]
    with pytest.raises(ClusterError, match="has ended: cancelled"):
        cancel(job)


STOPPED_AT_ONCE = """
import os, signal, sys
from pathlib import Path
from pipeline.submission.running import Driver
stop = lambda words: os.kill(os.getpid(), signal.SIGTERM)
sys.exit(Driver(Path(sys.argv[1]), stop, interrupted=7).run())
"""


def test_a_job_stopped_before_its_command_listens_is_no_failure(own_jobs: Path) -> None:
    job = JobFolder(own_jobs / "abc")
    job.write_card(JobCard("abc", "run", (), "mood", "run", "local", time.time(), "host", "/"))
    ended = subprocess.run([sys.executable, "-c", STOPPED_AT_ONCE, str(job.path)], check=False)
    assert ended.returncode == 7
    assert describe(job)["note"].startswith("it was told to stop; submit the same again")
    assert status_of(job).state == "stopped"


TELLS = """
import sys
from pathlib import Path
from pipeline.events import RowsScored, Tally, emit
from pipeline.submission.running import Driver
def work(words):
    tally = Tally("extracted", 2, "texts")
    tally(1)
    if sys.argv[2] == "score":
        facts = {"num_rows": 900, "read": 1000, "scored": 1900, "rate": 9.5}
        emit(RowsScored(path="a.jsonl", files_done=1, num_files=3, **facts))
    return 0
sys.exit(Driver(Path(sys.argv[1]), work, interrupted=7).run())
"""


@pytest.mark.parametrize(
    ("stage", "shown"),
    [("extract", "extracted 1 of 2 texts"), ("score", "scored 1,900 rows in 1 of 3 files")],
)
def test_a_driver_writes_down_how_far_its_work_is(own_jobs: Path, stage: str, shown: str) -> None:
    job = JobFolder(own_jobs / "abc")
    job.write_card(JobCard("abc", stage, (), "mood", "run", "local", time.time(), "host", "/"))
    subprocess.run([sys.executable, "-c", TELLS, str(job.path), stage], check=True)
    assert describe(job)["progress"] == shown


def test_a_failed_job_says_why(tmp_path: Path, tiny_bert: Path) -> None:
    job = submit("probe", write_mood_run(tmp_path / "run", tiny_bert))
    wait_until(lambda: status_of(job).state not in ("queued", "running"))
    facts = describe(job)
    assert facts["state"] == "failed"
    assert "not extracted yet" in facts["note"] and facts["exit_code"] == 2
    assert facts["note"].endswith("mend that, and submit it again")


def test_a_killed_driver_is_noticed(tmp_path: Path, tiny_bert: Path) -> None:
    job = submit("extract", endless_run(tmp_path / "run", tiny_bert))
    wait_until(lambda: status_of(job).state == "running")
    os.kill(status_of(job).pid, signal.SIGKILL)
    wait_until(lambda: status_of(job).state == "lost")
    assert "died or was killed" in describe(job)["note"]


def test_a_driver_elsewhere_lives_as_long_as_it_says_so() -> None:
    state = JobState("running", host="elsewhere", pid=1, pid_start=1, beat_at=1000.0)
    assert is_alive(state, now=1030)
    assert not is_alive(state, now=1090)
    here = replace(state, host=os.uname().nodename, pid=os.getpid())
    assert not is_alive(here, now=1030)  # another process had that number
    assert is_alive(replace(here, pid_start=process_start(os.getpid())), now=1090)


def test_wrong_use_is_named(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path / "run", tiny_bert)
    with pytest.raises(ConfigError, match="stage 'scores': choose one of run, extract"):
        submit("scores", path)
    with pytest.raises(ClusterError, match="no jobs"):
        find_job(None)
    for name in ("abc1", "abc2"):
        JobFolder(jobs_root() / name).write_card(
            JobCard(name, "run", ("run",), "mood", "run", "local", time.time(), "host", "/")
        )
    with pytest.raises(ClusterError, match="several jobs begin with 'abc'"):
        find_job("abc")
    assert find_job("abc2").id == "abc2"
    path = jobs_root() / "abc1" / "job.json"
    card = read_json(path)
    for changes, problem in (
        ({"format_version": 9}, "job format 9"),
        ({"created_at": "now"}, "member 'created_at'"),
        ({"stage": "store"}, "is no job of run, extract"),
        ({"arguments": ["store", "delete"]}, "is no job of run, extract"),
        ({"arguments": ["run", TRUST]}, "no folder; delete its folder"),
    ):
        write_json(path, {**card, **changes})
        with pytest.raises(ClusterError, match=problem):
            find_job("abc1").card()


def test_a_job_of_a_programs_configuration_keeps_what_it_asks_for(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.submission.jobs._detach", lambda command, log: None)
    own = RunConfig.load(write_mood_run(tmp_path / "run", tiny_bert)).model_dump(mode="json")
    own["backbone"]["trust_remote_code"] = True
    write_json(tmp_path / "run.json", own)
    given = RunConfig.load(tmp_path / "run.json")
    for words in ([], [TRUST]):
        shipped = RunConfig.load(submit("extract", tmp_path / "run.json", words).config)
        assert shipped.code_withheld and not shipped.backbone.trust_remote_code
        assert shipped.fingerprint == given.fingerprint


@pytest.mark.parametrize("name", ["job.json", "state.json", "batch.json", "config.json"])
def test_a_damaged_file_of_a_job_is_named(own_jobs: Path, name: str, finished_run: Path) -> None:
    job = JobFolder(own_jobs / "abc")
    card = JobCard("abc", "run", ("run",), "mood", "run", "local", time.time(), "host", "/")
    job.write_card(card)
    work = {"what": "extracted", "done": 1, "total": 2, "unit": "texts", "rate": 0.5, "note": ""}
    job.write_state(JobState("done", host="host", pid=3, progress=work))
    job.write_batch("slurm", "17")
    write_json(job.config, RunConfig.load(finished_run).model_dump(mode="json"))
    assert describe(job)["progress"].startswith("extracted 1 of 2 texts")

    def read() -> object:
        return RunConfig.load(job.config) if name == "config.json" else (describe(job), job.batch())

    right = read()
    path, content = job.path / name, (job.path / name).read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            assert read() == right
        except SalientError as error:
            assert str(path) in str(error)


def test_what_slurm_cannot_take_leaves_no_job(
    tmp_path: Path, tiny_bert: Path, own_jobs: Path
) -> None:
    config = write_mood_run(tmp_path / "run", tiny_bert)
    text = config.read_text()
    config.write_text(text + '[cluster]\nkind = "slurm"\nmemory = "8 gigs"\n')
    with pytest.raises(ConfigError, match="8 gigs"):
        submit("extract", config)
    assert not list(own_jobs.glob("*/job.json"))


def test_the_batch_script_can_be_printed(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path / "run", tiny_bert)
    text = path.read_text()
    path.write_text(
        f'{text}[cluster]\nkind = "slurm"\nworkers = 4\nmemory = "8GiB"\nwalltime = "02:00:00"\n'
        '[cluster.options]\nqueue = "gpu"\naccount = "me"\n'
        'job_extra_directives = ["--qos=low"]\n'
    )
    script = dry_run("score", path, ["tweets.json.gz", "--out", "a b"])
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    for directive in (
        "--partition=gpu",
        "--account=me",
        "--qos=low",
        "--mem=8192M",
        "--time=02:00:00",
    ):
        assert f"#SBATCH {directive}" in lines
    command = f"-m pipeline score tweets.json.gz --out 'a b' --run {path}"
    assert lines[-1].startswith("exec ") and lines[-1].endswith(command)
    assert not jobs_root().exists()
    path.write_text(text)
    assert dry_run("probe", path).endswith(f"-m pipeline probe {path}\n")


@pytest.mark.parametrize(
    ("walltime", "seconds"), [("00:01:30", 90), ("2-01:00:00", 176400), (None, None)]
)
def test_wall_times_in_seconds(walltime: str | None, seconds: int | None) -> None:
    assert slurm.walltime_s(ClusterConfig(walltime=walltime).walltime) == seconds


def test_a_stages_words_are_checked_before_it_starts(
    tmp_path: Path, tiny_bert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(write_mood_run(tmp_path / "run", tiny_bert))
    submit_it = ["submit", path]
    for words, said in (
        (["rank", "--stabilty", "5"], "No such option: --stabilty"),
        (["rank", "extra"], "unexpected extra argument"),
        (["plan", "--rounds", "no"], "--rounds"),
    ):
        assert run_command([*submit_it, *words]) == 2
        error = capfd.readouterr().err
        assert said in error and f"Usage: salient {words[0]}" in error
    assert run_command([*submit_it, "score", "--out", "o"]) == 2
    assert "no INPUT: name files" in capfd.readouterr().err
    assert not list(jobs_root().glob("*"))
    for words in (["plan", "--rounds", "3"], ["report"], ["rank", "--stability", "5"]):
        assert run_command([*submit_it, *words, "--dry-run"]) == 0
        shown = capfd.readouterr().out.split("-m pipeline ")[1]
        assert shown.split() == [words[0], path, *words[1:]]
    assert run_command([*submit_it, "score", "a b.csv", "--out", "o", "--dry-run"]) == 0
    assert f"score 'a b.csv' --out o --run {path}" in capfd.readouterr().out
