"""What a freshly loaded backbone must prove before it is used.

    measure_sizes(backbone)                 # a dry run: widths, order of axes, work
    choose_layout(backbone, attention="auto")
    backbone.checked.largest                # of the differences that the chosen layout makes

Sizes are measured, not believed. A few random texts run in a batch and each alone, and all layers
are compared: the first layout that makes no difference is the one that is used. The result is
remembered, so that later loads need not find it out again.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone import checkpoint, states
from pipeline.backbone.attention import PACKED
from pipeline.backbone.comparison import TOLERANCE, Comparison, relative
from pipeline.backbone.engine import Engine, KernelError, speed_up
from pipeline.backbone.experts import capture_experts, find_mixture, prove_mixture
from pipeline.backbone.hooks import input_of
from pipeline.backbone.limits import limits_of
from pipeline.backbone.packing import Batch, Segments
from pipeline.backbone.pooling import pool
from pipeline.backbone.shapes import odd_sizes, recognise, surplus
from pipeline.backbone.sites import input_width
from pipeline.backbone.transformer import Backbone, Checked, Layout
from pipeline.backbone.usercache import recall, remember
from pipeline.errors import BackboneError, first_line, lacks_memory
from store.layout import Source

VERSION = 3
"""Of the check; a result of another one is not remembered."""
TEXT_LENGTHS = (3, 30, 7, 19, 7, 19)
PLAIN_TEXT = 3
"""Which of these texts' hidden states are compared with those that the model lists."""
REPEATING_TEXT = 3
"""Which of the texts has two different tokens only."""
DEAR_LENGTH = 1024
"""Tokens above which a limit is not tried: such texts cost seconds."""
POOLED = ("mean", "max")
LISTING = "output_hidden_states"

Attention = Literal["auto", "packed", "padded"]
Activations = dict[Source, Tensor]
"""Of each site and hidden state (texts, pooling, feature), mean and max over each text."""

logger = logging.getLogger(__name__)


# ------------------------------------------------------------------ sizes


def find_routed_layers(backbone: Backbone) -> None:
    """Find which blocks are mixtures of experts, and what of them can be captured, in a dry run.

    Raises:
        BackboneError: the model cannot run.
    """
    mixture = find_mixture(backbone.network)
    if mixture is None:
        return
    batch = backbone.batch(_texts(backbone, TEXT_LENGTHS[:1]), packed=False)
    trial = backbone.fresh()

    def run() -> int:
        trial.watch(batch, {})
        return batch.num_slots

    with _explained(backbone):
        backbone.mixture = prove_mixture(trial.network, mixture, run)
    capture_experts(backbone.network, backbone.mixture)


def measure_sizes(backbone: Backbone) -> None:
    """Find the widths, the order of the axes and the work per token in a dry run.

    Raises:
        BackboneError: the model cannot run, the site is not reached once per block, widths differ
            between blocks, or tensors are not one vector for each token.
    """
    states.say_once(backbone.network)
    num_texts, length = odd_sizes(backbone.network, backbone.max_length)
    spent = 0.0

    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal spent
        values = input_of(args, kwargs)
        if values is not None and isinstance(output, Tensor):
            spent += 2.0 * values.shape[-1] * output.numel() / (num_texts * length)

    reached: dict[Source, float] = {}

    def on_place(place: Source) -> None:
        reached.setdefault(place, spent)

    weights = states.weight_versions(backbone.network)
    with _explained(backbone):
        trial = backbone.fresh()
    linears = [layer for layer in trial.network.modules() if input_width(layer) is not None]
    handles = [layer.register_forward_hook(count, with_kwargs=True) for layer in linears]
    with _explained(backbone):
        found = _shapes(trial, num_texts, length, on_place=on_place)
    for handle in handles:
        handle.remove()
    if states.weight_versions(backbone.network) != weights:
        backbone.network = trial.network  # which knows that its weights are changed already
    _read_shapes(backbone, found, num_texts, length)
    behind = [
        reached.get(Source("hidden", layer + 1), spent) for layer in range(backbone.num_layers)
    ]
    backbone.linear_flops = [
        reached.get(Source("ffn", layer), without) for layer, without in enumerate(behind)
    ] + [spent]


