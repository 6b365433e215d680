"""Ways to train and to judge heads: which rows train, which judge, and by which probes.

    mode = Mode.of(config.head)
    x[mode.network_rows(folds)], x[mode.judge_rows(folds, 0)]

=========  ================  ==========  ===========  ===============================
training   judge             probes      network      judged on
=========  ================  ==========  ===========  ===============================
seen       validation        whole       all rows     validation rows
unseen     validation        without 0   fold 0       validation rows
both       validation        without 0   all rows     validation rows
cross_fit  validation        whole       all rows *   validation rows
cross_fit  cross_validation  whole       all rows *   validation rows and training rows
=========  ================  ==========  ===========  ===============================

*probes*: whose weights are the frozen head's edges, and choose the salient features: fitted on all
training rows, or without fold 0. *network*: the training rows that the frozen head's network is
trained on, on these probes' outputs; (*) each row's outputs are those of the probe fitted without
the row's fold. The sparse head is trained on all training rows in every mode.

By cross-validation a second head without fold ``k``, for every ``k``, judges the rows of fold
``k``: it is trained on the other rows and, if sparse, on the features of the probes without ``k``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.probes import Probe

Array = NDArray[Any]
Index = slice | Array
"""Picks rows; a slice does so without a copy."""


@dataclass(frozen=True)
class Mode:
    """A line of the table.

    Attributes:
        probes_without: fold that the probes were fitted without; None for the whole probes.
        network_fold: fold that the frozen head's network is trained on; None for all rows.
        out_of_fold: whether a row's inputs are those of the probe fitted without its fold.
        num_judge_folds: folds of training rows that judge beside the validation rows.
    """

    probes_without: int | None = None
    network_fold: int | None = None
    out_of_fold: bool = False
    num_judge_folds: int = 0

    @classmethod
    def of(cls, config: HeadConfig) -> Mode:
        """The mode of ``head.training`` and ``head.judge``."""
        folds = config.num_folds if config.judge == "cross_validation" else 0
        return replace(MODES[config.training], num_judge_folds=folds)

    @property
    def fits(self) -> tuple[int | None, ...]:
        """What is fitted for a head: itself (None), and one without each fold that judges."""
        return (None, *range(self.num_judge_folds))

    def probe(self, probe: Probe) -> Probe:
        """The probe that heads build on."""
        return probe if self.probes_without is None else probe.without_fold(self.probes_without)

    def train_rows(self, folds: Array | None, without: int | None = None) -> Index:
        """Training rows that a sparse head is fitted on: all, or all but those of a fold.

        Args:
            folds: ``(n,)`` fold of each training row; None if there are none.
            without: the fold that the head is not to see.
        """
        return slice(None) if without is None else ~_of_fold(folds, without)

    def network_rows(self, folds: Array | None, without: int | None = None) -> Index:
        """Training rows that a frozen head's network is fitted on; see :meth:`train_rows`."""
        if self.network_fold is not None:
            return _of_fold(folds, self.network_fold)
        return self.train_rows(folds, without)

    def judge_rows(self, folds: Array | None, fold: int) -> Array:
        """Mask ``(n,)`` of the training rows that judge a head fitted without ``fold``."""
        return _of_fold(folds, fold)


def _of_fold(folds: Array | None, fold: int) -> Array:
    assert folds is not None, "out-of-fold outputs need folds"
    return np.asarray(folds == fold)


MODES = {
    "seen": Mode(),
    "unseen": Mode(probes_without=0, network_fold=0),
    "both": Mode(probes_without=0),
    "cross_fit": Mode(out_of_fold=True),
}
"""``head.training`` -> its mode, judged on the validation rows."""
