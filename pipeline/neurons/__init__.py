"""Which neurons, how sure, and what if they are silent.

In: a probed or finished run and its store. Out: rankings and how far they agree (`salient rank`),
their stability and selectivity, and what heads lose without the neurons (`salient ablate`).

Read first: `comparison` (:func:`rank`), `rankings` and `ablation` (:func:`ablate`). Rankings come
from the `sums` of one pass; `stability` and `selectivity` say how far to trust them, `tables` reads
them again; `arms` says what an ablation silences.

Table that takes a new row: `rankings.RANKINGS`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