def _shapes(
    trial: Backbone, num_texts: int, length: int, *, on_place: Any = lambda _: None
) -> list[tuple[Source, tuple[int, ...]]]:
    """What comes at every site and hidden state of random texts, in turn, and in what shape."""
    found: list[tuple[Source, tuple[int, ...]]] = []

    def at(site: str) -> Any:
        def note(layer: int, values: Tensor) -> None:
            source = Source(site, layer)
            on_place(source)
            found.append((source, tuple(values.shape)))

        return note

    batch = trial.batch(_texts(trial, [length] * num_texts), packed=False)
    sites = ("ffn", "hidden") if trial.ffn_layers else ("hidden",)
    trial.watch(batch, {site: (at(site), trial.site_layers(site)) for site in sites})
    return found


def _read_shapes(
    backbone: Backbone, found: list[tuple[Source, tuple[int, ...]]], num_texts: int, length: int
) -> None:
    deepest = max(backbone.site_layers("hidden"))
    needed = {Source("ffn", layer) for layer in backbone.ffn_layers}
    if deepest != backbone.num_layers - 1:  # unless cut off there
        needed.add(Source("hidden", deepest))
    sizes = {"texts": num_texts, "length": length}
    shapes: dict[Source, tuple[int, ...]] = {}
    for place, shape in found:
        axes = recognise(shape, **sizes)
        if place in shapes:
            if place[0] == "ffn" and axes is not None and shape == shapes[place]:
                raise BackboneError(_not_once(backbone, f"more than once in block {place[1]}"))
            continue  # of something else than the tokens
        shapes[place] = shape
        if axes is not None:
            backbone.axes[place] = axes
        elif place in needed:
            raise BackboneError(_unreadable(backbone, place, shape, num_texts, length))
    layers = tuple(layer for site, layer in shapes if site == "ffn")
    widths = {shape[-1] for (site, _), shape in shapes.items() if site == "ffn"}
    if layers != backbone.ffn_layers:
        raise BackboneError(_not_once(backbone, f"in blocks {list(layers)}"))
    if len(widths) > 1:
        raise BackboneError(_not_once(backbone, f"with widths {sorted(widths)}"))
    wider = {
        place
        for place, axes in backbone.axes.items()
        if surplus(shapes[place], axes, **sizes) and length > 1
    }
    if wider:  # one token less fills up to the same width, unless the model adds tokens of its own
        trial = backbone.fresh()
        with _explained(backbone):
            shorter = dict(reversed(_shapes(trial, num_texts, length - 1)))
        for place in wider:
            axes, sizes["length"] = backbone.axes[place], length
            more = surplus(shapes[place], axes, **sizes)
            if more == surplus(shorter[place], axes, texts=num_texts, length=length - 1):
                del backbone.axes[place]
                if place in needed:
                    raise BackboneError(
                        f"{backbone.source}: this {backbone.model_type!r} model adds {more} tokens "
                        "of its own to each text, and which they are is not known; choose another"
                    )
    backbone.neuron_size = next(iter(widths), 0)
    backbone.hidden_size = shapes.get(Source("hidden", deepest), (0,))[-1]
    for place in list(backbone.axes):  # Reformer's final one is two states side by side
        if place.site == "hidden" and shapes[place][-1] != backbone.hidden_size:
            del backbone.axes[place]


def _not_once(backbone: Backbone, where: str) -> str:
    return (
        f"{backbone.source}: {backbone.site.down} was reached {where}, not once in each of"
        f" {len(backbone.ffn_layers)} blocks with one width; set ffn_site to the path of the FFN's"
        ' down projection, or read sites = ["hidden"] only'
    )


def _unreadable(
    backbone: Backbone, place: Source, shape: tuple[int, ...], num_texts: int, length: int
) -> str:
    site, layer = place
    if site == "ffn":
        what = f"{backbone.site.down} of block {layer} gets"
        way_on = "set ffn_site to a linear layer that takes one, or choose another model"
    else:
        what, way_on = "the model gives", "choose another model, or the encoder inside this one"
    return (
        f"{backbone.source}: {what} {shape} for {num_texts} texts of {length} tokens, which is not "
        "one vector for each token in the order (text, token, feature), (token, text, feature) or "
        f"(text x token, feature); {way_on}"
    )


# ------------------------------------------------------------------ layout


