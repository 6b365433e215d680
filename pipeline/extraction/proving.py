"""What an extraction must prove before it begins, on the golden texts.

    against_plain(extractor, settings)    # the same as the model's own plain forward?
    against_cut(extractor, settings)      # the same as its first blocks, loaded alone?
    proved(extractor, settings)           # both, as the configuration asks; once for a model

A difference is relative to the layer's largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import (
    TOLERANCE,
    Backbone,
    Comparison,
    Encoded,
    PlainModel,
    load_from_settings,
    locate,
    ratio,
    recall,
    relative,
    remember,
)
from pipeline.config import BackboneConfig
from pipeline.errors import BackboneError, lacks_memory
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.golden import GOLDEN_TEXTS
from pipeline.extraction.routed import RoutedLayers
from store.layout import Source

BIG = 1_000_000_000
"""Parameters from which a model is cut to its first two blocks, not half, to see whether it can
be: half of it would be a lot to load."""
NO_ROOM = "the first blocks could not be tried alone, for want of memory"
PLAIN_POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda tokens: tokens.mean(0),
    "max": lambda tokens: tokens.amax(0),
    "first": lambda tokens: tokens[0],
    "last": lambda tokens: tokens[-1],
}


def against_plain(
    extractor: Extractor, settings: BackboneConfig, *, texts: Sequence[str] = GOLDEN_TEXTS
) -> Comparison:
    """Compare what is extracted with the model's own forward pass, pooled by plain torch.

    Args:
        extractor: with whole layers, of the whole backbone.
        settings: by which its backbone was loaded.
        texts: what to compare on.

    Raises:
        BackboneError: transformers alone cannot load the model.
    """
    backbone = extractor.backbone
    path = locate(
        settings.model,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    plain = PlainModel(backbone, path, trust_remote_code=settings.trust_remote_code)
    encoded = extractor.encode(list(texts))
    found = dict(zip(extractor.sources, extractor.compute(encoded).rows, strict=True))
    differences: dict[Source, float] = {}
    scales: dict[Source, float] = {}
    for row, ids in enumerate(encoded.ids(np.arange(len(encoded)))):
        if not len(ids):
            continue
        spans = _spans(encoded, row, extractor)
        sources = plain.tokens(ids)
        for source, values in found.items():
            tokens = sources.get(source.site, {}).get(source.layer)
            if tokens is None:  # not listed by the model, or experts'
                continue
            expected = torch.stack(
                [
                    PLAIN_POOLINGS[name](tokens[span]) if span.stop > span.start else 0 * tokens[0]
                    for name, span in zip(extractor.poolings, spans, strict=True)
                ]
            )
            expected = expected.flatten().cpu()
            apart = ratio(float((values[row] - expected).abs().max()), 1.0)
            differences[source] = max(differences.get(source, 0.0), apart)
            scales[source] = max(scales.get(source, 0.0), float(expected.abs().max()))
    compared = {source: ratio(apart, scales[source]) for source, apart in differences.items()}
    missing = tuple(source for source in extractor.sources if source not in compared)
    return Comparison(compared, TOLERANCE[backbone.dtype], missing)


def _spans(encoded: Encoded, row: int, extractor: Extractor) -> list[slice]:
    """For each pooling which tokens of a text it is over."""
    spans = []
    for name in extractor.poolings:
        choose = encoded.whole if name in ("first", "last") else encoded.own
        skip, count = choose(np.array([row]), special_tokens=extractor.special_tokens)
        spans.append(slice(int(skip[0]), int(skip[0] + count[0])))
    return spans


def cut_depth(extractor: Extractor) -> int | None:
    """The last block of the cut that is tried; None if nothing is read before the last block."""
    backbone = extractor.backbone
    read = [s.layer for s in extractor.sources if s.layer < backbone.num_layers - 1]
    if not read:
        return None
    half = max(0, backbone.num_layers // 2 - 1)
    return max(min(read), half if backbone.num_parameters < BIG else min(1, half))


def against_cut(
    extractor: Extractor,
    settings: BackboneConfig,
    *,
    last: int,
    texts: Sequence[str] = GOLDEN_TEXTS,
) -> Comparison:
    """Compare with the first blocks alone, loaded and cut as for scoring.

    Args:
        extractor: with whole layers, of the whole backbone.
        settings: by which its backbone was loaded.
        last: the last of these blocks.
        texts: what to compare on.

    Raises:
        BackboneError: the first blocks cannot be loaded alone.
    """
    backbone = extractor.backbone
    cut = load_from_settings(
        {**dict(settings), "whole": False}, device=str(backbone.device), last_layer=last
    ).truncate(last)
    if cut.fingerprint != backbone.fingerprint:
        raise BackboneError(f"{backbone.source}: its first blocks have another fingerprint")
    whole, alone = (first_blocks(extractor, one, last) for one in (backbone, cut))
    encoded = whole.encode(list(texts))
    sides = zip(
        whole.sources, whole.compute(encoded).rows, alone.compute(encoded).rows, strict=True
    )
    differences = {source: relative(other, one) for source, one, other in sides}
    missing = () if differences else extractor.sources
    return Comparison(differences, TOLERANCE[backbone.dtype], missing)


def first_blocks(extractor: Extractor, backbone: Backbone, last: int) -> Extractor:
    """What reads on a backbone, of what an extractor reads, all that its first blocks give.

    Args:
        extractor: with whole layers.
        backbone: the extractor's, or one that runs the blocks 0..last of it.
        last: the last block.
    """
    kept = {
        site: [layer for layer in layers if layer <= last]
        for site, layers in extractor.by_site.items()
    }
    return Extractor(
        backbone,
        poolings=extractor.poolings,
        special_tokens=extractor.special_tokens,
        layers=kept["ffn"],
        hidden=kept["hidden"],
        routed=RoutedLayers(
            kept["router"], kept["experts"], extractor.kept_experts if kept["experts"] else None
        ),
    )


# ------------------------------------------------------------------ before an extraction


def prove_cut(extractor: Extractor, settings: BackboneConfig) -> str | None:
    """Whether scoring may load the first blocks alone.

    Returns:
        None, or why it cannot.

    Raises:
        MemoryError, torch.OutOfMemoryError: they do not fit beside the whole.
    """
    last = cut_depth(extractor)
    if last is None or settings.whole:
        return None

    try:
        return _once("cut", extractor, lambda: against_cut(extractor, settings, last=last))[0]
    except BackboneError as error:  # told, not remembered: another day it may load
        return str(error)


def prove_plain(extractor: Extractor, settings: BackboneConfig) -> str:
    """Refuse a model whose own plain forward pass gives other numbers.

    Returns:
        What could not be compared, for people; "" if all was.

    Raises:
        BackboneError: naming the layer, the site, the difference and the remedy; or transformers
            alone cannot load the model.
    """
    trouble, left_out = _once("plain", extractor, lambda: against_plain(extractor, settings))
    if trouble:
        raise BackboneError(refusal(extractor, trouble))
    return left_out


def refusal(extractor: Extractor, trouble: str) -> str:
    """What to say of a model that differs from its own plain forward pass."""
    backbone = extractor.backbone
    other = "take a model of another type"
    if backbone.dtype == torch.bfloat16:
        other = "set dtype = 'float32', or " + other
    return (
        f"{backbone.source}: not the numbers of this {backbone.model_type!r} model's own forward"
        f" pass: {trouble}; {other}, and report this with `salient check MODEL --full --json`"
    )


def proved(extractor: Extractor, settings: BackboneConfig) -> tuple[BackboneConfig, list[str]]:
    """Prove what the configuration asks for before an extraction.

    Args:
        extractor: of the whole backbone, as for the store.
        settings: by which its backbone was loaded.

    Returns:
        The settings as what is made should record them, and what to tell the user.

    Raises:
        BackboneError: as of ``prove_plain``.
    """
    remarks = []
    if settings.check == "full" and (left_out := prove_plain(extractor, settings)):
        remarks.append(f"model's own forward pass: {left_out}")
    try:
        reason = prove_cut(extractor, settings)
    except Exception as error:
        if not lacks_memory(error):
            raise
        return settings, [*remarks, NO_ROOM]
    if reason is None:
        return settings, remarks
    return settings.model_copy(update={"whole": True}), [
        *remarks,
        "scoring will load all blocks, even to run the first ones, because these alone give other"
        f" numbers or cannot be loaded: {reason}",
    ]


def _once(
    kind: str, extractor: Extractor, find_out: Callable[[], Comparison]
) -> tuple[str | None, str]:
    """Trouble, and what was left out, of a comparison that was made before, in the same
    circumstances; or now."""
    backbone = extractor.backbone
    key = backbone.circumstances(
        extraction=extractor.fingerprint(),
        sources=[source.name for source in extractor.sources],
        layout=backbone.layout,
    )
    known: Any = recall(kind, key) or {}
    trouble, left_out = known.get("trouble", ...), known.get("left_out")
    if (trouble is None or isinstance(trouble, str)) and isinstance(left_out, str):
        return trouble, left_out
    found = find_out()
    remember(kind, key, {"trouble": found.trouble, "left_out": found.left_out})
    return found.trouble, found.left_out
