"""Submit a stage as a job that outlives the shell, and look after submitted jobs.

    job = submit("extract", Path("run.toml"))        # returns at once
    status_of(job).state                             # "queued", "running", "done" …

With ``kind = "slurm"`` Slurm starts the driver. With the other kinds it is a process of its own on
this machine, which works through the cluster and writes everything into the job's folder. Where
that is in a bucket, any machine can look after the job.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.errors import AGAIN, FAILED, WRONG, ClusterError, ConfigError, require
from pipeline.progress import speed
from pipeline.submission import slurm
from pipeline.submission.folder import (
    ENDED,
    LOADING,
    SEAL,
    STAGES,
    STORAGE,
    TRUST,
    BucketJob,
    JobCard,
    JobFolder,
    JobState,
    is_alive,
    job_at,
    jobs_place,
    new_job_id,
    seal_of,
)
from pipeline.submission.running import BEAT_S
from store.disk import encode_json, join, storage_options

FOLLOW_S = 0.5
"""A log is looked at so often; one in a bucket as often as something is put there."""
START_S = 30.0
"""A driver of this machine has written its first sign of life by then."""


def submit(stage: str, config_path: Path, arguments: Sequence[str] = ()) -> JobFolder:
    """Submit a stage of a run.

    Args:
        stage: one of ``STAGES``.
        config_path: the run's TOML file; a resolved copy goes with the job.
        arguments: further words of the stage's command line, such as the files to score.

    Raises:
        ConfigError: no such stage, or the configuration is wrong.
        ClusterError: the batch system refuses.
    """
    config, card = _plan(stage, config_path, arguments)
    require("torch", "transformers")  # here, rather than in the log of a job that has failed
    job = _job_of(config, card.id)
    job.write_card(card)
    job.write("config.json", config.stated())
    # Whoever can write into the folder has no say in these.
    said = [TRUST] if _trusts(config, stage, arguments) else []
    if isinstance(job, BucketJob):
        said.append(SEAL + seal_of(card, encode_json(config.stated())))
        said.append(STORAGE + json.dumps(storage_options()))
    command = [sys.executable, "-P", "-m", "pipeline.driver", job.place, *said]
    if config.cluster.kind == "slurm":
        try:
            batch_id = _submit_batch(config, card, command, job)
        except (ClusterError, ConfigError):
            job.forget()  # nothing was submitted
            raise
        job.write_batch("slurm", batch_id)
        return job
    # In a bucket the driver itself sees to its log, from its beginning on.
    _detach(command, os.devnull if isinstance(job, BucketJob) else str(job.log))
    return job


def _job_of(config: RunConfig, job_id: str) -> JobFolder:
    return job_at(join(jobs_place(config.submission.folder), job_id))


def _submit_batch(config: RunConfig, card: JobCard, command: Sequence[str], job: JobFolder) -> str:
    """Hand the driver's script to Slurm; returns Slurm's id."""
    if not isinstance(job, BucketJob):
        script = _script(config, card, command, log=str(job.log).replace("%", "%%"))
        job.script.write_text(script, encoding="utf-8")
        return slurm.submit_script(job.script)
    # Slurm's own log is beside where it was submitted, and holds what came before the driver's.
    script = _script(config, card, command, log=f"salient-{card.id}-%j.log")
    with tempfile.TemporaryDirectory(prefix="salient-") as folder:
        path = Path(folder) / "script.sh"
        path.write_text(script, encoding="utf-8")
        return slurm.submit_script(path)


def _detach(command: Sequence[str], log: str | Path) -> None:
    """Start a process that has nothing to do with this one's terminal and end.

    It begins with all signals as they are by default. Under ``nohup``, or in a script's background,
    this process ignores or blocks some, and its children would too.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.posix_spawn(
        command[0],
        list(command),
        os.environ,
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def dry_run(stage: str, config_path: Path, arguments: Sequence[str] = ()) -> str:
    """What ``submit`` would start: the batch script, or the command line. Writes nothing.

    The printed script runs the stage by itself and needs no job folder.
    """
    config, card = _plan(stage, config_path, arguments)
    shipped = _job_of(config, card.id).shipped
    words = [str(config_path.resolve()) if word == shipped else word for word in card.arguments]
    words += [TRUST] * (TRUST in arguments)
    command = [sys.executable, "-P", "-m", "pipeline", *words]
    if config.cluster.kind == "slurm":
        return _script(config, card, command, log=f"{card.stage}-%j.log")
    return shlex.join(command) + "\n"


def _plan(stage: str, config_path: Path, arguments: Sequence[str]) -> tuple[RunConfig, JobCard]:
    if stage not in STAGES:
        raise ConfigError(f"stage {stage!r}: choose one of {', '.join(STAGES)}")
    config = RunConfig.load(config_path)
    job_id = new_job_id()
    shipped = _job_of(config, job_id).shipped
    arguments = [word for word in arguments if word != TRUST]
    if stage == "score":
        words = ("score", *arguments, "--run", shipped)
    else:
        words = (stage, shipped, *arguments)
    card = JobCard(
        id=job_id,
        stage=stage,
        arguments=words,
        name=config.name,
        run_dir=config.run_dir,
        kind=config.cluster.kind,
        created_at=time.time(),
        host=socket.gethostname(),
        folder=os.getcwd(),
        walltime_s=slurm.walltime_s(config.cluster.walltime),
    )
    return config, card


def _trusts(config: RunConfig, stage: str, arguments: Sequence[str]) -> bool:
    """Whether who submits allows the model's own code to run."""
    return stage in LOADING and (config.backbone.trust_remote_code or TRUST in arguments)


def _script(config: RunConfig, card: JobCard, command: Sequence[str], *, log: str) -> str:
    return slurm.batch_script(
        config.cluster,
        list(command),
        name=f"salient-{card.name}-{card.stage}",
        log=log,
        folder=Path(card.folder),
        # These compute in the driver; the other stages leave the work to the workers.
        cores=(config.cluster.cores or 1) if card.stage in ("score", "plan") else 1,
    )


def status_of(job: JobFolder) -> JobState:
    """What is known of a job: what its driver wrote, and whether that driver still lives.

    Raises:
        ClusterError: the batch system does not answer.
    """
    written = job.written_state()
    if written is not None and (written.state in ENDED or is_alive(written)):
        return written
    written = job.written_state() or written  # it may have ended between the two looks
    if written is not None and written.state in ENDED:
        return written
    batch = job.batch()
    if batch is not None:
        found = slurm.job_state(batch[1])
        if found in slurm.WAITING:
            return JobState("queued", note=f"Slurm job {batch[1]}: {found}")
        if found in slurm.RUNNING:
            return replace(written or JobState("running"), note=f"Slurm job {batch[1]}: {found}")
        state = "cancelled" if job.has("cancel") else "lost"
        note = f"Slurm job {batch[1]}: {found or 'forgotten'}"
        return replace(written or JobState(state), state=state, note=note)
    if written is None and time.time() - job.card().created_at < START_S:
        return JobState("queued", note="the driver is starting")
    note = "the driver died or was killed"
    return replace(written or JobState("lost"), state="lost", note=note)


def describe(job: JobFolder) -> dict[str, Any]:
    """What people want to know of a job, JSON-ready."""
    card, state = job.card(), status_of(job)
    begin, end = state.started_at, time.time()
    if state.state in ENDED:
        end = state.ended_at or state.beat_at or end
    shown = ""
    if work := job.work(state):
        shown = f"{work.what} {work.done:,} of {work.total:,} {work.unit}"
        if pace := speed(work.rate, work.unit):
            shown += f", {pace}"
    note = state.note
    if state.state in ("failed", "cancelled", "stopped", "lost"):
        again = {
            WRONG: "mend that, and submit it again",
            AGAIN: "it may pass: submit the same again later to go on where it ended",
        }.get(state.exit_code or FAILED, "submit the same again to go on where it ended")
        note += f"{'; ' if note else ''}{again}"
    return {
        "job": job.id,
        "state": state.state,
        "stage": card.stage,
        "name": card.name,
        "run_dir": card.run_dir,
        "cluster": card.kind,
        "submitted": datetime.fromtimestamp(card.created_at).isoformat(" ", "seconds"),
        "driver": f"{state.host}:{state.pid}" if state.pid else "",
        "elapsed_s": None if begin is None else round(end - begin, 1),
        "progress": shown,
        "exit_code": state.exit_code,
        "note": note,
        "log": job.shown_log,
    }


def cancel(job: JobFolder) -> JobState:
    """Ask a job to stop; it does so within seconds and keeps what is finished.

    Raises:
        ClusterError: it has ended already.
    """
    state = status_of(job)
    if state.state in ENDED:
        raise ClusterError(f"job {job.id} has ended: {state.state}")
    job.ask_to_stop()
    batch = job.batch()
    if batch is not None and state.state == "queued":
        slurm.cancel_job(batch[1])
    elif state.host == socket.gethostname() and is_alive(state):
        os.kill(state.pid, signal.SIGTERM)  # else the driver sees it within seconds
    return state


def follow(job: JobFolder, *, until_end: bool, sleep: Callable[[float], None]) -> Iterator[str]:
    """The job's log in pieces; with ``until_end`` also what comes, until the job has ended."""
    position = 0
    wait_s = BEAT_S if isinstance(job, BucketJob) else FOLLOW_S
    while True:
        ended = not until_end or status_of(job).state in ENDED
        piece, position = job.read_log(position)
        if piece:
            yield piece.decode(errors="replace")
        if ended:
            return
        sleep(wait_s)
