"""Read a model folder's config and build the model, with the tensors that are needed."""

from __future__ import annotations

import copy
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig

from pipeline.backbone.limits import limits_of
from pipeline.backbone.parts import cutting
from pipeline.backbone.sites import FFN_SITES
from pipeline.errors import BackboneError, first_line, lacks_memory

CONTEXT_KEYS = ("max_position_embeddings", "max_seq_len")
"""What configs call the number of positions."""
DEFAULT_LENGTH = 512
"""Tokens of a text, where nothing limits it."""
UNLIMITED = 10**9
"""Tokens that mean no limit: tokenizers name such numbers."""
KERNEL_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
)
POSITION_TABLES = (
    "position_embeddings",
    "embed_positions",
    "positions_embed",
    "position_embedding",
    "wpe",
)
"""What models call the table of their positions' embeddings."""


def load_config(path: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read ``config.json``.

    Raises:
        BackboneError: missing, unreadable, of a type that transformers does not know, with a value
            that this type does not take, or with code from the hub that may not run.
    """
    if not (path / "config.json").is_file():
        raise BackboneError(f"{path}: no config.json; is this a Hugging Face model folder?")
    if not trust_remote_code:
        _refuse_kernels(path / "config.json")
    try:
        return AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        try:
            stated = json.loads((path / "config.json").read_text("utf-8"))
            kind, own_code = stated.get("model_type"), trust_remote_code and "auto_map" in stated
        except (ValueError, AttributeError):
            raise BackboneError(f"{path}/config.json: not a JSON object; fetch it again") from error
        if own_code:
            reason = f"the model's own code fails ({first_line(error)}); install what it lacks, or"
            reason += " choose another model"
        elif kind in list(CONFIG_MAPPING):
            reason = f"config.json: {first_line(error)}; correct it or fetch it again"
        else:
            reason = f"model type {kind!r} is unknown to transformers {transformers.__version__};"
            reason += " upgrade it, allow the model's own code with trust_remote_code = true, or"
            reason += f" use one of: {', '.join(sorted(FFN_SITES))}"
        raise BackboneError(f"{path}: {reason}") from error


def _refuse_kernels(file: Path) -> None:
    """Names of hub repositories as a model's kernels: transformers would fetch and import them."""

    def look(value: Any, key: str = "") -> None:
        for name, own in value.items() if isinstance(value, dict) else ():
            look(own, name if name in KERNEL_KEYS else key)
        if key and isinstance(value, str) and "/" in value:
            raise BackboneError(
                f"{file}: its {key} {value!r} is code from the hub; take it out, or allow it with"
                " trust_remote_code = true"
            )

    with suppress(OSError, ValueError, RecursionError):  # others say what is wrong with the file
        look(json.loads(file.read_text("utf-8")))


def pad_id(config: Any) -> int:
    """The padding token of a config; 0 if it names none."""
    padding = getattr(config, "pad_token_id", None)
    return padding if isinstance(padding, int) and padding >= 0 else 0


class Context(NamedTuple):
    """How long texts may be."""

    tokens: int
    """Of a text, special ones included; longer ones are cut."""
    limited_by: str
    """What says so, in words."""


def context_length(part: Any, tokenizer: Any, wanted: int | None) -> Context:
    """Tokens per text: what is wanted, within what positions and tokenizer allow.

    Args:
        part: the part of the model that is run; its weights do not matter.
        tokenizer: may name a limit of its own.
        wanted: None for as many as are allowed.

    Raises:
        BackboneError: more is wanted than the model has positions for.
    """
    stated = (getattr(part.config, key, None) for key in CONTEXT_KEYS)
    capacities = [length for length in stated if isinstance(length, int) and length > 0]
    capacities += position_rows(part)
    capacity = min(capacities, default=None)
    if wanted is not None:
        stretches = limits_of(part.config).equal_above is not None  # dynamic rope goes on beyond it
        if capacity is not None and wanted > capacity and not stretches:
            raise BackboneError(
                f"max_length {wanted} is over the model's context of {capacity} tokens; leave it"
                f" out, or name at most {capacity}"
            )
        return _with_room(Context(wanted, "max_length, as asked for"), tokenizer)
    limits = [
        Context(limit, by)
        for limit, by in (
            (capacity, "the model's positions"),
            (tokenizer.model_max_length, "the tokenizer's model_max_length"),
        )
        if isinstance(limit, int) and limit < UNLIMITED
    ]
    unstated = Context(DEFAULT_LENGTH, "neither the model nor its tokenizer states a limit")
    return _with_room(min(limits, key=lambda limit: limit.tokens, default=unstated), tokenizer)


def _with_room(context: Context, tokenizer: Any) -> Context:
    """The same, if a text finds a place in there beside the special tokens."""
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if context.tokens <= special:
        raise BackboneError(
            f"{context.tokens} tokens ({context.limited_by}) leave no room for a text beside"
            f" {special} special ones; let it be {special + 1} or more"
        )
    return context


def position_rows(part: nn.Module) -> list[int]:
    """Texts' longest lengths by the tables of learned or stored positions, which may start late.

    RoBERTa and its kin count from ``padding_idx + 1``; BART's keep ``offset`` rows free.
    """
    found = []
    for name, module in part.named_modules():
        weight = getattr(module, "weight", None)
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(weight, torch.Tensor):
            padding, offset = (getattr(module, key, None) for key in ("padding_idx", "offset"))
            unused = (0 if padding is None else padding + 1) + (offset or 0)
            found.append(weight.shape[0] - unused)
    return found


def skeleton(config: Any, *, trust_remote_code: bool = False) -> nn.Module:
    """The module tree that a config describes, without weights.

    Raises:
        BackboneError: transformers has no model for this config.
    """
    try:
        with torch.device("meta"), quiet():
            model = AutoModel.from_config(
                copy.deepcopy(config), trust_remote_code=trust_remote_code
            )
    except Exception as error:
        raise BackboneError(
            f"model type {config.model_type!r}: no transformer can be built from its config.json "
            f"({first_line(error)}); use one of: " + ", ".join(sorted(FFN_SITES))
        ) from error
    return model  # type: ignore[no-any-return]


def load_model(
    path: Path,
    config: Any,
    model: nn.Module,
    *,
    dtype: torch.dtype,
    root: str,
    cut: Callable[[Any], None],
) -> nn.Module:
    """Build the model of a config, cut it, and read the tensors that are left in it.

    Args:
        path: the model's folder.
        config: its config.
        model: its :func:`skeleton`, for the class.
        dtype: what the weights are turned to.
        root: path of the part that is run; "" for the whole.
        cut: drops, in place, what is not run.

    Returns:
        That part.

    Raises:
        BackboneError: weights missing, damaged or of other shapes.
    """
    whole = type(model)
    options: dict[str, Any] = {}
    if "add_pooling_layer" in inspect.signature(whole.__init__).parameters:
        options["add_pooling_layer"] = False
    try:
        with quiet():
            loaded, info = cutting(whole, cut).from_pretrained(
                path,
                config=copy.deepcopy(config),
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        if lacks_memory(error):
            raise
        reason = first_line(error)
        if "ignore_mismatched_sizes" in str(error):
            reason = "its tensors have other shapes than config.json says"
        raise BackboneError(
            f"{path}: the weights cannot be loaded as {config.model_type!r} ({reason}); fetch them"
            " again, or choose another model"
        ) from error
    loaded.__class__ = whole
    prefix = f"{root}." if root else ""
    if missing := sorted(key for key in info["missing_keys"] if key.startswith(prefix)):
        raise BackboneError(
            f"{path}: {len(missing)} tensors of the {config.model_type!r} model are missing from "
            f"its weights (first: {missing[0]}); they do not belong to its config.json: fetch both"
            " again, or choose another model"
        )
    part: nn.Module = loaded.eval().requires_grad_(False).get_submodule(root)
    return part


@contextmanager
def quiet() -> Iterator[None]:
    """Silence loading reports and bars: unused heads are expected, and missing tensors raise."""
    report = transformers.utils.logging
    level, bars = report.get_verbosity(), report.is_progress_bar_enabled()
    report.set_verbosity(logging.CRITICAL)
    report.disable_progress_bar()
    try:
        yield
    finally:
        report.set_verbosity(level)
        if bars:
            report.enable_progress_bar()
