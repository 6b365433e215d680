"""Load a backbone and have it prove itself.

    backbone = load_backbone("models/roberta-base")
    backbone = load_from_settings(card.extraction["backbone"], last_layer=5)

The second way is that of everything which meets activations made before: it takes the settings that
a run, a head or a store carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.backbone import checkpoint, selfcheck
from pipeline.backbone.engine import Engine
from pipeline.backbone.sites import choose_site, refuse_experts
from pipeline.backbone.transformer import Backbone, check_choice, check_layer
from pipeline.config import BackboneConfig
from pipeline.errors import BackboneError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_backbone(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str | torch.device = "cpu",
    ffn_site: str | None = None,
    max_length: int | None = None,
    last_layer: int | None = None,
    trust_remote_code: bool = False,
    attention: Literal["auto", "packed", "padded"] = "auto",
    engine: Engine = "auto",
) -> Backbone:
    """Load a model folder, ``package:NAME`` or hub name, and check it with a dry run.

    Args:
        model: directory, ``package:NAME`` of an installed model package, or hub name.
        revision: 40-digit commit, required for hub names.
        dtype: arithmetic; bfloat16 is 1.5-2 times faster and off by up to 1.4e-2.
        device: torch device; "auto" takes a GPU if there is one.
        ffn_site: path of the down projection, with ``{i}`` for the block, for architectures
            without a row in ``FFN_SITES``.
        max_length: cut texts to so many tokens; default and upper bound: the model's context.
        last_layer: read and run blocks 0..last_layer only.
        trust_remote_code: run code that comes with the model.
        attention: "packed" insists on packing; "auto" packs where it proves exact.
        engine: CPU kernels: "onednn", "torch", or "auto" for the faster of them, as measured.
            They agree to rounding, so the choice is not part of the fingerprint.

    Raises:
        BackboneError: one line that names the folder, the trouble and the remedy.
    """
    check_choice("dtype", dtype, DTYPES)
    check_choice("attention", attention, ("auto", "packed", "padded"))
    check_choice("engine", engine, ("auto", "torch", "onednn"))
    path = checkpoint.locate(model, revision=revision)

    def read() -> Backbone:
        backbone = _read(
            path,
            source=str(model),
            dtype=dtype,
            device=device,
            ffn_site=ffn_site,
            max_length=max_length,
            last_layer=last_layer,
            trust_remote_code=trust_remote_code,
        )
        selfcheck.measure_sizes(backbone)
        if attention != "padded":
            selfcheck.try_packing(backbone, required=attention == "packed")
        return backbone

    backbone = read()
    if backbone.device.type == "cpu" and engine != "torch":
        try:
            selfcheck.change_kernels(backbone, engine)
        except BackboneError:
            if engine == "onednn":
                raise
            return read()  # without what the kernels have made of it
    return backbone


def load_from_settings(
    settings: Mapping[str, Any] | BackboneConfig,
    *,
    device: str = "auto",
    last_layer: int | None = None,
    model: str | None = None,
) -> Backbone:
    """The backbone of a run, as its configuration, or a head's or a store's record, describes it.

    Args:
        settings: the ``[backbone]`` section, or what was recorded of it.
        device: torch device.
        last_layer: read and run blocks 0..last_layer only.
        model: the backbone's location, if it moved.

    Raises:
        BackboneError: as of :func:`load_backbone`.
    """
    found = dict(settings)
    return load_backbone(
        model or found["model"],
        revision=found["revision"] if model is None else None,
        dtype=found["dtype"],
        device=device,
        ffn_site=found["ffn_site"],
        max_length=found["max_length"],
        last_layer=last_layer,
        trust_remote_code=found["trust_remote_code"],
    )


def _read(
    path: Path,
    *,
    source: str,
    dtype: str,
    device: str | torch.device,
    ffn_site: str | None,
    max_length: int | None,
    last_layer: int | None,
    trust_remote_code: bool,
) -> Backbone:
    """A backbone on its device, of which nothing is measured yet."""
    config = checkpoint.load_config(path, trust_remote_code=trust_remote_code)
    files = checkpoint.weight_files(path)
    tokenizer = checkpoint.load_tokenizer(path, trust_remote_code=trust_remote_code)
    if ffn_site is None:
        refuse_experts(config)
    site = choose_site(
        config,
        lambda: checkpoint.skeleton(config, trust_remote_code=trust_remote_code),
        ffn_site=ffn_site,
    )
    length = checkpoint.context_length(config, tokenizer, site, max_length)
    digest = checkpoint.fingerprint(
        path, files, {"site": site.down, "dtype": dtype, "max_length": length}
    )
    num_layers = check_layer(config.num_hidden_layers, last_layer) + 1
    checkpoint.keep_blocks(config, num_layers)
    if site.skip_depth is not None:
        setattr(config, site.skip_depth, 0)
    place = _choose_device(device)
    network = checkpoint.load_model(
        path, config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code
    ).to(place)
    return Backbone(
        network=network.get_submodule(site.root),
        config=config,
        tokenizer=tokenizer,
        site=site,
        num_layers=num_layers,
        max_length=length,
        dtype=DTYPES[dtype],
        device=place,
        fingerprint=digest,
        source=source,
        truncated=last_layer is not None,
    )


def _choose_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise BackboneError(
            f"device {device!r} is not a torch device; use cpu, cuda or auto"
        ) from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise BackboneError(
            f"device {device!r}: torch finds no GPU here; use device = 'cpu' or 'auto'"
        )
    return place
