"""The fingerprint of a model folder: a digest of all that shapes activations.

Every byte counts. A file of weights is read once for it; what it gave is kept in the user's cache
until the file changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.backbone.tokenizer import SIDE_FILES, TOKENIZER_FILES
from pipeline.backbone.usercache import recall, remember
from pipeline.errors import BackboneError
from store.disk import FileState

VERSION = 2
"""Part of the digest. Version 1 is that of samples, in `_sampled`."""
THREADS = 8
_NAMING_CODE = ("config.json", "tokenizer_config.json")
_SAMPLE_BYTES = 4096
_SAMPLED_FILES = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
"""What version 1 digested, whatever else is read of a folder by now."""


@dataclass(frozen=True)
class Fingerprint:
    """What a model is known by.

    Attributes:
        present: 64 hex digits.
        older: gives those of version 1, by which heads and stores of earlier versions know it;
            found when it is first asked for.
    """

    present: str
    older: Callable[[], str]


def fingerprint(
    path: Path,
    files: Iterable[Path],
    settings: dict[str, Any],
    *,
    trust_remote_code: bool = False,
) -> Fingerprint:
    """Digest of every byte of the weights, the config and the tokenizer, and of the settings.

    Args:
        path: the model's folder.
        files: its weights, in order.
        settings: what else shapes activations; JSON-ready.
        trust_remote_code: the model's own code runs, if it has any: then that counts too.

    Raises:
        BackboneError: a file of weights is damaged.
    """
    weights = list(files)
    for file in weights:
        _check_whole(file)
    names = {"config.json", *TOKENIZER_FILES, *SIDE_FILES}
    if trust_remote_code and any(_names_code(path / name) for name in _NAMING_CODE):
        names |= {file.name for file in path.glob("*.py")}
    small = {name: _sha256(path / name) for name in sorted(names) if (path / name).is_file()}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        large = list(threads.map(_remembered_sha256, weights))
    facts = {"version": VERSION, "settings": settings, "files": small, "weights": large}
    present = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Fingerprint(present, cache(partial(_sampled, path, weights, settings)))


def _names_code(file: Path) -> bool:
    return file.is_file() and b'"auto_map"' in file.read_bytes()


def _remembered_sha256(file: Path) -> str:
    """Of a large file: read once, then known by its place, size, times and inode."""
    before, began_ns = FileState.of(file), time.time_ns()
    key = json.dumps([str(file.resolve()), *before])
    known = (recall("hashes", key) or {}).get("sha256")
    if isinstance(known, str):
        return known
    found = _sha256(file)
    if FileState.of(file) == before and before.is_settled(began_ns):
        remember("hashes", key, {"sha256": found})
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sampled(path: Path, files: Iterable[Path], settings: dict[str, Any]) -> str:
    """Version 1: of the weights every tensor's name, type, shape and four samples of its bytes."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in _SAMPLED_FILES:
        if (path / name).is_file():
            digest.update(name.encode())
            digest.update((path / name).read_bytes())
    for file in files:
        for part in _samples(file):
            digest.update(part)
    return digest.hexdigest()


def _samples(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_size))
        for name in sorted(set(header) - {"__metadata__"}):
            entry = header[name]
            yield json.dumps([name, entry["dtype"], entry["shape"]]).encode()
            begin, end = entry["data_offsets"]
            for part in range(4):
                start = max(begin, begin + (end - begin) * part // 4)
                stream.seek(8 + header_size + start)
                yield stream.read(min(_SAMPLE_BYTES, end - start))


def _check_whole(file: Path) -> None:
    try:
        with safe_open(file, framework="numpy"):  # validates header and size
            pass
    except (SafetensorError, OSError) as error:
        raise BackboneError(f"{file}: damaged or cut short ({error}); fetch it again") from error
