"""Ways to train and to judge frozen heads: which rows train, which judge, and by which probes.

    mode = Mode.of(config.head)
    z[mode.network_rows(folds, num_train)], z[mode.judged_rows(folds, num_train, 0)]

=========  ================  ==========  ===========  ===============================
training   judge             probes      network      judged on
=========  ================  ==========  ===========  ===============================
seen       validation        whole       training     validation rows
unseen     validation        without 0   fold 0       validation rows
both       validation        without 0   training     validation rows
cross_fit  validation        whole       training *   validation rows
cross_fit  cross_validation  whole       all *        training and validation rows
=========  ================  ==========  ===========  ===============================

*probes*: whose weights are the head's edges, and choose the salient features: fitted on all
training rows, or without fold 0. *network*: the rows that the network is trained on, on these
probes' outputs; (*) a row's outputs are those of the probe fitted without the row's fold. Where
validation rows judge, these are seen by the probes as scoring sees texts.

By cross-validation a second network without fold ``k``, for every ``k``, judges the rows of fold
``k``: it is trained on the other rows, on the features of the probes without ``k``. Linear heads
know two modes only: fitted on all rows and judged by folds, or fitted on the training rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.probes import Probe

Array = NDArray[Any]


@dataclass(frozen=True)
class Mode:
    """A line of the table.

    Attributes:
        probes_without: fold that the probes were fitted without; None for the whole probes.
        network_fold: fold that the network is trained on; None for all rows.
        out_of_fold: whether the inputs of the rows that are fitted on are those of the probe fitted
            without their fold.
        num_judge_folds: folds whose rows are judged by networks without them; 0 where the
            validation rows judge.
    """

    probes_without: int | None = None
    network_fold: int | None = None
    out_of_fold: bool = False
    num_judge_folds: int = 0

    @classmethod
    def of(cls, config: HeadConfig) -> Mode:
        """The mode of ``head.training`` and ``head.judge``."""
        folds = config.num_folds if config.by_folds else 0
        return replace(MODES[config.training], num_judge_folds=folds)

    @property
    def fits(self) -> tuple[int | None, ...]:
        """What is fitted for a head: itself (None), and one without each fold that judges."""
        return (None, *range(self.num_judge_folds))

    def probe(self, probe: Probe) -> Probe:
        """The probe that heads build on."""
        return probe if self.probes_without is None else probe.without_fold(self.probes_without)

    def network_rows(self, folds: Array, num_train: int, without: int | None = None) -> Array:
        """``(k,)`` rows that a network is fitted on.

        Args:
            folds: ``(n,)`` fold of each row, training rows first.
            num_train: how many are training rows.
            without: the fold that the network is not to see.
        """
        if self.num_judge_folds:
            return np.flatnonzero(folds != (-1 if without is None else without))
        if self.network_fold is not None:
            return np.flatnonzero(folds[:num_train] == self.network_fold)
        return np.arange(num_train)

    def judged_rows(self, folds: Array, num_train: int, without: int | None = None) -> Array:
        """``(k,)`` rows that judge a network fitted without a fold; see :meth:`network_rows`."""
        if self.num_judge_folds:
            return np.flatnonzero(folds == (-1 if without is None else without))
        return np.arange(num_train, len(folds))


MODES = {
    "seen": Mode(),
    "unseen": Mode(probes_without=0, network_fold=0),
    "both": Mode(probes_without=0),
    "cross_fit": Mode(out_of_fold=True),
}
"""``head.training`` -> its mode, judged on the validation rows."""
