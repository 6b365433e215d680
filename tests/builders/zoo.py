"""Every model type of the installed transformers, tiny and random, held against its own forward.

    python -m tests.builders.zoo                       # all types, counts and a table
    python -m tests.builders.zoo qwen2_vl mt5 --json verdicts.json

A type's folder is made by rule (``shrinking``), saved as people share it (with its head, if there
is one), and loaded by ``load_backbone``. What comes out is held against the plain way: a fresh copy
of Hugging Face's model for each text, one text at a time, a hook on the FFN's down projection,
numpy for the pooling. A type is then ``right``, ``refused`` with one line that says what to do, not
``unbuildable`` here or no model of texts, or it is ``wrong`` or ends in a ``traceback``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModel
from transformers.models.auto import modeling_auto

from tests.builders.models import make_tokenizer
from tests.builders.plainforward import (
    PlainForward,
    Unreadable,
    plain_class,
    quiet,
    text_config,
)
from tests.builders.shrinking import FILLED, tiny_config

EXACT = 1e-4
"""Largest difference, relative to the layer's largest value."""
LARGEST = 20_000_000
"""Parameters of a model that still counts as tiny."""
CUT = 1
TEXTS = (
    "the cat sat on the mat",
    "dog",
    "the very happy dog ran under the log and then it sat on the mat today",
    "",
    "sad dog " * 40,
    "Ünïcode 🙂 text, with punctuation!",
    "the cat sat on the log",
    "angry cat " * 14,
)
"""Short, empty, equally long, longer than a window, and longer than the context."""


@dataclass(frozen=True)
class Variant:
    """Another folder of a model type."""

    type: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the tiny config."""
    saved_as: str = ""
    """The class that saves it."""


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    limit = {"rope_type": kind, "rope_theta": 10_000.0, "original_max_position_embeddings": 16}
    return {"rope_parameters": {**limit, **settings}}


VARIANTS = {
    # as sentence-t5's
    "t5:encoder": Variant("t5", saved_as="T5EncoderModel"),
    "mt5:encoder": Variant("mt5", saved_as="MT5EncoderModel"),
    "umt5:encoder": Variant("umt5", saved_as="UMT5EncoderModel"),
    # what is computed depends on the longest text
    "phi3:longrope": Variant(
        "phi3", _rope("longrope", short_factor=[1.0] * 4, long_factor=[1.0, 2.0, 4.0, 8.0])
    ),
    "llama:dynamic": Variant("llama", _rope("dynamic", factor=4.0)),
    "llama:yarn": Variant("llama", _rope("yarn", factor=4.0)),
    # other ways through a known model's code
    "xlnet:uni": Variant("xlnet", {"attn_type": "uni"}),
    "opt:projected": Variant("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "falcon:alibi": Variant("falcon", {"alibi": True}),
    "bert:decoder": Variant("bert", {"is_decoder": True}),
    "doge:experts": Variant("doge", {"is_moe": True}),
    "t5:gated": Variant("t5", {"feed_forward_proj": "gated-gelu"}),
    "gpt2:wide": Variant("gpt2", {"n_inner": None}),
}
"""More folders, by the name that they go by here."""

_HEADS = (
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)


@dataclass
class Verdict:
    """What became of a type."""

    type: str
    verdict: str
    """right, refused, unbuildable, wrong, traceback or timeout."""
    detail: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Unbuildable(Exception):
    """No tiny model can be made of a type."""


def model_types() -> list[str]:
    """All types that ``AutoModel`` knows, and the variants."""
    return sorted({*modeling_auto.MODEL_MAPPING_NAMES, *VARIANTS})


# ------------------------------------------------------------------ folders


def make_zoo_model(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random model of a type, with its tokenizer, into ``folder / name``.

    Raises:
        Unbuildable: with the reason.
    """
    path = folder / name.replace(":", "-")
    variant = VARIANTS.get(name, Variant(name))
    heads = [names.get(variant.type) for names in _HEADS]
    classes = [variant.saved_as] if variant.saved_as else [*heads, None]
    trouble: Exception | None = None
    for attempt in range(len(FILLED)):
        for saved_as in dict.fromkeys(classes):
            try:
                config = tiny_config(variant.type, attempt=attempt, **variant.changes)
                _save(saved_as, config, path, seed=seed)
                make_tokenizer(path, style=_style(config))
                _forget_limit(path)
                check_plain(PlainForward(path))
            except Unreadable:
                raise
            except Exception as error:
                trouble = trouble or error
            else:
                return path
    raise Unbuildable(_one_line(trouble)) from trouble


