"""What features come from: a site of the model at a layer.

    Source("ffn", 3)        # the FFN activations of block 3
    Source("hidden", 4)     # the hidden state after block 3; 0 is the embeddings
    Source("router", 3)     # how probable block 3's experts are
    Source("experts", 3)    # the activations of their neurons, weighted
    Source("lexical", 0)    # word and character n-grams of the text itself

``SITES`` is the table; a site beside these takes a row there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from store.layout.schema import StoreSchema


@dataclass(frozen=True)
class Site:
    """Where in a model, or beside it, features are read.

    Attributes:
        stem: of the names of files and tensors, before the layer's number.
        label: what people read, before the layer's number.
        depth: layer's number -> the last block that must run for it; -1 for none.
        array: the store's array of it; None if it is not stored.
    """

    stem: str
    label: str
    depth: Callable[[int], int]
    array: str | None


SITES: dict[str, Site] = {
    "ffn": Site("layer", "layer", lambda layer: layer, "ffn"),
    "hidden": Site("hidden", "hidden state", lambda layer: layer - 1, "hidden"),
    "router": Site("router", "router", lambda layer: layer, "router"),
    "experts": Site("experts", "experts", lambda layer: layer, "experts"),
    "lexical": Site("lexical", "n-grams", lambda _: -1, None),
    "unit": Site("unit", "unit-length mean of hidden state", lambda layer: layer - 1, None),
}
"""Name of a site -> what it is. ``layer`` counts as the store's array does. ``unit``, the mean of a
hidden state at length 1 as sentence encoders give it, is only compared with."""


class Source(NamedTuple):
    """A site at a layer; sources sort by site, then by layer."""

    site: str
    layer: int

    @property
    def depth(self) -> int:
        """The last block that must run: of hidden state ``i`` the one before it; -1 for none."""
        return SITES[self.site].depth(self.layer)

    @property
    def name(self) -> str:
        """Stem of files and tensors: ``layer_003``, ``hidden_004``."""
        return f"{SITES[self.site].stem}_{self.layer:03d}"

    @property
    def label(self) -> str:
        """For people: ``layer 3``, ``hidden state 4``."""
        label = SITES[self.site].label
        return label if self.array is None else f"{label} {self.layer}"

    @property
    def array(self) -> str | None:
        """The store's array that holds it; None if none does."""
        return SITES[self.site].array

    @classmethod
    def of(cls, name: str) -> Source:
        """The source of a :attr:`name`.

        Raises:
            ValueError: no such name.
        """
        stem, _, number = name.rpartition("_")
        for site, facts in SITES.items():
            if facts.stem == stem:
                return cls(site, int(number))
        raise ValueError(f"{name!r} names no source of features")


NGRAMS = Source("lexical", 0)
"""The n-grams of the text."""


def ffn(layer: int) -> Source:
    """The FFN activations of a layer."""
    return Source("ffn", layer)


def last_block(sources: Iterable[Source], num_layers: int) -> int | None:
    """The last block of a model to load: a source is inside its layer's block, or at its entry.

    Args:
        sources: what is to be computed.
        num_layers: blocks of the whole model.

    Returns:
        None for the whole model, which the final hidden state needs.
    """
    last = max((source.layer for source in sources), default=0)
    return last if last < num_layers else None


def final_hidden(schema: StoreSchema) -> Source:
    """The final hidden state, which the conventional head reads."""
    return Source("hidden", schema.num_layers)


def stored_sources(schema: StoreSchema) -> tuple[Source, ...]:
    """All that a store holds, site by site, layers in order; the peaks are no features."""
    return tuple(
        Source(site, layer)
        for site, facts in SITES.items()
        if facts.array in schema.arrays
        for layer in sorted(schema.array(facts.array).layers)
    )