def choose_layout(backbone: Backbone, *, attention: Attention = "auto", anew: bool = False) -> None:
    """Take the first layout in which texts in a batch equal each text alone.

    Tried are packing, where the architecture's row allows it, padding, and batches of equally long
    texts. Around each limit of the model a pair of texts is compared too, if it is not dear.

    Args:
        backbone: with its sizes measured, on the kernels that it has so far.
        attention: "packed" or "padded" tries no other.
        anew: compare even if a result is remembered.

    Raises:
        BackboneError: none holds; naming what differed.
        MemoryError, torch.OutOfMemoryError: whether one holds is not known.
    """
    if attention == "packed" and not backbone.site.packs:
        raise BackboneError(
            f"{backbone.source}: {backbone.model_type!r} cannot be packed; use attention = 'padded'"
        )
    backbone.limits = limits_of(backbone.config).within(backbone.max_length)
    depths = ["whole"] + [str(backbone.num_layers)] * backbone.truncated
    keys = [
        backbone.circumstances(check=VERSION, attention=attention, blocks=depth) for depth in depths
    ]
    for key in () if anew else keys:
        if (checked := _recalled(backbone, key)) is not None:
            backbone.checked, backbone.changes = checked, checked.changes
            _set_layout(backbone, checked.layout)
            return
    backbone.checked, failed = _find_layout(backbone, attention)
    if not failed:
        differences = {place.name: error for place, error in backbone.checked.differences.items()}
        remember("checks", keys[-1], vars(backbone.checked) | {"differences": differences})


def _find_layout(backbone: Backbone, attention: Attention) -> tuple[Checked, bool]:
    """The first layout that holds, and whether another one was left because of an error."""
    lengths, untried = _lengths(backbone)
    texts = _texts(backbone, lengths)
    batches = [
        replace(backbone.batch([text], np.array([i]), packed=False), position_ids=None)
        for i, text in enumerate(texts)
    ]
    with _explained(backbone):
        alone, changes = _observed(backbone, batches)
    if odd := [place for place, values in alone.items() if not values.isfinite().all()]:
        raise BackboneError(
            f"{backbone.source}: {odd[0].label} of this {backbone.model_type!r} model is not finite"
            " for a text of ordinary words; fetch the weights again, or take another dtype"
        )
    backbone.changes = changes or bool(backbone.limits)
    for place in _foreign_states(backbone, texts[PLAIN_TEXT], alone):
        del backbone.axes[place], alone[place]
    layouts: tuple[Layout, ...] = ("packed", "padded", "equal")
    if attention != "auto":
        layouts = (attention,)
    elif not backbone.site.packs:
        layouts = ("padded", "equal")
    previous = getattr(backbone.config, "_attn_implementation", None)
    troubles: list[str] = []
    failed = False
    for layout in layouts:
        try:
            _set_layout(backbone, layout)
            together, changes = _observed(backbone, _batches(backbone, texts))
            found = compared(backbone, together, alone)
        except Exception as error:
            if lacks_memory(error):
                raise
            trouble, failed = first_line(error), True
        else:
            if found.trouble is None:
                backbone.changes |= changes
                for line in troubles:
                    logger.info("%s: passed over %s", backbone.source, line)
                checked = Checked(
                    layout=layout,
                    differences=found.differences,
                    lengths=tuple(lengths),
                    untried=untried,
                    changes=backbone.changes,
                    passed_over=tuple(troubles),
                )
                return checked, failed
            trouble = found.trouble
        troubles.append(f"{layout}: {trouble}")
        if layout == "packed":
            backbone.network.set_attn_implementation(previous)  # type: ignore[operator]
    raise BackboneError(
        f"{backbone.source}: this {backbone.model_type!r} model gives texts in a batch other "
        f"numbers than alone ({'; '.join(troubles)}); {_way_on(backbone, attention)}"
    )


