"""Sparse and dense linear models of many targets, penalties and folds, fitted in lock step.

In: a :class:`Design` (rows of features, in memory or read from the store on every pass), targets
and weights. Out: a :class:`Linear` for each penalty, at the optimum that scikit-learn would reach.

Read first: `solver` (what is fitted, and by which way) and `design` (where rows come from);
`lockstep` and `lbfgs` descend, `losses` are what they descend, `gram` and `precondition` make it
short. `ridge` needs no descent, `estimators` are scikit-learn's, `fitted` is what comes out.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
