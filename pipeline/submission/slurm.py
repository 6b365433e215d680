"""Slurm: the batch script that starts a job's driver, and what the queue says of it.

The driver is one small job; with ``kind = "slurm"`` it asks for its workers as further jobs, so
that a run may grow and shrink and waits for no large hole in the queue.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import ClusterConfig
from pipeline.errors import ClusterError, ClusterUnreachable, ConfigError, JobInputError

WARNING_S = 60
"""The driver is told so long before its wall time that it must stop."""
COMMAND_S = 60
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED", "RESIZING")
SILENT = (
    *("Unable to contact slurm controller", "Socket timed out", "Connection refused"),
    *("Zero Bytes were transmitted", "Communication connection failure", "Resource temporarily"),
)
"""In what Slurm says where its controller does not answer."""
RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING")


def batch_script(
    cluster: ClusterConfig,
    command: Sequence[str],
    *,
    name: str,
    log: str,
    folder: Path,
    cores: int = 1,
) -> str:
    """The script of a job's driver.

    Args:
        cluster: its walltime and memory, and of ``options`` the queue, the account and the
            directives, named as in dask-jobqueue.
        command: what to run.
        name: of the job in the queue.
        log: file of the output; may hold Slurm's %-codes.
        folder: working folder.
        cores: of the driver.
    """
    options = cluster.options
    directives = [
        f"--job-name={name}",
        f'--output="{log}"',
        "--open-mode=append",
        "--ntasks=1",
        f"--cpus-per-task={cores}",
        f"--mem={slurm_memory(cluster.memory or '4GB')}",
        f"--signal=B:TERM@{WARNING_S}",
        "--no-requeue",
    ]
    for key, directive in (("queue", "--partition"), ("account", "--account")):
        if options.get(key):
            directives.append(f"{directive}={options[key]}")
    if cluster.walltime is not None:
        directives.append(f"--time={cluster.walltime}")
    directives += [str(line) for line in options.get("job_extra_directives", [])]
    prologue = [str(line) for line in options.get("job_script_prologue", [])]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {directive}" for directive in directives),
        *prologue,
        f"cd {shlex.quote(str(folder))}",
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def slurm_memory(memory: str) -> str:
    """A size such as "8GB" in Slurm's form, whole megabytes."""
    from dask.utils import parse_bytes

    try:
        return f"{max(1, int(parse_bytes(memory) / 2**20))}M"
    except ValueError:
        raise ConfigError(f"cluster.memory {memory!r}: is no size; write it as '8GB'") from None


def walltime_s(walltime: str | None) -> float | None:
    """Seconds of "HH:MM:SS" or "D-HH:MM:SS"."""
    if walltime is None:
        return None
    days, _, clock = walltime.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def submit_script(script: Path) -> str:
    """Hand a script to Slurm; returns Slurm's job id.

    Raises:
        ClusterError: no Slurm here, or it refuses.
    """
    return _run("sbatch", "--parsable", str(script)).strip().split(";")[0]


def job_state(batch_id: str) -> str | None:
    """Slurm's word for the job's state, None once it has forgotten the job.

    Raises:
        ClusterError: no Slurm here, or it does not answer.
    """
    try:
        text = _run("scontrol", "show", "job", "--oneliner", batch_id)
    except ClusterError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    fields = dict(word.partition("=")[::2] for word in text.split())
    return fields.get("JobState")


def cancel_job(batch_id: str) -> None:
    """End a job of Slurm's: its driver is sent SIGTERM."""
    _run("scancel", batch_id)


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise JobInputError(
            f"{command[0]}: no such command on this machine; submit from a login node of the"
            " cluster, or print the script with --dry-run and take it there"
        )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ClusterUnreachable(
            f"{command[0]}: no answer within {COMMAND_S} s; try again"
        ) from None
    if done.returncode:
        reason = done.stderr.strip().replace("\n", "; ")
        kind = ClusterUnreachable if any(sign in reason for sign in SILENT) else ClusterError
        raise kind(f"{shlex.join(command)}: {reason}")
    return done.stdout
