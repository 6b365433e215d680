"""Phase 2: cross-layer heads on all features or the salient ones, and which of them to take.

In: probes, the store's activations, the texts. Out: in the run folder the heads of each kind and
depth with their cards, the chosen one, what it is compared with, test metrics, and the reference by
which scoring knows drift.

Read first: `consolidation` (a task's heads from start to end) and `model` (what a head is).
`candidates` says what is tried: linear heads on all features (`joint`, which `features` reads), on
the salient ones (`sparse`; `salient` picks, by `ranked` if asked), the paper's (`frozen`, a network
of `dense` on the rows that `modes` names), sums of heads (`stack`). `choice` takes one by its loss
on rows held out, `evaluation` reads the test split once. `activations` is what a head reads of
texts; `drift`, `attribution` and `ngrams` serve those who use a head: are the texts still alike,
why does it decide so, and by which words; `sheet` is what is shown of it in a notebook.

Table that takes a new row: `salient.RULES`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
