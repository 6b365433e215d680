"""The Zarr v3 documents of a store: array metadata, and a root with consolidated metadata.

The root `zarr.json` is the commit: it names the snapshot and carries every array's shape, so a
reader that opens it sees one consistent state. What it says to Salient, its attribute `salient`,
has a checksum of its own inside, so that other attributes may be added and nothing but Salient is
troubled by it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from store import disk
from store.errors import StoreError
from store.layout.attributes import store_attributes
from store.layout.schema import ArrayLayout, StoreSchema, refuse_newer

JSON = Any
NO_TIME = -(2**63)
ROOT_DOCUMENT = "zarr.json"
NAMED_AXES = ("pooling", "peak_pooling")
"""Axes whose coordinates are names; the others are numbered."""
AXIS_OF = {"expert": "expert_unit", "expert_neuron": "expert_unit"}
"""Coordinate -> its axis, where that is not called as it is."""

# Per-sample coordinates: name -> (Zarr data type, fill value, attributes).
SAMPLE_COORDINATES: dict[str, tuple[str, JSON, dict[str, JSON]]] = {
    "sample_id": ("string", "", {}),
    "text": ("string", "", {}),
    "text_hash": ("string", "", {}),
    "n_tokens": ("int32", 0, {}),
    "truncated": ("bool", False, {}),
    "created_at": (
        "int64",
        NO_TIME,
        {
            "units": "seconds since 1970-01-01",
            "calendar": "proleptic_gregorian",
            "_FillValue": NO_TIME,
        },
    ),
}


def sample_coordinates(schema: StoreSchema) -> tuple[str, ...]:
    """Names of the per-sample coordinates this store has."""
    return tuple(name for name in SAMPLE_COORDINATES if name != "text" or schema.store_text)


def axis_coordinates(schema: StoreSchema) -> dict[str, tuple[Sequence[int] | Sequence[str], int]]:
    """Coordinate name -> (values, chunk length) of the layer, pooling and unit axes."""
    axes: dict[str, tuple[Sequence[int] | Sequence[str], int]] = {
        "pooling": (schema.poolings, len(schema.poolings))
    }
    if "ffn" in schema.arrays:
        # One chunk for all layers the backbone has, so that a backfill only lengthens the array.
        axes["layer"] = (schema.arrays["ffn"].layers, schema.num_layers)
        axes["neuron"] = (range(schema.neuron_size), schema.neuron_size)
    if "hidden" in schema.arrays:
        width = schema.arrays["hidden"].width
        axes["hidden_layer"] = (schema.hidden_layers, schema.num_layers + 1)
        axes["hidden_unit"] = (range(width), width)
    if "router" in schema.arrays:
        width = schema.arrays["router"].width
        axes["router_layer"] = (schema.router_layers, schema.num_layers)
        axes["router_expert"] = (range(width), width)
    if "experts" in schema.arrays:
        width, size = schema.arrays["experts"].width, schema.expert_size or 0
        axes["experts_layer"] = (schema.experts_layers, schema.num_layers)
        axes["expert"] = (np.repeat(schema.experts, size).tolist(), width)
        axes["expert_neuron"] = (np.tile(np.arange(size), len(schema.experts)).tolist(), width)
    if "peak" in schema.arrays:
        axes["peak_pooling"] = (schema.arrays["peak"].poolings, 1)
    return axes


def array_documents(schema: StoreSchema, num_samples: int) -> dict[str, JSON]:
    """Zarr metadata of every array of the store, by name."""
    documents = {
        name: _activation_document(schema, layout, num_samples)
        for name, layout in schema.arrays.items()
    }
    for name, (values, chunk) in axis_coordinates(schema).items():
        kind = "string" if name in NAMED_AXES else "int64"
        documents[name] = _document(
            (len(values),),
            kind,
            "" if kind == "string" else 0,
            (chunk,),
            (AXIS_OF.get(name, name),),
            {},
        )
    for name in sample_coordinates(schema):
        kind, fill, attributes = SAMPLE_COORDINATES[name]
        documents[name] = _document(
            (num_samples,), kind, fill, (schema.samples_per_shard,), ("sample",), attributes
        )
    return documents


def root_document(
    schema: StoreSchema, num_samples: int, snapshot_id: str, *, written_by: str = "salient"
) -> JSON:
    """The root group's metadata with all arrays consolidated.

    Args:
        schema: of the store.
        num_samples: committed.
        snapshot_id: what the root shows.
        written_by: the program's name and version.
    """
    labels = [name for name in axis_coordinates(schema) if name in AXIS_OF]
    coordinates = " ".join((*sample_coordinates(schema), *labels))
    ours = {"snapshot": snapshot_id, "schema": schema.to_json(), "written_by": written_by}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "coordinates": coordinates,
            **store_attributes(schema),
            "salient": {**ours, "checksum": disk.json_checksum(ours)},
        },
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": array_documents(schema, num_samples),
        },
    }


class Root(NamedTuple):
    """What a root `zarr.json` says: the commit that it shows, the schema's JSON, and all of it."""

    snapshot_id: str
    schema: dict[str, JSON]
    document: dict[str, JSON]


