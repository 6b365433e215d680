"""Which depth, which heads, which thresholds: costs measured, then chosen.

In: finished runs. Out: what scoring costs and scores at every depth, the pick among them (`salient
plan`), the thresholds of an early exit (`--cascade`).

Read first: `planner` (measures and decides) and `depth` (the rules, pure). `outcome` is the whole
command: `costs` are measured, `exchange` changes a run's chosen heads, `thresholds` finds the early
exit.

Table that takes a new row: `depth.RULES`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
