"""scikit-learn's contract over texts: fit, predict, score, transform, save.

In: a list of texts and their labels, numbers or label sets. Out: :class:`SalientClassifier` and
:class:`SalientRegressor`, whose `fit` runs the stages of `salient run` over these texts
(`pipeline.stages.learn`), and whose `save` writes a head folder that `salient score` reads.

Read first: `estimator` (the two classes; `shared` is what they have in common), then `learning`
(what a fit does). `settings` makes the run's configuration of an estimator's parameters, `labels`
and `inputs` read `y` and `X`, `kept` keeps activations from one fit to the next, `summary` says
what was learnt, `checks` which of scikit-learn's checks do not apply.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
