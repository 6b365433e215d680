"""Find, check, fingerprint and load a Hugging Face checkpoint: config, tokenizer, weights.

Every way in which a model folder can be unusable ends here, in one line that says what to do.
Only safetensors are read (pickled weights can run code), and only the tensors that the part of
the model that is run needs.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from pipeline.backbone.sites import FFN_SITES, FfnSite
from pipeline.errors import BackboneError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_SAMPLE_BYTES = 4096


def locate(model: str | Path, *, revision: str | None = None) -> Path:
    """The folder of a model: a directory, ``package:NAME``, or a hub name with a pinned commit.

    Raises:
        BackboneError: nothing there, or a hub name without a 40-digit commit.
    """
    name = str(model)
    if name.startswith("package:"):
        return _locate_package(name.removeprefix("package:"))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise BackboneError(f"{name}: is a file; name the folder that holds config.json")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or isinstance(model, Path):
        raise BackboneError(
            f"{name}: no such model directory; name where it is now: with --model (salient score,"
            " plan, explore, store add), else as model under [backbone], and run again"
        )
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise BackboneError(
            f"{name}: not a local directory, and as a hub name it needs revision = the 40-digit "
            f"commit from the model's page (found {revision!r}), so that reruns read the same "
            "weights"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise BackboneError(
            f"{name}@{revision[:8]}: cannot be fetched from the hub "
            f"({type(error).__name__}: {reason[0] if reason else 'no message'}); check the name, "
            "the network and HF_TOKEN, or give a local directory"
        ) from error


def _locate_package(name: str) -> Path:
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(f"package:{name}: not installed; pip install {name.replace('_', '-')}")
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path.parent for path in root.rglob("model.safetensors*"))
    found = [path for path in dict.fromkeys(found) if (path / "config.json").is_file()]
    if len(found) != 1:
        raise BackboneError(
            f"package:{name}: {len(found)} model folders (config.json with model.safetensors) "
            f"under {root}; name the folder itself"
        )
    return found[0]


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder.

    Raises:
        BackboneError: none, or only pickled ones, or a shard is missing.
    """
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise BackboneError(f"{index}: not a safetensors index; fetch it again") from error
        if missing := [name for name in names if not (path / name).is_file()]:
            raise BackboneError(f"{path}: weight files are missing: {', '.join(missing)}")
        return [path / name for name in names]
    pickled = sorted(file.name for file in path.glob("pytorch_model*.bin"))
    if pickled:
        raise BackboneError(
            f"{path}: only pickled weights ({', '.join(pickled)}), which can run code and are not "
            "read; convert them with model.save_pretrained(path, safe_serialization=True)"
        )
    raise BackboneError(f"{path}: no weights; expected model.safetensors (or its index) in there")


