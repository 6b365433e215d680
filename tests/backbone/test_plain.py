"""The model's own forward pass, which everything else is compared with."""

import numpy as np
import pytest
import torch

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.plain import PlainModel
from pipeline.errors import BackboneError
from tests.builders.models import LAYERS, make_tiny_model
from tests.builders.odd import RestlessModel, make_odd_model
from tests.builders.reference import Reference


@pytest.mark.parametrize("family", ["roberta", "t5", "xlnet", "albert", "gpt2"])
def test_it_gives_hugging_faces_tokens(family, tmp_path):
    path = make_tiny_model(family, tmp_path)
    backbone = load_backbone(path, engine="torch")
    ffn, states, ids = Reference(path).tokens("the very happy dog ran", max_length=48)
    tokens = PlainModel(backbone, path).tokens(np.array(ids))
    found, hidden = tokens["ffn"], tokens["hidden"]
    assert list(found) == list(range(LAYERS)) and list(hidden) == list(range(LAYERS + 1))
    for one, other in [
        *zip(found.values(), ffn, strict=True),
        *zip(hidden.values(), states, strict=True),
    ]:
        assert one.shape == other.shape
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-4)


def test_what_a_text_leaves_behind_does_not_reach_the_next(tmp_path):
    path = make_odd_model("odd-restless", tmp_path)
    long, short = np.arange(4, 40), np.arange(4, 8)
    model = RestlessModel.from_pretrained(path).eval()
    with torch.no_grad():
        once, twice = (model(torch.from_numpy(short)[None])[0] for _ in range(2))
    assert not torch.allclose(once, twice)
    backbone = load_backbone(make_tiny_model("bert", tmp_path))
    backbone.network = model
    plain = PlainModel(backbone, path)
    before = plain.tokens(short)["hidden"]
    plain.tokens(long)
    after = plain.tokens(short)["hidden"]
    for index in before:
        assert torch.equal(before[index], after[index])
    assert plain._part.longest == 0


def test_a_folder_without_that_part_is_refused(tmp_path):
    backbone = load_backbone(make_tiny_model("bert", tmp_path))
    with pytest.raises(BackboneError, match="nothing to compare with; leave out check"):
        PlainModel(backbone, make_tiny_model("gpt2", tmp_path))
    with pytest.raises(BackboneError, match=r"transformers alone cannot load .*--full"):
        PlainModel(backbone, tmp_path)
