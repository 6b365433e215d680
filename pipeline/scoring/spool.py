"""Standard input, named ``-``, as a file like any other.

    with standard_input(inputs, say=say) as (inputs, names):
        ...                                       # names: path -> what the user calls it

Whatever comes is written to a file in the system's folder for temporary files (``TMPDIR`` names
another), for recognition and unpacking look at it more than once; no more than a chunk of it is in
memory. The file's name holds the digest of its content, so that ids that are made of the name tell
two nights' streams apart, and know the same stream again. What a killed run has left there, the
next one removes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.errors import ConfigError
from pipeline.progress import Say, silent
from store.errors import StoreBusy

STDIN = Path("-")
NAME = "stdin"
"""What standard input is called in ``source_file`` and in messages."""
_PREFIX = "salient-stdin-"
_DIGEST_CHARS = 12
_CHUNK_BYTES = 1 << 20


@contextmanager
def standard_input(
    inputs: Sequence[Path], *, stream: IO[bytes] | None = None, say: Say = silent
) -> Iterator[tuple[list[Path], Mapping[Path, str]]]:
    """Inputs with a file in place of ``-``, for as long as the ``with`` block lasts.

    Args:
        inputs: files, folders, patterns; ``-`` is standard input.
        stream: what is read; default this process's standard input.
        say: told of how much came.

    Yields:
        The inputs, and the name of the file that stands for standard input, if there is one.

    Raises:
        ConfigError: ``-`` is named twice, or standard input is a terminal or closed.
        StoreBusy: no room for what comes.
    """
    if STDIN not in inputs:
        yield list(inputs), {}
        return
    if inputs.count(STDIN) > 1:
        raise ConfigError("-: standard input is named twice, and can be read once; name it once")
    stream = _checked(stream)
    root = Path(tempfile.gettempdir())
    _remove_leftovers(root)
    folder, held = _own_folder(root)
    try:
        path, num_bytes = _spooled(stream, folder)
        say(f"{NAME}: {num_bytes:,} bytes, kept in {folder} until they are scored")
        yield [path if one == STDIN else one for one in inputs], {path: NAME}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _own_folder(root: Path) -> tuple[Path, int]:
    """A new folder, and what holds its lock until it is closed."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        with suppress(FileNotFoundError):
            held = os.open(folder, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
            if folder.exists():
                return folder, held
            os.close(held)
        # Another run that began just now has taken it for a leftover, for it was not locked yet.


def _checked(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        if sys.stdin is None or sys.stdin.closed:
            raise ConfigError("-: standard input is closed; pipe a file into it, or name files")
        stream = sys.stdin.buffer
    if stream.isatty():
        raise ConfigError(
            "-: standard input is a terminal, not a file; pipe one into it, as in"
            " `zcat day.jsonl.gz | salient score - …`, or name files"
        )
    return stream


def _spooled(stream: IO[bytes], folder: Path) -> tuple[Path, int]:
    """The file that holds all that comes, and its size."""
    digest, num_bytes, path = hashlib.sha256(), 0, folder / NAME
    try:
        with path.open("wb") as file:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                num_bytes += file.write(chunk)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreBusy(
            f"-: no room for standard input in {folder.parent} after {num_bytes:,} bytes; set"
            " TMPDIR to a folder on a larger disk, or name files"
        ) from None
    named = folder / f"{NAME}-{digest.hexdigest()[:_DIGEST_CHARS]}"
    path.rename(named)
    return named, num_bytes


def _remove_leftovers(root: Path) -> None:
    """Remove what runs of this user that were killed have left: nobody holds its lock."""
    for folder in root.glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # gone since, or another user's
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use
            pass
        finally:
            os.close(held)
