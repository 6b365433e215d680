"""Score on workers: tables of rows go out and come back, as files or in messages.

    with computing(scorer.score_along, config, recipe, output, say) as compute:
        for work, scored in compute(works):         # as of ``Scorer.score_along``
            ...

Where scores go to a bucket no disk need be shared: tables, heads and results travel in messages,
the heads to workers that say that they have none. A table's results depend on its own texts, and in
their last bits on a worker's number of cores; so it may be done again anywhere.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.cluster import Session, connected
from pipeline.config import RunConfig
from pipeline.heads import Drift
from pipeline.scoring.scorer import Carried, Compute, Scored, Scorer
from store.disk import is_url
from store.tables import read_json, write_json

SCRATCH = ".tables-"
_NOT_SENT = ("held_out.safetensors",)
"""Of a head's folder, since no scorer reads it, and it grows with the training texts."""
Files = tuple[tuple[str, bytes], ...]
"""The files of a head, by their names in its folder."""


@dataclass(frozen=True)
class ScoreRecipe:
    """What tables are scored with; small, for it travels with every table (with the heads in it to
    workers that have none yet)."""

    heads: tuple[str, ...]
    model: str | None
    device: str
    trust_remote_code: bool
    run: str
    """Of this run alone: a later one loads model and heads again."""
    packed: tuple[Files, ...] = ()
    """The heads themselves, for workers that do not see their folders."""

    @classmethod
    def of(
        cls, heads: Iterable[Path], *, model: str | None, device: str, trust_remote_code: bool
    ) -> ScoreRecipe:
        """The recipe of one scoring run; paths as workers see them."""
        folders = tuple(str(folder.resolve()) for folder in heads)
        return cls(folders, model, device, trust_remote_code, uuid.uuid4().hex)

    def with_heads(self) -> ScoreRecipe:
        """The recipe with the heads in it, for workers to whom their folders say nothing."""
        packed = tuple(_files_of(Path(folder)) for folder in self.heads)
        return replace(self, heads=(), packed=packed)

    @property
    def is_bare(self) -> bool:
        """Whether it serves only workers that have its heads."""
        return not self.heads and not self.packed

    def load(self) -> Scorer:
        """Runs on a worker: the scorer, checked on the golden texts."""
        loading = (self.model, self.device, self.trust_remote_code)
        if not self.packed:
            return _load([Path(folder) for folder in self.heads], *loading)
        with tempfile.TemporaryDirectory(prefix="salient-heads-") as root:
            folders = []
            for number, files in enumerate(self.packed):
                folders.append(folder := Path(root) / str(number))
                folder.mkdir()
                for name, content in files:
                    (folder / name).write_bytes(content)
            return _load(folders, *loading)


def _files_of(folder: Path) -> Files:
    found = sorted(one for one in folder.iterdir() if one.is_file() and one.name not in _NOT_SENT)
    return tuple((one.name, one.read_bytes()) for one in found)


def _load(folders: list[Path], model: str | None, device: str, trust_remote_code: bool) -> Scorer:
    return Scorer.load(folders, model=model, device=device, trust_remote_code=trust_remote_code)


@contextmanager
def computing(
    here: Compute | None,
    config: RunConfig | None,
    recipe: ScoreRecipe,
    output: Path | str,
    say: Callable[[str], None],
) -> Iterator[Compute | None]:
    """What computes scores: this process, or the workers of the run's cluster.

    Args:
        here: the scorer's method of this process; None in a dry run.
        config: the run, whose ``[cluster]`` says where; None: here.
        recipe: the scorer's heads and model.
        output: folder of scores; on the shared disk tables under way lie in it for a while, and
            nothing where it is a URL.
        say: called with a line for what happens to workers.
    """
    if here is None or config is None or config.cluster.kind == "local":
        yield here
        return
    if is_url(output):
        with connected(config.cluster, say=say) as session:
            packed = recipe.with_heads()
            yield lambda works: _score_sent(session, packed, works)
        return
    output = Path(output)
    scratch = output / f"{SCRATCH}{recipe.run}"
    inputs = list(recipe.heads)
    with connected(config.cluster, folders=[output], inputs=inputs, say=say) as session:
        scratch.mkdir(mode=0o700)

        def there(works: Iterable[tuple[Carried, pa.Table]]) -> Iterator[tuple[Carried, Scored]]:
            return _score(session, recipe, scratch, works)

        try:
            yield there
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _score(
    session: Session,
    recipe: ScoreRecipe,
    scratch: Path,
    works: Iterable[tuple[Carried, pa.Table]],
) -> Iterator[tuple[Carried, Scored]]:
    away: dict[int, Carried] = {}  # number of a table -> what goes along, which stays here

    def tasks() -> Iterator[tuple[ScoreRecipe, str]]:
        for number, (carried, table) in enumerate(works):
            away[number] = carried
            path = scratch / f"{number:08d}"
            _write(path.with_suffix(".rows"), table)
            yield recipe, str(path)

    wanted, ready = 0, set()
    for index, _ in session.stream(score_file, tasks(), gpu=session.gpu, whole_worker=True):
        ready.add(index)
        while wanted in ready:
            ready.remove(wanted)
            path = scratch / f"{wanted:08d}"
            scored = Scored(
                _read(path.with_suffix(".scores")),
                Drift.from_dict(read_json(path.with_suffix(".drift"))),
            )
            yield away.pop(wanted), scored
            for suffix in (".rows", ".scores", ".drift"):
                path.with_suffix(suffix).unlink()
            wanted += 1


