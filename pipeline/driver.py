"""The driver of a submitted job: runs one `salient` command and says how it goes.

``python -m pipeline.driver FOLDER`` is what `salient submit` starts, as a process of its own or in
a batch job. It stops cleanly on SIGTERM and when ``FOLDER/cancel`` appears.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pipeline import cli, progress
from pipeline.jobfolder import JobFolder, JobState, process_start
from pipeline.slurm import WARNING_S

POLL_S = 1.0
BEAT_S = 5.0


class Driver:
    """Runs the job of a folder.

    Args:
        folder: of the job.
    """

    def __init__(self, folder: Path) -> None:
        self._job = JobFolder(folder)
        self._card = self._job.card()
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
        os.environ["SALIENT_JOB_FOLDER"] = str(self._job.path)
        if Path(self._card.folder).is_dir():
            os.chdir(self._card.folder)
        signal.signal(signal.SIGTERM, _interrupt)
        self._job.write_state(self._state)
        progress.watch(self._note)
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            code = cli.run_command(self._card.arguments)
        except BaseException:
            self._ended.set()
            beating.join()
            self._end("failed", 1, "the driver ended with an error of its own; see the log")
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._ended.set()
        beating.join()
        self._end(*self._verdict(code))
        return code

    def _verdict(self, code: int) -> tuple[str, int, str]:
        if code == 0:
            return "done", code, ""
        if self._job.cancel.exists():
            return "cancelled", code, "what was finished is kept"
        if code != cli.INTERRUPTED:
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

    def _note(self, facts: Mapping[str, Any]) -> None:
        self._progress = facts

    def _beat(self) -> None:
        """Write a sign of life now and then; stop the main thread when asked to."""
        asked, last = False, time.monotonic()
        while not self._ended.wait(POLL_S):
            if not asked and self._job.cancel.exists():
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            if time.monotonic() - last >= BEAT_S:
                last = time.monotonic()
                try:
                    self._job.write_state(
                        replace(self._state, beat_at=time.time(), progress=self._progress)
                    )
                except OSError:
                    logging.getLogger(__name__).warning("no sign of life written", exc_info=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; it cleans up now
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Entry point of ``python -m pipeline.driver FOLDER``."""
    sys.exit(Driver(Path(sys.argv[1])).run())


if __name__ == "__main__":
    main()
