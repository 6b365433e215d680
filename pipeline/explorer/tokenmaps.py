"""Which tokens a neuron fires on: its activation at every token of some texts, and whole texts.

    reader = TokenReader.for_store(store.schema)
    for found in reader.tokens(["a happy cat"], layer=3, neuron=417):
        found.text[found.starts[0] : found.stops[0]], found.values[0]
    reader.vectors("a happy cat")             # source -> (features,), rounded as in the store

Where a store has the tokens of the maxima, ``TokenPlaces`` finds these in the texts without the
model: the tokenizer is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline import backbone
from pipeline.backbone import (
    Backbone,
    Batch,
    Encoded,
    Frame,
    encode,
    engine_of,
    load_from_settings,
)
from pipeline.config import BackboneConfig, NormaliseConfig, is_model_path
from pipeline.errors import ExtractError
from pipeline.extraction import (
    STORED,
    Extractor,
    RoutedLayers,
    recorded_backbone,
    recorded_section,
)
from pipeline.texts import normaliser
from store.layout import Source, StoreSchema, last_block, stored_sources

Array = NDArray[Any]
STORE = "the store"


@dataclass(frozen=True)
class TokenMap:
    """A neuron's activations over one text.

    Attributes:
        text: as it was tokenised, without the words around it.
        starts, stops: ``(t,)`` characters of each token; both 0 for special tokens, and for those
            of the words around the text.
        values: ``(t,)`` float32 activations; NaN where unknown, and at tokens that mean and max
            pooling leave out.
    """

    text: str
    starts: Array
    stops: Array
    values: Array

    @property
    def peak(self) -> int:
        """The token that max pooling takes; -1 without tokens."""
        return -1 if np.isnan(self.values).all() else int(np.nanargmax(self.values))


class TokenReader:
    """Runs a backbone over few texts and keeps what happens at their tokens.

    Args:
        backbone: as deep as what the store holds.
        schema: of the store whose activations are to be met.
        settings: how the store's activations were extracted.
        normalise: settings of the texts' normalisation.
    """

    def __init__(
        self,
        backbone: Backbone,
        schema: StoreSchema,
        settings: BackboneConfig,
        normalise: NormaliseConfig,
    ) -> None:
        self.backbone = backbone
        self.special_tokens = settings.special_tokens
        self.normalise = normaliser(normalise)
        self.stored = STORED[schema.dtype]
        self.extractor = Extractor(
            backbone,
            poolings=schema.poolings,
            special_tokens=settings.special_tokens,
            layers=sorted(schema.array("ffn").layers),
            hidden=sorted(schema.hidden_layers),
            routed=RoutedLayers.recorded(
                schema.provenance, router=schema.router_layers, experts=schema.experts_layers
            ),
        )
        found = self.extractor.compared(schema.fingerprint, normalisation=normalise.model_dump())
        if schema.fingerprint and found is None:
            raise ExtractError(
                f"{backbone.source}: not the model that the store's activations come from; name"
                " that one with --model"
            )

    @classmethod
    def for_store(cls, schema: StoreSchema, *, model: str | None = None) -> TokenReader:
        """Load the backbone that a store's provenance names, from this machine only.

        A store may come from anybody: nothing is fetched for it, and no code of a model is run.

        Args:
            schema: of the store.
            model: the backbone's location, if it moved.

        Raises:
            SalientError: no usable provenance, or a model that is missing or another one.
        """
        settings = recorded_backbone(schema.provenance, asked_by=STORE, model=model)
        said = schema.provenance.get("normalise") or {}
        normalise = recorded_section(NormaliseConfig, said, asked_by=STORE)
        backbone = load_from_settings(
            settings,
            last_layer=last_block(stored_sources(schema), schema.num_layers),
            model=model or _on_this_machine(settings),
            made_with=engine_of(schema.provenance),
        )
        return cls(backbone, schema, settings, normalise)

    def vectors(self, text: str, *, normalised: bool = False) -> dict[Source, Array]:
        """Source -> ``(features,)`` float32 of one text, rounded as in the store.

        Args:
            text: any text, or a stored one.
            normalised: the text is normalised already, as stored ones are.
        """
        encoded = self.extractor.encode([text if normalised else self.normalise(text)])
        rows = self.extractor.compute(encoded, dtype=self.stored).rows
        return {
            source: values[0].float().numpy()
            for source, values in zip(self.extractor.sources, rows, strict=True)
        }

    def tokens(self, texts: Sequence[str], *, layer: int, neuron: int) -> list[TokenMap]:
        """One neuron at every token.

        Args:
            texts: few, normalised as stored ones are.
            layer: which layer.
            neuron: which of its neurons.
        """
        model = self.backbone
        encoded = encode(
            model.tokenizer, texts, max_length=model.max_length, frame=model.frame, spans=True
        )
        rows = np.flatnonzero(encoded.lengths)
        values: dict[int, Array] = {}
        lengths = encoded.lengths[rows]
        for chosen in self.backbone.plan(lengths, max_tokens=int(lengths.sum())):
            batch = self.backbone.batch(encoded.ids(rows[chosen]), rows[chosen])

            def keep(_: int, tokens: Tensor, batch: Batch = batch) -> None:
                column = tokens[:, neuron].float().cpu().numpy()
                at = zip(batch.indices, batch.starts, batch.lengths, strict=True)
                for row, start, length in at:
                    values[int(row)] = column[start : start + length]

            self.backbone.run(batch, on_ffn=keep, layers=(layer,))
        return [
            self._map(text, values.get(i, np.zeros(0, np.float32)), i, encoded)
            for i, text in enumerate(texts)
        ]

    def _map(self, text: str, values: Array, row: int, encoded: Encoded) -> TokenMap:
        shown = np.full(len(values), np.nan, np.float32)
        own = _own(encoded, row, special_tokens=self.special_tokens)
        shown[own] = values[own]
        return TokenMap(text, *_spans(encoded, row), shown)


class TokenPlaces:
    """Where the stored peaks of neurons lie in their texts.

    Args:
        tokenizer: of the store's backbone.
        max_length: tokens per text at the extraction.
        special_tokens: whether special tokens were pooled.
        frame: words around each text at the extraction.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        special_tokens: bool,
        frame: Frame | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.special_tokens = special_tokens
        self.frame = frame or Frame()

    @classmethod
    def for_store(cls, schema: StoreSchema, *, model: str | None = None) -> TokenPlaces:
        """Load the tokenizer of the backbone that a store names; see ``TokenReader.for_store``."""
        settings = recorded_backbone(schema.provenance, asked_by=STORE, model=model)
        extraction = schema.provenance.get("extraction") or {}
        if not isinstance(extraction.get("max_length"), int):
            raise ExtractError("the store does not say how long its texts may be, in tokens")
        path = backbone.locate(model or _on_this_machine(settings))
        return cls(
            backbone.fitted_tokenizer(path),
            max_length=extraction["max_length"],
            special_tokens=settings.special_tokens,
            frame=Frame(settings.prefix, settings.template),
        )

    def peaks(
        self, texts: Sequence[str], tokens: Array, values: Array, *, n_tokens: Array
    ) -> list[TokenMap]:
        """Texts of which one token's activation is known: a neuron's maximum.

        Args:
            texts: ``n`` stored ones.
            tokens: ``(n,)`` the store's ``peak`` of the neuron.
            values: ``(n,)`` its max-pooled activations.
            n_tokens: ``(n,)`` as stored.

        Raises:
            ExtractError: the tokenizer cuts the texts otherwise than at the extraction.
        """
        encoded = encode(
            self.tokenizer, texts, max_length=self.max_length, frame=self.frame, spans=True
        )
        if not np.array_equal(encoded.lengths, n_tokens):
            raise ExtractError(
                "the model's tokenizer is not the one that the store was made with; name that"
                " model with --model"
            )
        found = []
        for i, text in enumerate(texts):
            known = np.full(encoded.lengths[i], np.nan, np.float32)
            if tokens[i] >= 0:
                own = _own(encoded, i, special_tokens=self.special_tokens)
                known[own.start + int(tokens[i])] = values[i]
            found.append(TokenMap(text, *_spans(encoded, i), known))
        return found


def _own(encoded: Encoded, row: int, *, special_tokens: bool) -> slice:
    """The tokens of a text that mean and max pooling run over."""
    skip, count = encoded.own(np.array([row]), special_tokens=special_tokens)
    return slice(int(skip[0]), int(skip[0] + count[0]))


def _spans(encoded: Encoded, row: int) -> tuple[Array, Array]:
    """First and last character ``(t,)`` of each token of a text; both 0 where it is not its own."""
    assert encoded.spans is not None
    starts, stops = encoded.spans[encoded.slots(row)].T
    return starts, stops


def _on_this_machine(settings: BackboneConfig) -> str:
    """Where the model lies; a hub name's files must have been fetched before."""
    name = settings.model
    if name.startswith("package:") or is_model_path(name) or Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return str(snapshot_download(name, revision=settings.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise ExtractError(
            f"{name}: the model is not on this machine, and nothing is fetched here; name its"
            " folder with --model"
        ) from None
