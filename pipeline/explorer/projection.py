"""A map of texts: the two directions in which a layer's pooled activations vary most.

    found = project(store, Source("ffn", 3), progress=print)
    found.positions, found.xy           # (n,), (n, 2)

Principal components of standardised activations, fitted on texts spread over the store and applied
to all of them in one pass over the layer. Needed are, beside one shard of the store, some 100 bytes
for each text asked for and ``FIT_BYTES`` for the fit, however many texts there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from pipeline.errors import ConfigError
from store import ActivationStore
from store.layout import Source

Array = NDArray[Any]
FIT_BYTES = 128 << 20
"""Of the texts that the directions are fitted on."""
FIT_TEXTS = 20_000
FIT_SHARDS = 16
ROWS_AT_ONCE = 2048
BOUND = 8.0
"""Standard deviations beyond which an activation counts no more: one text must not be the map."""


@dataclass(frozen=True)
class TextMap:
    """Where each text lies.

    Attributes:
        source: whose activations.
        positions: ``(n,)`` int64 of the texts in the store.
        xy: ``(n, 2)`` float32.
        explained: share of the variance in each direction.
    """

    source: Source
    positions: Array
    xy: Array
    explained: tuple[float, float]

    def window(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Ranges of x and y with all but the outermost texts, a margin around them."""
        ranges = []
        for values in self.xy.T:
            low, high = np.quantile(values, [0.001, 0.999])
            margin = 0.05 * max(float(high - low), 1e-6)
            ranges.append((float(low) - margin, float(high) + margin))
        return ranges[0], ranges[1]

    def nearest(self, x: float, y: float, count: int) -> Array:
        """Positions ``(count,)`` of the texts nearest to a place, as it is drawn."""
        (left, right), (low, high) = self.window()
        scale = np.array([right - left, high - low])
        away = np.square((self.xy - np.array([x, y])) / scale).sum(axis=1)
        count = min(count, len(away))
        found = np.argpartition(away, count - 1)[:count]
        return np.asarray(self.positions[found[np.argsort(away[found], kind="stable")]])


def project(
    store: ActivationStore, source: Source, *, progress: Callable[[float], object] = lambda _: None
) -> TextMap:
    """The map of all texts by one source.

    Args:
        store: the store, used by nobody else meanwhile.
        source: a stored one.
        progress: told the share that is done, in [0, 1].

    Raises:
        ConfigError: fewer than three texts.
        StoreError: the store is damaged.
    """
    count, mean, m2 = store.moments(source.site, layer=source.layer)
    if count < 3:
        raise ConfigError(f"a map needs at least 3 texts; the store has {count}")
    scale = np.sqrt(np.asarray(m2, np.float64) / count)
    scale[~(scale > 0)] = np.inf
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    sample = _standardised(_spread(store, source), mean, scale)
    pca = PCA(2, svd_solver="randomized", random_state=0).fit(sample[np.isfinite(sample[:, 0])])
    del sample
    positions, placed = [], []
    for start, block in store.iter_blocks(source.site, layer=source.layer):
        for first in range(0, len(block), ROWS_AT_ONCE):
            rows = _standardised(block[first : first + ROWS_AT_ONCE], mean, scale)
            living = np.flatnonzero(np.isfinite(rows).all(axis=1))
            placed.append(((rows[living] - pca.mean_) @ pca.components_.T).astype(np.float32))
            positions.append(start + first + living)
        progress((start + len(block)) / store.num_samples)
    first_share, second_share = pca.explained_variance_ratio_
    return TextMap(
        source,
        np.concatenate(positions),
        np.concatenate(placed),
        (float(first_share), float(second_share)),
    )


def _standardised(rows: Array, mean: Array, scale: Array) -> Array:
    x = np.subtract(rows, mean, dtype=np.float32, order="C")
    x /= scale
    return np.clip(x, -BOUND, BOUND, out=x)


def _spread(store: ActivationStore, source: Source) -> Array:
    """``(n, features)`` activations of texts from shards all over the store, evenly."""
    living = store.samples()["position"].to_numpy()
    features = store.schema.array(source.site).rows
    wanted = max(3, min(FIT_TEXTS, FIT_BYTES // (4 * features)))
    shards = np.unique(living // store.schema.samples_per_shard)
    shards = shards[np.linspace(0, len(shards) - 1, min(FIT_SHARDS, len(shards))).astype(int)]
    near = living[np.isin(living // store.schema.samples_per_shard, shards)]
    chosen = near[np.unique(np.linspace(0, len(near) - 1, min(wanted, len(near))).astype(int))]
    return np.asarray(store.read_matrix(source.site, layer=source.layer, samples=chosen))