def load_config(path: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read ``config.json``.

    Raises:
        BackboneError: missing, unreadable, or of a type that transformers does not know.
    """
    if not (path / "config.json").is_file():
        raise BackboneError(f"{path}: no config.json; is this a Hugging Face model folder?")
    try:
        return AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        try:
            kind = json.loads((path / "config.json").read_text("utf-8")).get("model_type")
        except (ValueError, AttributeError):
            raise BackboneError(f"{path}/config.json: not a JSON object; fetch it again") from error
        raise BackboneError(
            f"{path}: model type {kind!r} is unknown to transformers {transformers.__version__}; "
            "upgrade it, allow the model's own code with trust_remote_code = true, or use one of: "
            + ", ".join(sorted(FFN_SITES))
        ) from error


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Any:
    """The fast tokenizer of a model folder.

    Raises:
        BackboneError: none there, or only a slow one.
    """
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise BackboneError(
            f"{path}: no tokenizer; expected tokenizer.json (or {', '.join(TOKENIZER_FILES[1:])})"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise BackboneError(
            f"{path}: the tokenizer cannot be loaded ({reason[0] if reason else error!r}); "
            "save it again with tokenizer.save_pretrained(path)"
        ) from error
    if not tokenizer.is_fast:
        raise BackboneError(
            f"{path}: {type(tokenizer).__name__} is a slow (Python) tokenizer; convert it to "
            "tokenizer.json with transformers.convert_slow_tokenizer"
        )
    return tokenizer


def pad_id(config: Any) -> int:
    """The padding token of a config; 0 if it names none."""
    padding = getattr(config, "pad_token_id", None)
    return padding if isinstance(padding, int) and padding >= 0 else 0


def context_length(config: Any, tokenizer: Any, site: FfnSite, wanted: int | None) -> int:
    """Tokens per text: what is wanted, within what positions and tokenizer allow.

    Raises:
        BackboneError: more is wanted than the model has positions for.
    """
    capacity = getattr(config, "max_position_embeddings", None)
    if isinstance(capacity, int) and site.positions == "after_padding":
        capacity -= pad_id(config) + 1
    if not isinstance(capacity, int) or capacity <= 0:
        capacity = None
    if wanted is not None:
        if capacity is not None and wanted > capacity:
            raise BackboneError(
                f"max_length {wanted} is over the model's context of {capacity} tokens"
            )
        return wanted
    named = tokenizer.model_max_length
    limits = [limit for limit in (capacity, named) if isinstance(limit, int) and limit < 10**9]
    return min(limits, default=512)


def keep_blocks(config: Any, num_layers: int) -> None:
    """Change a config so that the model it builds has only the first blocks."""
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:num_layers]


def skeleton(config: Any, *, trust_remote_code: bool = False) -> nn.Module:
    """The module tree that a config describes, without weights.

    Raises:
        BackboneError: transformers has no model for this config.
    """
    try:
        with torch.device("meta"), _quiet():
            model = AutoModel.from_config(
                copy.deepcopy(config), trust_remote_code=trust_remote_code
            )
    except Exception as error:
        raise BackboneError(
            f"model type {config.model_type!r} has no transformer to load; use one of: "
            + ", ".join(sorted(FFN_SITES))
        ) from error
    return model  # type: ignore[no-any-return]


def load_model(
    path: Path, config: Any, *, dtype: torch.dtype, trust_remote_code: bool = False
) -> nn.Module:
    """Build the model that the config describes and read the tensors it needs.

    The config may ask for fewer blocks than the file has; the others are not read.

    Raises:
        BackboneError: weights missing, damaged or of other shapes.
    """
    options: dict[str, Any] = {}
    if type(config) in MODEL_MAPPING:
        cls = MODEL_MAPPING[type(config)]
        if "add_pooling_layer" in inspect.signature(cls.__init__).parameters:
            options["add_pooling_layer"] = False
    try:
        with _quiet():
            model, info = AutoModel.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()
        if "ignore_mismatched_sizes" in str(error):
            reason = ["its tensors have other shapes than config.json says"]
        raise BackboneError(
            f"{path}: the weights cannot be loaded as {config.model_type!r} "
            f"({type(error).__name__}: {reason[0] if reason else 'no message'})"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise BackboneError(
            f"{path}: {len(missing)} tensors of the model are missing from its weights "
            f"(first: {missing[0]}); the folder does not belong to its config.json"
        )
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
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


def fingerprint(path: Path, files: Iterable[Path], settings: dict[str, Any]) -> str:
    """Digest of the weights, the config, the tokenizer and the settings that shape activations.

    Of the weights, every tensor's name, type and shape and four samples of its bytes count (the
    whole tensor if small): retraining, merging or converting touches every matrix, and a
    truncated backbone must have the same fingerprint without reading the rest of the file.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in (
        "config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        *TOKENIZER_FILES,
    ):
        if (path / name).is_file():
            digest.update(name.encode())
            digest.update((path / name).read_bytes())
    for file in files:
        _digest_weights(file, digest)
    return digest.hexdigest()


def _digest_weights(file: Path, digest: Any) -> None:
    try:
        with safe_open(file, framework="numpy"):  # validates header and size
            pass
    except (SafetensorError, OSError) as error:
        raise BackboneError(f"{file}: damaged or cut short ({error}); fetch it again") from error
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_size))
        for name in sorted(set(header) - {"__metadata__"}):
            entry = header[name]
            digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
            begin, end = entry["data_offsets"]
            for part in range(4):
                start = max(begin, begin + (end - begin) * part // 4)
                stream.seek(8 + header_size + start)
                digest.update(stream.read(min(_SAMPLE_BYTES, end - start)))
