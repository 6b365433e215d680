"""Phase 2: small cross-layer heads on the salient neurons, and which of them to take.

In: probes and importance tables, the salient slices of the store. Out: in the run folder the heads
(frozen, sparse, ensemble) of each depth with their cards, the chosen one, its test metrics, and the
reference by which scoring knows drift.

Read first: `consolidation` (a task's heads from start to end) and `model` (what a head is);
`salient` picks the neurons, `slices` reads them, `sweep` tries every head on the rows that `modes`
names, `choice` chooses the depth, `evaluation` reads the test split once. `drift` and
`attribution` serve those who use a head: are the texts still alike, and why does it decide so.

Table that takes a new row: `salient.RULES`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
