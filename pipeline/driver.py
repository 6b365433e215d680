"""``python -m pipeline.driver FOLDER``: run the job of a folder to its end.

`salient submit` starts this, as a process of its own or in a batch job.
"""

import sys
from pathlib import Path

from pipeline.commands import INTERRUPTED, run_command
from pipeline.submission import Driver

if __name__ == "__main__":
    sys.exit(Driver(Path(sys.argv[1]), run_command, interrupted=INTERRUPTED).run())
