"""The driver of a submitted job: runs one `salient` command and says how it goes.

``Driver(folder, run_command, interrupted=130).run()`` is the whole life of the job's process. It
stops cleanly on SIGTERM and when ``cancel`` appears in the folder. Of a job in a bucket it keeps
the log on this machine, and puts what is new there every few seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pipeline.events import Event, Progressed, RowsScored, watch
from pipeline.submission.folder import (
    LOADING,
    TRUST,
    BucketJob,
    JobCard,
    JobState,
    Work,
    job_at,
    process_start,
)
from pipeline.submission.slurm import WARNING_S
from store.errors import SalientError, StoreError

POLL_S = 1.0
BEAT_S = 5.0


class Driver:
    """Runs the job of a folder.

    Args:
        folder: of the job, or its address.
        run_command: runs a command line, given as the words after ``salient``, to its exit code.
        interrupted: its exit code where it was stopped.
        trust_remote_code: the model's own code may run; the folder has no say in it.
    """

    def __init__(
        self,
        folder: Path | str,
        run_command: Callable[[Sequence[str]], int],
        *,
        interrupted: int,
        trust_remote_code: bool = False,
    ) -> None:
        self._job = job_at(folder)
        self._run_command = run_command
        self._interrupted = interrupted
        self._card = self._job.card()
        self._trust = [TRUST] * (trust_remote_code and self._card.stage in LOADING)
        self._progress: Mapping[str, Any] = {}
        self._ended = threading.Event()
        now = time.time()
        self._state = JobState(
            "running",
            host=socket.gethostname(),
            pid=os.getpid(),
            pid_start=process_start(os.getpid()),
            started_at=now,
            beat_at=now,
        )

    def run(self) -> int:
        """Run the command to its end; returns its exit code."""
        if Path(self._card.folder).is_dir():
            os.chdir(self._card.folder)
        with watch(self._note):
            if isinstance(self._job, BucketJob):
                with printing_into(self._job) as folder:
                    return self._run(_with_config(self._job, self._card, folder))
            os.environ["SALIENT_JOB_FOLDER"] = str(self._job.path)
            return self._run(self._card.arguments)

    def _run(self, arguments: Sequence[str]) -> int:
        beating = threading.Thread(target=self._beat, daemon=True)
        try:
            # From here on the job may be told to stop, also before its command has begun.
            signal.signal(signal.SIGTERM, _interrupt)
            self._job.write_state(self._state)
            beating.start()
            code = self._run_command([*arguments, *self._trust])
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        except KeyboardInterrupt:
            code = self._interrupted
        except BaseException:
            self._stop(beating)
            self._end("failed", 1, "the driver ended with an error of its own; see the log")
            raise
        self._stop(beating)
        self._end(*self._verdict(code))
        return code

    def _stop(self, beating: threading.Thread) -> None:
        """Nobody but the end of ``run`` writes from here on, and no signal interrupts it."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._ended.set()
        if beating.ident is not None:
            beating.join()

    def _verdict(self, code: int) -> tuple[str, int, str]:
        if code == 0:
            return "done", code, ""
        if self._job.has("cancel"):
            return "cancelled", code, "what was finished is kept"
        if code != self._interrupted:
            return "failed", code, self._job.last_line()
        limit = self._card.walltime_s
        elapsed = time.time() - (self._state.started_at or 0)
        # Slurm rounds the warning to whole minutes.
        late = limit is not None and elapsed > limit - WARNING_S - 60
        return "stopped", code, "its wall time was up" if late else "it was told to stop"

    def _end(self, state: str, code: int, note: str) -> None:
        now = time.time()
        self._job.write_state(
            replace(
                self._state,
                state=state,
                exit_code=code,
                note=note,
                ended_at=now,
                beat_at=now,
                progress=self._progress,
            )
        )

    def _note(self, event: Event) -> None:
        if isinstance(event, Progressed):
            self._progress = asdict(event)
        elif isinstance(event, RowsScored):
            work = Work(
                f"scored {event.scored:,} rows in", event.files_done, event.num_files, "files", 0.0
            )
            self._progress = asdict(work)

    def _beat(self) -> None:
        """Write a sign of life now and then; stop the main thread when asked to."""
        asked, last = False, time.monotonic()
        poll_s = BEAT_S if isinstance(self._job, BucketJob) else POLL_S
        while not self._ended.wait(poll_s):
            if not asked and self._asked_to_stop():
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            if time.monotonic() - last >= BEAT_S:
                last = time.monotonic()
                try:
                    self._job.write_state(
                        replace(self._state, beat_at=time.time(), progress=self._progress)
                    )
                except (OSError, SalientError):
                    logging.getLogger(__name__).warning("no sign of life written", exc_info=True)

    def _asked_to_stop(self) -> bool:
        try:
            return self._job.has("cancel")
        except StoreError:  # a bucket that does not answer now
            return False


def _with_config(job: BucketJob, card: JobCard, folder: Path) -> list[str]:
    """The job's words, with a copy of its configuration on this machine."""
    path = folder / "config.json"
    path.write_bytes(job.files.read("config.json"))
    return [str(path) if word == job.shipped else word for word in card.arguments]


@contextmanager
def printing_into(job: BucketJob) -> Iterator[Path]:
    """Have all that this process prints go into a job's log in a bucket, a piece every few seconds.

    Yields:
        A folder of this machine for the time of the job.
    """
    ended, number = threading.Event(), 0
    with tempfile.TemporaryDirectory(prefix="salient-job-") as name:
        log = Path(name) / "log"
        with log.open("ab") as sink, log.open("rb") as source:

            def ship() -> None:
                nonlocal number
                if piece := source.read():
                    try:
                        job.add_log(number + 1, piece)
                        number += 1
                    except SalientError:  # it is tried again with what comes
                        source.seek(-len(piece), os.SEEK_CUR)

            def ship_on() -> None:
                while not ended.wait(BEAT_S):
                    ship()

            before = [os.dup(descriptor) for descriptor in (1, 2)]
            for descriptor in (1, 2):
                os.dup2(sink.fileno(), descriptor)
            shipping = threading.Thread(target=ship_on, daemon=True)
            shipping.start()
            try:
                yield Path(name)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                for descriptor, old in zip((1, 2), before, strict=True):
                    os.dup2(old, descriptor)
                    os.close(old)
                ended.set()
                shipping.join()
                ship()


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; it cleans up now
    raise KeyboardInterrupt
