"""Phase 1: one single-layer network per layer and task, and each neuron's importance.

In: a run's store and its targets. Out: in the run folder a :class:`Probe` for each layer and for
the final hidden state (the conventional head), and importance tables: the L2 norm of a neuron's
weights.

Read first: `probing` (what a run fits and keeps) and `model` (what a probe is); `fitting` fits one
layer for all tasks that share its rows (`grouping`), within the memory that `memory` plans;
`keptgrams` saves later runs the Gram matrices, `importance` makes the tables.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
