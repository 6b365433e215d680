"""A little store of numbered texts: what is appended to it, and what it says of itself.

The activations of a text depend on its number, the array and the layer only, so whoever computes
them gets the same ones, and whoever reads knows what must be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store import ActivationStore, AppendPlan, Block, StoreSchema
from store.commits.publishing import backfilled_schema
from store.layout.manifests import Manifest

SCHEMA = StoreSchema(
    num_layers=2,
    neuron_size=3,
    hidden_size=2,
    hidden_layers=(2,),
    samples_per_shard=8,
    fingerprint="f",
)
NOBODYS = 999
"""The number of what was deleted."""


def text_of(number: int) -> str:
    """The text of a number; no other holds it."""
    return f"text {number}."


def number_of(text: str | None) -> int:
    """The number of a text; of what was deleted meanwhile `NOBODYS`."""
    return int(text[5:-1]) if text else NOBODYS


def samples(world: Mapping[str, int], authors: Sequence[str]) -> pa.Table:
    """Ids, the texts of their numbers, and authors, as `plan_append` takes them."""
    return pa.table(
        {
            "id": pa.array(list(world), pa.string()),
            "text": pa.array([text_of(number) for number in world.values()], pa.string()),
            "author_id": pa.array(list(authors), pa.string()),
        }
    )


def values(
    schema: StoreSchema, name: str, layers: Sequence[int], numbers: Sequence[int]
) -> np.ndarray:
    """Activations (layer, pooling, unit, sample) of texts, which float16 holds as they are."""
    layout = schema.arrays[name]
    rows = np.arange(layout.rows, dtype=np.float32).reshape(layout.num_poolings, layout.width)
    base = 16 * np.asarray(layers, np.float32)[:, None, None] + rows / 8 + (name == "hidden") * 4
    return base[..., None] + np.asarray(numbers, np.float32)


def write_blocks(store: ActivationStore, plan: AppendPlan, blocks: Iterable[Block]) -> None:
    """Compute and stage some blocks of an append or a backfill."""
    schema = store.schema
    if plan.record.kind == "backfill":
        schema = backfilled_schema(schema, plan)
    for block in blocks:
        numbers = [number_of(text) for text in plan.samples(block)["text"].to_pylist()]
        arrays = {
            name: values(schema, name, layers, numbers)
            for name, layers in plan.record.layers.items()
        }
        tokens = np.asarray(numbers, np.int32) % 7
        store.write_block(plan, block, arrays, n_tokens=tokens, truncated=tokens == 0)


def content(root: Path) -> dict[str, Any]:
    """What a reader finds: text, tokens and author of every living id, labels, layers."""
    if not ActivationStore.exists(root):
        return {}
    store = ActivationStore.open(root, check="always")
    rows = {row["position"]: row for row in store.samples().to_pylist()}
    assert sorted(rows) == np.flatnonzero(~store.reader.dead).tolist()
    samples = {}
    for record in store.index.records.to_pylist():
        row = rows[record["position"]]
        samples[record["id"]] = (row["text"], row["n_tokens"], record["author_id"])
    return {
        "samples": samples,
        "labels": {task: store.labels(task).to_pylist() for task in store.tasks()},
        "specs": {task: store.label_spec(task) for task in store.tasks()},
        "layers": {name: layout.layers for name, layout in store.schema.arrays.items()},
    }


def fingerprint(root: Path) -> dict[str, object]:
    """Everything that must be the same however often what was done was interrupted."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and not name.startswith(".salient"):
            found[name] = path.read_bytes()
    document = json.loads(found.pop("zarr.json"))  # type: ignore[arg-type]
    for name in ("snapshot", "checksum"):
        document["attributes"]["salient"].pop(name)
    store = ActivationStore.open(root)
    found["root"] = document
    found["content"] = content(root)
    found["samples"] = store.samples().to_pylist()
    found["records"] = sorted(store.index.records.select(["id", "position"]).to_pylist(), key=str)
    for slot, record in enumerate(store.snapshot.slots):
        for path in record.manifests:
            manifest = Manifest(store.location, path)
            found[f"manifest {slot}"] = [
                (name, layer, manifest.accepted(name, layer).tolist(), moments.m2.tolist())
                for name, layout in sorted(store.schema.arrays.items())
                for layer in sorted(layout.layers)
                if manifest.covers(name, layer)
                for moments in [manifest.moments(name, layer)]
            ]
    return found


def files_with(folder: Path, needles: Iterable[str]) -> list[tuple[Path, str]]:
    """The files that hold some texts, as bytes or as what they are."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.suffix in (".parquet", ".arrow"):
            if path.suffix == ".parquet":
                table = pq.read_table(path, partitioning=None)
            else:
                table = pa.ipc.open_file(path).read_all()
            columns = table.to_pydict().values()
            content += "\0".join(str(value) for column in columns for value in column).encode()
        found += [(path, needle) for needle in needles if needle.encode() in content]
    return found