def _foreign_states(
    backbone: Backbone, text: NDArray[np.int64], alone: Activations
) -> list[Source]:
    """Hidden states before the final one that are others than those the model lists by itself.

    Models that list none, or not one for each block, are taken at our word.
    """
    trial = backbone.fresh()
    batch = replace(trial.batch([text], packed=False), position_ids=None)
    accepted = inspect.signature(trial.network.forward).parameters.values()
    if not any(one.name == LISTING or one.kind is one.VAR_KEYWORD for one in accepted):
        return []
    with _explained(backbone), torch.inference_mode():
        try:
            output = trial.network(**trial.inputs(batch), **{LISTING: True})
        except Exception as error:
            if not backbone.truncated or lacks_memory(error):
                raise
            return []  # a cut network need not run to its end
    try:
        listed = output.hidden_states[: backbone.num_layers]
    except (AttributeError, TypeError):
        return []
    limit = TOLERANCE[backbone.dtype]

    def foreign(before: int) -> list[Source]:
        """Those that differ, where the model's own list leaves so many out at its start."""
        whole = Segments.of(starts=[0], lengths=[len(text)])
        own: Activations = {}
        for index, state in enumerate(listed, before):
            known = index < backbone.num_layers and Source("hidden", index) in alone
            if known and state.ndim == 3 and 1 in state.shape[:2]:
                tokens = state[0] if state.shape[0] == 1 else state[:, 0]
                if tokens.shape[0] >= len(text) and tokens.shape[1] == backbone.hidden_size:
                    own[Source("hidden", index)] = pool(tokens[: len(text)], whole, POOLED).cpu()
        ours = {place: alone[place][PLAIN_TEXT : PLAIN_TEXT + 1] for place in own}
        return [place for place in own if relative(ours[place], own[place]) > limit]

    # Mamba and its kin begin their list after the first block: the same states, counted otherwise.
    found = foreign(0)
    return found if backbone.num_layers == 1 or foreign(1) else []


def _set_layout(backbone: Backbone, layout: Layout) -> None:
    if layout == "packed":
        backbone.network.set_attn_implementation(PACKED)  # type: ignore[operator]
    backbone.layout = layout


