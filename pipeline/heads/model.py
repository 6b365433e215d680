"""A head: what turns the activations of blocks 0..d into a prediction. A portable folder.

A head is one part, or the mean of several. In a part every source (the FFN activations of a layer,
a hidden state, the text's n-grams) projects the features that are read of it, standardised as in
Phase 1: ``z_s = clip((x_s - mean_s) / scale_s) W_s^T + b_s``:

- ``dense``: the ``z_s`` of all features of all sources are added up: one linear model over all.
- ``sparse`` (SPIN): the same over the salient features alone.
- ``states``: the same over the hidden states alone.
- ``final``: the same over the final hidden state alone, the conventional head.
- ``frozen`` (the paper's Phase 2): the ``z_s`` are the Phase-1 outputs with the edges outside the
  salient set dropped; concatenated over the layers they feed a dense network.
- ``ensemble``: the mean of the outputs of a frozen and a sparse part.
- ``stack``: a weighted sum of the best of these kinds, as the mean of parts that are scaled for it.

Outputs are calibrated already; classes are decided by thresholds that belong to the head::

    outputs = head.outputs({source: x[source] for source in head.features})     # (n, outputs)
    probability = head.probabilities(outputs)                               # (n, classes)
    labels = head.decide(probability)                                       # (n,) class indices

A head of label sets has an output, a probability and a decision for each label.

Single layers are kept as probes, not as heads: they are what a head is compared with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from scipy import sparse

from pipeline.cluster import free_memory
from pipeline.config import Choice, Line, Name, Record, checked
from pipeline.errors import COPY_AGAIN, ConfigError, HeadError, HeadInputError
from pipeline.linear import Standardiser
from pipeline.measures import METRICS, decision_outputs, label_probabilities, probabilities
from pipeline.progress import counted
from pipeline.texts import Lexicon
from store.layout import NGRAMS, Source
from store.tables import check_array, read_arrays, read_json, write_arrays, write_json

Array = NDArray[Any]
FORMAT_VERSION = 3
READABLE = (2, FORMAT_VERSION)
"""Versions that are read; the second knew FFN activations only."""
LEXICON_FILE = "lexicon.json"
KINDS = ("dense", "states", "sparse", "frozen", "ensemble", "stack", "final")
"""Kinds of heads of which a run reports the best, where it has tried them."""
SITE_KEYS = {
    "ffn": "layers",
    "hidden": "hidden_states",
    "router": "routers",
    "experts": "experts",
}
"""Site -> the key of its probes' entries in a run's metrics."""


@dataclass(frozen=True)
class Edges:
    """The kept edges of one source.

    Attributes:
        source: what they read.
        features: ``(k,)`` int64, ``pooling * neurons + neuron``, increasing.
        standardiser: of these features, from the training rows.
        weights: ``(m, k)`` float32, on standardised activations.
        bias: ``(m,)`` float32.
    """

    source: Source
    features: Array
    standardiser: Standardiser
    weights: Array
    bias: Array

    def project(self, x: Array) -> Array:
        """``z`` ``(n, m)`` float32 of raw activations ``(n, k)``; n-grams as a sparse array."""
        if sparse.issparse(x):
            return np.asarray(x @ self.weights.T + self.bias)
        return np.asarray(self.standardiser.apply(x) @ self.weights.T + self.bias)


@dataclass(frozen=True)
class Dense:
    """``tanh`` network with one hidden layer (none if ``hidden_weights`` is empty), float32."""

    hidden_weights: Array
    hidden_bias: Array
    weights: Array
    bias: Array

    def outputs(self, z: Array) -> Array:
        """``(n, inputs)`` -> ``(n, outputs)``."""
        if self.hidden_weights.size:
            z = np.tanh(z @ self.hidden_weights.T + self.hidden_bias)
        return np.asarray(z @ self.weights.T + self.bias)


@dataclass(frozen=True)
class Part:
    """One model over features of some sources; ``dense`` is None for linear ones."""

    edges: tuple[Edges, ...]
    dense: Dense | None = None

    def outputs(self, activations: Mapping[Source, Array]) -> Array:
        """Logits or values ``(n, outputs)`` float32.

        Args:
            activations: source -> raw activations ``(n, k)`` of its ``features``, in order.
        """
        projected = [edges.project(activations[edges.source]) for edges in self.edges]
        if self.dense is None:
            return np.asarray(sum(projected))
        return self.dense.outputs(np.concatenate(projected, axis=1))

    def rescaled(self, scale: Array, shift: Array) -> Part:
        """The part whose outputs are ``scale * outputs + shift``, ``(outputs,)`` each."""
        scale, shift = (np.asarray(value, np.float32) for value in (scale, shift))
        if self.dense is not None:
            weights, bias = self.dense.weights * scale[:, None], self.dense.bias * scale + shift
            return replace(self, dense=replace(self.dense, weights=weights, bias=bias))
        edges = [
            replace(e, weights=e.weights * scale[:, None], bias=e.bias * scale) for e in self.edges
        ]
        edges[-1] = replace(edges[-1], bias=edges[-1].bias + shift)
        return replace(self, edges=tuple(edges))

    @property
    def num_features(self) -> int:
        """Features read."""
        return sum(len(edges.features) for edges in self.edges)


@dataclass(frozen=True)
class HeadCard:
    """What a head is, where it came from and how good it was; ``head.json``."""

    task: Name
    type: Annotated[str, Field(pattern="^(classification|multilabel|regression)$")]
    kind: Line
    classes: tuple[Line, ...]
    metric: Line
    positive: Line | None
    depth: int
    """Deepest layer needed; blocks ``0..depth`` run."""
    num_layers: int
    """Layers of the whole backbone."""
    num_features: int
    """Features read, of all sources."""
    selection: Line
    """How the features were selected: rule, size and ranking; "all" of its sources."""
    val_score: float
    poolings: tuple[Line, ...]
    stored_dtype: Annotated[str, Field(pattern="^float(16|32)$")]
    """Precision of the stored activations it was trained on; scoring rounds alike."""
    extraction: dict[str, Any]
    """Backbone, token and normalisation settings; scoring must meet them."""
    extraction_fingerprint: Line
    licence: Line | None = None
    """Terms under which the head may be passed on; the owner's to say."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Validation metrics, with log-loss and calibration error before and after calibration."""
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    __pydantic_config__ = ConfigDict(extra="forbid")


