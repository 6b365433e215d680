"""The file that ``salient init`` writes: a commented starter, or one that fits a labelled file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import BackboneUnreachable, ConfigError, missing

if TYPE_CHECKING:
    from pipeline.texts import Glance

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEADER = re.compile(r"^(?:# )?\[+([a-z]+)\]+")
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")


def packaged(name: str) -> str:
    """A text file of the package."""
    return resources.files("pipeline").joinpath(name).read_text(encoding="utf-8")


def starter(target: Path, found: Glance, *, model: str | None, layout: dict[str, Any]) -> str:
    """The starter configuration with a file's columns and tasks in it, and a backbone.

    Args:
        target: where the configuration is going to lie.
        found: what the file holds.
        model: a folder, ``package:NAME``, or a hub name, with ``@COMMIT`` or without; None: that
            of the starter.
        layout: keys of the corpus entry that say how the file is read.

    Raises:
        ConfigError: a hub name whose commit cannot be found out.
    """
    sections = _sections(packaged("starter.toml"))
    name = _ODD.sub("-", found.path.name.partition(".")[0]).strip("-._") or "my-run"
    sections[""] = sections[""].replace('"my-run"', f'"{name}"').replace("/my-run", f"/{name}")
    if model is not None:
        sections["backbone"] = _with_model(sections["backbone"], model, target.parent)
    sections["corpus"] = "\n".join(_corpus(target, found, layout)) + "\n\n"
    sections["tasks"] = "\n".join(_tasks(found)) + "\n"
    return "".join(sections.values())


def _sections(text: str) -> dict[str, str]:
    """Section, also one that is commented out -> its lines, from its header on."""
    found, name = {"": ""}, ""
    for line in text.splitlines(keepends=True):
        if match := _HEADER.match(line):
            name = match[1]
        found[name] = found.get(name, "") + line
    return found


_STORE = re.compile(r'^path = "activations".*\n', re.MULTILINE)
_STORAGE = """\
# [storage]                      # how the bucket is reached; credentials: the environment's
# endpoint = "http://127.0.0.1:9000"    # of MinIO and the like; allow_http where it has no TLS
# allow_http = true
# region = "eu-central-1"

"""
_BEFORE = "# One [[corpus]]"
"""The line of the starter that comes behind the store."""


def with_store(target: Path, text: str, store: str) -> str:
    """A starter whose store lies in another folder, or in a bucket; then ``[storage]`` is shown.

    Args:
        target: where the configuration is going to lie.
        text: the starter.
        store: a folder or an address.

    Raises:
        ConfigError: no such address can be.
    """
    import tomllib

    from pipeline.config import RunConfig, is_address, toml_value

    bucket = is_address(store)
    place = store if bucket else _seen_from(target.parent, Path(store).expanduser())
    sections = _sections(text)
    line = f"path = {toml_value(place)}\n"
    sections["store"] = _STORE.sub(lambda _: line, sections["store"], count=1)
    if bucket:
        sections["store"] = sections["store"].replace(_BEFORE, f"{_STORAGE}{_BEFORE}")
    written = "".join(sections.values())
    RunConfig.from_dict(tomllib.loads(written), origin=target)
    return written


def _with_model(text: str, model: str, base: Path) -> str:
    from pipeline.config import toml_value

    model, revision = _pinned(model, base)
    lines = [f"model = {toml_value(model)}\n"]
    lines += [f"revision = {toml_value(revision)}\n"] if revision is not None else []
    rest = [line for line in text.splitlines(keepends=True) if not line.startswith(_PINNED)]
    return "".join([rest[0], *lines, *rest[1:]])


_PINNED = ("model =", "revision =")


def _pinned(model: str, base: Path) -> tuple[str, str | None]:
    """The name of a backbone, and of one on the hub its commit.

    Raises:
        ConfigError: it is not known, and cannot be asked for.
        BackboneUnreachable: nor does the hub answer now.
    """
    from pipeline.config import is_model_path

    if model.startswith("package:"):
        return model, None
    if is_model_path(model) or Path(model).is_dir():
        if not Path(model).expanduser().is_dir():
            raise ConfigError(f"--model {model}: no such folder")
        return _seen_from(base, Path(model).expanduser()), None
    name, _, revision = model.partition("@")
    if not revision:
        return name, _newest(name)
    if not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"--model {model}: {revision!r} is no commit, which has 40 digits of 0-9 and a-f; copy"
            " it from the model's page, or leave it out for the newest"
        )
    return name, revision


def _newest(name: str) -> str:
    """The newest commit of a model on the hub."""
    how = f"give its commit, as --model {name}@COMMIT (40 digits, on the model's page)"
    from pipeline.backbone import told

    try:
        hub = import_module("huggingface_hub")
    except ModuleNotFoundError:
        raise missing("huggingface_hub", f"--model {name}: to ask for its commit") from None
    try:
        with told(
            f"--model {name}",
            "found here as a folder, nor asked for on the hub",
            refused=ConfigError,
            unreachable=BackboneUnreachable,
        ):
            return str(hub.HfApi().model_info(name, timeout=20).sha)
    except BackboneUnreachable as error:
        raise BackboneUnreachable(f"{error}; or {how}") from None


def _corpus(target: Path, found: Glance, layout: dict[str, Any]) -> Iterator[str]:
    from pipeline.config import toml_key, toml_value

    yield "[[corpus]]"
    yield f"path = {toml_value(_seen_from(target.parent, found.path))}  # {found.num_rows:,} rows"
    for key, value in layout.items():
        yield f"{key} = {toml_value(value)}"
    for use in ("text", "id", "time", "author", "split"):
        if use in found.columns:
            yield f"{use} = {toml_value(found.columns[use])}"
    for note in found.notes:
        yield f"# {note}"
    labels = [f"{toml_key(one.name)} = {toml_value(one.column)}" for one in found.tasks]
    yield f"labels = {{ {', '.join(labels)} }}  # task name = label column"
    if separator := next((one.separator for one in found.tasks if one.separator), None):
        yield f"separator = {toml_value(separator)}"


def _tasks(found: Glance) -> Iterator[str]:
    from pipeline.config import toml_value

    for task in found.tasks:
        yield "[[tasks]]"
        yield f"name = {toml_value(task.name)}"
        kept = "".join(sign for sign in task.why if sign.isprintable())
        yield f"type = {toml_value(task.type)}  # {kept}"
        yield ""


def _seen_from(base: Path, path: Path) -> str:
    """A path as a file in ``base`` names it: relative where it lies below, else absolute."""
    from pipeline.config import is_address

    if is_address(str(path)):
        return str(path)
    base, full = base.resolve(), path.resolve()
    return os.path.relpath(full, base) if full.is_relative_to(base) else str(full)
