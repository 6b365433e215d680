"""``python -m pipeline.driver FOLDER``: run the job of a folder (or an address) to its end.

`salient submit` starts this, as a process of its own or in a batch job; with
``--trust-remote-code`` behind the folder if the configuration allows the model's own code.
"""

import sys

from pipeline.commands import INTERRUPTED, exit_with, run_command
from pipeline.submission import TRUST, Driver

if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    driver = Driver(folder, run_command, interrupted=INTERRUPTED, trust_remote_code=TRUST in words)
    exit_with(driver.run())
