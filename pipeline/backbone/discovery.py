"""Which row of the table a model uses, or what stands in for one: its down projections, discovered.

    site = choose_site(model, root)                   # weights do not matter

A path that the user names comes first, then the row of ``FFN_SITES``; else modules, shapes and the
config tell: an FFN's second linear layer is as wide on its input as the config says an FFN is, or
leads from another width back to the hidden size, once in every block.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from pipeline.backbone.experts import Mixture, block_number, find_mixture, is_attention
from pipeline.backbone.sites import FFN_SITES, FfnSite, input_width
from pipeline.errors import BackboneError

WIDTH_KEYS = (
    "intermediate_size",
    "ffn_dim",
    "encoder_ffn_dim",
    "d_ff",
    "d_inner",
    "n_inner",
    "hidden_dim",
    "ffn_hidden_size",
)

FFN_NAME = re.compile(r"(^|[._])(mlp|ffns?|ff|feed_forward|fc\d?)([._]|$)")
"""What modules of an FFN are called."""
logger = logging.getLogger(__name__)


def choose_site(model: nn.Module, root: str, *, ffn_site: str | None = None) -> FfnSite:
    """The row to use for a model: the explicit path, the table's, or a discovered one.

    Args:
        model: the module tree; weights do not matter.
        root: path of the part that is run; "" for the whole.
        ffn_site: explicit path of the down projection with ``{i}`` for the block, from the model or
            from the part that is run.

    Raises:
        BackboneError: bad explicit path, or an architecture that cannot be worked out.
    """
    part = model.get_submodule(root)
    config: Any = part.config
    known = FFN_SITES.get(config.model_type)
    if known is not None:
        known = _within(replace(known, root="", **_paths(known, drop=known.root)), root)
    if ffn_site is not None:
        inner = ffn_site.removeprefix(f"{root}.") if root else ffn_site
        _check_path(inner, part)
        layers = _in_blocks([inner], _linears(part), part).get(inner)
        site = _within(FfnSite(down=inner, positions="internal", layers=layers), root)
        return known if known is not None and known.down == site.down else site
    return known or _within(discover(config, part), root)


def _paths(site: FfnSite, *, add: str = "", drop: str = "") -> dict[str, Any]:
    """The paths of a row, each with a prefix dropped or added."""

    def moved(path: str) -> str:
        return add + path.removeprefix(f"{drop}.")

    return {
        "down": moved(site.down) if site.down else "",
        "blocks": moved(site.blocks) if site.blocks else "",
        "up": tuple(moved(path) for path in site.up),
        "activation": None if site.activation is None else moved(site.activation),
    }


def _within(site: FfnSite, root: str) -> FfnSite:
    """A row of paths from a part, as one of paths from the whole model."""
    return replace(site, root=root, **_paths(site, add=f"{root}.")) if root else site


def _check_path(path: str, part: nn.Module) -> None:
    """Refuse a path that is not that of a linear layer in the blocks, with the near misses."""
    if "{i}" not in path:
        raise BackboneError(
            f"ffn_site {path!r} lacks {{i}}, which stands for the block's number; "
            "example: 'encoder.layer.{i}.output.dense'"
        )
    linears = _linears(part)
    if path not in linears:
        near = difflib.get_close_matches(path, linears, n=3, cutoff=0.0)
        raise BackboneError(
            f"ffn_site {path!r}: no linear layer of this {part.config.model_type!r} model; the"  # type: ignore[union-attr]
            f" nearest are {', '.join(near) or 'none'}"
        )
    config: Any = part.config
    widths = set(linears[path].values())
    if widths <= _ffn_widths(config):
        return
    hidden = getattr(config, "hidden_size", None)
    if hidden in widths:
        wide = [name for name, found in linears.items() if set(found.values()) != widths]
        near = difflib.get_close_matches(path, wide, n=3, cutoff=0.0)
        raise BackboneError(
            f"ffn_site {path!r}: its input is as wide as the hidden state ({hidden}),"
            f" so it is no FFN's down projection; try one of {', '.join(near) or 'none'}"
        )
    logger.warning(
        "ffn_site %r: its input's width %s is that of no FFN in config.json; is it the down"
        " projection?",
        path,
        sorted(widths),
    )


def _linears(part: nn.Module) -> dict[str, dict[int, int]]:
    """Path with ``{i}`` -> block -> input width, of the linear layers inside a list of blocks."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for name, module in part.named_modules():
        width = input_width(module)
        numbered = re.search(r"\.(\d+)\.", name)
        if width is not None and numbered:
            path = f"{name[: numbered.start()]}.{{i}}.{name[numbered.end() :]}"
            found[path][int(numbered[1])] = width
    return found


def _ffn_widths(config: Any) -> set[int]:
    """Widths of an FFN that a config names; some name one for each block."""
    found: set[int] = set()
    for key in WIDTH_KEYS:
        value = getattr(config, key, None)
        found |= {
            width
            for width in (value if isinstance(value, list | tuple) else (value,))
            if isinstance(width, int)
        }
    return found


