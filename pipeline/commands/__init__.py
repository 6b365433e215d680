"""The command line: parse, call one function of a wing, print.

In: the words after ``salient``. Out: results on standard output, progress on standard error, an
exit code. Each wing is imported when its command is called, so that help and a usage error come at
once.

Read first: `line` (all commands together, errors to exit codes). The groups: `training` (run and
its stages), `checking`, `scoring`, `shares`, `jobs`, `looking`, `helping`, `sharing`, `store`;
`options`, `arguments` and `printing` are what they share. `entry` starts the process, `stopping`
ends it when it is told to.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
