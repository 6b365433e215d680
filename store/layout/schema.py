"""What one store holds: its axes, element type, shard size and where the numbers come from.

The axis order `(layer, pooling, neuron, sample)` is written here once; everything else asks the
schema. `StoreSchema` is saved as JSON in every snapshot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from store import disk
from store.errors import DISTRIBUTION, StoreError, StoreInputError

FORMAT_VERSION = 2
"""2 keeps a checksum in every JSON file, and the slots of a snapshot as columns."""
READABLE = (1, 2)
"""Versions that are read; what is written is the newest, so a store grows into it by itself."""
DTYPES = ("float16", "float32")
PAGE_BYTES = 4096
TARGET_SHARD_BYTES = 50_000_000
MAX_FLOAT16_INTEGER = 2048
"""float16 holds every integer up to this one exactly."""
DIMS = {
    "ffn": ("layer", "pooling", "neuron", "sample"),
    "hidden": ("hidden_layer", "pooling", "hidden_unit", "sample"),
    "peak": ("layer", "peak_pooling", "neuron", "sample"),
    "router": ("router_layer", "pooling", "router_expert", "sample"),
    "experts": ("experts_layer", "pooling", "expert_unit", "sample"),
}
"""Axes of each array."""
ARRAYS = tuple(DIMS)
"""Names of all arrays that a store may have."""
MAX_LAYERS = 2**14
MAX_WIDTH = 2**24
MAX_SAMPLES_PER_SHARD = 2**26
MAX_SHARD_BYTES = 2**40
"""Far beyond any model: a store that claims more is damaged, and memory is not asked for it."""

_ATTEMPT = re.compile(r"[0-9]{8}-[0-9]{6,}-([0-9a-f]{12}-[0-9a-f]{8})\.safetensors", re.ASCII)
"""What ends the name of a bucket's manifest: its plan and the attempt that counts."""

JSON = Any


@dataclass(frozen=True)
class ArrayLayout:
    """One activation array on disk: a shard per (layer, slot), `rows` x samples in each.

    Rows are pooling-major: row `p * width + j` is unit `j` under pooling `p`.
    """

    name: str
    dims: tuple[str, str, str, str]
    layers: tuple[int, ...]
    poolings: tuple[str, ...]
    width: int

    @property
    def num_poolings(self) -> int:
        """Length of the pooling axis."""
        return len(self.poolings)

    @property
    def rows(self) -> int:
        """Rows of one shard, poolings times width."""
        return self.num_poolings * self.width

    def axis_index(self, layer: int) -> int:
        """Position of `layer` on the array's first axis."""
        try:
            return self.layers.index(int(layer))
        except ValueError:
            option = {"ffn": "layers", "peak": "layers", "hidden": "hidden"}.get(self.name)
            raise StoreInputError(
                f"array {self.name!r} has no layer {layer}: it holds {_ranges(self.layers)}"
                + (
                    f"; `salient store add STORE --{option} {layer}` adds one of the model's"
                    if option
                    else ", all that the model had when the store was made"
                )
            ) from None

    def shard_path(self, layer: int, slot: int, manifest: str | None = None) -> str:
        """Path of a shard relative to the store: Zarr's default chunk keys.

        Args:
            layer: by its value.
            slot: number of the slot.
            manifest: path of the one that covers the shard. On a bucket each attempt at a block
                has shards of its own, and the manifest's name tells whose: an ending is added.
                Manifests of a disk add none.
        """
        path = f"{self.name}/c/{self.axis_index(layer)}/0/0/{slot}"
        found = _ATTEMPT.fullmatch((manifest or "").rpartition("/")[2])
        return f"{path}.{found[1]}" if found else path