def discover(config: Any, part: nn.Module) -> FfnSite:
    """Find the down projection of an unlisted architecture by its input width.

    It is the linear layer whose input is as wide as the config's FFN, or, where no config key says
    how wide that is, the narrowing one of what is called an FFN. It occurs once in every block; if
    there is no such one, in some blocks. The engine then makes no other assumption: no packing, no
    fusing. Of a mixture of experts it is that of the shared experts, or of the dense blocks.

    Returns:
        A row; without ``down`` if no such layer was found, or several, saying so.

    Raises:
        BackboneError: the part has no blocks, one after another, either.
    """
    if (mixture := find_mixture(part)) is not None:
        down, layers = ffn_beside(part, mixture)
        return FfnSite(down=down, positions="internal", layers=layers, blocks=block_path(mixture))
    linears = _linears(part)
    widths = _ffn_widths(config)
    by_width = [path for path, blocks in linears.items() if set(blocks.values()) <= widths]
    candidates = _in_blocks(by_width, linears, part) or _in_blocks(
        [
            path
            for path, blocks in linears.items()
            if FFN_NAME.search(path) and _narrows(path.replace("{i}", str(min(blocks))), part)
        ],
        linears,
        part,
    )
    if len(candidates) == 1:
        (path,) = candidates
        return FfnSite(down=path, positions="internal", layers=candidates[path])
    found = f"candidates: {', '.join(candidates)}" if candidates else "no candidate"
    return FfnSite(
        down="",
        positions="internal",
        blocks=f"{_stack(config, part)}.{{i}}",
        unknown=f"model type {config.model_type!r} is not supported out of the box ({found}); name "
        'the FFN\'s down projection with ffn_site = "path.{i}.of.linear", read its hidden states '
        f'only with sites = ["hidden"], or use one of: {", ".join(sorted(FFN_SITES))}',
    )


def _in_blocks(
    paths: Iterable[str], linears: dict[str, dict[int, int]], part: nn.Module
) -> dict[str, tuple[int, ...] | None]:
    """Those of some paths that are in all blocks (None), or if none is, in some (which)."""
    found: dict[str, tuple[int, ...] | None] = {}
    for path in paths:
        stack = part.get_submodule(path.partition(".{i}")[0])
        if isinstance(stack, nn.ModuleList):
            whole = len(linears[path]) == len(stack)
            found[path] = None if whole else tuple(sorted(linears[path]))
    return {path: None for path, some in found.items() if some is None} or found


def _narrows(name: str, part: nn.Module) -> bool:
    """Whether a linear layer leads from another width to the hidden size, as an FFN's second."""
    layer: Any = part.get_submodule(name)
    out = layer.nf if isinstance(layer, Conv1D) else layer.out_features
    return bool(out == getattr(part.config, "hidden_size", None) != input_width(layer))


def _stack(config: Any, part: nn.Module) -> str:
    """Path of the list of blocks.

    Raises:
        BackboneError: there is no one list.
    """
    lists = {
        name: len(module)
        for name, module in part.named_modules()
        if isinstance(module, nn.ModuleList) and not re.search(r"\.\d+\.", name)
    }
    depth = getattr(config, "num_hidden_layers", None)
    found = [name for name, length in lists.items() if length == depth]
    if len(found) != 1:
        raise BackboneError(
            f"model type {config.model_type!r}: its {depth} blocks are not one list of modules"
            f" (lists: {lists or 'none'}); use one of: {', '.join(sorted(FFN_SITES))}"
        )
    return str(found[0])


def ffn_beside(model: nn.Module, mixture: Mixture) -> tuple[str, tuple[int, ...]]:
    """The dense FFNs of a model whose blocks differ: of shared experts, or of blocks without any.

    An FFN is a module of two or three linear layers, of which one leads back to where the others
    come from, and these make what goes into it. What the experts lie in is none, nor is attention
    or a norm. If there are several kinds, the one of most blocks counts,
    and of these the widest.

    Returns:
        Path of the down projections, ``{i}`` standing for the block, and their blocks; ``""`` and
        none if there are none.
    """
    found: dict[tuple[str, int], list[int]] = {}
    routed = [*mixture.routers.values(), *mixture.experts.values()]
    around = {name[: end.start()] for name in routed for end in re.finditer(r"\.", name)}
    for name, module in model.named_modules():
        block = block_number(name)
        linears = {n: child for n, child in module.named_children() if isinstance(child, nn.Linear)}
        if block is None or not 2 <= len(linears) <= 3 or is_attention(module):
            continue
        if name in around or "norm" in name.lower():
            continue
        for own, down in reversed(linears.items()):
            others = [linear for linear in linears.values() if linear is not down]
            width = down.in_features
            if all(
                up.in_features == down.out_features and up.out_features in (width, 2 * width)
                for up in others
            ):
                pattern = re.sub(r"(^|\.)\d+\.", r"\1{i}.", f"{name}.{own}", count=1)
                if "{i}" in pattern and not re.search(r"\.\d+\.", pattern):
                    found.setdefault((pattern, width), []).append(block)
                break
    if not found:
        return "", ()
    (pattern, _), blocks = max(found.items(), key=lambda item: (len(item[1]), item[0][1]))
    return pattern, tuple(sorted(blocks))


def block_path(mixture: Mixture) -> str:
    """Path of the blocks of a model with routed layers, ``{i}`` standing for the block."""
    name = next(iter({**mixture.routers, **mixture.experts}.values()))
    return re.sub(r"(^|\.)\d+\..*", r"\1{i}", name, count=1)
