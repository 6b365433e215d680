"""Jobs whose folder is in a bucket: nobody who looks shares a disk with who works."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ClusterError, JobInputError
from pipeline.submission import Driver
from pipeline.submission import jobs as jobs_module
from pipeline.submission.folder import (
    ENDED,
    SEAL,
    BucketJob,
    JobCard,
    JobFolder,
    JobState,
    all_jobs,
    find_job,
    jobs_root,
    located,
)
from pipeline.submission.jobs import describe, status_of, submit
from store.disk import ObjectLocation, join, storage_options, use_storage
from store.errors import StoreBusy
from tests.builders.runs import write_mood_run
from tests.builders.waiting import wait_until


@pytest.fixture(autouse=True)
def own_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SALIENT_JOBS", str(tmp_path / "jobs"))
    before = storage_options()
    yield
    use_storage(before)


def bucket_run(folder: Path, model: Path, jobs: str) -> Path:
    path = write_mood_run(folder, model)
    path.write_text(f'{path.read_text()}\n[submission]\nfolder = "{jobs}"\n')
    return path


def state_of(job: JobFolder) -> str:
    """What its driver last said, however long that takes to start."""
    written = job.written_state()
    return "" if written is None else written.state


def test_a_job_in_a_bucket_is_followed_and_stopped_from_elsewhere(
    tmp_path: Path,
    tiny_bert: Path,
    bucket: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = join(bucket, "jobs")
    path = bucket_run(tmp_path / "run", tiny_bert, jobs)
    monkeypatch.setenv("SALIENT_BEAT_S", "0.2")
    # The file alone says where the bucket is: so it does to whom it is not in the environment.
    said = f'[storage]\nendpoint = "{os.environ["AWS_ENDPOINT_URL"]}"\nallow_http = true\n'
    path.write_text(f"{path.read_text()}\n{said}")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert RunConfig.load(path).storage.allow_http
    (tmp_path / "run" / "tweets.csv").unlink()
    os.mkfifo(tmp_path / "run" / "tweets.csv")  # nobody writes to it
    job = submit("extract", path)
    assert job.place == join(jobs, job.id) and not jobs_root().exists()
    there = find_job(job.id[:5], jobs)
    wait_until(lambda: state_of(there) == "running")
    there.ask_to_stop()  # as from another machine: no signal reaches the driver from there
    wait_until(lambda: state_of(there) in ENDED)
    with pytest.raises(JobInputError, match="no jobs"):
        find_job(job.id)  # not on this machine
    assert run_command(["status", job.id, "--jobs", str(path), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["state"] == "cancelled" and "submit the same again" in facts["note"]
    assert run_command(["logs", job.id, "--jobs", jobs]) == 0
    assert capfd.readouterr().out
    assert run_command(["jobs", "--jobs", jobs]) == 0
    assert job.id in capfd.readouterr().out.split()
    names = {found.path.partition("/")[2] for found in located(jobs).list()}
    pieces = {name for name in names if name.startswith("log/")}
    assert names - pieces == {"job.json", "config.json", "state.json", "cancel"} and pieces
    everything = b"".join(located(jobs).read(found.path) for found in located(jobs).list())
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in everything


def test_a_state_that_was_held_up_does_not_undo_a_later_one(memory_bucket: str) -> None:
    job, state = BucketJob(memory_bucket), JobState("running", host="here", pid=7)
    for beat in (1.0, 2.0):
        job.write_state(replace(state, beat_at=beat))
    other = BucketJob(memory_bucket)
    other.write_state(replace(state, state="done", pid=8))
    with pytest.raises(ClusterError, match="another process"):
        job.write_state(replace(state, beat_at=3.0))
    found = other.written_state()
    assert found is not None and found.state == "done"


def test_a_state_whose_answer_was_lost_is_followed_by_others(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, state = BucketJob(memory_bucket), JobState("running", host="here", pid=7)
    job.write_state(state)

    def lost(self: ObjectLocation, *given: Any) -> bool:
        whole(self, *given)
        raise StoreBusy("no answer")

    whole = ObjectLocation.replace
    with monkeypatch.context() as patched:
        patched.setattr(ObjectLocation, "replace", lost)
        with pytest.raises(StoreBusy):
            job.write_state(replace(state, beat_at=1.0))
    for beat in (2.0, 3.0):
        job.write_state(replace(state, beat_at=beat))
    job.write_state(done := replace(state, state="done", exit_code=0))
    assert BucketJob(memory_bucket).written_state() == done


@pytest.fixture
def submitted(
    memory_bucket: str, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[BucketJob, str]:
    """A job in a bucket that nobody has begun, and its seal."""
    started: list[list[str]] = []
    monkeypatch.setattr(jobs_module, "_detach", lambda command, log: started.append(command))
    monkeypatch.chdir(tmp_path)
    job = submit("extract", bucket_run(tmp_path / "run", tiny_bert, memory_bucket))
    assert isinstance(job, BucketJob)
    (seal,) = [word for word in started[0] if word.startswith(SEAL)]
    return job, seal.removeprefix(SEAL)


Driven = Callable[[BucketJob, str], tuple[list[list[str]], str]]


@pytest.fixture
def driven(capfd: pytest.CaptureFixture[str]) -> Driven:
    """Drives a job with a seal; returns the commands that it ran, and the job's log."""

    def drive(job: BucketJob, seal: str) -> tuple[list[list[str]], str]:
        with capfd.disabled():
            return _driven(job, seal)

    return drive


