"""What goes into modules, and whose it is where one module serves several layers."""

import pytest
import torch
from torch import nn

from pipeline.backbone.hooks import captured_inputs
from pipeline.backbone.loading import load_backbone
from pipeline.backbone.plain import PlainModel
from tests.builders.models import make_tiny_model


@pytest.mark.parametrize(
    ("layers", "seen"),
    [(None, [0, 1, 2, 2]), ({2}, [2, 2]), ({1}, [1]), ({1, 2}, [1, 2, 2]), ({0}, [0]), ({7}, [])],
)
def test_calls_of_a_module_are_counted_over_all_its_layers(layers, seen):
    one, other = nn.Identity(), nn.Identity()
    found = []
    with captured_inputs(
        {2: one, 0: one, 1: other}, lambda layer, tokens: found.append((layer, tokens)), layers
    ):
        for number, module in enumerate((one, other, one, one)):
            module(torch.full((1,), float(number)))
    assert [layer for layer, _ in found] == seen
    first = {layer: value.item() for layer, value in reversed(found)}
    assert first == {layer: float(layer) for layer in seen}
    assert not one._forward_pre_hooks and not other._forward_pre_hooks


def tie(network):
    """Have the last block's down projection be the first one's, too."""
    network.encoder.layer[2].output.dense = network.encoder.layer[0].output.dense


def test_a_module_of_two_layers_gives_each_layer_its_own(tmp_path):
    path = make_tiny_model("bert", tmp_path)
    backbone = load_backbone(path, engine="torch")
    tie(backbone.network)
    ids = torch.arange(5, 17).numpy()
    batch = backbone.batch([ids])

    def run(layers):
        found = {}
        backbone.run(batch, on_ffn=found.__setitem__, layers=layers)
        return found

    whole, alone = run([0, 1, 2]), run([2])
    assert list(whole) == [0, 1, 2] and list(alone) == [2]
    assert torch.equal(alone[2], whole[2]) and not torch.allclose(whole[2], whole[0])
    plain = PlainModel(backbone, path)
    tie(plain._part)
    ffn = plain.tokens(ids)["ffn"]
    assert list(ffn) == [0, 1, 2]
    for layer, tokens in whole.items():
        torch.testing.assert_close(ffn[layer], tokens, rtol=1e-4, atol=1e-5)