@dataclass(frozen=True)
class StoreSchema:
    """Shape and origin of a store.

    Args:
        num_layers: blocks of the backbone.
        neuron_size: FFN width `A`.
        poolings: names of the poolings, in axis order.
        hidden_size: width `H` of the hidden states; None stores none.
        hidden_layers: which hidden states are stored (Hugging Face's index: `num_layers` is the
            final one); defaults to the final one where `hidden_size` is given.
        dtype: "float16" or "float32".
        samples_per_shard: samples `S` in one shard.
        fingerprint: fingerprint of the extraction (weights, tokenizer, precision, pooling ...).
        provenance: any JSON worth keeping beside the numbers.
        layers: which blocks' activations are stored; default all, in order.
        store_text: False keeps only hashes of the texts.
        router_size: experts of a routed layer, where the routers' probabilities are stored.
        router_layers: the blocks whose routers' probabilities are stored.
        expert_size: neurons of an expert, where the experts' activations are stored.
        experts: numbers of the experts that are kept.
        experts_layers: the blocks whose experts' activations are stored.
        peaks: also store the token that max pooling takes, counted within the pooled part of the
            text; -1 without tokens. Kept in `dtype`, as exact integers.
        format_version: version of the layout on disk.
    """

    num_layers: int
    neuron_size: int
    poolings: tuple[str, ...] = ("mean", "max")
    hidden_size: int | None = None
    hidden_layers: tuple[int, ...] = ()
    dtype: str = "float16"
    samples_per_shard: int = 4096
    fingerprint: str = ""
    provenance: Mapping[str, JSON] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None
    store_text: bool = True
    peaks: bool = False
    router_size: int | None = None
    router_layers: tuple[int, ...] = ()
    expert_size: int | None = None
    experts: tuple[int, ...] = ()
    experts_layers: tuple[int, ...] = ()
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "poolings", tuple(self.poolings))
        if self.num_layers > MAX_LAYERS:
            raise StoreError(f"schema: num_layers is {self.num_layers}; at most {MAX_LAYERS:,}")
        if self.layers is None:
            object.__setattr__(self, "layers", tuple(range(self.num_layers)))
        object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers or ()))
        if self.hidden_size is not None and not self.hidden_layers:
            object.__setattr__(self, "hidden_layers", (self.num_layers,))
        for name in ("hidden_layers", "router_layers", "experts", "experts_layers"):
            object.__setattr__(self, name, tuple(int(i) for i in getattr(self, name)))
        object.__setattr__(self, "provenance", json.loads(json.dumps(dict(self.provenance))))
        self._validate()

    def _validate(self) -> None:
        if self.format_version not in READABLE:
            raise StoreError(f"schema: format_version {self.format_version} is not in {READABLE}")
        sizes = ["num_layers", "samples_per_shard", *(["neuron_size"] if self.layers else [])]
        sizes += ["router_size"] if self.router_layers else []
        sizes += ["expert_size"] if self.experts_layers else []
        for name in sizes:
            if (getattr(self, name) or 0) < 1:
                raise StoreError(f"schema: {name} is {getattr(self, name)}; it must be at least 1")
        if self.samples_per_shard > MAX_SAMPLES_PER_SHARD:
            raise StoreError(
                f"schema: samples_per_shard is {self.samples_per_shard:,}; at most "
                f"{MAX_SAMPLES_PER_SHARD:,}"
            )
        if self.dtype not in DTYPES:
            raise StoreError(f"schema: dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if not self.poolings or len(set(self.poolings)) != len(self.poolings):
            raise StoreError(f"schema: poolings {self.poolings} must be non-empty and distinct")
        _check_layers("layers", self.layers or (), self.num_layers - 1)
        _check_layers("hidden_layers", self.hidden_layers, self.num_layers)
        _check_layers("router_layers", self.router_layers, self.num_layers - 1)
        _check_layers("experts_layers", self.experts_layers, self.num_layers - 1)
        if self.experts_layers and not self.experts:
            raise StoreError("schema: experts_layers without experts; give their numbers too")
        if self.hidden_size is None and self.hidden_layers:
            raise StoreError("schema: hidden_layers without hidden_size; give the hidden size too")
        if not any((self.layers, self.hidden_layers, self.router_layers, self.experts_layers)):
            raise StoreError("schema: no layers and no hidden states; there is nothing to store")
        if self.peaks and not (self.layers and "max" in self.poolings):
            raise StoreError(
                "schema: peaks are the tokens that max pooling takes: they need the pooling 'max' "
                "and FFN layers; add 'max' to the poolings, or set peaks to False"
            )
        for name, layout in self.arrays.items():
            if layout.width > MAX_WIDTH:
                raise StoreError(
                    f"schema: array {name!r} has {layout.width:,} units; at most {MAX_WIDTH:,}"
                )
            num_bytes = layout.rows * self.samples_per_shard * self.itemsize
            if not 0 < num_bytes <= MAX_SHARD_BYTES:
                raise StoreError(
                    f"schema: a shard of array {name!r} has {num_bytes:,} bytes; at least 1 and at "
                    f"most {MAX_SHARD_BYTES:,}"
                )

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return np.dtype(self.dtype).itemsize

    @property
    def arrays(self) -> dict[str, ArrayLayout]:
        """The stored arrays by name: where stored, "ffn", "hidden", "peak", "router", "experts"."""
        arrays = {}
        if self.layers:
            arrays["ffn"] = ArrayLayout(
                "ffn",
                DIMS["ffn"],
                self.layers,
                self.poolings,
                self.neuron_size,
            )
        if self.hidden_size is not None:
            arrays["hidden"] = ArrayLayout(
                "hidden",
                DIMS["hidden"],
                self.hidden_layers,
                self.poolings,
                self.hidden_size,
            )
        if self.peaks and self.layers:
            arrays["peak"] = ArrayLayout(
                "peak",
                DIMS["peak"],
                self.layers,
                ("max",),
                self.neuron_size,
            )
        if self.router_layers:
            arrays["router"] = ArrayLayout(
                "router",
                DIMS["router"],
                self.router_layers,
                self.poolings,
                self.router_size or 0,
            )
        if self.experts_layers:
            arrays["experts"] = ArrayLayout(
                "experts",
                DIMS["experts"],
                self.experts_layers,
                self.poolings,
                len(self.experts) * (self.expert_size or 0),
            )
        return arrays

    def array(self, name: str) -> ArrayLayout:
        """Layout of one array; StoreError names the arrays there are."""
        if name not in self.arrays:
            raise StoreInputError(
                f"no array {name!r} in this store; it holds {', '.join(self.arrays)}"
            )
        return self.arrays[name]

    @property
    def bytes_per_sample(self) -> int:
        """Payload bytes of one sample over all arrays."""
        return sum(len(a.layers) * a.rows for a in self.arrays.values()) * self.itemsize

    def to_json(self) -> dict[str, JSON]:
        """A JSON object that `from_json` reads back."""
        data: dict[str, JSON] = json.loads(json.dumps(asdict(self)))
        # A store without these reads as it did before there were any.
        for name in ("peaks", "router_size", "router_layers", "expert_size", "experts"):
            if not data[name]:
                del data[name]
        if not self.experts_layers:
            del data["experts_layers"]
        data["format_version"] = FORMAT_VERSION
        return data

    @classmethod
    def from_json(
        cls, data: JSON, *, where: str = "schema", remedy: str = disk.FROM_BACKUP
    ) -> StoreSchema:
        """Rebuild a schema of this version or an earlier one.

        Args:
            data: what `to_json` gave.
            where: the file that it comes from, for the error.
            remedy: what to do about a damaged one.

        Raises:
            StoreError: not what `to_json` writes.
        """
        disk.check_members(
            data, _MEMBERS, where=where, remedy=remedy, of="schema", optional=_OPTIONAL
        )
        try:
            return cls(**data)
        except StoreError as error:
            raise disk.damaged(where, str(error), remedy) from None

    def with_layers(
        self,
        *,
        layers: tuple[int, ...] = (),
        hidden_layers: tuple[int, ...] = (),
        hidden_size: int | None = None,
    ) -> StoreSchema:
        """The schema after more layers have been added at the end of the axes."""
        return replace(
            self,
            hidden_size=self.hidden_size or (hidden_size if hidden_layers else None),
            layers=(*(self.layers or ()), *layers),
            hidden_layers=(*self.hidden_layers, *hidden_layers),
        )

    @staticmethod
    def default_samples_per_shard(
        *,
        neuron_size: int,
        num_poolings: int = 2,
        dtype: str = "float16",
        num_samples: int | None = None,
    ) -> int:
        """Samples per shard for shards of about 50 MB with rows of whole 4096-byte pages.

        Never larger than a corpus of `num_samples` needs.
        """
        step = PAGE_BYTES // np.dtype(dtype).itemsize
        row_bytes = TARGET_SHARD_BYTES / (num_poolings * neuron_size)
        pages = max(1, round(row_bytes / PAGE_BYTES))
        if num_samples is not None:
            pages = min(pages, max(1, -(-num_samples // step)))
        return pages * step


_MEMBERS = {
    "num_layers": int,
    "neuron_size": int,
    "poolings": [str],
    "hidden_size": (int, None),
    "hidden_layers": [int],
    "dtype": str,
    "samples_per_shard": int,
    "fingerprint": str,
    "provenance": dict,
    "layers": [int],
    "store_text": bool,
    "peaks": bool,
    "router_size": int,
    "router_layers": [int],
    "expert_size": int,
    "experts": [int],
    "experts_layers": [int],
    "format_version": int,
}
_OPTIONAL = ("peaks", "router_size", "router_layers", "expert_size", "experts", "experts_layers")
_PRODUCT = re.compile(r"salient ([0-9]+(?:\.[0-9a-z]+)*)", re.ASCII)


@cache
def own_version() -> str | None:
    """Version of this program; None in a checkout that is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def program() -> str:
    """Name and version of this program, as files keep it: ``salient 1.2.0``."""
    version = own_version()
    return "salient" if version is None else f"salient {version}"


def refuse_newer(data: Mapping[str, JSON], *, where: str) -> None:
    """StoreError for a format that only a later Salient knows, with the version to take.

    Asked before a checksum is compared, which a later format may compute in another way.

    Args:
        data: as the file says it: `schema` with its `format_version`, and `written_by`.
        where: the file.
    """
    schema, written_by = data.get("schema"), data.get("written_by")
    version = schema.get("format_version") if isinstance(schema, dict) else None
    if type(version) is not int or version <= FORMAT_VERSION:
        return
    found = _PRODUCT.fullmatch(written_by) if isinstance(written_by, str) else None
    wanted = f"salient >= {found[1]}" if found else "the version that wrote the store"
    raise StoreInputError(
        f"{where}: store format {version}, this Salient reads up to {FORMAT_VERSION}: install "
        f"{wanted} (or extract again with this one)"
    )


def _check_layers(name: str, layers: tuple[int, ...], last: int) -> None:
    if len(set(layers)) != len(layers):
        raise StoreError(f"schema: {name} {layers} repeats a layer")
    bad = [layer for layer in layers if not 0 <= layer <= last]
    if bad:
        raise StoreError(f"schema: {name} contains {bad[0]}; valid are 0 to {last}")


def _ranges(layers: tuple[int, ...]) -> str:
    return "no layers" if not layers else "layers " + ", ".join(map(str, layers))
