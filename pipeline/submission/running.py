"""The driver of a submitted job: runs one `salient` command and says how it goes.

``Driver(folder, run_command, interrupted=130).run()`` is the whole life of the job's process. It
stops cleanly on SIGTERM and when ``cancel`` appears in the folder. Of a job in a bucket it keeps
the log on this machine, and puts what is new there every few seconds.
"""

from __future__ import annotations

import hmac
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from pipeline.errors import FAILED, ClusterError, exit_code
from pipeline.events import Event, Progressed, RowsScored, watch
from pipeline.submission.folder import (
    FORGET,
    LOADING,
    TRUST,
    BucketJob,
    JobCard,
    JobState,
    Work,
    job_at,
    process_start,
    seal_of,
)
from pipeline.submission.slurm import WARNING_S
from store.errors import SalientError, StoreError

POLL_S = 1.0
BEAT_S = float(os.environ.get("SALIENT_BEAT_S", "5"))
"""A sign of life comes so often; less often costs fewer requests where jobs are in a bucket."""


class Driver:
    """Runs the job of a folder.

    Args:
        folder: of the job, or its address.
        run_command: runs a command line, given as the words after ``salient``, to its exit code.
        interrupted: its exit code where it was stopped.
        trust_remote_code: the model's own code may run; the folder has no say in it.
        seal: `seal_of` what was submitted; nothing else of a bucket is run.
    """

    def __init__(
        self,
        folder: Path | str,
        run_command: Callable[[Sequence[str]], int],
        *,
        interrupted: int,
        trust_remote_code: bool = False,
        seal: str = "",
    ) -> None:
        self._job = job_at(folder)
        self._run_command = run_command
        self._interrupted = interrupted
        self._trust_remote_code = trust_remote_code
        self._seal = seal
        self._card: JobCard | None = None
        self._progress: Mapping[str, Any] = {}
        self._log: _Log | None = None
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
        with watch(self._note), ExitStack() as stack:
            if isinstance(self._job, BucketJob):
                self._log = stack.enter_context(_Log(self._job))
            else:
                os.environ["SALIENT_JOB_FOLDER"] = str(self._job.path)
            return self._run()

    def _run(self) -> int:
        beating = threading.Thread(target=self._beat, daemon=True)
        try:
            # From here on the job may be told to stop, also before its command has begun.
            signal.signal(signal.SIGTERM, _interrupt)
            self._job.write_state(self._state)
            beating.start()
            code = self._run_job()
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

    def _run_job(self) -> int:
        try:
            words = self._words()
        except SalientError as error:
            print(f"salient: {error}", file=sys.stderr)
            return exit_code(error) or FAILED
        return self._run_command(words)

    def _words(self) -> list[str]:
        """The words that the job's folder says, where it is to be done.

        Raises:
            ClusterError: it says other than what was submitted.
            StoreError: missing or damaged.
        """
        card = self._card = self._job.card()
        words = list(card.arguments)
        if isinstance(self._job, BucketJob) and self._log is not None:
            config = self._job.content("config.json", remedy=FORGET)
            if not hmac.compare_digest(seal_of(card, config), self._seal):
                raise ClusterError(
                    f"{self._job.place}: job.json or config.json is not what was submitted, so that"
                    f" nothing was run; look who may write there, and submit it again"
                )
            path = self._log.folder / "config.json"
            path.write_bytes(config)
            words = [str(path) if word == self._job.shipped else word for word in words]
        if Path(card.folder).is_dir():
            os.chdir(card.folder)
        return [*words, *[TRUST] * (self._trust_remote_code and card.stage in LOADING)]

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
            self._ship()
            return "failed", code, self._job.last_line()
        limit = None if self._card is None else self._card.walltime_s
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
                self._ship()
                try:
                    self._job.write_state(
                        replace(self._state, beat_at=time.time(), progress=self._progress)
                    )
                except (OSError, SalientError):
                    logging.getLogger(__name__).warning("no sign of life written", exc_info=True)

    def _ship(self) -> None:
        if self._log is not None:
            self._log.ship()

    def _asked_to_stop(self) -> bool:
        try:
            return self._job.has("cancel")
        except StoreError:  # a bucket that does not answer now
            return False


class _Log:
    """All that this process prints while it is entered, put into a job's bucket piece by piece.

    Attributes:
        folder: of this machine, for the time of the job.
    """

    def __init__(self, job: BucketJob) -> None:
        self._job = job
        self._number = 0
        self._one = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="salient-job-"))
        self.folder = Path(name)
        sink = self._stack.enter_context((self.folder / "log").open("ab"))
        self._source = self._stack.enter_context((self.folder / "log").open("rb"))
        for number in (1, 2):
            before = os.dup(number)
            os.dup2(sink.fileno(), number)
            self._stack.callback(os.close, before)
            self._stack.callback(os.dup2, before, number)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception):  # whoever prints it else, prints it behind the end
            traceback.print_exception(error)
        self.ship()
        self._stack.close()

    def ship(self) -> None:
        """Put what was printed since the last time into the bucket."""
        sys.stdout.flush()
        sys.stderr.flush()
        with self._one:
            if piece := self._source.read():
                try:
                    self._job.add_log(self._number + 1, piece)
                    self._number += 1
                except SalientError:  # it is tried again with what comes
                    self._source.seek(-len(piece), os.SEEK_CUR)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; it cleans up now
    raise KeyboardInterrupt
