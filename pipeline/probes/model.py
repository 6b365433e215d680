"""Phase 1: one single-layer network on one layer's pooled activations.

:class:`Probe` is what is fitted, :class:`Problem` how it is judged; :mod:`pipeline.probes.fitting`
fits, :mod:`pipeline.probes.probing` reads and writes. The conventional head is a probe on the final
hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ProbeConfig, read_record
from pipeline.errors import ProbeError, RunInputError, again
from pipeline.linear import Linear, Standardiser
from pipeline.measures import score, utility
from pipeline.runfolder import RunFolder
from store.layout import Source, StoreSchema, final_hidden
from store.tables import check_array, read_arrays

Array = NDArray[Any]
PROBE_AGAIN = again("probe")
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
            RunInputError: it is not defined on these rows.
        """
        (value,) = self.score_all(targets, [outputs])
        return value

    def score_all(self, targets: Array, outputs: Sequence[Array]) -> list[float]:
        """The same for several ``(n, outputs)``; NaN where it is not defined for one of them.

        Raises:
            RunInputError: it is not defined for any.
        """
        values = [score(self.metric, targets, each, positive=self.positive) for each in outputs]
        if not np.isfinite(values).any():
            raise RunInputError(
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
        """The inverse of :meth:`arrays`, of the same shapes.

        Raises:
            KeyError, ValueError, TypeError: one is missing, or they do not go together.
        """
        outputs, features = arrays["weights"].shape
        folds = len(arrays["fold_weights"])
        for name, shape in (
            ("weights", (outputs, features)),
            ("bias", (outputs,)),
            ("mean", (features,)),
            ("scale", (features,)),
            ("fold_weights", (folds, outputs, features)),
            ("fold_bias", (folds, outputs)),
        ):
            check_array(name, arrays[name], "f", shape)
        standardiser = Standardiser(arrays["mean"], arrays["scale"], float(arrays["bound"]))
        own = (arrays[name] for name in FOLD_TENSORS)
        return cls(arrays["weights"], arrays["bias"], standardiser, *own)

    @classmethod
    def read(cls, path: Path) -> Probe:
        """From its file of tensors.

        Raises:
            ProbeError, StoreError: none there, or a damaged one.
        """
        arrays = read_arrays(path, remedy=PROBE_AGAIN)
        try:
            return cls.from_arrays(arrays)
        except (KeyError, ValueError, TypeError) as error:
            raise ProbeError(
                f"{path}: lacks tensors or has others ({error}); {PROBE_AGAIN}"
            ) from None


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


@dataclass(frozen=True)
class ProbeCard:
    """What is relied on of a probe's card, the file that makes it complete.

    Attributes:
        fingerprint: of all that it depends on.
        penalty, val_score, converged: of the penalty that was chosen.
    """

    fingerprint: str
    penalty: float
    val_score: float
    converged: bool

    @classmethod
    def read(cls, folder: RunFolder, task: str, source: Source) -> ProbeCard:
        """The card of a task's probe.

        Raises:
            ProbeError, StoreError: none there, or a damaged one.
        """
        path = folder.probe(task, source.name).with_suffix(".json")
        return read_record(path, cls, remedy=PROBE_AGAIN, error=ProbeError)


def load_probe(
    folder: RunFolder, task: str, source: Source, schema: StoreSchema | None = None
) -> Probe:
    """A probe written by :func:`pipeline.probes.probing.fit_layer`.

    Args:
        folder: the run's.
        task: the task's name.
        source: what it reads.
        schema: of the store that it is to fit.

    Raises:
        ProbeError, StoreError: none there, a damaged one, or one of another store.
    """
    return _fitting(folder.probe(task, source.name).with_suffix(".safetensors"), source, schema)


def _fitting(path: Path, source: Source, schema: StoreSchema | None) -> Probe:
    probe = Probe.read(path)
    found = probe.weights.shape[1]
    wanted = found if schema is None else schema.array(source.site).rows
    if found != wanted:
        raise ProbeError(f"{path}: reads {found} features, the store has {wanted}; {PROBE_AGAIN}")
    return probe


def load_final_probe(folder: RunFolder, task: str, schema: StoreSchema) -> Probe:
    """The probe on the final hidden state; earlier versions probed no other and named no layer."""
    source = final_hidden(schema)
    old = folder.probe(task, "hidden").with_suffix(".safetensors")
    if old.is_file() and not folder.probe(task, source.name).with_suffix(".safetensors").is_file():
        return _fitting(old, source, schema)
    return load_probe(folder, task, source, schema)
