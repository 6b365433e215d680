"""`salient inspect`: say what a file or folder of Salient's holds, as plain facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.heads import Head, all_features
from pipeline.report.verdict import choice_sentence
from pipeline.runfolder import RunFolder, read_card, read_metrics, run_config, what_was_lost
from pipeline.scoring import SCORE_CARD, scores_at
from store import ActivationStore, StoreSchema
from store.disk import is_url
from store.layout import SITES, Source

Facts = dict[str, Any]
_STORE_SIGN = ".salient/snapshots"
"""What only a store has, also one whose newest snapshot is missing: opening it says so."""


def inspect(path: Path | str) -> Facts:
    """Facts about a store, run, head or score folder, a Parquet file or a configuration.

    Args:
        path: of it; a store and scores may also be in a bucket.

    Returns:
        A JSON object; ``kind`` says what the path is.

    Raises:
        ConfigError: nothing that Salient knows.
        SalientError: damaged content.
    """
    if is_url(path):
        return _in_bucket(str(path))
    path = Path(path)
    for applies, read in KINDS:
        if applies(path):
            return read(path)
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    raise ConfigError(
        f"{path}: not a store, run, head or score folder, Parquet file or TOML configuration"
    )


def _in_bucket(address: str) -> Facts:
    if ActivationStore.exists(address):
        return _store(address)
    scores = scores_at(address)
    if scores.card() is not None or scores.dates():
        return _scores(address)
    raise ConfigError(
        f"{address}: no activation store and no scores there; runs and heads lie in folders of a"
        " machine"
    )


def _store(path: Path | str) -> Facts:
    store = ActivationStore.open(path)
    schema = store.schema
    return {
        "kind": "store",
        "samples": store.num_living,
        "snapshot": store.snapshot_id,
        "layers": schema.num_layers,
        "neurons": schema.neuron_size,
        "poolings": list(schema.poolings),
        "hidden_layers": list(schema.hidden_layers),
        "hidden_size": schema.hidden_size,
        "peaks": schema.peaks,
        **_routed(schema),
        "dtype": schema.dtype,
        "samples_per_shard": schema.samples_per_shard,
        "fingerprint": schema.fingerprint,
        "tasks": {task: _label_counts(store, task) for task in store.tasks()},
        "provenance": dict(schema.provenance),
    }


def _routed(schema: StoreSchema) -> Facts:
    """What a store holds of a mixture of experts."""
    return {
        f"{name}_layers": list(schema.arrays[name].layers)
        for name in ("router", "experts")
        if name in schema.arrays
    } | ({"experts": list(schema.experts)} if schema.experts else {})


def _label_counts(store: ActivationStore, task: str) -> Facts:
    table = store.labels(task)
    counts = table.group_by("split").aggregate([("id", "count")]).to_pylist()
    return {
        **dict(store.label_spec(task)),
        "rows": {row["split"]: row["id_count"] for row in counts},
    }


def _run(path: Path) -> Facts:
    folder = RunFolder(path)
    metrics = read_metrics(folder) if folder.metrics.is_file() else None
    facts: Facts = {"kind": "run", **read_card(folder), "metrics": metrics}
    try:
        lost = what_was_lost(run_config(path))
    except ConfigError:
        return facts  # of another version: its results are shown all the same
    return facts if lost is None else facts | {"lost": lost}


def _head(path: Path) -> Facts:
    head = Head.load(path)
    card = head.card
    facts: Facts = {
        "kind": "head",
        "task": card.task,
        "head_kind": card.kind,
        "reads": sources_read(head.features),
        "blocks": f"{card.depth + 1 if all_features([head]) else 0} of {card.num_layers}",
        "features": card.num_features,
    }
    facts |= {name: card.metrics[name] for name in ("loss", "score") if name in card.metrics}
    if "choice" in card.metrics:
        facts["choice"] = choice_sentence(
            card.metrics["choice"],
            depth=card.depth,
            num_features=card.num_features,
            num_layers=card.num_layers,
            regression=card.type == "regression",
        )
    return facts | {"card": dict(vars(card))}


def sources_read(sources: Iterable[Source]) -> list[str]:
    """What a head reads, site by site: ``FFN layers 0..3``, ``hidden states 0..4``, ``n-grams``."""
    layers: dict[str, list[int]] = {}
    for source in sorted(sources):
        layers.setdefault(source.site, []).append(source.layer)
    found = []
    for site, own in layers.items():
        if SITES[site].array is None:
            found.append(Source(site, own[0]).label)
            continue
        parts: list[list[int]] = []
        for layer in own:
            if parts and layer == parts[-1][1] + 1:
                parts[-1][1] = layer
            else:
                parts.append([layer, layer])
        numbers = ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in parts)
        name = "FFN layer" if site == "ffn" else SITES[site].label
        found.append(f"{name}{'s' * (len(own) > 1)} {numbers}")
    return found


def _scores(path: Path | str) -> Facts:
    held = scores_at(path)
    dates = held.dates()
    rows = {date: sum(own) for date, own in dates.items()}
    return {
        "kind": "scores",
        **(held.card() or {}),
        "files": sum(map(len, dates.values())),
        "rows": sum(rows.values()),
        "rows_by_date": rows,
    }


def _parquet(path: Path) -> Facts:
    try:
        file = pq.ParquetFile(path)
        first = file.read_row_group(0).slice(0, 3).to_pylist() if file.num_row_groups else []
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path}: not a readable Parquet file ({error})") from None
    columns = {field.name: str(field.type) for field in file.schema_arrow}
    return {
        "kind": "table",
        "rows": file.metadata.num_rows,
        "columns": columns,
        "first_rows": [{key: _plain(value) for key, value in row.items()} for row in first],
    }


def _config(path: Path) -> Facts:
    config = run_config(path)
    return {
        "kind": "config",
        "fingerprint": config.fingerprint,
        "extracted": RunFolder(Path(config.run_dir)).card.is_file(),
        "finished": RunFolder(Path(config.run_dir)).metrics.is_file(),
        "config": config.model_dump(mode="json"),
    }


KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Facts]], ...] = (
    (lambda path: (path / _STORE_SIGN).is_dir() or ActivationStore.exists(path), _store),
    (lambda path: (path / "run.json").is_file(), _run),
    (lambda path: (path / "head.json").is_file(), _head),
    (lambda path: (path / SCORE_CARD).exists(), _scores),
    (lambda path: path.is_file() and path.suffix in (".parquet", ".pq"), _parquet),
    (lambda path: path.is_file() and path.suffix == ".toml", _config),
)


def describe(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts as lines of text, nested objects indented; control characters are escaped."""
    for line in _lines(facts, 0):
        yield "".join(
            sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line
        )


def _lines(facts: Mapping[str, Any], indent: int) -> Iterator[str]:
    for key, value in facts.items():
        label = "  " * indent + str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield f"{label}:"
            yield from _lines(value, indent + 1)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for number, entry in enumerate(value, start=1):
                yield f"{label} {number}:"
                yield from _lines(entry, indent + 1)
        elif isinstance(value, list | tuple):
            yield f"{label}: {', '.join(map(str, value))}"
        else:
            yield f"{label}: {value}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