def _save(class_name: Any, config: Any, path: Path, *, seed: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with quiet():
        with torch.device("meta"):
            size = sum(weight.numel() for weight in _build(None, config).parameters())
        if size > LARGEST:
            raise Unreadable(f"{size / 1e6:.0f} million parameters when shrunk by the rules")
        torch.manual_seed(seed)
        model = _build(class_name, config)
        widen(model, seed=seed)
        model.save_pretrained(path)
        _, info = plain_class(path).from_pretrained(path, output_loading_info=True)
    if info["missing_keys"]:
        raise Unbuildable(f"transformers lost {sorted(info['missing_keys'])[:2]}")


def _build(class_name: Any, config: Any) -> Any:
    config = copy.deepcopy(config)
    config.architectures = config.architectures or []
    if class_name is None:
        return AutoModel.from_config(config, dtype=torch.float32)
    found = class_name if isinstance(class_name, str) else class_name[0]
    return getattr(transformers, found)._from_config(config, dtype=torch.float32)


def widen(model: nn.Module, *, seed: int = 0) -> None:
    """Spread weights so that activations, attention and positions all matter, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.is_floating_point():
                continue
            noise = torch.randn(weight.shape, generator=generator)
            weight.nan_to_num_(0.0)
            is_norm = re.search(r"norm|ln_", name.lower()) is not None
            weight.add_(noise, alpha=0.1 if weight.ndim < 2 or is_norm else 0.3)


def _style(config: Any) -> str:
    text = text_config(config)
    padding = getattr(text, "pad_token_id", None)
    if padding == 1:
        return "roberta"
    bidirectional = getattr(config, "is_encoder_decoder", False) or padding == 0
    return "bert" if bidirectional else "llama"


def _forget_limit(path: Path) -> None:
    """Many tokenizers state no limit; the model's own has to be found then."""
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    settings.pop("model_max_length", None)
    file.write_text(json.dumps(settings), encoding="utf-8")


# ------------------------------------------------------------------ the verdict


def judge(name: str, folder: Path) -> Verdict:
    """Build a type and hold what the pipeline makes of it against the plain way."""
    try:
        path = make_zoo_model(name, folder)
    except (Unbuildable, Unreadable) as reason:
        return Verdict(name, "unbuildable", str(reason), _folder_is_refused(name, folder))
    plain = PlainForward(path)
    facts: dict[str, Any] = {"part": type(plain.part).__name__}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trouble = compare(path, plain, facts)
    except Misplaced as error:
        return Verdict(name, "wrong", str(error), facts)
    except Exception as error:
        return _failure(name, error, facts)
    return Verdict(name, "wrong" if trouble else "right", "; ".join(trouble), facts)


def check_plain(plain: PlainForward) -> None:
    """That a plain pass is finite, and the same twice.

    Raises:
        Unbuildable: it is not.
    """
    try:
        ids = plain.ids(TEXTS[5])  # long enough for what a model does beyond its windows
        first = plain.run(ids).final
    except Exception:  # too long, it may be
        ids = plain.ids(TEXTS[1])
        first = plain.run(ids).final
    if not np.isfinite(first).all():
        raise Unbuildable("random weights give infinite or undefined numbers")
    if relative_error(first, plain.run(ids).final) > EXACT:
        raise Unbuildable("two passes of the same text differ")


def _failure(name: str, error: Exception, facts: dict[str, Any]) -> Verdict:
    from pipeline.errors import BackboneError

    message = str(error)
    if not isinstance(error, BackboneError):
        place = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in place if "/pipeline/" in frame.filename]
        where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
        return Verdict(name, "traceback", f"{_one_line(error)}{where}", facts)
    if "report it" in message:  # an exception that nobody foresaw, in one line
        return Verdict(name, "traceback", message, facts)
    if "\n" in message:
        return Verdict(name, "wrong", f"refused in {message.count(chr(10)) + 1} lines: "
                       f"{message.splitlines()[0]}", facts)  # fmt: skip
    if not re.search(
        r"\b(use|choose|set|name|install|upgrade|load|fetch|convert|take|pip)\b", message
    ):
        return Verdict(name, "wrong", f"refused without a remedy: {message}", facts)
    return Verdict(name, "refused", message, facts)


