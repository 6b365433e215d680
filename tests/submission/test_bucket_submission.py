"""Jobs whose folder is in a bucket: nobody who looks shares a disk with who works."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands.line import run_command
from pipeline.errors import ClusterError, JobInputError
from pipeline.submission.folder import BucketJob, JobState, find_job, jobs_root, located
from pipeline.submission.jobs import describe, status_of, submit
from store.disk import join
from tests.builders.runs import write_mood_run
from tests.builders.waiting import wait_until


@pytest.fixture(autouse=True)
def own_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENT_JOBS", str(tmp_path / "jobs"))


def bucket_run(folder: Path, model: Path, jobs: str) -> Path:
    path = write_mood_run(folder, model)
    path.write_text(f'{path.read_text()}\n[submission]\nfolder = "{jobs}"\n')
    return path


def test_a_job_in_a_bucket_is_followed_and_stopped_from_elsewhere(
    tmp_path: Path, tiny_bert: Path, bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = join(bucket, "jobs")
    path = bucket_run(tmp_path / "run", tiny_bert, jobs)
    (tmp_path / "run" / "tweets.csv").unlink()
    os.mkfifo(tmp_path / "run" / "tweets.csv")  # nobody writes to it
    job = submit("extract", path)
    assert job.place == join(jobs, job.id) and not jobs_root().exists()
    there = find_job(job.id[:5], jobs)
    wait_until(lambda: status_of(there).state == "running")
    there.ask_to_stop()  # as from another machine: no signal reaches the driver from there
    wait_until(lambda: status_of(there).state != "running")
    facts = describe(there)
    assert facts["state"] == "cancelled" and "submit the same again" in facts["note"]
    with pytest.raises(JobInputError, match="no jobs"):
        find_job(job.id)  # not on this machine

    failing = submit("probe", path)
    wait_until(lambda: status_of(failing).state not in ("queued", "running"))
    assert run_command(["status", failing.id, "--jobs", jobs, "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["state"] == "failed" and "not extracted yet" in facts["note"]
    assert run_command(["logs", failing.id, "--jobs", str(path)]) == 0
    assert "not extracted yet" in capfd.readouterr().out
    assert run_command(["jobs", "--jobs", jobs]) == 0
    assert {job.id, failing.id} <= set(capfd.readouterr().out.split())
    names = {found.path.partition("/")[2] for found in located(jobs).list()}
    pieces = {name for name in names if name.startswith("log/")}
    assert names - pieces == {"job.json", "config.json", "state.json", "cancel"} and pieces
    everything = b"".join(located(jobs).read(found.path) for found in located(jobs).list())
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in everything


def test_a_state_that_was_held_up_does_not_undo_a_later_one(memory_bucket: str) -> None:
    job, state = BucketJob(memory_bucket), JobState("running")
    for beat in (1.0, 2.0):
        job.write_state(replace(state, beat_at=beat))
    other = BucketJob(memory_bucket)
    other.write_state(replace(state, state="done"))
    with pytest.raises(ClusterError, match="another process"):
        job.write_state(replace(state, beat_at=3.0))
    found = other.written_state()
    assert found is not None and found.state == "done"


def test_pieces_of_a_log_are_read_once_each_in_their_order(memory_bucket: str) -> None:
    job = BucketJob(memory_bucket)
    assert job.read_log(0) == (b"", 0) and job.last_line() == ""
    for number in range(1, 12):
        job.add_log(number, f"line {number}\n".encode())
    piece, place = job.read_log(0)
    assert piece.count(b"\n") == 11 and piece.endswith(b"line 11\n") and place == 11
    job.add_log(12, b"the last\n")
    assert job.read_log(place) == (b"the last\n", 12) and job.last_line() == "the last"
