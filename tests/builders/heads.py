"""Heads with random weights over a backbone, for tests and benchmarks of scoring itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.transformer import Backbone
from pipeline.config import BackboneConfig, NormaliseConfig
from pipeline.extraction.extractor import Extractor
from pipeline.heads.drift import MAX_FEATURES, SITE_NAMES, Reference, important_features
from pipeline.heads.model import Dense, Edges, Head, HeadCard, Part
from pipeline.linear.fitted import Standardiser
from pipeline.texts.lexical import Lexicon
from store.layout import NGRAMS, Source, ffn


def make_head(
    backbone: Backbone,
    features: Mapping[Source, Any],
    *,
    task: str = "made",
    classes: tuple[str, ...] = ("no", "yes"),
    seed: int = 0,
    hidden_width: int | None = None,
    normalise: Mapping[str, bool] | None = None,
    lexicon: Lexicon | None = None,
) -> Head:
    """A head that reads the given features of each source; no classes make a regression.

    Args:
        backbone: whole, as for extraction; mean and max pooling, float16 storage.
        features: source -> feature indices.
        task, classes: for the card.
        seed: of the weights.
        hidden_width: add a dense network of that width above; None adds none.
        normalise: the card's normalisation settings.
        lexicon: for heads that read n-grams.
    """
    draw = np.random.default_rng(seed)
    outputs = len(classes) if len(classes) > 2 else 1

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return draw.normal(scale=scale, size=shape).astype(np.float32)

    width = 3 if hidden_width is not None else outputs
    total = sum(len(chosen) for chosen in features.values())
    parts = []
    for source, chosen in sorted(features.items()):
        k = len(chosen)
        spread = np.abs(normal(k, scale=0.05)) + np.float32(0.05)
        edges = Edges(
            source,
            np.sort(np.asarray(chosen, np.int64)),
            Standardiser(normal(k, scale=0.05), spread, 30.0)
            if source != NGRAMS
            else Standardiser(np.zeros(k, np.float32), np.ones(k, np.float32), np.inf),
            normal(width, k, scale=total**-0.5),
            normal(width),
        )
        parts.append(edges)
    dense = None
    if hidden_width is not None:
        inner = hidden_width or width * len(parts)
        dense = Dense(
            normal(hidden_width, width * len(parts)),
            normal(hidden_width),
            normal(outputs, inner),
            normal(outputs),
        )
    extractor = Extractor(backbone, hidden="none")
    settings = BackboneConfig(
        model=backbone.source,
        dtype=str(backbone.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        max_length=backbone.max_length,
    )
    normalise = dict(normalise or {})
    card = HeadCard(
        task=task,
        type="classification" if classes else "regression",
        kind="sparse" if dense is None else "frozen",
        classes=classes,
        metric="macro_f1" if classes else "pearson",
        positive=None,
        depth=max([0, *(source.depth for source in features)]),
        num_layers=backbone.num_layers,
        num_features=total,
        selection="made",
        val_score=0.0,
        poolings=extractor.poolings,
        stored_dtype="float16",
        extraction={"backbone": settings.model_dump(), "normalise": normalise},
        extraction_fingerprint=extractor.fingerprint(normalisation=normalise),
    )
    return Head(card, (Part(tuple(parts), dense),), lexicon=lexicon)


def write_heads(
    folder: Path, model: Path, *, normalise: NormaliseConfig | None = None
) -> list[Path]:
    """A classifier ``mood`` (glad, sad) and a regression ``level``; returns their folders."""
    backbone = load_backbone(str(model), dtype="float32", device="cpu")
    settings = (normalise or NormaliseConfig()).model_dump()
    draw = np.random.default_rng(0)
    folders = []
    for seed, (task, classes) in enumerate((("mood", ("glad", "sad")), ("level", ()))):
        features = {
            ffn(i): draw.choice(2 * backbone.neuron_size, 12, replace=False) for i in (0, 1)
        }
        head = make_head(
            backbone, features, task=task, classes=classes, seed=seed, normalise=settings
        )
        head.save(folder / task)
        folders.append(folder / task)
    return folders


def make_reference(
    head: Head, activations: Mapping[Source, Any], outputs: Any, folds: Any = None
) -> Reference:
    """Of rows whose activations ``(n, k)`` of ``head.features[source]`` are at hand."""
    features = important_features(head, MAX_FEATURES)
    columns = []
    for site, layer, feature in features.tolist():
        source = Source(SITE_NAMES[site], layer)
        place = np.searchsorted(head.features[source], feature)
        columns.append(activations[source][:, place])
    return Reference.of(head, features, columns, outputs, folds)
