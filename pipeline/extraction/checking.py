"""All there is to say of a model before anything is extracted with it: ``salient check``.

    facts = check_model(BackboneConfig(model="models/roberta-base"))
    facts["problem"]                                  # None, or the one line that says why not

The facts are JSON-ready, and what a report of an error should hold: versions and the processor, but
nothing of the user beyond the model's name.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbone import FFN_SITES, Backbone, Comparison, load_from_settings
from pipeline.config import BackboneConfig
from pipeline.demo import demo_tweets
from pipeline.errors import BackboneError, first_line, lacks_memory
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.proving import (
    NO_ROOM,
    against_cut,
    against_plain,
    cut_depth,
    first_blocks,
    refusal,
)
from pipeline.extraction.storing import StoreOptions
from pipeline.progress import Say, silent
from store.errors import SalientError
from store.layout import own_version

FORMAT_VERSION = 1
PLAIN_UP_TO = 500_000_000
"""Parameters up to which the plain forward pass is compared unasked."""
SAMPLE = "@user So good!! \U0001f389 see you at http"
RATE_SECONDS = 1.0
"""Least time that a rate is measured for."""
RATE_TEXTS = 8
"""Texts of the first, untimed round; each round has four times as many."""
FLOAT16 = 2
"""Bytes."""
NUM_TEXTS = 1_000_000
"""For the estimate of the disk."""
CPU_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve",
)  # fmt: skip


def check_model(
    settings: BackboneConfig, *, full: bool = False, device: str = "auto", say: Say = silent
) -> dict[str, Any]:
    """Load a model as an extraction would, prove what can be proved, and measure it.

    Args:
        settings: the ``[backbone]`` section.
        full: compare with the model's own plain forward pass, however large it is.
        device: torch device.
        say: called with progress.

    Returns:
        JSON-ready facts; those after ``problem`` only of a model that loads:

        - ``format_version``: of these keys.
        - ``status``: "fine", "failed" (loads, but gives wrong numbers) or "refused".
        - ``problem``: one line, or None; ``traceback``: only of an error without a line of its own.
        - ``model``, ``settings``: as asked for.
        - ``versions``: of salient, python, torch, transformers, tokenizers.
        - ``machine``: ``system``, ``processor`` (torch's name of its best instructions),
          ``features`` (of the processor), ``cores``, ``threads``, ``gpu`` (name or None).
        - ``family``: ``type``; ``site`` ("listed", "discovered", "named" or "none": no FFN);
          ``parameters`` (of the part that is run); ``part`` (class of it).
        - ``sites``: site -> ``layers``, ``width`` and, for "ffn", ``path``; experts are read only
          where a configuration asks for them.
        - ``layout``: "packed", "padded" or "equal"; ``engine``; ``device``; ``dtype``.
        - ``prefix``, ``template``: what is put before or around each text, or None.
        - ``context``: ``tokens``, ``limited_by``.
        - ``tokenizer``: ``class``, ``entries``, ``sample``, ``tokens``, ``ids``.
        - ``fingerprint``.
        - ``batches``: largest difference of texts in a batch from each alone: ``differences``
          (as below), ``largest``, ``lengths`` (tokens of the texts), ``untried`` (limits of the
          model that are too long to be tried), ``changes`` (it changes itself in a forward pass),
          ``engine`` (whose kernels they ran on), ``passed_over`` (why not another layout).
        - ``plain``: difference from the model's own forward pass: ``differences``
          (``layer_003``, ``hidden_004`` … -> relative to the layer's largest value), ``largest``,
          ``tolerance``, ``agrees``, ``missing`` (what was left out); or ``skipped``: why it was
          not compared.
        - ``cut``: the same of the first ``blocks`` blocks alone; or ``refused``: why they cannot be
          loaded; or ``skipped``. Where it does not agree, scoring loads all blocks.
        - ``rate``: a list with ``blocks``, ``texts_per_s``, ``tokens_per_s``.
        - ``disk``: site -> bytes of a million texts in a new store, as float16.
    """
    facts: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "status": "refused",
        "problem": None,
        "model": settings.model,
        "settings": settings.model_dump(mode="json"),
        "versions": _versions(),
        "machine": _machine(),
    }
    try:
        say(f"loading {settings.model}")
        backbone = load_from_settings(settings, device=device, anew=True)
        extractor = _extractor(backbone, settings)
        facts |= _description(extractor, settings)
        facts["plain"] = _plain(extractor, settings, full=full, say=say)
        facts["cut"] = _cut(extractor, settings, say=say)
        say("measuring its rate on made-up tweets")
        facts["rate"] = list(_rates(extractor))
    except SalientError as error:
        facts["problem"] = _homeless(str(error))
        if error.__cause__ is not None:
            facts["traceback"] = _homeless(traceback.format_exc())
        return facts
    except Exception as error:
        problem = (
            f"{settings.model}: fails for a reason that Salient does not know"
            f" ({first_line(error)}); report it with what --json prints, and take"
            " another model until then"
        )
        trace = _homeless(traceback.format_exc())
        return facts | {"problem": _homeless(problem), "traceback": trace}
    if trouble := facts["plain"].get("problem"):
        return facts | {"status": "failed", "problem": refusal(extractor, trouble)}
    return facts | {"status": "fine"}


def _extractor(backbone: Backbone, settings: BackboneConfig) -> Extractor:
    """As for a store with all that the model has, but for its experts, which are many."""
    sites = tuple(site for site in ("ffn", "router") if backbone.site_layers(site))
    states = backbone.hidden_indices("all")
    readable = all(("hidden", index) in backbone.axes for index in states)
    options = StoreOptions(
        sites=sites or ("hidden",),
        hidden="all" if readable or not sites else "final",
        special_tokens=settings.special_tokens,
    )
    return options.extractor(backbone)


def _homeless(text: str) -> str:
    """Without the user's name in paths."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers")
    own = {"python": platform.python_version(), "salient": own_version() or "not installed"}
    return own | {name: version(name) for name in names}


def _machine() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "features": _cpu_flags(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }


def _cpu_flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").lower().splitlines()
    except OSError:
        return []
    found = next((line for line in lines if line.startswith(("flags", "features"))), "").split()
    return [flag for flag in CPU_FLAGS if flag in found]


def _description(extractor: Extractor, settings: BackboneConfig) -> dict[str, Any]:
    backbone = extractor.backbone
    listed = FFN_SITES.get(backbone.model_type)
    origin = "discovered" if settings.ffn_site is None else "named"
    if listed is not None and listed.down == backbone.site.down:
        origin = "listed"
    if not backbone.ffn_layers:
        origin = "none"
    layers = extractor.by_site | {"experts": backbone.site_layers("experts")}
    sites: dict[str, dict[str, Any]] = {
        site: {"layers": len(found), "width": backbone.width(site)}
        for site, found in layers.items()
        if found
    }
    if "ffn" in sites:
        sites["ffn"]["path"] = backbone.site.down
    values = {
        site: one["layers"] * one["width"] * len(extractor.poolings) for site, one in sites.items()
    }
    return {
        "family": {
            "type": backbone.model_type,
            "site": origin,
            "parameters": backbone.num_parameters,
            "part": type(backbone.network).__name__,
        },
        "sites": sites,
        "layout": backbone.layout,
        "engine": backbone.engine,
        "device": str(backbone.device),
        "dtype": settings.dtype,
        "prefix": settings.prefix,
        "template": settings.template,
        "context": {"tokens": backbone.max_length, "limited_by": backbone.limited_by},
        "tokenizer": _tokenizer(extractor),
        "fingerprint": backbone.fingerprint,
        "batches": _batches(backbone),
        "disk": {site: number * FLOAT16 * NUM_TEXTS for site, number in values.items()},
    }


def _tokenizer(extractor: Extractor) -> dict[str, Any]:
    tokenizer = extractor.backbone.tokenizer
    ids = extractor.encode([SAMPLE]).flat.tolist()
    return {
        "class": type(tokenizer).__name__,
        "entries": len(tokenizer),
        "sample": SAMPLE,
        "tokens": tokenizer.convert_ids_to_tokens(ids),
        "ids": ids,
    }


def _batches(backbone: Backbone) -> dict[str, Any]:
    found = backbone.checked
    assert found is not None
    return {
        "differences": {place.name: error for place, error in found.differences.items()},
        "largest": found.largest,
        "lengths": list(found.lengths),
        "untried": list(found.untried),
        "changes": found.changes,
        "engine": "torch",
        "passed_over": [_homeless(trouble) for trouble in found.passed_over],
    }


def _plain(
    extractor: Extractor, settings: BackboneConfig, *, full: bool, say: Say
) -> dict[str, Any]:
    number = extractor.backbone.num_parameters
    if not full and number > PLAIN_UP_TO:
        size = number * (2 if settings.dtype == "bfloat16" else 4) / 1e9
        return {
            "skipped": f"{number / 1e9:.1f} billion parameters; --full compares, with {size:,.0f}"
            " GB more memory"
        }
    say("comparing with the model's own plain forward pass")
    try:
        found = against_plain(extractor, settings)
    except BackboneError as error:
        if full:
            raise
        return {"skipped": _homeless(str(error))}
    except Exception as error:
        if full or not lacks_memory(error):
            raise
        return {"skipped": "no room for it in memory beside the model"}
    return _comparison(found) | ({"problem": found.trouble} if found.trouble else {})


def _cut(extractor: Extractor, settings: BackboneConfig, *, say: Say) -> dict[str, Any]:
    last = cut_depth(extractor)
    if last is None:
        return {"skipped": "nothing is read before its last block"}
    say("comparing with its first blocks alone")
    try:
        found = against_cut(extractor, settings, last=last)
    except BackboneError as error:
        return {"blocks": last + 1, "refused": _homeless(str(error))}
    except Exception as error:
        if not lacks_memory(error):
            raise
        return {"skipped": NO_ROOM}
    return {"blocks": last + 1} | _comparison(found)


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "differences": {source.name: value for source, value in found.differences.items()},
        "largest": found.largest,
        "tolerance": found.tolerance,
        "agrees": found.agrees,
        "missing": [source.name for source in found.missing],
    }


def _rates(extractor: Extractor) -> Iterator[dict[str, Any]]:
    """Of all blocks and of half of them: texts and tokens a second, nothing being written."""
    backbone = extractor.backbone
    texts = [row["text"] for row in demo_tweets()]
    half = max(1, backbone.num_layers // 2)
    for blocks in dict.fromkeys((backbone.num_layers, half)):
        whole = blocks == backbone.num_layers
        yield {"blocks": blocks} | _rate(
            extractor
            if whole
            else first_blocks(extractor, backbone.truncate(blocks - 1), blocks - 1),
            texts,
        )


def _rate(extractor: Extractor, texts: list[str]) -> dict[str, float]:
    count, seconds, tokens = RATE_TEXTS, 0.0, 0
    extractor.compute(extractor.encode(texts[:count]))
    while True:
        chosen = [texts[i % len(texts)] for i in range(count)]
        start = time.perf_counter()
        encoded = extractor.encode(chosen)
        extractor.compute(encoded)
        seconds, tokens = time.perf_counter() - start, int(np.sum(encoded.lengths))
        if seconds >= RATE_SECONDS or count >= 64 * len(texts):
            return {"texts_per_s": count / seconds, "tokens_per_s": tokens / seconds}
        count = min(4 * count, 64 * len(texts))
