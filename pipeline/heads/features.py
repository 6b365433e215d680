"""Reads the standardised features of a task's rows, source by source, and their kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipeline.linear import Standardiser
from store import ActivationStore
from store.layout import Source

Array = NDArray[Any]


@dataclass(frozen=True)
class Features:
    """Features of some rows.

    Attributes:
        store: where the activations are.
        positions: ``(n,)`` int64 of the rows in it.
        standardisers: stored source -> that of its features, from the training rows.
        others: source that is not stored -> ``(n, features)``, rows of length about 1; n-grams as
            a sparse array.
    """

    store: ActivationStore
    positions: Array
    standardisers: Mapping[Source, Standardiser]
    others: Mapping[Source, Any]

    def size(self, source: Source) -> int:
        """Number of features."""
        if source.array is None:
            return int(self.others[source].shape[1])
        return self.store.schema.array(source.array).rows

    def width(self, source: Source) -> int:
        """What the kernel of a source is divided by: its features; 1 of rows of unit length."""
        return 1 if source.array is None else self.size(source)

    def spread(self, source: Source) -> Any:
        """Root mean square ``(features,)`` of each feature over the rows, before the division by
        the width: what makes weights comparable. 1 of standardised features."""
        if source.array is not None:
            return 1.0
        own = self.others[source]
        squares = own.multiply(own) if sparse.issparse(own) else np.square(own)
        return np.sqrt(np.asarray(squares.mean(axis=0)).ravel())

    def read(self, source: Source, rows: Array, features: Array | None = None) -> Any:
        """``(k, features)`` float32, standardised and divided by the root of the width.

        Args:
            source: what to read.
            rows: ``(k,)`` of the rows.
            features: ``(f,)`` of the features; None for all.
        """
        if source.array is None:
            found = self.others[source][rows]
            return found if features is None else found[:, features]
        where: dict[str, Any] = {"layer": source.layer, "samples": self.positions[rows]}
        standardiser = self.standardisers[source]
        if features is None:
            values = self.store.read_matrix(source.array, **where)
        else:
            values = self.store.read_features(source.array, features=features, **where)
            standardiser = standardiser.take(features)
        found = standardiser.apply(values)
        found /= np.float32(np.sqrt(self.width(source)))
        return found

    def kernel(self, source: Source, rows: Array, features: Array | None = None) -> Array:
        """``(k, k)`` float32 products of the rows, of mean diagonal about 1 over all features."""
        values = self.read(source, rows, features)
        product = values @ values.T
        return np.asarray(product.toarray() if sparse.issparse(product) else product, np.float32)