def decode_root(content: bytes, *, where: str, remedy: str) -> Root:
    """Read a root `zarr.json`.

    Args:
        content: the bytes of the file.
        where: the file, for the error.
        remedy: what to do about a damaged one.

    Raises:
        StoreError: damaged, not the root of a store, or written by a later version.
    """
    document = disk.parse_json(content, where=where, remedy=remedy)
    attributes = document.get("attributes")
    ours = attributes.get("salient") if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise StoreError(
            f"{where}: not the root of a Salient store; check the path, or, if it is one, {remedy}"
        )
    refuse_newer(ours, where=where)
    said = disk.take_checksum(ours, where, remedy)
    disk.check_members(
        said, _ROOT, where=where, remedy=remedy, of="attribute salient", optional=("written_by",)
    )
    return Root(said["snapshot"], said["schema"], document)


_ROOT = {"snapshot": str, "schema": dict, "written_by": str}


def encode_document(document: JSON) -> bytes:
    """A JSON document as it is stored."""
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _activation_document(schema: StoreSchema, layout: ArrayLayout, num_samples: int) -> JSON:
    size = schema.samples_per_shard
    document = _document(
        (len(layout.layers), layout.num_poolings, layout.width, num_samples),
        schema.dtype,
        "NaN",
        (1, layout.num_poolings, layout.width, size),
        layout.dims,
        {},
    )
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    document["codecs"] = [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [1, 1, 1, size],
                "codecs": [little],
                "index_codecs": [little, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
    ]
    return document


def _document(
    shape: tuple[int, ...],
    data_type: str,
    fill_value: JSON,
    chunk_shape: tuple[int, ...],
    dims: tuple[str, ...],
    attributes: Mapping[str, JSON],
) -> dict[str, JSON]:
    codec: JSON
    if data_type == "string":
        codec = {"name": "vlen-utf8", "configuration": {}}
    elif data_type == "bool":
        codec = {"name": "bytes"}
    else:
        codec = {"name": "bytes", "configuration": {"endian": "little"}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": [codec],
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "storage_transformers": [],
    }


def encode_strings(values: Sequence[str | None], length: int) -> bytes:
    """A `vlen-utf8` chunk of `length` strings: `values`, then empty ones. None becomes empty."""
    items = [(value or "").encode("utf-8", "replace") for value in values]
    items += [b""] * (length - len(items))
    parts = [struct.pack("<I", length)]
    for item in items:
        parts += (struct.pack("<I", len(item)), item)
    return b"".join(parts)


def encode_numbers(values: Sequence[Any] | np.ndarray, length: int, name: str) -> bytes:
    """A chunk of a numeric sample coordinate `(n,)`, padded with its fill value to `length`."""
    kind, fill, _ = SAMPLE_COORDINATES[name]
    chunk = np.full(length, fill, np.dtype(kind).newbyteorder("<"))
    chunk[: len(values)] = values
    return chunk.tobytes()
