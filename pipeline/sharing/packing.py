"""What leaves this machine when a head is shared, and what does not.

    heads = pack(Path("runs/mood"), tasks=["mood"])
    write_heads(heads, folder)                  # folder/heads/mood/head.json …

A shared head is the files that scoring reads. What lies beside them stays here: ``held_out``
(outputs for single texts) and ``ngrams.parquet``. Of ``head.json`` places on this machine are taken
out: a model folder becomes ``./NAME``, which the puller gives with ``--model``. Scores are not
touched, for a head's fingerprint does not know where its model lay. Golden texts are ours, made up.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, HeadError
from pipeline.extraction import GOLDEN_TEXTS, read_outputs
from pipeline.heads import REFERENCE_FILE, Head, Reference, wanted_tasks
from pipeline.progress import Say, silent
from pipeline.runfolder import RunFolder, read_metrics, run_config
from store.tables import read_json, write_json

HEADS = "heads"
"""Folder of a repository, with a folder for each task."""
CARD = "head.json"
FILES = {
    CARD: 2**24,
    "head.safetensors": 2**33,
    "lexicon.json": 2**26,
    "golden.json": 2**24,
    "golden_activations.safetensors": 2**30,
    REFERENCE_FILE: 2**26,
}
"""What is shared of a head's folder, and nothing else; with the most bytes that each may have."""
REQUIRED = (CARD, "head.safetensors", "golden.json")
_NOT_PLACES = {"prefix", "template", "ffn_site"}
"""Keys of the extraction's record that hold words or names of modules."""
_PLACE = re.compile(r"[/~]|\.{1,2}/|[A-Za-z]:[\\/]|file:")


@dataclass(frozen=True)
class SharedHead:
    """A head that is to be shared.

    Attributes:
        folder: its own, on this machine.
        head: as it was read.
        results: the task's entry of the run's ``metrics.json``, if it is the run's chosen head.
    """

    folder: Path
    head: Head
    results: Mapping[str, Any] | None = None

    @property
    def num_words(self) -> int:
        """Words, and pieces of words, of the training texts that go along."""
        return 0 if self.head.lexicon is None else len(self.head.lexicon.terms)

    @property
    def files(self) -> list[str]:
        """The files that are shared of it, of :data:`FILES`."""
        return [name for name in FILES if (self.folder / name).is_file()]


def head_folders(path: Path) -> list[Path]:
    """The head folders that a folder stands for, in the order of their names.

    Args:
        path: a head's folder, one that was pulled, or a run's (its chosen heads).

    Raises:
        ConfigError: no head there.
    """
    if (path / CARD).is_file():
        return [path]
    for pattern in (f"{HEADS}/*/{CARD}", f"{HEADS}/*/chosen/{CARD}"):
        if found := sorted(file.parent for file in path.glob(pattern)):
            return found
    raise ConfigError(
        f"{path}: no head here (no {CARD}, nor {HEADS}/TASK/{CARD}); name a head's folder, one that"
        " `salient pull` wrote, or a finished run's"
    )


def pack(
    source: Path, *, tasks: Sequence[str] = (), with_words: bool = False, say: Say = silent
) -> list[SharedHead]:
    """The heads of a run, or of a folder, that are to be shared, each looked through.

    Args:
        source: a run's folder or TOML file (its chosen heads), or a head's folder.
        tasks: of these only.
        with_words: a head's n-grams, which are words of the training texts, may go along.
        say: told what a run's folder says and is not done.

    Raises:
        ConfigError: no head there, an unknown task, or words without leave.
        SalientError: a head that is damaged, or could not be checked by who pulls it.
    """
    if not source.exists():
        raise ConfigError(f"{source}: no such file or folder; name a run, or a head's folder")
    found, results = _found(source, say)
    chosen = [found[name] for name in wanted_tasks(tasks, list(found))]
    shared = []
    for folder in chosen:
        head = Head.load(folder)
        entry = results.get(head.card.task)
        shared.append(SharedHead(folder, head, entry if _is_of(entry, head) else None))
    for one in shared:
        _look_through(one, with_words=with_words)
    return shared


def _found(source: Path, say: Say) -> tuple[dict[str, Path], Mapping[str, Any]]:
    """Task -> folder, and task -> results."""
    if source.is_dir() and not RunFolder(source).card.is_file():
        folders = {Head.load(folder).card.task: folder for folder in head_folders(source)}
        return folders, {}
    config = run_config(source, say=say)
    run = RunFolder(Path(config.run_dir))
    return {task.name: run.head(task.name) for task in config.tasks}, read_metrics(run)["tasks"]


