"""Copies for other purposes: a smaller lossy archive, and a Parquet table of a few neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numcodecs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store import disk
from store.activations import ActivationStore
from store.errors import StoreInputError
from store.layout import (
    ROOT_DOCUMENT,
    encode_document,
    root_document,
    write_axis_coordinates,
    write_sample_chunks,
)

AnyArray = npt.NDArray[np.generic]
MAX_BLOSC_BYTES = 2**31 - 17
BLOSC_LEVEL = 5
TABLES = (".parquet", ".pq", ".csv", ".tsv", ".arrow", ".feather")
"""Endings of tables, which an archive is not."""


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote."""

    path: str
    num_bytes: int
    source_bytes: int

    def __str__(self) -> str:
        times = self.source_bytes / max(1, self.num_bytes)
        size = f"{times:.2f}x smaller" if times >= 1 else f"{1 / max(times, 1e-9):.2f}x larger"
        return f"{self.path}: {self.num_bytes / 1e6:.3f} MB, {size} than its source"


def export_archive(store: ActivationStore, path: str | Path, *, keepbits: int = 5) -> ExportReport:
    """Write the snapshot as a compressed, rounded, plain Zarr v3 group (not a Salient store).

    Mantissas are rounded to `keepbits` bits (5: relative error up to 1.6 %; the token numbers of
    peaks stay exact), then compressed with Blosc (lz4, bit shuffle), one chunk per shard. Any Zarr
    reader opens it; deleted samples are NaN. The folder appears when all of it is there.

    Raises:
        StoreError: the path exists, or shards too large for Blosc.
    """
    disk.refuse_address(path)
    target = Path(path).absolute()
    if target.suffix.lower() in TABLES:
        raise StoreInputError(
            f"{path}: an archive is a folder of the whole store, and that is a table's name; name"
            " a folder, or for a table of some neurons say which (--layer N --neuron M)"
        )
    _refuse_existing(target)
    schema = store.schema
    largest = 10 if schema.dtype == "float16" else 23
    if not 1 <= keepbits <= largest:
        raise StoreInputError(
            f"export: keepbits is {keepbits}; valid for {schema.dtype}: 1 to {largest}"
        )
    most_rows = max(layout.rows for layout in schema.arrays.values())
    if most_rows * schema.samples_per_shard * schema.itemsize > MAX_BLOSC_BYTES:
        raise StoreInputError("export: shards over 2 GB cannot be compressed with Blosc")
    disk.make_directories(target.parent)
    try:
        with disk.made_beside(target) as root:
            num_bytes = _write_archive(store, root, keepbits)
    except FileExistsError:
        raise _exists_already(target) from None
    return ExportReport(str(path), num_bytes, store.num_samples * schema.bytes_per_sample)


def _write_archive(store: ActivationStore, root: Path, keepbits: int) -> int:
    """Fill a folder with the archive; returns the bytes of its activations."""
    schema, size = store.schema, store.schema.samples_per_shard
    rounding = numcodecs.BitRound(keepbits=keepbits)
    blosc = numcodecs.Blosc(cname="lz4", clevel=BLOSC_LEVEL, shuffle=numcodecs.Blosc.BITSHUFFLE)
    num_bytes = 0
    for layout in schema.arrays.values():
        for layer in layout.layers:
            block = np.empty((layout.rows, size), schema.dtype)
            for start, values in store.iter_blocks(layout.name, layer=layer, out=block):
                block[:, len(values) :] = np.nan
                kept = block if layout.name == "peak" else rounding.encode(block)
                content = blosc.encode(np.ascontiguousarray(kept))
                shard = root / layout.shard_path(layer, start // size)
                disk.make_directories(shard.parent)
                disk.write_file(shard, [content], sync_name=False)
                num_bytes += len(content)
    rows = store.index.visible_rows(0, store.num_samples)
    slots = {
        slot: rows.slice(slot * size, record.count)
        for slot, record in enumerate(store.snapshot.slots)
    }
    write_sample_chunks(root, schema, slots)
    write_axis_coordinates(root, schema)
    _write_documents(root, store)
    disk.sync_directories({file.parent for file in root.rglob("*") if file.is_file()})
    return num_bytes


def _write_documents(root: Path, store: ActivationStore) -> None:
    document = root_document(store.schema, store.num_samples, store.snapshot_id)
    salient = document["attributes"].pop("salient")
    document["attributes"]["salient_export"] = salient
    arrays = document["consolidated_metadata"]["metadata"]
    for name in store.schema.arrays:
        arrays[name]["codecs"] = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {
                "name": "blosc",
                "configuration": {
                    "typesize": store.schema.itemsize,
                    "cname": "lz4",
                    "clevel": BLOSC_LEVEL,
                    "shuffle": "bitshuffle",
                    "blocksize": 0,
                },
            },
        ]
    disk.write_files(
        {root / name / ROOT_DOCUMENT: [encode_document(array)] for name, array in arrays.items()}
    )
    disk.write_file(root / ROOT_DOCUMENT, [encode_document(document)])


def export_parquet(
    store: ActivationStore,
    path: str | Path,
    *,
    layer: int,
    units: Sequence[int],
    poolings: Iterable[str] | None = None,
    array: str = "ffn",
) -> ExportReport:
    """Write a few neurons of one layer as a Parquet table, one row per living sample.

    Columns: id, created_at, n_tokens, truncated, then `<array>_<layer>_<pooling>_<unit>`.

    Raises:
        StoreError: the path exists; no such layer, unit or pooling.
    """
    disk.refuse_address(path)
    target = Path(path)
    _refuse_existing(target)
    if target.suffix.lower() in TABLES[2:]:
        raise StoreInputError(
            f"{path}: the table is written as Parquet; name it {target.stem}.parquet"
        )
    layout = store.schema.array(array)
    names = tuple(poolings or layout.poolings)
    unknown = [name for name in names if name not in layout.poolings]
    if unknown:
        raise StoreInputError(
            f"export: no pooling {unknown[0]!r}; the array has {', '.join(layout.poolings)}"
        )
    outside = [unit for unit in units if not 0 <= unit < layout.width]
    if outside:
        what = "neuron" if array == "ffn" else "unit"
        raise StoreInputError(f"export: no {what} {outside[0]}; valid are 0 to {layout.width - 1}")
    samples = store.samples()
    table = samples.select(["id", "created_at", "n_tokens", "truncated"])
    wanted = [(name, unit) for name in names for unit in units]
    features = [layout.poolings.index(n) * layout.width + unit for n, unit in wanted]
    values = store.read_features(
        array, layer=layer, features=features, samples=samples["position"].to_numpy()
    )
    for number, (name, unit) in enumerate(wanted):
        column = pa.array(np.ascontiguousarray(values[:, number]))
        table = table.append_column(f"{array}_{layer}_{name}_{unit}", column)
    disk.make_directories(target.absolute().parent)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    disk.write_file(target, [sink.getvalue()])
    source_bytes = len(samples) * len(wanted) * store.schema.itemsize
    return ExportReport(str(target), target.stat().st_size, source_bytes)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise _exists_already(path)


def _exists_already(path: Path) -> StoreInputError:
    return StoreInputError(f"{path}: exists already; choose another path or remove it first")