class _Backbone(Record):
    special_tokens: bool
    whole: bool = False


class _Extraction(Record):
    backbone: _Backbone
    normalise: Mapping[str, bool]
    extraction: Mapping[str, Any] = {}


class _Metrics(Record):
    score: float | None = None
    loss: float | None = None
    judged_on: Line | None = None
    choice: Choice | None = None


class _Provenance(Record):
    snapshot: Line | None = None
    config_fingerprint: Line | None = None


def _card(path: Path) -> tuple[HeadCard, str]:
    """The card in ``head.json``, and the head's fingerprint.

    Raises:
        HeadError: another format version, or no card.
    """
    data = read_json(path, remedy=COPY_AGAIN)
    if data.get("format_version") not in READABLE:
        raise HeadInputError(
            f"{path.parent}: head format {data.get('format_version')!r}, this version reads"
            f" {' and '.join(map(str, READABLE))}; consolidate again or install the matching"
            " version"
        )
    fingerprint = data.pop("fingerprint", None)
    how: dict[str, Any] = {"remedy": COPY_AGAIN, "error": HeadError}
    card = checked(HeadCard, data, where=f"{path}: not a head card", **how)
    parts: dict[str, type[Record]] = {
        "extraction": _Extraction,
        "metrics": _Metrics,
        "provenance": _Provenance,
    }
    for name, kind in parts.items():
        checked(kind, data[name], where=f"{path}: not a head card, {name}", **how)
    classes = {"regression": card.classes == (), "classification": len(card.classes) >= 2}
    good = classes.get(card.type, len(card.classes) >= 1) and card.metric in METRICS
    if not (good and 0 <= card.depth < card.num_layers and card.poolings):
        raise HeadError(
            f"{path}: not a head card (of type {card.type!r}, {len(card.classes)} classes, metric"
            f" {card.metric!r}, {card.depth + 1} of {card.num_layers} blocks); {COPY_AGAIN}"
        )
    return card, str(fingerprint)


