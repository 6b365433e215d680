"""What a user names on the command line, whichever of its names: a run, its TOML file, its store.

A run has a folder (with ``run.json``) and a TOML file, and reads a store; a command that needs one
of them takes the others where the meaning is clear. What is not there is looked for close by, so
that the message can name it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, did_you_mean, listed

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.progress import Say

RUN_SIGN, STORE_SIGN = "run.json", ".salient/snapshots"
"""What only a run's folder, and only a store, has in it."""
_LOOKED_AT = 1000
"""Entries of a folder that are looked at for what was meant, at most."""


def run_at(path: Path) -> Path:
    """A run's folder, or a file of its configuration, as the wings take them.

    Args:
        path: what was given: a run's folder or TOML file.

    Raises:
        ConfigError: neither; names the run that lies there, if one does.
    """
    _refuse_url(path)
    if path.is_dir() and not (path / RUN_SIGN).is_file():
        what = "is an activation store, not a run" if _is_store(path) else "no run here"
        raise ConfigError(f"{path}: {what}; {_hint(path, RUN_SIGN, _NO_RUN)}")
    if not path.exists():
        others = path.parent.glob("*") if path.parent.is_dir() else ()
        runs = [one for one in others if is_run(one) or one.suffix == ".toml"]
        raise ConfigError(f"{path}: no such file or folder{_close(path, runs)}")
    return path


def config_at(
    path: Path, *, allow_code: bool | None = None, folder: bool = True, say: Say | None = None
) -> RunConfig:
    """The configuration of a run; ConfigError in one line for what is wrong with it.

    Args:
        path: the TOML file of a run, or (with ``folder``) the folder of one that was extracted.
        allow_code: the model is loaded, and its own code may run even if the file is a job's; None:
            no model is loaded.
        folder: a run's folder says as much as the command needs.
        say: told what a folder says and is not done.
    """
    from pipeline.config import RunConfig

    if folder and path.is_dir():
        from pipeline.progress import silent
        from pipeline.runfolder import run_config

        found = run_config(run_at(path), say=say or silent)
    elif path.is_dir():
        raise ConfigError(_without_file(path))
    else:
        found = RunConfig.load(path)
    found = found.allowing_code() if allow_code else found
    if allow_code is False and found.code_withheld:
        raise ConfigError(
            f"{path}: asks for Python code that comes with the model {found.backbone.model}"
            " (trust_remote_code), and that would run as you; if you trust it, give"
            " --trust-remote-code, or name your own TOML file"
        )
    return found


def _without_file(path: Path) -> str:
    """A folder was given where only a TOML file says what to do."""
    what, near = "is a folder", [path]
    if is_run(path):
        what, near = "is a run's folder, and this command needs its TOML file", [path, path.parent]
    files = [str(one) for folder in near for one in _inside(folder) if one.suffix == ".toml"]
    if not files:
        return f"{path}: {what}; name a TOML file, as `salient init FILE` writes one"
    return f"{path}: {what}; there is {listed(files)}"


def placed(text: str | Path) -> Path | str:
    """A file or folder of this machine as a path; the address of a bucket, as s3://…, as typed."""
    from store.disk import is_url

    return str(text) if is_url(text) else Path(text)


def store_at(path: Path | str) -> str:
    """The folder or URL of a store: as given, or the one that a run reads.

    Args:
        path: a store, or a run's folder or TOML file.

    Raises:
        ConfigError: none of them, or a run whose store is not there.
    """
    if "://" in str(path):
        return str(path)
    path = Path(path)
    if _is_store(path):
        return str(path)
    if is_run(path) or (path.is_file() and path.suffix in (".toml", ".json")):
        from pipeline.runfolder import run_config

        store = run_config(path).store.path
        if "://" not in store and not _is_store(Path(store)):
            raise ConfigError(
                f"{path}: its store should be at {store}, and is not there; `salient extract` makes"
                " it; if it was moved, name the store itself"
            )
        return store
    if not path.exists():
        others = path.parent.glob("*") if path.parent.is_dir() else ()
        stores = [one for one in others if _is_store(one) or is_run(one)]
        raise ConfigError(f"{path}: no such file or folder{_close(path, stores)}")
    if hint := _hint(path, STORE_SIGN, ""):
        raise ConfigError(f"{path}: no activation store here; {hint}")
    return str(path)  # whoever opens it says what is there instead


def lies_near(path: Path, *signs: str) -> str:
    """The runs (or stores) inside a folder, for a message: ``; there is one at …`` or ``""``."""
    for sign in signs or (RUN_SIGN, STORE_SIGN):
        if hint := _hint(path, sign, ""):
            return f"; {hint}"
    return ""


_NO_RUN = "name a run's folder, which has a run.json, or its TOML file"


def _hint(path: Path, sign: str, otherwise: str) -> str:
    """Where close by the thing is that was meant."""
    found = [str(one) for one in (*_inside(path), *_below(path)) if (one / sign).exists()]
    if not found and sign == RUN_SIGN and _is_store(path):
        found = [str(one) for one in _inside(path.parent) if is_run(one)]
    if not found:
        return otherwise
    return f"there is one at {found[0]}" if len(found) == 1 else f"there are {listed(found)}"


def _close(path: Path, others: list[Path]) -> str:
    hint = did_you_mean(str(path), map(str, others))
    return f"; {hint}" if hint else ""


def _inside(path: Path) -> Iterator[Path]:
    """What lies in a folder, in order of names; nothing of one that cannot be read."""
    try:
        yield from sorted(path.iterdir())[:_LOOKED_AT]
    except OSError:
        return


def _below(path: Path) -> Iterator[Path]:
    """What lies in the folders of a folder."""
    for one in _inside(path):
        if one.is_dir() and not one.name.startswith(".") and not _is_store(one):
            yield from _inside(one)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return (path / RUN_SIGN).is_file()


def _is_store(path: Path) -> bool:
    return (path / STORE_SIGN).is_dir()


def _refuse_url(path: Path | str) -> None:
    text = str(path)
    if "://" in text or (":/" in text and not Path(text).exists()):  # Path takes a slash of two
        from store.disk import address_as_typed

        typed = address_as_typed(text)
        raise ConfigError(f"{typed}: runs lie in local or shared folders; copy it there first")
