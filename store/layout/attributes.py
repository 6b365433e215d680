"""What the arrays are in words, for the attributes of a Dataset: plain strings, as CF has them.

`store_attributes` also stand in the root `zarr.json`, so that `xr.open_zarr` shows them.
"""

from __future__ import annotations

import json

from store.layout.schema import StoreSchema

_NUMBER = {"units": "1"}
_ARRAYS = {
    "ffn": "FFN activation, pooled over the tokens of the text",
    "hidden": "hidden state, pooled over the tokens of the text",
    "peak": "token that max pooling takes, counted within the pooled part of the text",
    "router": "probability of the expert, pooled over the tokens of the text",
    "experts": "FFN activation of the expert, pooled over the tokens of the text",
}
_AXES = {
    "layer": "block of the backbone",
    "pooling": "how the tokens of a text became one number",
    "peak_pooling": "pooling whose token is told",
    "neuron": "neuron of the FFN",
    "hidden_layer": "hidden state: 0 are the embeddings, n is behind block n - 1",
    "hidden_unit": "unit of the hidden state",
    "router_layer": "block whose router is read",
    "router_expert": "expert of the routed layer",
    "experts_layer": "block whose experts are read",
    "expert": "expert that the unit is a neuron of",
    "expert_neuron": "neuron within its expert",
    "sample": "id of the text",
}
_NAMES = ("pooling", "peak_pooling", "sample")
_SAMPLES: dict[str, dict[str, str]] = {
    "text": {"long_name": "text as it was read"},
    "text_hash": {"long_name": "BLAKE2b of the text, 16 bytes in hex"},
    "n_tokens": {"long_name": "tokens read", **_NUMBER},
    "truncated": {"long_name": "whether the text was longer than the model's context"},
    "created_at": {"long_name": "time of the text, UTC", "standard_name": "time", "axis": "T"},
}


def array_attributes(name: str, stored: str, shown: str) -> dict[str, str]:
    """Attributes of an array of activations.

    Args:
        name: of the array, "ffn" or another.
        stored: its element type on disk.
        shown: the element type that readers get.
    """
    said = {"long_name": _ARRAYS[name], **_NUMBER}
    if stored != shown:
        said["comment"] = f"stored as {stored}; as {shown} every value is the same"
    return said


def coordinate_attributes(name: str) -> dict[str, str]:
    """Attributes of a coordinate: of an axis, of a sample, or of a task's labels."""
    if name in _AXES:
        number = {} if name in _NAMES else _NUMBER
        return {"long_name": _AXES[name], "standard_name": name, **number}
    if name in _SAMPLES:
        return dict(_SAMPLES[name])
    kind, _, task = name.partition("_")
    if kind == "label":
        return {"long_name": f"label of task {task}; missing: empty, or NaN for a number"}
    return {"long_name": f"split of task {task}; missing: empty"}


def store_attributes(schema: StoreSchema) -> dict[str, str]:
    """Whose activations a store holds: title, backbone, its revision if known, fingerprint."""
    backbone = schema.provenance.get("backbone")
    backbone = backbone if isinstance(backbone, dict) else {}
    said = {
        "title": "Activations inside a frozen language model",
        "backbone": str(backbone.get("model") or "unknown"),
        "backbone_revision": str(backbone.get("revision") or ""),
        "fingerprint": schema.fingerprint,
    }
    return {name: value for name, value in said.items() if value}


def provenance_attribute(schema: StoreSchema) -> dict[str, str]:
    """All that is known of where the numbers come from, as one JSON string."""
    said = dict(schema.provenance)
    return {"provenance": json.dumps(said, ensure_ascii=False, sort_keys=True)} if said else {}
