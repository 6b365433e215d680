"""A head: what turns the salient activations of layers 0..d into a prediction. A portable folder.

Two kinds share one form. Every layer projects its salient features, standardised as in Phase 1:
``z_l = clip((x_l - mean_l) / scale_l) W_l^T + b_l``:

- ``sparse`` (SPIN): the ``z_l`` are added up, plus a bias: one linear model over all layers.
- ``frozen`` (the paper's Phase 2): the ``z_l`` are the Phase-1 outputs with the edges outside the
  salient set dropped; concatenated over the layers they feed a dense network.

The conventional final-hidden-state head and single layers are kept as probes, not as heads: they
are what a head is compared with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import HeadError
from pipeline.linear import Standardiser
from store.tables import read_arrays, read_json, write_arrays, write_json

Array = NDArray[Any]
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LayerEdges:
    """The kept edges of one layer.

    Attributes:
        layer: the layer's index.
        features: ``(k,)`` int64, ``pooling * neurons + neuron``, increasing.
        standardiser: of these features, from the training rows.
        weights: ``(m, k)`` float32, on standardised activations.
        bias: ``(m,)`` float32.
    """

    layer: int
    features: Array
    standardiser: Standardiser
    weights: Array
    bias: Array

    def project(self, x: Array) -> Array:
        """``z`` ``(n, m)`` float32 of raw activations ``(n, k)``."""
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
class HeadCard:
    """What a head is, where it came from and how good it was; ``head.json``."""

    task: str
    type: str
    kind: str
    classes: tuple[str, ...]
    metric: str
    positive: str | None
    depth: int
    """Deepest layer needed; blocks ``0..depth`` run."""
    num_layers: int
    """Layers of the whole backbone."""
    num_features: int
    """Salient (layer, pooling, neuron) slices read."""
    eta: float
    val_score: float
    poolings: tuple[str, ...]
    stored_dtype: str
    """Precision of the stored activations it was trained on; scoring rounds alike."""
    extraction: dict[str, Any]
    """Backbone, token and normalisation settings; scoring must meet them."""
    extraction_fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Head:
    """A trained head; ``dense`` is None for the sparse kind."""

    card: HeadCard
    layers: tuple[LayerEdges, ...]
    dense: Dense | None

    def outputs(self, activations: Mapping[int, Array]) -> Array:
        """Logits or values.

        Args:
            activations: layer -> raw activations ``(n, k)`` of that layer's ``features``, in order.

        Returns:
            ``(n, outputs)`` float32.
        """
        projected = [edges.project(activations[edges.layer]) for edges in self.layers]
        if self.dense is None:
            return np.asarray(sum(projected))
        return self.dense.outputs(np.concatenate(projected, axis=1))

    def outputs_full(self, activations: Mapping[int, Array]) -> Array:
        """As :meth:`outputs`, from whole layers ``(n, poolings * neurons)``."""
        return self.outputs({e.layer: activations[e.layer][:, e.features] for e in self.layers})

    @property
    def fingerprint(self) -> str:
        """Digest of what determines predictions: all tensors, the classes and the extraction."""
        card = self.card
        facts = [card.task, card.type, card.kind, card.classes, card.depth, card.poolings]
        facts += [card.stored_dtype, card.extraction_fingerprint]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.asarray(array, order="C").tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``head.safetensors`` and then ``head.json``, which makes the head complete."""
        write_arrays(folder / "head.safetensors", self._arrays())
        write_json(folder / "head.json", {**asdict(self.card), "fingerprint": self.fingerprint})

    def _arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for edges in self.layers:
            stem = f"layer_{edges.layer:03d}"
            for name in ("features", "weights", "bias"):
                arrays[f"{stem}.{name}"] = getattr(edges, name)
            for name, value in vars(edges.standardiser).items():
                arrays[f"{stem}.{name}"] = np.asarray(value, dtype=np.float32)
        if self.dense is not None:
            arrays |= {f"dense.{name}": value for name, value in vars(self.dense).items()}
        return arrays

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read and check a head folder.

        Raises:
            HeadError: no head there, another format version, or tensors of another head.
        """
        if not (folder / "head.json").is_file():
            raise HeadError(
                f"{folder}: no head here (no head.json); name a folder written by"
                " `salient consolidate`"
            )
        data = read_json(folder / "head.json")
        if data.get("format_version") != FORMAT_VERSION:
            raise HeadError(
                f"{folder}: head format {data.get('format_version')!r}, this version reads"
                f" {FORMAT_VERSION}; consolidate again or install the matching version"
            )
        fingerprint = data.pop("fingerprint", None)
        try:
            for name in ("classes", "poolings"):
                data[name] = tuple(data[name])
            card = HeadCard(**data)
        except (TypeError, KeyError) as error:
            raise HeadError(f"{folder}/head.json: not a head card ({error})") from None
        arrays = read_arrays(folder / "head.safetensors")
        try:
            head = cls(card, _layers(arrays), _dense(arrays))
        except KeyError as error:
            raise HeadError(
                f"{folder}/head.safetensors: tensor {error} is missing; copy the head again"
            ) from None
        if head.fingerprint != fingerprint:
            raise HeadError(
                f"{folder}: head.safetensors and head.json do not belong together; copy the head"
                " again or consolidate again"
            )
        return head


def _layers(arrays: Mapping[str, Array]) -> tuple[LayerEdges, ...]:
    names = sorted({name.split(".")[0] for name in arrays if name.startswith("layer_")})
    return tuple(
        LayerEdges(
            int(name.removeprefix("layer_")),
            arrays[f"{name}.features"],
            Standardiser(
                arrays[f"{name}.mean"], arrays[f"{name}.scale"], float(arrays[f"{name}.bound"])
            ),
            arrays[f"{name}.weights"],
            arrays[f"{name}.bias"],
        )
        for name in names
    )


def _dense(arrays: Mapping[str, Array]) -> Dense | None:
    if not any(name.startswith("dense.") for name in arrays):
        return None
    return Dense(*(arrays[f"dense.{name}"] for name in Dense.__dataclass_fields__))


def describe_heads(heads: Sequence[Head]) -> str:
    """One line per head, for messages."""
    return "; ".join(
        f"{head.card.task} ({head.card.kind}, layers 0..{head.card.depth},"
        f" {head.card.num_features} salient features)"
        for head in heads
    )