def _driven(job: BucketJob, seal: str) -> tuple[list[list[str]], str]:
    ran: list[list[str]] = []

    def run(words: Sequence[str]) -> int:
        ran.append([*words])
        return 0

    before = signal.getsignal(signal.SIGTERM)
    try:
        Driver(job.place, run, interrupted=130, seal=seal).run()
    finally:
        signal.signal(signal.SIGTERM, before)
    return ran, BucketJob(job.place).read_log(0)[0].decode()


def test_a_driver_runs_what_was_submitted(submitted: tuple[BucketJob, str], driven: Driven) -> None:
    ((words,), _) = driven(*submitted)
    assert words[0] == "extract" and words[1].endswith("config.json")
    assert status_of(submitted[0]).state == "done"


@pytest.mark.parametrize("name", ["config.json", "job.json"])
def test_whoever_may_write_to_a_bucket_runs_no_code_by_it(
    submitted: tuple[BucketJob, str], driven: Driven, name: str
) -> None:
    job, seal = submitted
    said = job.read(name, remedy="")
    if name == "config.json":
        said["cluster"] = {"kind": "processes", "options": {"preload": ["import os"]}}
    else:
        said["arguments"] = ["extract", "/tmp/other.json"]
    job.write(name, said)
    ran, log = driven(job, seal)
    assert ran == [] and "is not what was submitted" in log
    facts = describe(job)
    assert facts["state"] == "failed" and "is not what was submitted" in facts["note"]


def test_what_ends_a_driver_early_is_in_the_log(
    submitted: tuple[BucketJob, str], driven: Driven
) -> None:
    job, seal = submitted
    job.files.delete(["config.json"])
    ran, log = driven(job, seal)
    assert ran == [] and "config.json" in log and "Traceback" not in log
    assert "config.json" in describe(job)["note"]


def test_an_error_of_the_driver_itself_is_in_the_log(
    submitted: tuple[BucketJob, str], driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, seal = submitted
    monkeypatch.setattr(Driver, "_words", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        driven(job, seal)
    assert "ZeroDivisionError" in job.read_log(0)[0].decode()
    assert status_of(job).state == "failed"


def test_looking_for_a_job_reads_no_lists_of_logs(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        job = BucketJob(join(memory_bucket, name))
        job.write_card(JobCard(name, "run", (), "mood", "run", "local", 0.0, "here", "/"))
        job.add_log(1, b"a line")
        time.sleep(0.01)
    monkeypatch.setattr(ObjectLocation, "list", None)
    assert [job.id for job in all_jobs(memory_bucket)] == ["second", "first"]
    assert find_job("fi", memory_bucket).id == "first"


def test_pieces_of_a_log_are_read_once_each_in_their_order(memory_bucket: str) -> None:
    job = BucketJob(memory_bucket)
    assert job.read_log(0) == (b"", 0) and job.last_line() == ""
    for number in range(1, 12):
        job.add_log(number, f"line {number}\n".encode())
    piece, place = job.read_log(0)
    assert piece.count(b"\n") == 11 and piece.endswith(b"line 11\n") and place == 11
    job.add_log(12, b"the last\n")
    assert job.read_log(place) == (b"the last\n", 12) and job.last_line() == "the last"
