"""Golden texts: a few made-up ones whose results are recorded, so that a change shows.

Extraction records what the golden texts activate, heads record what they put out for them, and
scoring computes both again before the first row::

    write_golden(run / "golden.safetensors", extractor, stored_dtype="float16")
    write_outputs(head_folder, head.outputs_full(read_golden(run / "golden.safetensors")))
    read_outputs(head_folder).difference(outputs)     # small, or something has changed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ScoreError
from pipeline.extraction.extractor import Extractor
from store.tables import read_arrays, read_json, write_arrays, write_json

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
MARK = "made_by"
"""Tensor that says which extraction a record belongs to."""


def golden_activations(extractor: Extractor, *, stored_dtype: str) -> dict[int, Array]:
    """What the golden texts activate, rounded as the store would.

    Args:
        extractor: with whole layers, as for the store.
        stored_dtype: of the store, "float16" or "float32".

    Returns:
        Layer -> ``(texts, poolings * neurons)`` float32.
    """
    found = extractor(GOLDEN_TEXTS).ffn
    flat = found.reshape(len(found), -1, len(GOLDEN_TEXTS)).transpose(0, 2, 1)
    rounded = flat.astype(stored_dtype).astype(np.float32)
    return dict(zip(extractor.layers, rounded, strict=True))


def write_golden(path: Path, extractor: Extractor, *, stored_dtype: str) -> None:
    """Record the golden texts' activations, tensors ``layer_000`` …; once for an extraction.

    What was recorded stays, so that a later change of libraries shows; another backbone or other
    settings are recorded anew.
    """
    mark = np.frombuffer(f"{extractor.fingerprint()} {stored_dtype}".encode(), np.uint8)
    if path.is_file() and np.array_equal(read_arrays(path).get(MARK, mark[:0]), mark):
        return
    layers = golden_activations(extractor, stored_dtype=stored_dtype)
    write_arrays(
        path, {MARK: mark} | {f"layer_{layer:03d}": values for layer, values in layers.items()}
    )


def read_golden(path: Path) -> dict[int, Array] | None:
    """Layer -> ``(texts, poolings * neurons)`` float32; None if the run has none."""
    if not path.is_file():
        return None
    arrays = read_arrays(path)
    arrays.pop(MARK, None)
    return {int(name.removeprefix("layer_")): values for name, values in arrays.items()}


@dataclass(frozen=True)
class Golden:
    """Texts and what a head put out for them, ``(texts, outputs)`` float64."""

    texts: tuple[str, ...]
    outputs: Array

    def difference(self, outputs: Array) -> float:
        """Largest difference of ``(texts, outputs)``, relative to the largest output."""
        scale = max(float(np.abs(self.outputs).max()), 1e-6)
        return float(np.abs(outputs - self.outputs).max()) / scale


def write_outputs(
    head_folder: Path, outputs: Array, *, texts: Sequence[str] = GOLDEN_TEXTS
) -> None:
    """Record a head's outputs ``(texts, outputs)`` beside it."""
    data = {"texts": list(texts), "outputs": np.asarray(outputs, np.float64).tolist()}
    write_json(head_folder / OUTPUTS_FILE, data)


def read_outputs(head_folder: Path) -> Golden | None:
    """What a head's folder records; None if it records nothing.

    Raises:
        ScoreError: the file is no such record.
    """
    path = head_folder / OUTPUTS_FILE
    if not path.is_file():
        return None
    data = read_json(path)
    try:
        golden = Golden(tuple(data["texts"]), np.asarray(data["outputs"], np.float64))
        if golden.outputs.ndim != 2 or len(golden.outputs) != len(golden.texts):
            raise ValueError("texts and outputs differ in number")
    except (KeyError, TypeError, ValueError) as error:
        raise ScoreError(f"{path}: no record of golden outputs ({error}); copy it again") from None
    return golden
