"""``python -m pipeline.driver FOLDER``: run the job of a folder (or an address) to its end.

`salient submit` starts this, as a process of its own or in a batch job. Behind the folder stands
what it has no say in: ``--trust-remote-code`` if the configuration allows the model's own code,
and of a bucket the digest of what was submitted and how it is reached.
"""

import json
import sys

from pipeline.commands import INTERRUPTED, exit_with, run_command
from pipeline.submission import SEAL, STORAGE, TRUST, Driver
from store.disk import use_storage

if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    behind = {
        begin: word.removeprefix(begin)
        for begin in (SEAL, STORAGE)
        for word in words
        if word.startswith(begin)
    }
    use_storage(json.loads(behind.get(STORAGE, "{}")))
    driver = Driver(
        folder,
        run_command,
        interrupted=INTERRUPTED,
        trust_remote_code=TRUST in words,
        seal=behind.get(SEAL, ""),
    )
    exit_with(driver.run())
