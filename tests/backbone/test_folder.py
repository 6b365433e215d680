"""Folders and hub names: what is fetched, and what cannot be used is named with the way on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from pipeline.backbone.folder import QUANTISED, UNREAD, check_folder, locate
from pipeline.backbone.loading import load_backbone
from pipeline.errors import BackboneError
from tests.builders.models import make_tiny_model

COMMIT = "0123456789" * 4


def refusal(do: Callable[[], Any]) -> str:
    with pytest.raises(BackboneError) as caught:
        do()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_tiny_model("bert", tmp_path)


# ------------------------------------------------------------------ other kinds of weights

EXAMPLES = {
    "*.gguf": ["model-Q4_K_M.gguf"],
    "pytorch_model*.bin": ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"],
    "model.*.safetensors": ["model.fp16.safetensors"],
    "consolidated*.safetensors": ["consolidated.safetensors"],
    "adapter_model.*": ["adapter_model.safetensors"],
    "*.onnx": ["model.onnx"],
    "openvino_model.*": ["openvino_model.xml"],
    "tf_model.h5": ["tf_model.h5"],
    "flax_model.msgpack": ["flax_model.msgpack"],
}


def test_every_row_has_an_example() -> None:
    assert set(EXAMPLES) == set(UNREAD)


@pytest.mark.parametrize("pattern", UNREAD)
def test_other_weights_are_named(pattern: str, bert: Path) -> None:
    what, instead = UNREAD[pattern]
    for name in EXAMPLES[pattern]:
        (bert / name).write_bytes(b"")
    check_folder(bert)  # beside safetensors they do no harm
    (bert / "model.safetensors").unlink()
    (bert / "config.json").unlink()  # as GGUF folders come
    message = refusal(lambda: load_backbone(bert))
    assert EXAMPLES[pattern][0] in message or "and 1 more" in message
    assert what in message and instead in message


def test_a_file_of_weights_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "llama.cpp" in refusal(lambda: locate(file))


@pytest.mark.parametrize("method", [*QUANTISED, "brand-new"])
@pytest.mark.parametrize("inside", [True, False])
def test_quantised_weights_are_named(method: str, inside: bool, bert: Path) -> None:
    found = {"quantization_config": {"quant_method": method, "bits": 4}}
    change_config(bert, **({"text_config": found} if inside else found))
    message = refusal(lambda: load_backbone(bert))
    what, instead = QUANTISED.get(method, (method, "take the model that it was made from"))
    assert f"quantised ({what})" in message and instead in message


# ------------------------------------------------------------------ adapters


@pytest.mark.parametrize(
    ("task", "recipe"),
    [
        ("CAUSAL_LM", "peft.AutoPeftModelForCausalLM.from_pretrained("),
        ("SEQ_CLS", "peft.AutoPeftModelForSequenceClassification.from_pretrained("),
        (None, "peft.AutoPeftModel.from_pretrained("),
    ],
)
def test_an_adapter_beside_its_base_does_not_load_the_base(
    task: str | None, recipe: str, bert: Path
) -> None:
    about = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "task_type": task}
    (bert / "adapter_config.json").write_text(json.dumps(about), "utf-8")
    message = refusal(lambda: load_backbone(bert))
    assert "(LORA) of org/base" in message and recipe in message
    assert "merge_and_unload().save_pretrained(" in message
    assert "take adapter_config.json away" in message
    (bert / "model.safetensors").unlink()
    (bert / "config.json").unlink()
    alone = refusal(lambda: load_backbone(bert))
    assert "(LORA) of org/base" in alone and "take adapter_config.json away" not in alone


# ------------------------------------------------------------------ hub names

REPOSITORY = (
    ".gitattributes",
    "README.md",
    "1_Pooling/config.json",
    "config.json",
    "consolidated.safetensors",
    "merges.txt",
    "model.safetensors",
    "onnx/model.onnx",
    "onnx/model.safetensors",
    "own_model.py",
    "pytorch_model.bin",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
OWN_MODEL = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "grapefruit"

class OwnModel(BertModel):
    config_class = OwnConfig
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder what the hub has under any name."""

    def serve(source: Path) -> None:
        def snapshot_download(name: str, **options: Any) -> str:
            assert options.pop("revision") == COMMIT
            target = tmp_path / "fetched"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            names = [str(f.relative_to(source)) for f in source.rglob("*") if f.is_file()]
            for wanted in filter_repo_objects(names, **options):
                (target / wanted).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / wanted, target / wanted)
            return str(target)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    return serve


@pytest.mark.parametrize("trusted", [False, True])
def test_what_is_fetched(trusted: bool, tmp_path: Path, hub: Callable[[Path], None]) -> None:
    for name in REPOSITORY:
        (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / name).write_text("")
    hub(tmp_path / "repository")
    found = locate("org/model", revision=COMMIT, trust_remote_code=trusted)
    assert sorted(path.name for path in found.iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
        *(["own_model.py"] if trusted else []),
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]


def test_a_hub_models_own_code_runs_where_it_may(
    bert: Path, hub: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "own"))
    expected = load_backbone(bert, engine="torch")
    (bert / "own_model.py").write_text(OWN_MODEL, "utf-8")
    names = {"AutoConfig": "own_model.OwnConfig", "AutoModel": "own_model.OwnModel"}
    change_config(bert, model_type="grapefruit", auto_map=names)
    hub(bert)
    assert "trust_remote_code" in refusal(lambda: load_backbone("org/model", revision=COMMIT))
    site = "encoder.layer.{i}.output.dense"
    backbone = load_backbone(
        "org/model", revision=COMMIT, trust_remote_code=True, ffn_site=site, engine="torch"
    )
    assert type(backbone.network).__name__ == "OwnModel"
    own = dict(backbone.network.named_parameters())
    for name, weight in expected.network.named_parameters():
        assert torch.equal(weight, own[name])