@dataclass(frozen=True, repr=False)
class Head:
    """A trained head.

    Attributes:
        card: what it is.
        parts: models whose outputs are averaged.
        thresholds: ``(classes,)`` float64, above 0: the class with the largest quotient of
            probability and threshold is decided for. None: all alike; always so for regression. Of
            label sets ``(labels,)``: labels of a larger probability are decided for; None: 0.5.
        lexicon: makes the n-grams of texts; None for heads that read none.
        folder: where it was read, for messages.
    """

    card: HeadCard
    parts: tuple[Part, ...]
    thresholds: Array | None = None
    lexicon: Lexicon | None = None
    folder: Path | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        """Its card in a line, without its arrays."""
        card = self.card
        score = card.metrics.get("score")
        found = f"<Head {describe_heads([self])}"
        return found + (">" if score is None else f": {card.metric} {score:.4f}>")

    @property
    def place(self) -> str:
        """What messages call it: its folder, if it has one."""
        return f"head {self.card.task!r}" if self.folder is None else str(self.folder)

    @cached_property
    def features(self) -> dict[Source, Array]:
        """Source -> ``(k,)`` int64 increasing: the features that any part reads of it."""
        found: dict[Source, Array] = {}
        for edges in (edges for part in self.parts for edges in part.edges):
            known = found.get(edges.source, edges.features[:0])
            found[edges.source] = np.union1d(known, edges.features)
        return dict(sorted(found.items()))

    def outputs(self, activations: Mapping[Source, Array]) -> Array:
        """Calibrated logits, or values.

        Args:
            activations: source -> raw activations ``(n, k)`` of ``features[source]``, in order;
                n-grams as a sparse array.

        Returns:
            ``(n, outputs)`` float32.
        """
        outputs = []
        for part in self.parts:
            own = {}
            for edges in part.edges:
                x, features = activations[edges.source], self.features[edges.source]
                if len(features) > len(edges.features):
                    x = x[:, np.searchsorted(features, edges.features)]
                own[edges.source] = x
            outputs.append(part.outputs(own))
        return np.asarray(sum(outputs) / np.float32(len(outputs)))

    def outputs_full(self, activations: Mapping[Source, Array]) -> Array:
        """As :meth:`outputs`, from whole sources ``(n, poolings * neurons)``."""
        return self.outputs({i: activations[i][:, index] for i, index in self.features.items()})

    def probabilities(self, outputs: Array) -> Array:
        """Class, or label, probabilities ``(n, classes)`` float64 of ``outputs``."""
        return label_probabilities(outputs) if self.multilabel else probabilities(outputs)

    @property
    def num_outputs(self) -> int:
        """Of :meth:`outputs`: one for values and for two classes."""
        classes = len(self.card.classes)
        return classes if self.multilabel or classes > 2 else 1

    @property
    def multilabel(self) -> bool:
        """Whether it decides for each label by itself."""
        return self.card.type == "multilabel"

    def decide(self, probability: Array) -> Array:
        """Class index ``(n,)`` int64 by the thresholds, or mask ``(n, labels)`` of the labels."""
        if self.multilabel:
            return np.asarray(probability > (0.5 if self.thresholds is None else self.thresholds))
        if self.thresholds is not None:
            probability = probability / self.thresholds
        return np.asarray(probability.argmax(axis=1))

    def decision_outputs(self, outputs: Array) -> Array:
        """Outputs ``(n, outputs)`` shifted so that their plain decisions are those of
        :meth:`decide`.

        For metrics of the decided classes; as probabilities they are off.
        """
        return decision_outputs(outputs, self.thresholds, multilabel=self.multilabel)

    def outputs_for(self, metric: str, outputs: Array) -> Array:
        """Outputs ``(n, outputs)`` as a metric takes them: those of :meth:`decision_outputs` where
        it is one of decided classes, else as they are."""
        return self.decision_outputs(outputs) if METRICS[metric].of_decisions else outputs

    @property
    def fingerprint(self) -> str:
        """Digest of what determines predictions: all tensors, the classes and the extraction."""
        card = self.card
        facts = [card.task, card.type, card.kind, card.classes, card.depth, card.poolings]
        facts += [card.stored_dtype, card.extraction_fingerprint]
        if self.lexicon is not None:
            facts.append(self.lexicon.to_json())
        digest = hashlib.sha256(json.dumps(facts).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.asarray(array, order="C").tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``head.safetensors`` and then ``head.json``, which makes the head complete."""
        write_arrays(folder / "head.safetensors", self._arrays())
        if self.lexicon is not None:
            write_json(folder / LEXICON_FILE, self.lexicon.to_json())
        write_json(folder / "head.json", {**asdict(self.card), "fingerprint": self.fingerprint})

    def _arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        if self.thresholds is not None:
            arrays["thresholds"] = self.thresholds
        if self.lexicon is not None:
            arrays |= {f"lexicon.{name}": own for name, own in self.lexicon.arrays().items()}
        for number, part in enumerate(self.parts):
            for edges in part.edges:
                stem = f"part_{number}.{edges.source.name}"
                for name in ("features", "weights", "bias"):
                    arrays[f"{stem}.{name}"] = getattr(edges, name)
                for name, value in vars(edges.standardiser).items():
                    arrays[f"{stem}.{name}"] = np.asarray(value, dtype=np.float32)
            if part.dense is not None:
                stem = f"part_{number}.dense"
                arrays |= {f"{stem}.{name}": value for name, value in vars(part.dense).items()}
        return arrays

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read and check a head folder.

        Raises:
            HeadError: no head there, another format version, or tensors of another head.
        """
        if not (folder / "head.json").is_file():
            raise HeadInputError(
                f"{folder}: no head here (no head.json); name a folder written by"
                " `salient consolidate`"
            )
        card, fingerprint = _card(folder / "head.json")
        path = folder / "head.safetensors"
        size = path.stat().st_size if path.is_file() else 0
        if size > (free := free_memory()):
            raise HeadError(
                f"{path}: takes {size / 1e9:,.1f} GB, {free / 1e9:,.1f} GB of memory are free; use"
                f" a larger machine, or, if the head is smaller, {COPY_AGAIN}"
            )
        arrays = read_arrays(path, remedy=COPY_AGAIN)
        try:
            lexicon = _lexicon(folder, arrays)
            parts, thresholds = _parts(arrays), arrays.get("thresholds")
            head = cls(card, parts, thresholds, lexicon, folder)
            _check_shapes(head)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise HeadError(
                f"{path}: lacks tensors or has others ({error}); {COPY_AGAIN}"
            ) from None
        if head.fingerprint != fingerprint:
            raise HeadError(
                f"{folder}: head.safetensors and head.json do not belong together; {COPY_AGAIN}"
            )
        return head


def _lexicon(folder: Path, arrays: Mapping[str, Array]) -> Lexicon | None:
    path, prefix = folder / LEXICON_FILE, "lexicon."
    if not path.is_file():
        return None
    own = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    return Lexicon.from_json(read_json(path, remedy=COPY_AGAIN), own)


def _check_shapes(head: Head) -> None:
    """Hold the tensors against each other and the card, before anything is computed with them.

    Raises:
        ValueError, KeyError: they do not go together.
    """
    card, outputs = head.card, head.num_outputs
    if not head.parts:
        raise KeyError("part_0")
    if head.thresholds is not None:
        check_array("thresholds", head.thresholds, "f", (len(card.classes),))
    if NGRAMS in head.features and head.lexicon is None:
        raise KeyError(LEXICON_FILE)
    for number, part in enumerate(head.parts):
        width = 0
        for edges in part.edges:
            _check_edges(f"part_{number}.{edges.source.name}", edges, head)
            width += len(edges.bias)
            if part.dense is None and len(edges.bias) != outputs:
                raise ValueError(f"part_{number} has {len(edges.bias)} outputs, not {outputs}")
        if not part.edges:
            raise KeyError(f"part_{number}")
        if (dense := part.dense) is not None:
            stem = f"part_{number}.dense"
            if dense.hidden_weights.size:
                inner = len(dense.hidden_bias)
                check_array(f"{stem}.hidden_weights", dense.hidden_weights, "f", (inner, width))
                check_array(f"{stem}.hidden_bias", dense.hidden_bias, "f", (inner,))
                width = inner
            check_array(f"{stem}.weights", dense.weights, "f", (outputs, width))
            check_array(f"{stem}.bias", dense.bias, "f", (outputs,))


def _check_edges(name: str, edges: Edges, head: Head) -> None:
    source, card = edges.source, head.card
    if not -1 <= source.depth < card.num_layers or source.layer < 0:
        raise ValueError(f"{name}: the model has {card.num_layers} blocks")
    count, outputs = len(edges.features), len(edges.bias)
    check_array(f"{name}.features", edges.features, "i", (count,))
    check_array(f"{name}.weights", edges.weights, "f", (outputs, count))
    check_array(f"{name}.bias", edges.bias, "f", (outputs,))
    check_array(f"{name}.mean", edges.standardiser.mean, "f", (count,))
    check_array(f"{name}.scale", edges.standardiser.scale, "f", (count,))
    if count and (edges.features[0] < 0 or (np.diff(edges.features) <= 0).any()):
        raise ValueError(f"{name}.features: not increasing from 0 on")
    width = _width(source, head)
    if count and width is not None and edges.features[-1] >= width:
        raise ValueError(f"{name}.features: {edges.features[-1]}, but there are {width}")


def _width(source: Source, head: Head) -> int | None:
    """Features that a source has, as far as the card tells."""
    if source == NGRAMS:
        return None if head.lexicon is None else len(head.lexicon.terms)
    made, card = head.card.extraction.get("extraction", {}), head.card
    key = {"ffn": "neuron_size", "hidden": "hidden_size", "unit": "hidden_size"}.get(source.site)
    size = made.get(key)
    if not isinstance(size, int):
        return None
    return size * (1 if source.site == "unit" else len(card.poolings))


def _parts(arrays: Mapping[str, Array]) -> tuple[Part, ...]:
    """The parts from tensors named ``part_N.SOURCE.…`` and ``part_N.dense.…``."""
    groups: dict[str, dict[str, dict[str, Array]]] = {}
    for name, array in arrays.items():
        if name.startswith("part_"):
            part, group, tensor = name.split(".")
            groups.setdefault(part, {}).setdefault(group, {})[tensor] = array
    parts = []
    for _, part_groups in sorted(groups.items()):
        dense = part_groups.pop("dense", None)
        names = Dense.__dataclass_fields__
        parts.append(
            Part(
                tuple(
                    _edges(source, part_groups[source.name])
                    for source in sorted(map(Source.of, part_groups))
                ),
                None if dense is None else Dense(*(dense[name] for name in names)),
            )
        )
    return tuple(parts)


def _edges(source: Source, tensors: Mapping[str, Array]) -> Edges:
    return Edges(
        source,
        tensors["features"],
        Standardiser(tensors["mean"], tensors["scale"], float(tensors["bound"])),
        tensors["weights"],
        tensors["bias"],
    )


def describe_heads(heads: Sequence[Head]) -> str:
    """One line per head, for messages."""
    return "; ".join(
        f"{card.task} ({card.kind}, {card.depth + 1} of {card.num_layers} blocks,"
        f" {counted(card.num_features, 'feature')})"
        for card in (head.card for head in heads)
    )


def wanted_tasks(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The known tasks that are asked for, in their own order; all of them if none is.

    Raises:
        ConfigError: one that is not known.
    """
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(f"--task {unknown[0]!r}: there are heads for {', '.join(known)}")
    return [name for name in known if not names or name in names]
