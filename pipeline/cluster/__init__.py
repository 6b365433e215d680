"""Run functions where the work is to run: here, in processes, or on Dask workers.

In: a function and its arguments, the `[cluster]` section. Out: the results in order, whatever
workers die on the way.

Read first: `mapping` (:func:`map_tasks`) and `kinds` (how each kind of cluster is started);
`session` holds the workers of a command, `credentials` keeps others out of their ports, `preflight`
refuses those that run other code.

Table that takes a new row: `kinds.KINDS`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
