"""A submitted job is a folder on a shared disk; who looks and who works meet nowhere else.

::

    job.json        what is to be done, written once by `salient submit`
    config.json     the shipped configuration, paths absolute
    script.sh       the batch script, where a batch system starts the driver
    batch.json      the batch system's own id
    state.json      the driver's: state, progress, a sign of life every few seconds
    cancel          someone asks the driver to stop
    log             all that the driver printed

The folders lie in ``$SALIENT_JOBS``, default ``~/.salient/jobs``.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline.config import Line, checked, read_record
from pipeline.errors import ClusterError, JobInputError
from store.tables import read_json, write_json

FORMAT_VERSION = 1
FORGET = "delete its folder and submit it again: what was finished is kept"
BEATS = "a driver that lives writes it anew within seconds; else submit it again"
SILENT_FOR_S = 60.0
"""A driver on another machine without a sign of life for so long is taken for dead."""
ENDED = ("done", "failed", "cancelled", "stopped", "lost")
STAGES = (
    *("run", "extract", "probe", "consolidate", "rank", "ablate", "plan", "report"),
    "score",
)
LOADING = ("run", "extract", "ablate", "plan", "score")
"""Stages that load the model."""
TRUST = "--trust-remote-code"
"""Word of a driver's own command line, never of a job's folder: the model's own code may run."""


@dataclass(frozen=True)
class JobCard:
    """What a job is to do."""

    id: Line
    stage: str
    arguments: tuple[str, ...]
    """The words after ``salient`` that the driver runs."""
    name: Line
    """Of the run."""
    run_dir: Line
    kind: Line
    """Of the cluster."""
    created_at: float
    host: Line
    folder: str
    """Where it was submitted; relative paths start there."""
    walltime_s: float | None = None
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class JobState:
    """What is known of a job now."""

    state: Annotated[str, Field(pattern=f"^(queued|running|{'|'.join(ENDED)})$")]
    """queued, running, or one of ``ENDED``."""
    host: Line = ""
    pid: int = 0
    pid_start: int = 0
    """Start time of the process, in the kernel's ticks: process numbers come again."""
    started_at: float | None = None
    ended_at: float | None = None
    beat_at: float | None = None
    exit_code: int | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Work:
    """What a driver is at, as it tells."""

    what: Line
    done: int
    total: int
    unit: Line
    rate: float


@dataclass(frozen=True)
class _Batch:
    system: str
    id: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    """A word of a command line."""


class JobFolder:
    """One job's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.script = path / "script.sh"
        self.log = path / "log"
        self.cancel = path / "cancel"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.path.name

    def write_card(self, card: JobCard) -> None:
        """Write ``job.json``, once."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.path / "job.json", asdict(card))

    def card(self) -> JobCard:
        """Read ``job.json``.

        Raises:
            ClusterError: another format, or no job of ours.
            StoreError: missing or damaged.
        """
        path = self.path / "job.json"
        data = read_json(path, remedy=FORGET)
        if data.get("format_version") != FORMAT_VERSION:
            raise ClusterError(
                f"{self.path}: job format {data.get('format_version')!r}, this version reads"
                f" {FORMAT_VERSION}; look at it with the version that submitted it"
            )
        card = checked(JobCard, data, where=path, remedy=FORGET, error=ClusterError)
        if card.stage not in STAGES or card.arguments[:1] not in ((), (card.stage,)):
            raise ClusterError(f"{path}: is no job of {', '.join(STAGES)}; {FORGET}")
        if TRUST in card.arguments:
            raise ClusterError(
                f"{path}: asks to run a model's own code, which whoever submits may allow, and no"
                f" folder; {FORGET}"
            )
        return card

    def write_state(self, state: JobState) -> None:
        """Replace ``state.json``."""
        write_json(self.path / "state.json", asdict(state))

    def written_state(self) -> JobState | None:
        """What the driver last said of itself; None if it has not begun.

        Raises:
            StoreError: damaged.
        """
        path = self.path / "state.json"
        if not path.exists():
            return None
        return read_record(path, JobState, remedy=BEATS, error=ClusterError)

    def work(self, state: JobState) -> Work | None:
        """What the driver of a state is at; None if it has told nothing.

        Raises:
            ClusterError: it has told something else.
        """
        if not state.progress:
            return None
        where = self.path / "state.json"
        return checked(Work, state.progress, where=where, remedy=BEATS, error=ClusterError)

    def write_batch(self, system: str, batch_id: str) -> None:
        """Note the batch system's id."""
        write_json(self.path / "batch.json", {"system": system, "id": batch_id})

    def batch(self) -> tuple[str, str] | None:
        """Batch system and its id of this job, if one starts it.

        Raises:
            StoreError: damaged.
        """
        path = self.path / "batch.json"
        if not path.exists():
            return None
        data = read_record(path, _Batch, remedy=FORGET, error=ClusterError)
        return data.system, data.id

    def last_line(self) -> str:
        """The last line of the log, "" without one."""
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        last = next((line for line in reversed(lines) if line.strip()), "")
        return "".join(sign if sign.isprintable() else " " for sign in last)


def jobs_root() -> Path:
    """Where job folders lie."""
    return Path(os.environ.get("SALIENT_JOBS") or Path.home() / ".salient" / "jobs").absolute()


def new_job_id() -> str:
    """A name that no other job has."""
    return uuid.uuid4().hex[:8]


def all_jobs() -> Iterator[JobFolder]:
    """The jobs in ``jobs_root()``, the youngest first."""
    found = jobs_root().glob("*/job.json")
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        yield JobFolder(path.parent)


def find_job(wanted: str | None) -> JobFolder:
    """A job by the beginning of its id; None: the youngest.

    Raises:
        JobInputError: none such, or several.
    """
    jobs = list(all_jobs())
    if not jobs:
        raise JobInputError(f"{jobs_root()}: no jobs; `salient submit run.toml` makes one")
    if wanted is None:
        return jobs[0]
    found = [job for job in jobs if job.id.startswith(wanted)]
    if len(found) != 1:
        what = "several jobs begin" if found else "no job begins"
        raise JobInputError(f"{what} with {wanted!r} in {jobs_root()}; `salient jobs` lists them")
    return found[0]


def process_start(pid: int) -> int:
    """Start time of a process of this machine in the kernel's ticks; 0 if there is none."""
    try:
        # The name before the fields may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def is_alive(state: JobState, *, now: float | None = None) -> bool:
    """Whether the driver that wrote a state still lives."""
    if state.host == socket.gethostname():
        return state.pid_start != 0 and process_start(state.pid) == state.pid_start
    return (time.time() if now is None else now) - (state.beat_at or 0) < SILENT_FOR_S