def _lengths(backbone: Backbone) -> tuple[list[int], tuple[int, ...]]:
    """Tokens of the texts to compare, and the limits that are too long to be tried."""
    edges, longest = backbone.limits.edges, backbone.max_length
    lengths = [min(length, longest) for length in TEXT_LENGTHS]
    for edge in edges:
        if edge < DEAR_LENGTH:
            lengths += [edge, edge + 1, min(edge + 3, longest), min(edge * 3 // 2 + 3, longest)]
    return lengths, tuple(edge for edge in edges if edge >= DEAR_LENGTH)


def _recalled(backbone: Backbone, key: str) -> Checked | None:
    """A result as it was remembered, of the layers that this backbone runs; None if damaged."""
    facts = recall("checks", key) or {}
    try:
        found = {Source.of(name): float(error) for name, error in facts["differences"].items()}
        checked = Checked(
            layout=facts["layout"],
            differences={place: found[place] for place in found if place in backbone.axes},
            lengths=tuple(facts["lengths"]),
            untried=tuple(facts["untried"]),
            changes=bool(facts["changes"]),
            passed_over=tuple(facts["passed_over"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if checked.layout not in get_args(Layout):
        return None
    for odd in [place for place in backbone.axes if place.site == "hidden" and place not in found]:
        del backbone.axes[odd]
    return checked


# ------------------------------------------------------------------ kernels


def change_kernels(backbone: Backbone, engine: Engine, *, anew: bool = False) -> None:
    """Change to faster kernels.

    Args:
        backbone: on torch's kernels, on the CPU.
        engine: "auto" or "onednn".
        anew: compare even if kernels are remembered to change the model.

    Raises:
        KernelError: the whole model no longer computes the same; where that is remembered it is
            left as it was, on the engine "torch".
    """
    blocks = backbone.num_layers
    key = backbone.circumstances(check=VERSION, kernels=engine, blocks=blocks)
    refused = KernelError(
        f"{backbone.source}: the fast kernels change this {backbone.model_type!r} model's "
        "activations; load it with engine = 'torch'"
    )
    if not anew and recall("kernels", key) == {"refused": True}:
        raise refused
    texts = _texts(backbone, TEXT_LENGTHS)
    before = activations(backbone, texts)
    backbone.engine = speed_up(
        backbone.network, backbone.site, num_layers=blocks, engine=engine, dtype=backbone.dtype
    )
    if backbone.engine == "torch":
        return
    try:
        agrees = compared(backbone, activations(backbone, texts), before).agrees
    except (NotImplementedError, RuntimeError) as error:
        if lacks_memory(error):
            raise
        if not isinstance(error, NotImplementedError):
            raise refused from error
        agrees = False  # the model computes with the weights by itself
    remember("kernels", key, {"refused": not agrees})
    if not agrees:
        raise refused


# ------------------------------------------------------------------ comparing


def activations(backbone: Backbone, texts: Sequence[NDArray[np.int64]]) -> Activations:
    """All sites and hidden states of some texts, in the batches that the backbone makes.

    Args:
        backbone: with its sizes measured.
        texts: token ids of each, ``(tokens,)``, none empty.
    """
    return _observed(backbone, _batches(backbone, texts))[0]


def compared(backbone: Backbone, values: Activations, expected: Activations) -> Comparison:
    """How far a backbone's activations are from what is expected, at each place of that."""
    found = {place: relative(values[place], right) for place, right in expected.items()}
    return Comparison(found, TOLERANCE[backbone.dtype])


def _observed(backbone: Backbone, batches: Iterable[Batch]) -> tuple[Activations, bool]:
    """Activations of batches, each on a network as it was loaded, and whether that changed one."""
    found: list[tuple[Source, NDArray[np.int64], Tensor]] = []
    trial, changes = backbone.fresh(), False
    for batch in batches:
        segments = Segments.of(starts=batch.starts, lengths=batch.lengths)

        def keep(
            layer: int,
            tokens: Tensor,
            *,
            site: str,
            segments: Segments = segments,
            indices: NDArray[np.int64] = batch.indices,
        ) -> None:
            found.append((Source(site, layer), indices, pool(tokens, segments, POOLED).cpu()))

        trial.run(
            batch,
            on_ffn=partial(keep, site="ffn"),
            on_hidden=partial(keep, site="hidden"),
            hidden_layers=backbone.readable_states,
        )
        if states.changed(backbone.network, trial.network) is not None:
            trial, changes = backbone.fresh(), True
    return _by_place(found), changes


def _by_place(found: Iterable[tuple[Source, NDArray[np.int64], Tensor]]) -> Activations:
    """Parts of places, of some texts each, as one tensor for each place in the texts' order."""
    parts: dict[Source, list[tuple[NDArray[np.int64], Tensor]]] = defaultdict(list)
    for place, indices, values in found:
        parts[place].append((indices, values))
    whole = {}
    for place, pieces in parts.items():
        order = np.argsort(np.concatenate([indices for indices, _ in pieces]))
        whole[place] = torch.cat([values for _, values in pieces])[torch.from_numpy(order)]
    return whole


def _batches(backbone: Backbone, texts: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
    """As few batches as layout and limits allow."""
    lengths = [len(text) for text in texts]
    budget = max(lengths) * len(lengths)
    for chosen in backbone.plan(lengths, max_tokens=budget):
        yield backbone.batch([texts[i] for i in chosen], chosen)


def _texts(backbone: Backbone, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    """Random texts of ordinary tokens: no pad and, as far as it can be told, no special one."""
    generator = np.random.default_rng(0)
    special = {checkpoint.pad_id(backbone.config), *backbone.tokenizer.all_special_ids}
    for key, value in backbone.config.to_dict().items():
        if key.endswith(("_token_id", "_token_ids")):
            special |= set(value) if isinstance(value, list) else {value}
    size = int(getattr(backbone.config, "vocab_size", None) or len(backbone.tokenizer))
    ordinary = np.setdiff1d(np.arange(size), [i for i in special if isinstance(i, int)])
    texts = []
    for number, length in enumerate(lengths):
        # Equal scores, which come with equal tokens, may be told apart by a batch's width only.
        words = generator.choice(ordinary, 2) if number == REPEATING_TEXT else ordinary
        texts.append(generator.choice(words, min(length, backbone.max_length)).astype(np.int64))
    return texts


# ------------------------------------------------------------------ telling


@contextmanager
def _explained(backbone: Backbone) -> Iterator[None]:
    """Turn whatever a dry run raises into one line with the way on."""
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise BackboneError(
            f"{backbone.source}: this {backbone.model_type!r} model does not run on the ids of a "
            f"text ({first_line(error)}); {_way_on(backbone)}"
        ) from error


def _way_on(backbone: Backbone, attention: Attention = "auto") -> str:
    if attention == "packed":
        return "use attention = 'padded'"
    if attention == "padded":
        return "use attention = 'auto'"
    if backbone.dtype != torch.float32:
        return "load it with dtype = 'float32'"
    return "choose another model"
