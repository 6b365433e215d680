"""A submitted job is a folder on a shared disk or in a bucket; who looks and who works meet nowhere
else.

::

    job.json        what is to be done, written once by `salient submit`
    config.json     the shipped configuration, paths absolute
    script.sh       the batch script, where a batch system starts the driver
    batch.json      the batch system's own id
    state.json      the driver's: state, progress, a sign of life every few seconds
    cancel          someone asks the driver to stop
    log             all that the driver printed; in a bucket a folder of pieces, one every few
                    seconds

The folders lie where ``[submission] folder`` says, default in ``$SALIENT_JOBS``, else in
``~/.salient/jobs``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline.config import Line, checked
from pipeline.errors import ClusterError, JobInputError
from store.disk import (
    MAX_JSON_BYTES,
    Meta,
    ObjectLocation,
    decode_json,
    encode_json,
    is_url,
    locate,
)
from store.errors import StoreBusy, StoreError
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
SEAL = "--sealed="
"""Begins a word of a driver's own command line: `seal_of` what was put into a bucket."""
STORAGE = "--storage="
"""Begins another: how the bucket is reached, before the configuration in it can say that."""


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
    """One job's files, on a disk.

    Attributes:
        id: of the job.
        place: the folder, or its address.
        shipped: what the driver's command line calls the configuration.
        shown_log: where people find the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.place = str(path)
        self.config = path / "config.json"
        self.script = path / "script.sh"
        self.log = path / "log"
        self.shipped = str(self.config)
        self.shown_log = str(self.log)

    def write_card(self, card: JobCard) -> None:
        """Write ``job.json``, once."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.write("job.json", asdict(card))

    def card(self) -> JobCard:
        """Read ``job.json``.

        Raises:
            ClusterError: another format, or no job of ours.
            StoreError: missing or damaged.
        """
        path, data = f"{self.place}/job.json", self.read("job.json", remedy=FORGET)
        if data.get("format_version") != FORMAT_VERSION:
            raise ClusterError(
                f"{self.place}: job format {data.get('format_version')!r}, this version reads"
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
        self.write("state.json", asdict(state))

    def written_state(self) -> JobState | None:
        """What the driver last said of itself; None if it has not begun.

        Raises:
            StoreError: damaged.
        """
        if not self.has("state.json"):
            return None
        data, where = self.read("state.json", remedy=BEATS), f"{self.place}/state.json"
        return checked(JobState, data, where=where, remedy=BEATS, error=ClusterError)

    def work(self, state: JobState) -> Work | None:
        """What the driver of a state is at; None if it has told nothing.

        Raises:
            ClusterError: it has told something else.
        """
        if not state.progress:
            return None
        where = f"{self.place}/state.json"
        return checked(Work, state.progress, where=where, remedy=BEATS, error=ClusterError)

    def write_batch(self, system: str, batch_id: str) -> None:
        """Note the batch system's id."""
        self.write("batch.json", {"system": system, "id": batch_id})

    def batch(self) -> tuple[str, str] | None:
        """Batch system and its id of this job, if one starts it.

        Raises:
            StoreError: damaged.
        """
        if not self.has("batch.json"):
            return None
        data, where = self.read("batch.json", remedy=FORGET), f"{self.place}/batch.json"
        found = checked(_Batch, data, where=where, remedy=FORGET, error=ClusterError)
        return found.system, found.id

    def last_line(self) -> str:
        """The last line of the log, "" without one."""
        lines = self._log_end().decode(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        return "".join(sign if sign.isprintable() else " " for sign in last)

    # -- what differs between a disk and a bucket -------------------------------------------

    def read(self, name: str, *, remedy: str) -> dict[str, Any]:
        """A file of JSON."""
        return read_json(self.path / name, remedy=remedy)

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a file of JSON."""
        write_json(self.path / name, data)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).exists()

    def ask_to_stop(self) -> None:
        """Leave word that the driver should stop."""
        (self.path / "cancel").touch()

    def forget(self) -> None:
        """Remove the job."""
        shutil.rmtree(self.path, ignore_errors=True)

    def read_log(self, after: int) -> tuple[bytes, int]:
        """What the log holds behind a place in it, and the place behind that; the first is 0."""
        try:
            with self.log.open("rb") as file:
                file.seek(after)
                piece = file.read()
        except FileNotFoundError:
            return b"", after
        return piece, after + len(piece)

    def _log_end(self) -> bytes:
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 4096))
                return file.read()
        except OSError:
            return b""


class BucketJob(JobFolder):
    """One job's files, in a bucket: a card that is made once, a state that is replaced, a log in
    pieces."""

    def __init__(self, address: str) -> None:
        self.files = located(address)
        self.place = self.files.address
        self.id = self.place.rpartition("/")[2]
        self.shipped = f"{self.place}/config.json"
        self.shown_log = f"{self.place}/{_LOG}"
        self._state: Meta | None = None

    def write_card(self, card: JobCard) -> None:
        """See `JobFolder.write_card`."""
        if not self.files.create("job.json", encode_json(asdict(card))):
            raise ClusterError(f"{self.place}: a job of that name is there; submit it again")

    def write_state(self, state: JobState) -> None:
        """Replace ``state.json``; a request that was held up comes to nothing after a later one.

        Raises:
            ClusterError: another process has written it since.
            StoreBusy: the bucket does not answer.
        """
        content = encode_json(asdict(state))
        if self._state is None:
            self._state = self._found("state.json")
        for tries_left in reversed(range(_NUM_TRIES)):
            try:
                done = self._replace_state(content)
                # Where an answer was lost, what is there may be an own one, of this try or before.
                self._state = self._own_state(state)
                if done:
                    return
            except StoreBusy:
                if not tries_left:
                    raise
        raise ClusterError(f"{self.place}/state.json: changes all the time")

    def _replace_state(self, content: bytes) -> bool:
        if self._state is None:
            return self.files.create("state.json", content)
        return self.files.replace("state.json", content, self._state)

    def _own_state(self, state: JobState) -> Meta | None:
        try:
            content, found = self.files.get("state.json", max_bytes=MAX_JSON_BYTES)
        except FileNotFoundError:
            return None
        where = f"{self.place}/state.json"
        written = decode_json(content, where=where, remedy=BEATS)
        if any(written.get(name) != getattr(state, name) for name in ("host", "pid", "pid_start")):
            raise ClusterError(f"{self.place}: another process runs this job too")
        return found

    def _found(self, name: str) -> Meta | None:
        return _head(self.files, name)

    def read(self, name: str, *, remedy: str) -> dict[str, Any]:
        """See `JobFolder.read`."""
        content = self.content(name, remedy=remedy)
        return decode_json(content, where=f"{self.place}/{name}", remedy=remedy)

    def content(self, name: str, *, remedy: str) -> bytes:
        """A file of JSON, as it stands there."""
        try:
            return self.files.read(name, max_bytes=MAX_JSON_BYTES)
        except FileNotFoundError:
            raise StoreError(f"{self.place}/{name}: no such object; {remedy}") from None

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """See `JobFolder.write`."""
        self.files.put(name, encode_json(data))

    def has(self, name: str) -> bool:
        """See `JobFolder.has`."""
        return self._found(name) is not None

    def ask_to_stop(self) -> None:
        """See `JobFolder.ask_to_stop`."""
        self.files.put("cancel", b"")

    def forget(self) -> None:
        """See `JobFolder.forget`."""
        self.files.delete([found.path for found in self.files.list()])

    def add_log(self, number: int, piece: bytes) -> None:
        """Put what was printed since the last piece; pieces are counted from 1."""
        self.files.put(f"{_LOG}/{number:08d}", piece)

    def read_log(self, after: int) -> tuple[bytes, int]:
        """See `JobFolder.read_log`; places are numbers of pieces."""
        found = [one.path for one in self.files.list(_LOG, after=f"{_LOG}/{after:08d}")]
        pieces = [self.files.read(path) for path in found]
        return b"".join(pieces), int(found[-1].rpartition("/")[2]) if found else after

    def _log_end(self) -> bytes:
        *_, last = [None, *self.files.list(_LOG)]
        return b"" if last is None else self.files.read(last.path)


_LOG = "log"
_NUM_TRIES = 3


def located(address: str) -> ObjectLocation:
    """A place in a bucket."""
    place = locate(address)
    assert isinstance(place, ObjectLocation)
    return place


def _head(place: ObjectLocation, path: str) -> Meta | None:
    try:
        return place.head(path)
    except FileNotFoundError:
        return None


def seal_of(card: JobCard, config: bytes) -> str:
    """Digest of what a job's folder tells its driver to do.

    Args:
        card: of the job.
        config: content of its ``config.json``.
    """
    words = json.dumps([card.folder, *card.arguments])
    return hashlib.sha256(words.encode() + config).hexdigest()


def job_at(place: str | Path) -> JobFolder:
    """The job of a folder or an address."""
    return BucketJob(str(place)) if is_url(place) else JobFolder(Path(place))


def jobs_root() -> Path:
    """Where job folders lie on this machine."""
    said = os.environ.get("SALIENT_JOBS", "")
    local = Path.home() / ".salient" / "jobs" if not said or is_url(said) else Path(said)
    return local.absolute()


def jobs_place(given: str | None = None) -> str:
    """Where job folders lie: as given, or where ``$SALIENT_JOBS`` says, or `jobs_root`."""
    said = given or os.environ.get("SALIENT_JOBS", "")
    if is_url(said):
        return said.rstrip("/")
    return str(Path(given).expanduser().absolute() if given else jobs_root())


def new_job_id() -> str:
    """A name that no other job has."""
    return uuid.uuid4().hex[:8]


def all_jobs(place: str | None = None) -> Iterator[JobFolder]:
    """The jobs in a place, the youngest first; default :func:`jobs_place`."""
    root = jobs_place(place)
    if is_url(root):
        jobs = located(root)
        cards = [
            card for name in jobs.names("") if (card := _head(jobs, f"{name}/job.json")) is not None
        ]
        for card in sorted(cards, key=lambda card: card.modified, reverse=True):
            yield BucketJob(f"{root}/{card.path.partition('/')[0]}")
        return
    local = Path(root).glob("*/job.json")
    for path in sorted(local, key=lambda path: path.stat().st_mtime, reverse=True):
        yield JobFolder(path.parent)


def find_job(wanted: str | None, place: str | None = None) -> JobFolder:
    """A job by the beginning of its id; None: the youngest.

    Args:
        wanted: how its id begins.
        place: folder or address of the jobs; default :func:`jobs_place`.

    Raises:
        JobInputError: none such, or several.
    """
    root, jobs = jobs_place(place), list(all_jobs(place))
    if not jobs:
        raise JobInputError(
            f"{root}: no jobs; `salient submit run.toml` makes one (elsewhere: --jobs PLACE)"
        )
    if wanted is None:
        return jobs[0]
    found = [job for job in jobs if job.id.startswith(wanted)]
    if len(found) != 1:
        what = "several jobs begin" if found else "no job begins"
        raise JobInputError(f"{what} with {wanted!r} in {root}; `salient jobs` lists them")
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
