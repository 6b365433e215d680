"""Texts and a backbone in; rows of the activation store out.

In: the samples of a corpus, a :class:`~pipeline.backbone.Backbone`. Out: whole committed blocks of
the store, so that a killed extraction goes on where it was; and golden texts, by which scoring
knows the backbone again.

Read first: `extractor` (texts to arrays) and `storing` (arrays to the store, on this machine);
`encoding` does both for a list in memory, with the model that `loaded` keeps; `distributed` and
`workbench` the same on a cluster's workers, `adding` fills in layers that a store lacks. Before all
that `proving` finds out whether the numbers are the model's own, `checking` what else there is to
say of a model, `foreseeing` what an extraction would take. `picking` pools only what heads read,
`routed` the same of mixtures of experts, `golden` keeps the golden texts, `recorded` reads what a
store says of its origin, `lanes` are the threads, `throughput` says how fast it went.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