def _folder_is_refused(name: str, folder: Path) -> dict[str, Any]:
    """What ``load_backbone`` says of a folder that holds no model of texts, if there is one."""
    from pipeline.backbone import load_backbone

    path = folder / name.replace(":", "-")
    if not (path / "tokenizer.json").is_file():
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_backbone(path, engine="torch")
    except Exception as error:
        verdict = _failure(name, error, {})
        return {"load": verdict.verdict, "message": verdict.detail}
    return {"load": "accepted", "message": ""}


def compare(path: Path, plain: PlainForward, facts: dict[str, Any]) -> list[str]:
    """What differs between a loaded backbone and the plain way; empty if all is right."""
    from pipeline.backbone import load_backbone

    backbone = load_backbone(path, engine="torch")
    facts |= {
        "layout": backbone.layout,
        "num_layers": backbone.num_layers,
        "neuron_size": backbone.neuron_size,
        "site": backbone.site.down,
        "max_length": backbone.max_length,
    }
    extractor, states = _extractor(backbone)
    found = pooled(extractor, TEXTS)
    facts["sites"] = {site: len(layers) for site, layers in found.items()}
    expected = expected_of(backbone, plain, extractor)
    facts["order_matters"] = order_matters(plain, backbone.max_length)
    trouble = site_is_wrong(backbone, plain)
    if not any(rows is not None for site in found for rows in expected[site].values()):
        trouble.append("the plain way hands out nothing to compare")
    for site, layers in found.items():
        trouble += _differences(f"{site}: plain", layers, expected[site], facts)
    for label, order in _orders().items():
        other = pooled(extractor, [TEXTS[i] for i in order])
        for site, layers in found.items():
            back = {layer: rows[..., np.argsort(order)] for layer, rows in other[site].items()}
            trouble += _differences(f"{site}: {label}", back, layers, facts)
    for i, text in enumerate(TEXTS):
        alone = pooled(extractor, [text])
        for site, layers in found.items():
            wide = {
                layer: np.where(np.arange(len(TEXTS)) == i, rows, layers[layer])
                for layer, rows in alone[site].items()
            }
            trouble += _differences(f"{site}: alone", wide, layers, facts)
    last = min(CUT, backbone.num_layers - 1)
    short = load_backbone(path, engine="torch", last_layer=last)
    if short.fingerprint != backbone.fingerprint:
        trouble.append("another fingerprint at a cut depth")
    hidden = tuple(layer for layer in states if layer <= last)
    for site, layers in pooled(_extractor(short, hidden)[0], TEXTS).items():
        whole = {layer: found[site][layer] for layer in layers}
        trouble += _differences(f"{site}: cut", layers, whole, facts)
    return list(dict.fromkeys(trouble))


def order_matters(plain: PlainForward, max_length: int) -> float:
    """How far a text's pooled final state moves when its tokens are turned round.

    Where it is nothing, neither attention nor positions would show if they were wrong.
    """
    ids = plain.ids(TEXTS[2], max_length)
    there, back = (_pool(plain.run(order).final) for order in (ids, ids[::-1]))
    return relative_error(back, there)


def _extractor(backbone: Any, hidden: Sequence[int] | None = None) -> tuple[Any, tuple[int, ...]]:
    """Of all that a backbone can give; and which hidden states that is."""
    from pipeline.errors import BackboneError
    from pipeline.extraction import Extractor, RoutedLayers

    routed = RoutedLayers(
        router=backbone.site_layers("router"), experts=backbone.site_layers("experts")
    )
    if hidden is not None:
        return Extractor(backbone, hidden=hidden, routed=routed), tuple(hidden)
    try:
        extractor = Extractor(backbone, hidden="all", routed=routed)
        extractor(TEXTS[:1])
    except BackboneError:  # of some models only the final state is one vector for each token
        extractor = Extractor(backbone, hidden="final", routed=routed)
    return extractor, tuple(extractor.hidden_layers)


def pooled(extractor: Any, texts: Sequence[str]) -> dict[str, dict[int, NDArray[Any]]]:
    """Site -> layer -> (pooling, feature, text)."""
    found = extractor(texts)
    return {
        site: {
            layer: np.asarray(rows)
            for layer, rows in zip(layers, getattr(found, site), strict=True)
        }
        for site, layers in extractor.by_site.items()
        if layers
    }


