"""Load a backbone and have it prove itself.

    backbone = load_backbone("models/roberta-base")
    backbone = load_recorded(card.extraction, asked_by=folder, last_layer=5)

The second way is that of everything which meets activations made before: it takes the settings that
a head or a store carries, and the engine that they were made with. Heads and stores may come from
anybody: that a model's own code may run is the caller's to say, and never theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pipeline.backbone import checkpoint, selfcheck
from pipeline.backbone.discovery import choose_site
from pipeline.backbone.engine import Engine, KernelError
from pipeline.backbone.fingerprint import fingerprint
from pipeline.backbone.folder import check_folder, locate, weight_files
from pipeline.backbone.parts import cut_out, reading_part
from pipeline.backbone.sites import depth
from pipeline.backbone.tokenizer import fit_tokenizer, load_tokenizer
from pipeline.backbone.transformer import Backbone, check_choice, check_layer
from pipeline.config import BackboneConfig, backbone_of
from pipeline.errors import BackboneError, ConfigError, first_line, lacks_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENGINES: tuple[Engine, ...] = ("auto", "torch", "onednn")

logger = logging.getLogger(__name__)


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
    anew: bool = False,
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
        attention: "packed" and "padded" insist; "auto" packs where that proves exact, else pads,
            else runs only equally long texts together.
        engine: CPU kernels: "onednn", "torch", or "auto" for the faster of them by ``choose``'s
            rule. They agree to rounding, so the choice is not part of the fingerprint. "onednn"
            where that is not to be had gives "torch" with a warning, as does "auto" where it
            changes the model.
        anew: check even what is remembered of an earlier load.

    Raises:
        BackboneError: one line that names the folder, the trouble and the remedy.
        MemoryError, torch.OutOfMemoryError: no room for it.
    """
    check_choice("dtype", dtype, DTYPES)
    check_choice("attention", attention, ("auto", "packed", "padded"))
    check_choice("engine", engine, ENGINES)
    path = locate(model, revision=revision, trust_remote_code=trust_remote_code)

    def read() -> Backbone:
        try:
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
            selfcheck.find_routed_layers(backbone)
            selfcheck.measure_sizes(backbone)
            selfcheck.choose_layout(backbone, attention=attention, anew=anew)
        except BackboneError:
            raise
        except Exception as error:  # of a model's own code, or of a kind that nobody has met
            if lacks_memory(error):
                raise
            raise BackboneError(
                f"{model}: cannot be used as a backbone ({first_line(error)}); report it with what"
                " `salient check --json` prints, and take another model until then"
            ) from error
        return backbone

    backbone = read()
    if backbone.device.type == "cpu" and engine != "torch":
        try:
            selfcheck.change_kernels(backbone, engine, anew=anew)
        except KernelError as error:
            if engine == "onednn":
                raise
            logger.warning("%s, as is done now", error)
            # Remembered kernels were not tried; others have left their traces.
            return backbone if backbone.engine == "torch" else read()
        if engine == "onednn" != backbone.engine:
            _say_other_kernels(str(model), "this processor or this build of torch lacks them")
    return backbone


def _say_other_kernels(model: str, reason: str) -> None:
    logger.warning(
        "%s: the engine 'onednn', which the settings or what was made with this model name, cannot"
        " be used here (%s); 'torch' is used instead, and results agree to rounding",
        model,
        reason,
    )


def load_from_settings(
    settings: Mapping[str, Any] | BackboneConfig,
    *,
    device: str = "auto",
    last_layer: int | None = None,
    model: str | None = None,
    made_with: Engine | None = None,
    anew: bool = False,
) -> Backbone:
    """The backbone of a run, as its configuration, or a head's or a store's record, describes it.

    Args:
        settings: the ``[backbone]`` section, or what was recorded of it.
        device: torch device.
        last_layer: read and run blocks 0..last_layer only.
        model: the backbone's location, if it moved.
        made_with: engine of the activations that it meets, from :func:`engine_of`; used where it
            can be, else another one with a warning.
        anew: check even what is remembered of an earlier load.

    Raises:
        BackboneError: as of :func:`load_backbone`.
    """
    found = dict(settings)
    place, whole = model or found["model"], bool(found.get("whole"))

    def load(engine: Engine) -> Backbone:
        loaded = load_backbone(
            place,
            revision=found["revision"] if model is None else None,
            dtype=found["dtype"],
            device=device,
            ffn_site=found["ffn_site"],
            max_length=found["max_length"],
            last_layer=None if whole else last_layer,
            trust_remote_code=found["trust_remote_code"],
            engine=engine,
            anew=anew,
        )
        # Heads and stores of earlier versions know nothing of these.
        loaded = loaded.framed(prefix=found.get("prefix"), template=found.get("template"))
        loaded.whole = whole
        return loaded.truncate(last_layer) if whole and last_layer is not None else loaded

    try:
        return load(made_with or found.get("engine", "auto"))
    except KernelError:
        if made_with is None:
            raise
        _say_other_kernels(str(place), "it changes the activations")
        return load("torch")


