"""Golden texts: a few made-up ones whose results are recorded, so that a change shows.

Extraction records what the golden texts activate, heads record what they put out for them, and
scoring computes both again before the first row::

    write_golden(run / "golden.safetensors", extractor, stored_dtype="float16")
    write_outputs(head_folder, head.outputs_full(read_golden(run / "golden.safetensors")))
    read_outputs(head_folder).outputs       # what rounding does not explain has another cause
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import checked
from pipeline.errors import COPY_AGAIN, ExtractError, ScoreError, again
from store.layout import Source
from store.tables import check_array, read_arrays, read_json, write_arrays, write_json

if TYPE_CHECKING:
    from pipeline.extraction.extractor import Extractor

Array = NDArray[Any]
GOLDEN_TEXTS = (
    "ok",
    "What a lovely morning, the coffee is hot and the train is on time!",
    "@user I can't believe they cancelled it AGAIN... so angry right now #fail http",
    "\U0001f602\U0001f602 best day ever \U0001f389\u2764\ufe0f",
    "\u4eca\u65e5\u306f\u3068\u3066\u3082\u826f\u3044\u5929\u6c17\u3067\u3059\u3002 "
    "\u0421\u043f\u0430\u0441\u0438\u0431\u043e! \u0634\u0643\u0631\u0627",
    ".",
    "RT @user: 7 of 10 people say 3.14 &lt; 22/7 \u2014 is that true?",
    "The committee met on Tuesday to discuss the budget for the coming year. " * 12
    + "Nobody was satisfied, but everyone agreed to meet again.",
)
"""Short, long, emoji, not Latin, mention and link, nearly nothing; as after normalisation."""
OUTPUTS_FILE = "golden.json"
ACTIVATIONS_FILE = "golden_activations.safetensors"
MAX_FEATURES = 128
"""Features of each source whose values a head keeps."""
EXTRACT_AGAIN = again("extract")
MARK = "made_by"
"""Tensor that says which extraction a record belongs to."""


def golden_activations(extractor: Extractor, *, stored_dtype: str) -> dict[Source, Array]:
    """What the golden texts activate, rounded as the store would.

    Args:
        extractor: with whole layers, as for the store.
        stored_dtype: of the store, "float16" or "float32".

    Returns:
        Source -> ``(texts, poolings * units)`` float32.
    """
    from pipeline.extraction.extractor import STORED  # late: whoever reads a record needs no torch

    pooled = extractor.compute(extractor.encode(list(GOLDEN_TEXTS)), dtype=STORED[stored_dtype])
    rows = (values.float().numpy() for values in pooled.rows)
    return dict(zip(extractor.sources, rows, strict=True))


def write_golden(path: Path, extractor: Extractor, *, stored_dtype: str) -> None:
    """Record the golden texts' activations, tensors ``layer_000`` … ``hidden_000`` …

    What was recorded stays, so that a later change of libraries shows; what an earlier version or
    other ``[store] sites`` left out is added. Another backbone or other settings are recorded anew.
    """
    mark = np.frombuffer(f"{extractor.fingerprint()} {stored_dtype}".encode(), np.uint8)
    known = _recorded(path) if path.is_file() else {}
    made_by, _, dtype = known.get(MARK, mark[:0]).tobytes().decode(errors="replace").partition(" ")
    if dtype != stored_dtype or extractor.compared(made_by) is None:
        known = {}
    if known and all(source.name in known for source in extractor.sources):
        return
    found = golden_activations(extractor, stored_dtype=stored_dtype)
    write_arrays(
        path, {MARK: mark} | {source.name: values for source, values in found.items()} | known
    )


def read_golden(path: Path) -> dict[Source, Array] | None:
    """Source -> ``(texts, poolings * units)`` float32; None if the run has none.

    Raises:
        ExtractError, StoreError: a damaged file.
    """
    if not path.is_file():
        return None
    arrays = _recorded(path)
    arrays.pop(MARK, None)
    return {Source.of(name): values for name, values in arrays.items()}


def _recorded(path: Path) -> dict[str, Array]:
    """The tensors of a run's record, which are as many rows each as there are texts."""
    arrays = read_arrays(path, remedy=EXTRACT_AGAIN)
    try:
        for name, values in arrays.items():
            if name != MARK and Source.of(name):
                check_array(name, values, "f", (len(GOLDEN_TEXTS), None))
    except ValueError as error:
        raise ExtractError(
            f"{path}: no record of what the golden texts activate ({error}); {EXTRACT_AGAIN}"
        ) from None
    return arrays


