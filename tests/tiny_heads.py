"""Heads with random weights over a tiny backbone: something to score with, without any training.

write_heads(tmp_path / "heads", model)        # heads/mood/, heads/level/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.config import BackboneConfig, NormaliseConfig
from pipeline.extractor import Extractor
from pipeline.heads import Head, HeadCard, LayerEdges, Part
from pipeline.linear import Standardiser
from pipeline.loading import load_backbone

DEPTH = 1
NUM_FEATURES = 12


def write_heads(
    folder: Path, model: Path, *, normalise: NormaliseConfig | None = None, seed: int = 0
) -> list[Path]:
    """A classifier ``mood`` (glad, sad) and a regression ``level``; returns their folders."""
    settings = BackboneConfig(model=str(model))
    normalisation = (normalise or NormaliseConfig()).model_dump()
    backbone = load_backbone(str(model), dtype="float32", device="cpu")
    extractor = Extractor(backbone, poolings=("mean", "max"))
    draw = np.random.default_rng(seed)
    folders = []
    for task, classes in (("mood", ("glad", "sad")), ("level", ())):
        card = HeadCard(
            task=task,
            type="classification" if classes else "regression",
            kind="sparse",
            classes=classes,
            metric="macro_f1" if classes else "pearson",
            positive=classes[-1] if classes else None,
            depth=DEPTH,
            num_layers=backbone.num_layers,
            num_features=(DEPTH + 1) * NUM_FEATURES,
            selection="random",
            val_score=0.5,
            poolings=("mean", "max"),
            stored_dtype="float16",
            extraction={"backbone": settings.model_dump(), "normalise": normalisation},
            extraction_fingerprint=extractor.fingerprint(normalisation=normalisation),
        )
        layers = []
        for layer in range(DEPTH + 1):
            features = np.sort(
                draw.choice(2 * backbone.neuron_size, NUM_FEATURES, replace=False)
            ).astype(np.int64)
            ones = np.ones(NUM_FEATURES, np.float32)
            layers.append(
                LayerEdges(
                    layer,
                    features,
                    Standardiser(0 * ones, ones, 10.0),
                    draw.normal(size=(1, NUM_FEATURES)).astype(np.float32),
                    np.zeros(1, np.float32),
                )
            )
        Head(card, (Part(tuple(layers)),)).save(folder / task)
        folders.append(folder / task)
    return folders
