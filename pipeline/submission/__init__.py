"""Jobs that outlive the shell: here in the background, or in a batch system.

In: a stage and its configuration. Out: a job folder with its state, progress and log.

Read first: `jobs` (submit, describe, follow, cancel) and `folder`; `running` is the job's own
process, `slurm` writes the batch script.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
