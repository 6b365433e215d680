"""What a head reads of texts: of stored ones from the store, of any text what needs no model.

    rows = stored_activations(head, store, positions, texts=lambda: texts)
    head.outputs(rows)

One place each: sources that a store holds are read by :func:`stored_activations`, and those that a
text gives by itself are made by :func:`text_activations`, for stored texts as for scored ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import COPY_AGAIN, HeadError
from pipeline.heads.model import Head
from store import ActivationStore
from store.disk import ObjectLocation, kept_here
from store.layout import NGRAMS, Source
from store.tables import check_array, read_arrays, write_arrays

Array = NDArray[Any]


PIECE = 2048
"""Rows that a head is applied to at a time: one on all features reads 100 KB of each."""
HELD_OUT_FILE = "held_out.safetensors"
"""In a head's folder: what it says of the rows that judged it, held out."""


def near(store: ActivationStore) -> ActivationStore:
    """The store for one who reads its activations many times: of a bucket they are fetched once,
    where this machine has room for them."""
    if not isinstance(store.location, ObjectLocation):
        return store
    found = copy(store)
    found.location = kept_here(store.location, store.num_samples * store.schema.bytes_per_sample)
    return found


def stored_outputs(
    head: Head,
    store: ActivationStore,
    positions: Array,
    texts: Callable[[], Sequence[str]] | None = None,
) -> Array:
    """Outputs ``(n, outputs)`` float32 of a head for stored samples; arguments as below."""
    outputs = []
    own = list(texts()) if texts is not None and NGRAMS in head.features else []
    for start in range(0, max(len(positions), 1), PIECE):
        part = slice(start, start + PIECE)
        some = None if texts is None else lambda part=part: own[part]
        rows = stored_activations(head, store, positions[part], some)
        outputs.append(head.outputs(rows))
    return np.concatenate(outputs)


def write_held_out(folder: Path, positions: Array, outputs: Array) -> None:
    """Keep calibrated outputs ``(n, outputs)`` for the samples at ``positions`` ``(n,)``."""
    positions, first = np.unique(positions, return_index=True)
    found = {"positions": positions, "outputs": np.asarray(outputs[first], np.float32)}
    write_arrays(folder / HELD_OUT_FILE, found)


def held_out_outputs(folder: Path, positions: Array, outputs: Array) -> Array:
    """Outputs ``(n, outputs)`` for samples, held out where the head was fitted on them.

    Args:
        folder: of the head; an older one keeps none.
        positions: ``(n,)`` of the samples.
        outputs: ``(n, outputs)`` of the head itself.
    """
    if not (folder / HELD_OUT_FILE).is_file():
        return outputs
    known = _held_out(folder, outputs.shape[1])
    place = np.searchsorted(known["positions"], positions)
    place = np.minimum(place, len(known["positions"]) - 1)
    there = known["positions"][place] == positions
    return np.where(there[:, None], known["outputs"][place], outputs)


def read_held_out(folder: Path, head: Head) -> dict[str, Array]:
    """What :func:`write_held_out` kept: ``positions`` ``(n,)`` and ``outputs`` ``(n, outputs)``.

    Raises:
        HeadError, StoreError: none there, or a damaged one.
    """
    return _held_out(folder, head.num_outputs)


def _held_out(folder: Path, num_outputs: int) -> dict[str, Array]:
    path = folder / HELD_OUT_FILE
    arrays = read_arrays(path, remedy=COPY_AGAIN)
    try:
        check_array("positions", arrays["positions"], "i", (None,))
        count = len(arrays["positions"])
        check_array("outputs", arrays["outputs"], "f", (count, num_outputs))
        if not count or (np.diff(arrays["positions"]) <= 0).any():
            raise ValueError("positions: not increasing, or none")
    except (KeyError, ValueError) as error:
        raise HeadError(
            f"{path}: is not what this head says of rows held out ({error}); {COPY_AGAIN}"
        ) from None
    return arrays


def stored_activations(
    head: Head,
    store: ActivationStore,
    positions: Array,
    texts: Callable[[], Sequence[str]] | None = None,
) -> dict[Source, Array]:
    """What a head reads of stored samples.

    Args:
        head: the head.
        store: with the samples.
        positions: ``(n,)`` int64, of the samples.
        texts: gives their ``n`` texts; called only if the head reads the texts themselves.

    Returns:
        Source -> ``(n, k)`` float32 of ``head.features[source]``, in order.

    Raises:
        StoreError: a source that the store does not hold.
        HeadError: a head that reads texts, and none are given.
    """
    found = {}
    for source, features in head.features.items():
        if source.array is not None:
            found[source] = read_source(store, source, features, positions)
        elif source.site == "unit":
            found[source] = unit_rows(store, source, positions)[:, features]
    if len(found) == len(head.features):
        return found
    if texts is None:
        raise HeadError(f"head {head.card.task!r} reads the texts, which are not at hand here")
    return dict(sorted((found | text_activations(head, texts())).items()))


def read_source(store: ActivationStore, source: Source, features: Array, positions: Array) -> Array:
    """``(n, k)`` float32 of some features of a stored source, or all of them, which is faster."""
    where: dict[str, Any] = {"layer": source.layer, "samples": positions}
    size = store.schema.array(source.site).rows
    if len(features) and features[-1] >= size:
        raise HeadError(
            f"a head reads feature {features[-1]} of {source.label}, which has {size} in this"
            " store; it was made on another one"
        )
    if len(features) == size:
        return np.asarray(store.read_matrix(source.site, **where))
    return np.asarray(store.read_features(source.site, features=features, **where))


def unit_rows(store: ActivationStore, source: Source, positions: Array) -> Array:
    """The mean of a hidden state at length 1, as sentence encoders give it: ``(n, hidden)``."""
    layout = store.schema.array("hidden")
    start = layout.poolings.index("mean") * layout.width
    rows = store.read_features(
        "hidden",
        layer=source.layer,
        features=np.arange(start, start + layout.width),
        samples=positions,
    )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def text_activations(head: Head, texts: Sequence[str]) -> dict[Source, Array]:
    """What a head reads of texts themselves, without a model: nothing for most heads.

    Args:
        head: the head, which brings along what it needs for that.
        texts: ``n`` normalised texts.

    Returns:
        Source -> ``(n, k)`` sparse, of ``head.features[source]``, in order.
    """
    features = head.features.get(NGRAMS)
    if features is None:
        return {}
    assert head.lexicon is not None, "checked when the head was loaded"
    return {NGRAMS: head.lexicon.features(texts)[:, features]}


def all_features(heads: Sequence[Head]) -> dict[Source, Array]:
    """Source of the model -> ``(k,)`` int64 increasing: the features that any head reads."""
    found: dict[Source, Array] = {}
    for head in heads:
        for source, features in head.features.items():
            if len(features) and source.array is not None:
                found[source] = np.union1d(found.get(source, features[:0]), features)
    return dict(sorted(found.items()))
