"""Mixtures of experts: the router's probabilities, and the experts' activations.

A routed layer is one wide FFN, ``Σ_e w_e W2_e a_e = [W2_1 … W2_E] · concat(w_e a_e)``: its neurons
are the experts' neurons side by side, times the weight with which the router takes the expert, zero
where it does not. ``find_mixture`` reads from the modules which layers are routed;
``prove_mixture`` makes sure, in a dry run, of what may be captured.

    with capturing_experts(modules, sink):
        model(...)                      # sink(3, routed), sink(4, routed), …

transformers' experts interface hands each layer's choice to the function registered here, which
computes what the model's own does.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from pipeline.backbone.comparison import TOLERANCE, relative
from pipeline.backbone.hooks import TokenSink
from pipeline.errors import lacks_memory

CAPTURED = "salient_experts"
"""Name under which transformers knows :func:`captured_experts`."""
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: torch.softmax(logits.float(), -1),
    "sigmoid": lambda logits: torch.sigmoid(logits.float()),
}
"""What makes probabilities of a router's logits."""

ATTENTION_KEYS = {"head_dim", "num_heads", "num_attention_heads", "scaling", "is_causal"}
"""Attributes that tell attention from an FFN."""

_state = threading.local()


@dataclass(frozen=True)
class Mixture:
    """The routed layers of a model.

    Attributes:
        routers: block -> path of its router.
        logits: which of a router's outputs are its logits.
        score: row of ``SCORES`` that the routers use.
        experts: block -> path of its experts.
        num_experts: of a layer.
        expert_size: neurons of an expert.
        flops: block -> operations a token in the experts that it chooses.
        refused: site, "router" or "experts" -> why it cannot be captured.
    """

    routers: Mapping[int, str]
    logits: int
    experts: Mapping[int, str]
    score: str = "softmax"
    num_experts: int = 0
    expert_size: int = 0
    flops: Mapping[int, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def layers(self, site: str) -> tuple[int, ...]:
        """Blocks that have a site which can be captured."""
        places = self.routers if site == "router" else self.experts
        return () if site in self.refused else tuple(sorted(places))

    def refusing(self, site: str, reason: str) -> Mixture:
        """The same without a site."""
        return replace(self, refused={**self.refused, site: reason})

    def width(self, site: str) -> int:
        """Numbers a token at a site."""
        return self.num_experts * (1 if site == "router" else self.expert_size)


@dataclass(frozen=True)
class Routed:
    """What the experts of one layer made of a batch: a row for each chosen pair."""

    tokens: Tensor
    """(pairs,) int64 slot of the token, ascending within an expert."""
    experts: Tensor
    """(pairs,) int64 its expert, ascending."""
    values: Tensor
    """(pairs, neuron) activations of the expert's neurons, times the router's weight."""
    num_slots: int


RoutedSink = Callable[[int, Routed], None]
"""Takes a block's number and what its experts made."""


def captured_experts(
    module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The experts of one layer, as transformers' experts interface calls for them.

    Args:
        module: the experts.
        hidden_states: (slots, hidden).
        top_k_index: (slots, k) the experts chosen; numbers beyond the last mean none.
        top_k_weights: (slots, k) the weight of each.

    Returns:
        (slots, hidden) weighted sums of the experts' outputs.
    """
    chosen, order = torch.sort(top_k_index.reshape(-1), stable=True)
    size: int = module.num_experts
    counts: list[int] = torch.bincount(chosen, minlength=size)[:size].tolist()
    order, chosen = order[: sum(counts)], chosen[: sum(counts)]
    tokens = order // top_k_index.shape[-1]
    weights = top_k_weights.reshape(-1, 1)[order]
    rows = torch.split(tokens, counts)
    made = [
        _activations(module, expert, hidden_states[own]) if len(own) else None
        for expert, own in enumerate(rows)
    ]
    sink = getattr(_state, "sinks", {}).get(id(module))
    if sink is not None:
        parts = [part for part in made if part is not None]
        parts = parts or [_activations(module, 0, hidden_states[:0])]  # no token chose an expert
        values = torch.cat(parts) * weights
        sink(_once_each(Routed(tokens, chosen, values, len(hidden_states))))
    out = torch.zeros_like(hidden_states)
    for expert, (own, part, weight) in enumerate(
        zip(rows, made, torch.split(weights, counts), strict=True)
    ):
        if part is not None:
            back = _down(module, expert, part) * weight
            out.index_add_(0, own, back.to(out.dtype))
    return out


def _once_each(routed: Routed) -> Routed:
    """Pairs of a token and an expert once each: tables may choose an expert twice."""
    pairs = routed.experts * routed.num_slots + routed.tokens
    unique, place = torch.unique_consecutive(pairs, return_inverse=True)
    if len(unique) == len(pairs):
        return routed
    values = routed.values.new_zeros(len(unique), routed.values.shape[1])
    values.index_add_(0, place, routed.values)
    experts = torch.div(unique, routed.num_slots, rounding_mode="floor")
    return Routed(unique % routed.num_slots, experts, values, routed.num_slots)


def _activations(module: Any, expert: int, tokens: Tensor) -> Tensor:
    """(n, hidden) -> (n, neuron): the input of an expert's down projection."""
    name = "gate_up_proj" if module.has_gate else "up_proj"
    made = _linear(module, name, expert, tokens)
    values: Tensor = module._apply_gate(made) if module.has_gate else module.act_fn(made)
    return values


def _down(module: Any, expert: int, values: Tensor) -> Tensor:
    out = _linear(module, "down_proj", expert, values)
    if module.has_post_expert_norm:
        out = module.post_expert_norm(out)
    return out


def _linear(module: Any, name: str, expert: int, values: Tensor) -> Tensor:
    weight: Tensor = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return nn.functional.linear(values, weight.t() if module.is_transposed else weight, bias)


ALL_EXPERTS_FUNCTIONS.register(CAPTURED, captured_experts)


@contextmanager
def capturing_experts(modules: Mapping[int, nn.Module], sink: RoutedSink) -> Iterator[None]:
    """Call ``sink(block, routed)`` whenever one of these experts has run, in this thread.

    Args:
        modules: block -> its experts.
        sink: may raise ``Stop``; the layer's down projections have not run then.
    """

    def bound(block: int) -> Callable[[Routed], None]:
        return lambda routed: sink(block, routed)

    _state.sinks = {id(module): bound(block) for block, module in modules.items()}
    try:
        yield
    finally:
        _state.sinks = {}


@contextmanager
def capturing_routers(
    modules: Mapping[int, nn.Module], mixture: Mixture, sink: TokenSink
) -> Iterator[None]:
    """Call ``sink(block, probabilities (slots, expert) float32)`` after each of these routers."""

    def hook_for(block: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            logits = output[mixture.logits] if isinstance(output, tuple) else output
            sink(block, SCORES[mixture.score](logits.flatten(0, -2)))

        return hook

    handles = [module.register_forward_hook(hook_for(block)) for block, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------------- finding


def block_number(name: str) -> int | None:
    """The block that a module lies in, by its path; None outside of blocks."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return None if found is None else int(found.group(1))


def find_mixture(network: nn.Module) -> Mixture | None:
    """The routed layers of a network, by its modules; None if it has none.

    Routers are what the model says records ``router_logits``; experts are what goes through
    transformers' experts interface.
    """
    recorders = [
        model._can_record_outputs["router_logits"]
        for model in network.modules()
        if isinstance(model, PreTrainedModel)
        and "router_logits" in (getattr(model, "_can_record_outputs", None) or {})
    ]
    recorders = [
        one
        for some in recorders
        for one in (some if isinstance(some, list) else [some])
        if hasattr(one, "target_class")
    ]
    attention = tuple(
        f"{name}." for name, module in network.named_modules() if is_attention(module)
    )
    routers: dict[int, str] = {}
    experts: dict[int, str] = {}
    logits = 0
    for name, module in network.named_modules():
        block = block_number(name)
        if block is None or f"{name}.".startswith(attention):
            continue  # attention may have experts of its own
        if goes_through_interface(module):
            experts.setdefault(block, name)
        for recorder in recorders:
            if isinstance(module, recorder.target_class) and (recorder.layer_name or "") in name:
                routers.setdefault(block, name)
                logits = recorder.index
    if not routers and not experts:
        return None
    mixture = Mixture(routers=routers, logits=logits, experts=experts)
    if not experts:
        return mixture.refusing("experts", "its experts are not in transformers' experts interface")
    return mixture


def goes_through_interface(module: nn.Module) -> bool:
    """Whether a module's class was decorated with ``use_experts_implementation``."""
    return (
        hasattr(module, "is_transposed")
        and hasattr(module, "has_gate")
        and (hasattr(type(module).forward, "__wrapped__"))
    )


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attention, by its attributes."""
    return bool(ATTENTION_KEYS & set(module.__dict__))


# ---------------------------------------------------------------------- proving


def prove_mixture(network: nn.Module, mixture: Mixture, run: Callable[[], int]) -> Mixture:
    """Find sizes and the routers' kind in a dry run, and make sure that experts come out the same.

    Args:
        network: what the paths of the mixture are in.
        run: runs the network once, without hooks of its own; returns the number of token slots.
    """
    routers = {network.get_submodule(name): block for block, name in mixture.routers.items()}
    experts = {network.get_submodule(name): block for block, name in mixture.experts.items()}
    spy, logits, errors = _Spy(), {}, {}
    sizes: set[tuple[int, int]] = set()
    flops: dict[int, float] = {}

    def enter(module: nn.Module, *_: Any) -> None:
        spy.router = routers[module]

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        logits[spy.router] = output[mixture.logits] if isinstance(output, tuple) else output
        spy.router = None

    def compare(module: Any, args: Any, kwargs: Any) -> None:
        count, *shape = module.down_proj.shape
        sizes.add((count, shape[0 if module.is_transposed else 1]))
        errors[experts[module]] = _error(module, args, kwargs)
        matrices = 3 if module.has_gate else 2
        chosen = (args[1] if len(args) > 1 else kwargs["top_k_index"]).shape[-1]
        flops[experts[module]] = 2.0 * matrices * shape[0] * shape[1] * chosen

    handles = [m.register_forward_pre_hook(enter) for m in routers]
    handles += [m.register_forward_hook(leave) for m in routers]
    handles += [m.register_forward_pre_hook(compare, with_kwargs=True) for m in experts]
    try:
        with torch.no_grad(), spy:
            slots = run()
    finally:
        for handle in handles:
            handle.remove()
    shapes = {
        value.shape[-1] for value in logits.values() if value.numel() == value.shape[-1] * slots
    }
    width = next(iter(sizes))[0] if sizes else next(iter(shapes), 0)
    if not routers:
        mixture = mixture.refusing("router", "it does not say which of its modules are its routers")
    elif shapes != {width} or len(logits) != len(routers):
        mixture = mixture.refusing("router", "its routers do not give a number for every expert")
    elif (score := spy.score(width)) is None:
        mixture = mixture.refusing("router", "its routers use neither a softmax nor a sigmoid")
    else:
        mixture = replace(mixture, score=score)
    if "experts" not in mixture.refused:
        if reason := _refusal(experts, sizes, errors):
            mixture = mixture.refusing("experts", reason)
        else:
            mixture = replace(mixture, expert_size=next(iter(sizes))[1])
    return replace(mixture, num_experts=width, flops=flops)


def capture_experts(network: nn.Module, mixture: Mixture) -> None:
    """Have a network's experts go through :func:`captured_experts`, if that does the same."""
    if "experts" not in mixture.refused:
        for name in mixture.experts.values():
            network.get_submodule(name).config._experts_implementation = CAPTURED  # type: ignore[union-attr]


def _refusal(
    experts: Mapping[nn.Module, int], sizes: set[tuple[int, int]], errors: Mapping[int, float]
) -> str | None:
    """Why experts cannot be captured; None if they can."""
    if any(module.has_post_expert_norm for module in experts):
        return "a norm follows each of its experts, so they are no one wide FFN"
    if len(sizes) != 1 or len(errors) != len(experts):
        return f"its layers have experts of different sizes ({sorted(sizes)})"
    if not max(errors.values()) <= 1:
        return "its experts compute otherwise than others do, such as weighing what goes in"
    return None


def _error(module: Any, args: Any, kwargs: Any) -> float:
    """How far :func:`captured_experts` is from a module's own forward pass, in tolerances."""
    try:
        expected = type(module).forward.__wrapped__(module, *args, **kwargs)
        found = captured_experts(module, *args, **kwargs)
    except (TypeError, RuntimeError, AttributeError, IndexError) as error:
        if lacks_memory(error):
            raise
        return float("inf")
    return relative(found, expected) / TOLERANCE[expected.dtype]


class _Spy(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which scores routers make of their logits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.router: int | None = None
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.lstrip("_")
        if self.router is not None and name in SCORES:
            self.seen.append((name, output.shape[-1]))
        return output

    def score(self, num_experts: int) -> str | None:
        """Over all experts; else the softmax over the chosen ones, which is in their proportion."""
        over_all = {name for name, width in self.seen if width == num_experts}
        chosen = over_all or {name for name, _ in self.seen if name == "softmax"}
        return next(iter(chosen)) if len(chosen) == 1 else None
