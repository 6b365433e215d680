"""Phase 1: one single-layer network on one layer's pooled activations.

:class:`Probe` is what is fitted, :class:`Problem` how it is judged; :mod:`pipeline.probes.fitting`
fits, :mod:`pipeline.probes.probing` reads and writes. The conventional head is a probe on the final
hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ProbeConfig
from pipeline.errors import ProbeError
from pipeline.linear import Linear, Standardiser
from pipeline.measures import score, utility
from pipeline.runfolder import RunFolder
from store.layout import Source, StoreSchema, final_hidden
from store.tables import read_arrays

Array = NDArray[Any]
FOLD_TENSORS = ("fold_weights", "fold_bias")


@dataclass(frozen=True)
class Problem:
    """What is predicted and how it is judged, whatever the features are.

    Attributes:
        num_classes: classes, or labels of label sets; None for values.
        metric: of selection.
        positive: class index that ``f1`` and ``auc`` are about.
        multilabel: targets are label sets ``(n, labels)``, with an output for each label.
    """

    num_classes: int | None
    metric: str
    positive: int = -1
    multilabel: bool = False

    @property
    def type(self) -> str:
        """That of the task."""
        if self.multilabel:
            return "multilabel"
        return "regression" if self.num_classes is None else "classification"

    def score(self, targets: Array, outputs: Array) -> float:
        """Value of the selection metric, of outputs ``(n, outputs)``, as usually reported.

        Raises:
            ProbeError: it is not defined on these rows.
        """
        (value,) = self.score_all(targets, [outputs])
        return value

    def score_all(self, targets: Array, outputs: Sequence[Array]) -> list[float]:
        """The same for several ``(n, outputs)``; NaN where it is not defined for one of them.

        Raises:
            ProbeError: it is not defined for any.
        """
        values = [score(self.metric, targets, each, positive=self.positive) for each in outputs]
        if not np.isfinite(values).any():
            raise ProbeError(
                f"metric {self.metric!r} is not defined on these {len(targets)} validation rows"
                " (too few rows, or a single class); use another metric or a larger split"
            )
        return values


@dataclass(frozen=True)
class Probe:
    """A linear model with the standardisation of its inputs.

    Attributes:
        weights: ``(outputs, features)`` float32, on standardised features.
        bias: ``(outputs,)`` float32.
        standardiser: of the training rows.
        fold_weights, fold_bias: the same model fitted without each fold, float32
            ``(folds, outputs, features)`` and ``(folds, outputs)``; no folds if not asked for.
    """

    weights: Array
    bias: Array
    standardiser: Standardiser
    fold_weights: Array
    fold_bias: Array

    def outputs(self, x: Array) -> Array:
        """Logits or values ``(n, outputs)`` float32 for raw activations ``x`` ``(n, features)``."""
        return np.asarray(self.standardiser.apply(x) @ self.weights.T + self.bias)

    def without_fold(self, fold: int) -> Probe:
        """The probe fitted without a fold, with the same standardisation."""
        none = np.empty((0, *self.weights.shape), np.float32)
        weights, bias = self.fold_weights[fold], self.fold_bias[fold]
        return Probe(weights, bias, self.standardiser, none, none[..., 0])

    def arrays(self) -> dict[str, Array]:
        """The tensors by name, of their attributes' shapes, for a safetensors file."""
        arrays = {name: getattr(self, name) for name in ("weights", "bias", *FOLD_TENSORS)}
        for name, value in vars(self.standardiser).items():
            arrays[name] = np.asarray(value, dtype=np.float32)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Probe:
        """The inverse of :meth:`arrays`, of the same shapes."""
        standardiser = Standardiser(arrays["mean"], arrays["scale"], float(arrays["bound"]))
        folds = (arrays[name] for name in FOLD_TENSORS)
        return cls(arrays["weights"], arrays["bias"], standardiser, *folds)


@dataclass(frozen=True)
class ProbeFit:
    """A probe with how it was chosen: ``path`` holds (penalty, validation score, converged)."""

    probe: Probe
    penalty: float
    val_score: float
    path: tuple[tuple[float, float, bool], ...]


def row_weights(targets: Array, problem: Problem, config: ProbeConfig) -> Array | None:
    """Sample weights ``(n,)`` of a class weighting; None when all rows count alike, as for label
    sets."""
    if config.class_weight is None or problem.num_classes is None or problem.multilabel:
        return None
    counts = np.bincount(targets, minlength=problem.num_classes)
    return np.asarray((len(targets) / (problem.num_classes * np.maximum(counts, 1)))[targets])


def choose(path: Sequence[Linear], scores: Sequence[float], problem: Problem) -> int:
    """Index of the best score; of equals, the model with the smaller weights wins."""
    utilities = [
        utility(problem.metric, value) if np.isfinite(value) else -np.inf for value in scores
    ]
    ties = [i for i, value in enumerate(utilities) if value >= max(utilities)]
    return min(ties, key=lambda i: float(np.square(path[i].weights).sum()))


def load_probe(folder: RunFolder, task: str, source: Source) -> Probe:
    """A probe written by :func:`pipeline.probes.probing.fit_layer`."""
    return Probe.from_arrays(
        read_arrays(folder.probe(task, source.name).with_suffix(".safetensors"))
    )


def load_final_probe(folder: RunFolder, task: str, schema: StoreSchema) -> Probe:
    """The probe on the final hidden state; earlier versions probed no other and named no layer."""
    source = final_hidden(schema)
    old = folder.probe(task, "hidden").with_suffix(".safetensors")
    if old.is_file() and not folder.probe(task, source.name).with_suffix(".safetensors").is_file():
        return Probe.from_arrays(read_arrays(old))
    return load_probe(folder, task, source)