def expected_of(
    backbone: Any, plain: PlainForward, extractor: Any
) -> dict[str, dict[int, NDArray[Any] | None]]:
    """The plain way's: site -> layer -> (pooling, feature, text)."""
    mixture, depth = backbone.mixture, backbone.num_layers
    layers = {site: list(found) for site, found in extractor.by_site.items()}
    layers["hidden"] = list(range(depth + 1))
    paths = {
        "sites": [_within(backbone.site.down, i, backbone, plain) for i in layers["ffn"]],
        "routers": [_within(mixture.routers[i], i, backbone, plain) for i in layers["router"]],
        "experts": [_within(mixture.experts[i], i, backbone, plain) for i in layers["experts"]],
    }
    rows: dict[tuple[str, int], list[NDArray[Any] | None]] = defaultdict(list)
    for text in TEXTS:
        ids = plain.ids(text, backbone.max_length)
        if not ids:
            for site in layers:
                for layer in layers[site]:
                    rows[site, layer].append(None)
            continue
        seen = plain.run(ids, **paths, output=mixture.logits if mixture else 0)
        if len(seen.sites) != len(layers["ffn"]):
            raise Misplaced(f"{len(seen.sites)} calls of {backbone.site.down} in a plain pass")
        if any(len(tokens) < len(ids) for tokens in (*seen.sites, seen.final)):
            raise Misplaced(f"{backbone.site.down} sees fewer tokens than the text's {len(ids)}")
        states = _listed_states(backbone, plain, ids, seen)
        for site, found in (
            ("ffn", seen.sites),
            ("hidden", [*states, seen.final]),
            ("router", [_probabilities(logits, mixture.score) for logits in seen.logits]),
            ("experts", seen.experts),
        ):
            for layer, tokens in zip(layers[site], found, strict=True):
                rows[site, layer].append(None if tokens is None else _pool(tokens[: len(ids)]))
    return {site: {i: _stack(rows[site, i]) for i in layers[site]} for site in layers}


def _listed_states(
    backbone: Any, plain: PlainForward, ids: Sequence[int], seen: Any
) -> list[NDArray[Any] | None]:
    """The hidden states before the final one; some lists begin after the first block."""
    depth = backbone.num_layers
    if len(seen.states) < depth:
        return [None] * depth
    if depth > 1 and len(seen.states) == depth + 1 and not backbone.site.shared:
        blocks = [_within(backbone.site.block, i, backbone, plain) for i in (0, 1)]
        entering = plain.run(ids, sites=blocks).sites
        first = seen.states[0]
        if len(entering) == 2 and first is not None and np.array_equal(entering[1], first):
            return [entering[0], *seen.states[: depth - 1]]
    return list(seen.states[:depth])


def _probabilities(logits: NDArray[Any], score: str) -> NDArray[Any]:
    values = logits.astype(np.float64)
    if score == "sigmoid":
        return 1 / (1 + np.exp(-values))
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class Misplaced(Exception):
    """A site that the plain pass cannot be hooked at."""


def _within(path: str, layer: int, backbone: Any, plain: PlainForward) -> str:
    """A path of the backbone's, of one block, as one within the part that the plain pass runs."""
    names = {id(module): name for name, module in plain.part.named_modules()}
    whole = path.replace("{i}", str(layer))
    inner = backbone.site.inner(path, layer)
    for root, candidate in ((plain.part, inner), (plain.whole, whole), (plain.whole, inner)):
        try:
            module = root.get_submodule(candidate)
        except AttributeError:
            continue
        if id(module) in names:
            return names[id(module)]
    raise Misplaced(f"{whole} is not in the {type(plain.part).__name__} that reads the text")


def _pool(tokens: NDArray[Any]) -> NDArray[Any]:
    return np.stack([tokens.mean(0, dtype=np.float64), tokens.max(0)])


