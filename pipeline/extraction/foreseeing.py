"""What an extraction would take, before it is begun: texts, disk, memory and time.

``salient run --dry-run`` says it. The time rests on a short measurement, on this machine, with some
of the texts themselves; a model that would have to be fetched first is not, and then its sizes and
speed are not known.
"""

from __future__ import annotations

import shutil
import time
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.backbone import Backbone
from pipeline.config import BackboneConfig, RunConfig, is_model_path
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.storing import StoreOptions, load_for_store, open_store, schema_of
from pipeline.progress import Say, silent
from store import ActivationStore, StoreSchema, disk

MEASURED_TEXTS, MEASURED_S = 256, 10.0
"""Texts that the speed is measured on at most, and the time after which they are enough."""
_STEP = 32


def foresee(config: RunConfig, samples: pa.Table, *, say: Say = silent) -> dict[str, Any]:
    """What extracting a corpus would compute and take; nothing is written, nothing fetched.

    Args:
        config: the run's.
        samples: ``id, text`` of its corpus.
        say: called with lines.

    Returns:
        JSON-ready: ``texts``, ``stored`` (of them, in the store already) and ``new``; where there
        are new ones ``disk``: ``bytes``, ``bytes_per_text``, ``free`` (None of a bucket);
        ``requests``, of a bucket alone: ``put``, ``get`` and ``list``; ``memory``: ``model``,
        ``block`` (texts at a time), in bytes; ``time``: ``seconds``, ``texts_per_s``, ``measured``
        (texts) and ``device``; or in place of these ``unknown``: why they cannot be told.

    Raises:
        SalientError: a model that cannot be loaded, or that the store was not made with.
    """
    path = config.store.path
    new = _new_rows(path, samples)
    found: dict[str, Any] = {
        "texts": samples.num_rows,
        "stored": samples.num_rows - len(new),
        "new": len(new),
    }
    if not len(new):
        return found
    if not _is_here(config.backbone):
        where = f"the model {config.backbone.model} is not on this machine yet"
        return found | {"unknown": f"{where}; `salient check` fetches it, and measures it"}
    say(f"loading {config.backbone.model}")
    backbone = load_for_store(config.backbone, path, device=config.cluster.device)
    options = StoreOptions.of(config).going_on(path)
    extractor = options.extractor(backbone)
    if ActivationStore.exists(path):
        schema = open_store(path, extractor, options, num_texts=samples.num_rows).schema
    else:
        schema = schema_of(extractor, options, samples.num_rows)
    say("measuring its speed on some of the texts")
    rate, measured = _rate(extractor, samples["text"], new)
    block = min(schema.samples_per_shard, len(new)) * schema.bytes_per_sample
    if disk.is_url(path):
        found["requests"] = _requests(schema, len(new), config)
    return found | {
        "disk": {
            "bytes": _rows_kept(path, schema, len(new)) * schema.bytes_per_sample,
            "bytes_per_text": schema.bytes_per_sample,
            "free": None if disk.is_url(path) else shutil.disk_usage(_existing(Path(path))).free,
        },
        "memory": {"model": _model_bytes(backbone), "block": 2 * block},
        "time": {
            "seconds": len(new) / rate,
            "texts_per_s": rate,
            "measured": measured,
            "device": str(backbone.device),
        },
    }


def _rows_kept(path: str, schema: StoreSchema, num_texts: int) -> int:
    """Rows that texts take room for: an object of a bucket is as long as a full shard."""
    if not disk.is_url(path):
        return num_texts
    begin = ActivationStore.open(path).num_samples if ActivationStore.exists(path) else 0
    size = schema.samples_per_shard
    return (ceil((begin + num_texts) / size) - begin // size) * size


def _requests(schema: StoreSchema, num_texts: int, config: RunConfig) -> dict[str, int]:
    """What writing texts into a store in a bucket asks of it, about; and reading all of it once.

    A block of texts is an object for each layer and a manifest; on workers there is a mark while it
    is computed. Planning, committing and each task's labels are a commit.
    """
    layers = sum(len(layout.layers) for layout in schema.arrays.values())
    blocks = ceil(num_texts / schema.samples_per_shard)
    commits = 2 + len(config.tasks)
    marks = blocks if config.cluster.kind != "local" else 0
    return {
        "put": blocks * (layers + 1) + marks + 4 * commits,
        "get": 3 * blocks + 5 * commits,
        "list": blocks + 5 * commits + 2 * marks,
        "get_all": blocks * layers,
    }


def _new_rows(path: str, samples: pa.Table) -> np.ndarray[Any, Any]:
    """Rows of the texts that the store lacks, ascending."""
    if not ActivationStore.exists(path):
        return np.arange(samples.num_rows)
    places = ActivationStore.open(path).positions(samples["id"].to_pylist())
    return np.flatnonzero(np.asarray(places) < 0)


def _is_here(settings: BackboneConfig) -> bool:
    """Whether a model can be loaded without fetching it."""
    model = settings.model
    if model.startswith("package:") or is_model_path(model) or Path(model).is_dir():
        return True
    if settings.revision is None:
        return True  # loading says what is wrong
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(model, revision=settings.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    except ValueError:  # no name of a repository: loading says so
        return True
    return True


def _rate(
    extractor: Extractor, texts: pa.ChunkedArray, rows: np.ndarray[Any, Any]
) -> tuple[float, int]:
    """Texts a second, and how many they were: spread over the rows, after a first step."""
    places = np.linspace(0, len(rows) - 1, min(MEASURED_TEXTS, len(rows))).astype(int)
    chosen = texts.take(pa.array(rows[places])).to_pylist()
    extractor.compute(extractor.encode(chosen[:_STEP]))
    done, begin, elapsed = 0, time.perf_counter(), 0.0
    while done < len(chosen) and elapsed < MEASURED_S:
        step = chosen[done : done + _STEP]
        extractor.compute(extractor.encode(step))
        done, elapsed = done + len(step), time.perf_counter() - begin
    return done / max(elapsed, 1e-9), done


def _model_bytes(backbone: Backbone) -> int:
    return backbone.num_parameters * backbone.dtype.itemsize


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (path, *path.resolve().parents) if one.is_dir())