@dataclass(frozen=True)
class _Outputs:
    texts: tuple[str, ...]
    outputs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Golden:
    """Texts and what a head put out for them.

    Attributes:
        texts: normalised.
        outputs: ``(texts, outputs)`` float64.
        features: source -> ``(k,)`` int64, some of those that the head reads; older heads' records
            have none.
        activations: source -> ``(texts, k)`` float32 of these features, rounded as stored.
    """

    texts: tuple[str, ...]
    outputs: Array
    features: Mapping[Source, Array] = field(default_factory=dict)
    activations: Mapping[Source, Array] = field(default_factory=dict)

    def difference(self, outputs: Array) -> float:
        """Largest difference of ``(texts, outputs)``, relative to the largest output."""
        scale = max(float(np.abs(self.outputs).max()), 1e-6)
        return float(np.abs(outputs - self.outputs).max()) / scale


def write_outputs(
    head_folder: Path,
    outputs: Array,
    *,
    texts: Sequence[str] = GOLDEN_TEXTS,
    features: Mapping[Source, Array] | None = None,
    activations: Mapping[Source, Array] | None = None,
) -> None:
    """Record a head's outputs beside it, and some of what it reads.

    Args:
        head_folder: of the head.
        outputs: ``(texts, outputs)``.
        texts: whose they are.
        features: source -> ``(k,)`` that the head reads.
        activations: source -> ``(texts, width)`` of the whole source, rounded as stored.
    """
    arrays = {}
    for source, read in (features or {}).items():
        if source.array is None or activations is None or not len(read):
            continue
        some = read[np.unique(np.linspace(0, len(read) - 1, MAX_FEATURES).astype(np.int64))]
        arrays[f"{source.name}.features"] = some
        arrays[f"{source.name}.values"] = np.asarray(activations[source][:, some], np.float32)
    beside = head_folder / ACTIVATIONS_FILE
    if arrays:
        write_arrays(beside, arrays)
    else:
        beside.unlink(missing_ok=True)  # of another head
    data = {"texts": list(texts), "outputs": np.asarray(outputs, np.float64).tolist()}
    write_json(head_folder / OUTPUTS_FILE, data)


def read_outputs(head_folder: Path) -> Golden | None:
    """What a head's folder records; None if it records nothing.

    Raises:
        ScoreError: the files are no such record.
        StoreError: they are damaged.
    """
    path = head_folder / OUTPUTS_FILE
    if not path.is_file():
        return None
    found, where = read_json(path, remedy=COPY_AGAIN), f"{path}: no record of golden outputs"
    data = checked(_Outputs, found, where=where, remedy=COPY_AGAIN, error=ScoreError)
    beside = head_folder / ACTIVATIONS_FILE
    arrays = read_arrays(beside, remedy=COPY_AGAIN) if beside.is_file() else {}
    names = [name.removesuffix(".values") for name in arrays if name.endswith(".values")]
    try:
        golden = Golden(
            data.texts,
            np.asarray(data.outputs, np.float64),
            {Source.of(name): arrays[f"{name}.features"] for name in names},
            {Source.of(name): arrays[f"{name}.values"] for name in names},
        )
        if golden.outputs.ndim != 2 or len(golden.outputs) != len(golden.texts):
            raise ValueError("texts and outputs differ in number")
    except ValueError as error:
        raise ScoreError(f"{path}: no record of golden outputs ({error}); {COPY_AGAIN}") from None
    except KeyError as error:
        raise ScoreError(f"{beside}: lacks the tensor {error}; {COPY_AGAIN}") from None
    try:
        for source, features in golden.features.items():
            check_array(f"{source.name}.features", features, "i", (None,))
            shape = (len(golden.texts), len(features))
            check_array(f"{source.name}.values", golden.activations[source], "f", shape)
    except ValueError as error:
        raise ScoreError(f"{beside}: no record of activations ({error}); {COPY_AGAIN}") from None
    return golden
