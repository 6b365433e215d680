"""Jobs that outlive the shell: here in the background, or in a batch system.

In: a stage and its configuration. Out: a job folder with its state, progress and log.

Read first: `jobs` (submit, describe, follow, cancel) and `folder`; `running` is the job's own
process, `slurm` writes the batch script.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