def _is_of(entry: Mapping[str, Any] | None, head: Head) -> bool:
    """Whether results are those of this head, and not of one that was chosen before."""
    if entry is None:
        return False
    chosen, card = entry["chosen"], head.card
    known = (chosen["kind"], chosen["depth"], chosen["num_features"])
    return known == (card.kind, card.depth, card.num_features)


def _look_through(one: SharedHead, *, with_words: bool) -> None:
    folder, task = one.folder, one.head.card.task
    golden = read_outputs(folder)
    if golden is None:
        raise HeadError(
            f"{folder}: records no outputs for the golden texts, so whoever pulls it could not tell"
            " whether his model is the same; share another head, such as the chosen one, or"
            " consolidate again"
        )
    if own := set(golden.texts) - set(GOLDEN_TEXTS):
        raise HeadError(
            f"{folder / 'golden.json'}: holds {len(own)} texts that are not the made-up ones of"
            " this version and would be published; consolidate again"
        )
    if (folder / REFERENCE_FILE).is_file():
        Reference.read(folder, one.head)
    if one.num_words and not with_words:
        raise ConfigError(
            f"{folder}: the head of task {task!r} reads n-grams, so its lexicon.json holds"
            f" {one.num_words:,} words and pieces of words of the training texts, which would be"
            " published; give --with-words, or share a head that reads none"
        )
    for name in one.files:
        size = (folder / name).stat().st_size
        if size > FILES[name]:
            raise HeadError(
                f"{folder / name}: {size:,} bytes; no more than {FILES[name]:,} are pulled"
            )


def write_heads(
    heads: Iterable[SharedHead], folder: Path, *, licence: str | None = None
) -> list[str]:
    """Write what is shared of some heads into a folder, as it lies in a repository.

    Args:
        heads: from :func:`pack`.
        folder: an empty one.
        licence: terms that the heads are passed on under, in place of what they say themselves.

    Returns:
        The files, relative to ``folder``.

    Raises:
        HeadError: a head would not be the same any more.
    """
    written = []
    for one in heads:
        inside = f"{HEADS}/{one.head.card.task}"
        target = folder / inside
        target.mkdir(parents=True)
        for name in one.files:
            if name == CARD:
                card = _without_places(read_json(one.folder / name))
                write_json(target / name, card | ({"licence": licence} if licence else {}))
            else:
                shutil.copyfile(one.folder / name, target / name)
            written.append(f"{inside}/{name}")
        if Head.load(target).fingerprint != one.head.fingerprint:
            raise HeadError(f"{one.folder}: changed while it was read; run again")
    return written


def _without_places(card: Mapping[str, Any]) -> dict[str, Any]:
    """``head.json`` without places on this machine."""
    said = {name: _stripped(card[name]) for name in ("metrics", "provenance", "extraction")}
    extraction = said["extraction"]
    place, revision = model_of(card["extraction"])
    for section, key in (("backbone", "model"), ("extraction", "source")):
        if isinstance(own := extraction.get(section), dict) and key in own:
            own[key] = place
    if isinstance(backbone := extraction.get("backbone"), dict) and "revision" in backbone:
        backbone["revision"] = revision
    return {**card, **said}


def model_of(extraction: Mapping[str, Any]) -> tuple[str, str | None]:
    """The backbone as others may know it, and its commit.

    A hub name has a commit, ``package:NAME`` is installed; all else is a place on this machine, of
    which ``./NAME`` is left.
    """
    backbone = extraction["backbone"]
    model, revision = str(backbone.get("model", "")), backbone.get("revision")
    if model.startswith("package:"):
        return model, None
    if re.fullmatch(r"[0-9a-f]{40}", str(revision)) and not _PLACE.match(model):
        return model, revision
    return _last_part(model), None


def _stripped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: one if key in _NOT_PLACES else _stripped(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_stripped(one) for one in value]
    if isinstance(value, str) and _PLACE.match(value):
        return _last_part(value)
    return value


def _last_part(place: str) -> str:
    parts = [part for part in re.split(r"[/\\]", place) if part not in ("", ".", "..", "~")]
    return f"./{parts[-1]}" if parts else "./model"