def _score_sent(
    session: Session, recipe: ScoreRecipe, works: Iterable[tuple[Carried, pa.Table]]
) -> Iterator[tuple[Carried, Scored]]:
    """Score tables that go out and come back in messages, in their order."""
    bare, coming = replace(recipe, packed=()), enumerate(works)
    away: dict[int, tuple[Carried, bytes]] = {}
    turned_back = deque[int]()  # they came to a worker without heads, and go before any other

    def tasks(numbers: list[int]) -> Iterator[tuple[ScoreRecipe, bytes]]:
        while True:
            if turned_back:
                number, sent = turned_back.popleft(), recipe
            else:
                number, work = next(coming, (-1, None))
                if work is None:
                    return
                away[number], sent = (work[0], _as_bytes(work[1])), bare
            numbers.append(number)
            yield sent, away[number][1]

    wanted, ready = 0, dict[int, tuple[bytes, dict[str, Any]]]()
    more = True
    while more:
        numbers: list[int] = []  # of the tables, by their places in this stream
        for index, answer in session.stream(
            score_message, tasks(numbers), gpu=session.gpu, whole_worker=True
        ):
            if answer is None:
                turned_back.append(numbers[index])
                continue
            ready[numbers[index]] = answer
            while wanted in ready:
                content, drift = ready.pop(wanted)
                yield away.pop(wanted)[0], Scored(_of_bytes(content), Drift.from_dict(drift))
                wanted += 1
        more = bool(turned_back)  # the last ones, when no others were left to be drawn


_turn = threading.Lock()
_loaded: tuple[str, Scorer] | None = None
"""A run's name, and the scorer of it."""


def score_file(recipe: ScoreRecipe, stem: str) -> None:
    """Runs on a worker: score the rows in one file, leave the results beside it."""
    path = Path(stem)
    scored = _scored(recipe, lambda: _read(path.with_suffix(".rows")))
    _write(path.with_suffix(".scores"), scored.table)
    write_json(path.with_suffix(".drift"), scored.drift.to_dict())


def score_message(recipe: ScoreRecipe, rows: bytes) -> tuple[bytes, dict[str, Any]] | None:
    """Runs on a worker: score the rows of a message.

    Returns:
        The scores, and their drift as JSON; None if the worker needs the heads first.
    """
    with _turn:
        if recipe.is_bare and (_loaded is None or _loaded[0] != recipe.run):
            return None
    scored = _scored(recipe, lambda: _of_bytes(rows))
    return _as_bytes(scored.table), scored.drift.to_dict()


def _scored(recipe: ScoreRecipe, rows: Callable[[], pa.Table]) -> Scored:
    """Score rows with the scorer that this worker keeps, one table at a time."""
    global _loaded
    with _turn:
        if _loaded is None or _loaded[0] != recipe.run:
            _loaded = None
            _loaded = (recipe.run, recipe.load())
        return _loaded[1].score_table(rows())


def _as_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _of_bytes(content: bytes) -> pa.Table:
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()


def _write(path: Path, table: pa.Table) -> None:
    """Write a table under a name of its own and rename it: another worker may do the same."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)
    temporary.rename(path)


def _read(path: Path) -> pa.Table:
    with pa.ipc.open_file(str(path)) as reader:
        return reader.read_all()
