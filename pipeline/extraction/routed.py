"""What to pool of a mixture of experts: routers, experts, or the few features that a head reads.

Extractor(backbone, routed=RoutedLayers(router=(0, 1), experts=(1,), kept=(3, 7)))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbone import Backbone, Routed, Segments, pool_routed
from pipeline.errors import ExtractInputError


@dataclass(frozen=True)
class RoutedLayers:
    """Layers whose routers and experts are pooled.

    Attributes:
        router: layers whose routers' probabilities to pool.
        experts: layers whose experts' activations to pool.
        kept: numbers of the experts that are kept; None for all.
        features: layer -> ``(k,)`` int64 pooled features of the experts that are kept, ``pooling *
            width + unit``: only these are pooled, instead of ``experts``.
    """

    router: Sequence[int] = ()
    experts: Sequence[int] = ()
    kept: Sequence[int] | None = None
    features: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def recorded(
        cls,
        provenance: Mapping[str, Any],
        *,
        router: Iterable[int] = (),
        experts: Iterable[int] = (),
        features: Mapping[int, NDArray[np.int64]] | None = None,
    ) -> RoutedLayers:
        """Layers to pool again, of the experts that a store or a head was made with.

        Args:
            provenance: of a store's schema, which heads carry as ``card.extraction``.
            router, experts, features: as the attributes.
        """
        made = provenance.get("extraction") or {}
        return cls(sorted(router), sorted(experts), made.get("kept_experts"), features or {})


NONE_ROUTED = RoutedLayers()


def check_kept(backbone: Backbone, kept: Sequence[int] | None) -> tuple[int, ...] | None:
    """Numbers of experts to keep, ascending.

    Raises:
        ExtractError: there is no such expert, or none is named.
    """
    if kept is None:
        return None
    count = 0 if backbone.mixture is None else backbone.mixture.num_experts
    numbers = tuple(sorted(set(kept)))
    if not numbers or not 0 <= numbers[0] <= numbers[-1] < count:
        raise ExtractInputError(
            f"experts {list(kept)}: name at least one; {backbone.source} has"
            + (f" experts 0 to {count - 1}" if count else " none")
        )
    return numbers


@dataclass(frozen=True)
class PickedExperts:
    """Some pooled features of a layer's experts, which are all that is pooled."""

    experts: tuple[int, ...]
    """The experts that have any."""
    places: Tensor
    """(k,) of the features, ``pooling * neurons of these experts + neuron``."""

    @classmethod
    def of(
        cls,
        features: NDArray[np.int64],
        *,
        kept: Sequence[int],
        expert_size: int,
        num_poolings: int,
    ) -> PickedExperts:
        """Of features ``(k,)``, ``pooling * width + unit`` over the experts that are kept.

        Raises:
            ExtractError: a feature that there is not.
        """
        width = len(kept) * expert_size
        limit = num_poolings * width
        if not len(features) or not 0 <= features.min() <= features.max() < limit:
            raise ExtractInputError(
                f"features of experts must be numbers in 0..{limit - 1}, at least one"
            )
        pooling, unit = np.divmod(np.asarray(features, np.int64), width)
        number, neuron = np.divmod(unit, expert_size)
        used = np.unique(number)
        places = (pooling * len(used) + np.searchsorted(used, number)) * expert_size + neuron
        return cls(tuple(kept[n] for n in used), torch.from_numpy(places))

    def pool(
        self,
        routed: Routed,
        segments: Segments,
        poolings: Sequence[str],
        *,
        whole: Segments | None = None,
    ) -> Tensor:
        """(texts, k) float32."""
        pooled = pool_routed(routed, segments, poolings, experts=self.experts, whole=whole).flatten(
            1
        )
        return pooled.index_select(1, self.places.to(pooled.device))