def engine_of(provenance: Mapping[str, Any]) -> Engine | None:
    """The engine that activations were made with, as a store's or a head's record says.

    Args:
        provenance: of a store's schema, which heads carry as ``card.extraction``.

    Returns:
        None if it does not say, or they were made on a GPU: then the rule decides.
    """
    made = provenance.get("extraction") or {}
    on_cpu = str(made.get("device", "cpu")).startswith("cpu")
    engine: Engine | None = made.get("engine") if made.get("engine") in ENGINES else None
    return engine if on_cpu else None


def load_recorded(
    provenance: Mapping[str, Any],
    *,
    asked_by: str | Path,
    device: str = "auto",
    last_layer: int | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """The backbone that a store's or a head's record describes, with the engine it was made with.

    Args:
        provenance: as for :func:`engine_of`.
        asked_by: the folder that it is from, for errors.
        device, last_layer, model: as for :func:`load_from_settings`.
        trust_remote_code: the caller allows the model's own code, where the record asks for it.

    Raises:
        BackboneError: as of :func:`load_backbone`; the record describes no model, or asks for code.
    """
    try:
        settings = backbone_of(provenance["backbone"])
    except (ConfigError, KeyError, TypeError) as error:
        raise BackboneError(
            f"{asked_by}: does not say which model it was made with ({error}); copy it again, or"
            " make it again"
        ) from None
    if settings.trust_remote_code and not trust_remote_code:
        raise BackboneError(
            f"{asked_by}: asks for Python code that comes with the model {model or settings.model}"
            " (trust_remote_code), and that would run as you; if you trust it, give"
            " --trust-remote-code (trust_remote_code=True from Python), or with --run the TOML file"
            " of your own that says so of this model"
        )
    return load_from_settings(
        settings,
        device=device,
        last_layer=last_layer,
        model=model,
        made_with=engine_of(provenance),
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
    place = _choose_device(device)
    with _naming(path, source):
        check_folder(path)
        config = checkpoint.load_config(path, trust_remote_code=trust_remote_code)
        files = weight_files(path)
        model, root, tokenizer = _outline(path, config, trust_remote_code=trust_remote_code)
        part: Any = model.get_submodule(root)
        site = choose_site(model, root, ffn_site=ffn_site)
        context = checkpoint.context_length(part, tokenizer, max_length)
        settings = {"site": site.down, "dtype": dtype, "max_length": context.tokens}
        digest = fingerprint(path, files, settings, trust_remote_code=trust_remote_code)
        blocks = depth(part, site)
        if blocks < 1:
            raise BackboneError(f"{path}: config.json says {blocks} blocks; fetch it again")
        num_layers = check_layer(blocks, last_layer) + 1
        network = checkpoint.load_model(
            path,
            config,
            model,
            dtype=DTYPES[dtype],
            root=root,
            cut=lambda whole: cut_out(whole, site, num_layers),
        ).to(place)
        backbone = Backbone(
            network=network,
            config=getattr(network, "config", config),
            tokenizer=tokenizer,
            site=site,
            num_layers=num_layers,
            max_length=context.tokens,
            dtype=DTYPES[dtype],
            device=place,
            fingerprint=digest,
            source=source,
            truncated=last_layer is not None,
        )
        backbone.limited_by = context.limited_by
        return backbone


@contextmanager
def _naming(path: Path, source: str) -> Iterator[None]:
    """Put the folder's name before refusals that lack it."""
    try:
        yield
    except BackboneError as error:
        if str(error).startswith(tuple(f"{name}{end}" for name in (path, source) for end in ":/")):
            raise
        raise BackboneError(f"{path}: {error}") from error.__cause__


def _outline(path: Path, config: Any, *, trust_remote_code: bool) -> tuple[nn.Module, str, Any]:
    """A model without weights, the path of its part that reads text, and that part's tokenizer."""
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    model = checkpoint.skeleton(config, trust_remote_code=trust_remote_code)
    root = reading_part(model)
    part: Any = model.get_submodule(root)
    if not hasattr(part, "config"):  # FSMT's encoder
        part.config = config
    fit_tokenizer(path, tokenizer, part)
    return model, root, tokenizer


def fitted_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder as a backbone has it; no weights are read.

    Raises:
        BackboneError: none there, or not one for this model.
    """
    with _naming(path, str(path)):
        config = checkpoint.load_config(path, trust_remote_code=trust_remote_code)
        return _outline(path, config, trust_remote_code=trust_remote_code)[2]


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