def _stack(rows: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    shape = next((row.shape for row in rows if row is not None), None)
    if shape is None:  # Hugging Face does not hand this one out
        return None
    return np.stack([np.zeros(shape) if row is None else row for row in rows], axis=-1)


def _orders() -> dict[str, list[int]]:
    count = len(TEXTS)
    by_length = sorted(range(count), key=lambda i: len(TEXTS[i]))
    return {"reversed": list(range(count))[::-1], "shortest first": by_length}


def _differences(label: str, values: Any, expected: Any, facts: dict[str, Any]) -> list[str]:
    """Where values differ from what is expected, as a line; the largest difference in facts."""
    errors: dict[int, float] = {}
    for layer, value in values.items():
        plain = expected[layer]
        if plain is None:
            continue
        if value.shape != plain.shape:
            return [f"{label}: layer {layer} is {value.shape}, not {plain.shape}"]
        errors[layer] = relative_error(value, plain)
    worst = max(errors.values(), default=0.0)
    largest = facts.setdefault("errors", {})
    largest[label] = max(largest.get(label, 0.0), worst)
    bad = [layer for layer, error in errors.items() if not error <= EXACT]
    return [f"{label}: differs by {worst:.1e} (layers {bad} of {len(values)})"] if bad else []


def relative_error(values: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference, relative to the largest value."""
    scale = max(float(np.abs(expected).max()), 1e-30)
    return float(np.abs(values - expected).max()) / scale


def site_is_wrong(backbone: Any, plain: PlainForward) -> list[str]:
    """Whether what was captured can be an FFN's activations at all, by its width and name."""
    config = getattr(plain.part, "config", plain.whole.config)
    hidden = {getattr(config, key, None) for key in ("hidden_size", "d_model")}
    trouble = []
    if backbone.neuron_size in hidden:
        trouble.append(f"site {backbone.site.down} is as wide as the hidden state")
    if re.search(r"attn|attention", backbone.site.down.rpartition("{i}")[2]):
        trouble.append(f"site {backbone.site.down} is named like attention")
    return trouble


def _one_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(lines)[:200] if lines else 'no message'}"


# ------------------------------------------------------------------ a sweep


def sweep(names: Sequence[str], *, workers: int, timeout_s: float) -> Iterator[Verdict]:
    """Judge types in a few processes; one that takes too long is ended and replaced."""
    context = get_context("spawn")
    waiting = list(names)[::-1]
    busy: dict[Connection, tuple[Any, str, float]] = {}

    def start() -> tuple[Any, Connection]:
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return process, mine

    def give(process: Any, channel: Connection) -> None:
        if waiting:
            name = waiting.pop()
            channel.send(name)
            busy[channel] = (process, name, time.monotonic() + timeout_s)
        else:
            channel.close()

    for _ in range(min(workers, len(waiting))):
        give(*start())
    while busy:
        ready = wait(list(busy), timeout=1.0)
        for channel in list(busy):
            process, name, limit = busy[channel]
            if channel in ready:
                del busy[channel]
                try:
                    yield channel.recv()
                except EOFError:
                    yield Verdict(name, "traceback", f"the process ended with {process.exitcode}")
                    give(*start())
                else:
                    give(process, channel)
            elif time.monotonic() > limit:
                del busy[channel]
                process.kill()
                yield Verdict(name, "timeout", f"over {timeout_s:.0f} s")
                give(*start())


def _work(channel: Connection) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="zoo-") as root:
        os.environ["SALIENT_CACHE"] = f"{root}/cache"
        while True:
            try:
                name = channel.recv()
            except EOFError:
                return
            start = time.monotonic()
            with tempfile.TemporaryDirectory(dir=root) as folder:
                verdict = judge(name, Path(folder))
            verdict.facts["elapsed_s"] = round(time.monotonic() - start, 2)
            channel.send(verdict)


def table(verdicts: Sequence[Verdict]) -> str:
    """Counts, then a line for each type that is not right."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    lines = [", ".join(f"{counts[name]} {name}" for name in sorted(counts))]
    for verdict in sorted(verdicts, key=lambda one: (one.verdict, one.type)):
        facts = verdict.facts
        inside = f" [{facts['load']}: {facts['message'][:160]}]" if "load" in facts else ""
        lines.append(f"{verdict.verdict:12} {verdict.type:28} {verdict.detail[:300]}{inside}")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.builders.zoo")
    parser.add_argument("types", nargs="*", help="model types; default: all")
    parser.add_argument("--json", help="write all verdicts to this file")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=90.0, help="seconds a type")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    verdicts = []
    names = options.types or model_types()
    for verdict in sweep(names, workers=options.workers, timeout_s=options.timeout):
        verdicts.append(verdict)
        if sys.stderr.isatty() or len(names) < 20:
            print(f"{verdict.type}: {verdict.verdict} {verdict.detail}", file=sys.stderr)
        if options.json:
            rows = [asdict(one) for one in verdicts]
            Path(options.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(verdicts))


if __name__ == "__main__":
    main()
