"""Where each architecture keeps its FFN activations: ``FFN_SITES``, one row per model type.

The activations of block ``i`` (the paper's eq. 4) are the input of its FFN's second, "down"
projection; in gated FFNs that is ``act(gate) * up``. A row says where that module lies, which
modules produce its input, and what the batch engine may do with the architecture. Supporting
another architecture means adding one row; for a single run, an explicit path will do:

    load_backbone(path, ffn_site="encoder.layers.{i}.mlp.down")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the table is read without torch too
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class FfnSite:
    """One architecture's row.

    Paths are relative to the ``AutoModel`` class; ``{i}`` stands for the block's number.
    """

    down: str
    """The down projection; its input is captured."""
    up: tuple[str, ...] = ()
    """The linears whose outputs make that input, neuron by neuron; empty = unknown."""
    activation: str | None = None
    """The module that follows the first of ``up`` and serves nothing else; None = unknown."""
    fused_gate: bool = False
    """``up`` holds gate and up values in one matrix, as two halves."""
    packs: bool = False
    """Attention goes through the attention interface and positions are given as ``position_ids``,
    so texts may lie end to end in one row."""
    positions: Literal["zero", "after_padding", "internal"] = "zero"
    """First position: 0; ``padding_idx + 1`` (RoBERTa); or the model counts by itself."""
    root: str = ""
    """The part that is run, if not the whole model: the encoder of an encoder-decoder, the language
    model of a vision-language model."""
    shared: bool = False
    """One module serves all blocks; its calls are counted."""
    layers: tuple[int, ...] | None = None
    """Blocks that have an FFN; None = all."""
    blocks: str = ""
    """Path of a block, where it cannot be told from ``down``."""
    unknown: str = ""
    """Why there is no ``down``: then only hidden states can be read."""

    @property
    def block(self) -> str:
        """Path of the block that the site lies in."""
        if self.blocks:
            return self.blocks
        if self.shared:
            return self.down.rpartition(".")[0]
        head, _, _ = self.down.partition("{i}")
        return head + "{i}"

    def inner(self, path: str, layer: int) -> str:
        """A path of this row, for one block, relative to the part that is run."""
        return path.removeprefix(f"{self.root}.").replace("{i}", str(layer))


def _bert(**changes: Any) -> FfnSite:
    row = FfnSite(
        down="encoder.layer.{i}.output.dense",
        up=("encoder.layer.{i}.intermediate.dense",),
        activation="encoder.layer.{i}.intermediate.intermediate_act_fn",
        packs=True,
    )
    return replace(row, **changes)


def _gated(**changes: Any) -> FfnSite:
    row = FfnSite(
        down="layers.{i}.mlp.down_proj",
        up=("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
        activation="layers.{i}.mlp.act_fn",
        packs=True,
    )
    return replace(row, **changes)


def _plain(mlp: str, up: str, activation: str, down: str, **changes: Any) -> FfnSite:
    row = FfnSite(down=f"{mlp}.{down}", up=(f"{mlp}.{up}",), activation=f"{mlp}.{activation}")
    return replace(row, **changes)


_ROBERTA = _bert(positions="after_padding")

FFN_SITES: dict[str, FfnSite] = {
    # encoders
    "bert": _bert(),
    "electra": _bert(),
    "ernie": _bert(),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _bert(packs=False, positions="after_padding"),
    "deberta": _bert(packs=False),
    "deberta-v2": _bert(packs=False),
    "distilbert": _plain("transformer.layer.{i}.ffn", "lin1", "activation", "lin2", packs=True),
    "albert": _plain(
        "encoder.albert_layer_groups.0.albert_layers.0",
        "ffn",
        "activation",
        "ffn_output",
        packs=True,
        shared=True,
    ),
    "modernbert": FfnSite(
        down="layers.{i}.mlp.Wo", up=("layers.{i}.mlp.Wi",), fused_gate=True, packs=True
    ),
    "nomic_bert": _gated(),
    "eurobert": _gated(),
    "xlnet": _plain(
        "layer.{i}.ff",
        "layer_1",
        "activation_function",
        "layer_2",
        positions="internal",
    ),
    # encoders of encoder-decoders
    "t5": FfnSite(
        down="encoder.block.{i}.layer.1.DenseReluDense.wo",
        positions="internal",
        root="encoder",
    ),
    "bart": _plain(
        "encoder.layers.{i}",
        "fc1",
        "activation_fn",
        "fc2",
        positions="internal",
        root="encoder",
    ),
    # decoders
    "gpt2": _plain("h.{i}.mlp", "c_fc", "act", "c_proj", packs=True),
    "gpt_neo": _plain("h.{i}.mlp", "c_fc", "act", "c_proj"),
    "gptj": _plain("h.{i}.mlp", "fc_in", "act", "fc_out"),
    "gpt_neox": _plain("layers.{i}.mlp", "dense_h_to_4h", "act", "dense_4h_to_h", packs=True),
    "bloom": _plain(
        "h.{i}.mlp", "dense_h_to_4h", "gelu_impl", "dense_4h_to_h", positions="internal"
    ),
    "falcon": _plain("h.{i}.mlp", "dense_h_to_4h", "act", "dense_4h_to_h"),
    "opt": _plain("decoder.layers.{i}", "fc1", "activation_fn", "fc2", packs=True),
    "phi": _plain("layers.{i}.mlp", "fc1", "activation_fn", "fc2", packs=True),
    "starcoder2": _plain("layers.{i}.mlp", "c_fc", "act", "c_proj", packs=True),
    "phi3": FfnSite(
        down="layers.{i}.mlp.down_proj",
        up=("layers.{i}.mlp.gate_up_proj",),
        fused_gate=True,
        packs=True,
    ),
    "llama": _gated(),
    "mistral": _gated(),
    "qwen2": _gated(),
    "qwen3": _gated(),
    "gemma": _gated(),
    "gemma2": _gated(),
    "gemma3_text": _gated(),
    "olmo2": _gated(),
    "cohere": _gated(),
    "stablelm": _gated(),
}


def depth(part: nn.Module, site: FfnSite) -> int:
    """Number of blocks of the part that is run."""
    if site.shared:
        return int(part.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    path, _, _ = site.inner(site.block, 0).rpartition(".")
    return len(part.get_submodule(path))  # type: ignore[arg-type]


def input_width(module: nn.Module) -> int | None:
    """Input width of a linear layer, None for any other module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, Conv1D):
        return int(module.nx)
    return None
