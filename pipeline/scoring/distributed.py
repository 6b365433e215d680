"""Score on workers: tables of rows go out and come back as files on the shared disk.

    with computing(scorer.score_along, config, recipe, output, say) as compute:
        for work, scored in compute(works):         # as of ``Scorer.score_along``
            ...

A table's results depend on its own texts, and in their last bits on a worker's number of cores; so
it may be done again anywhere.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.cluster import Session, connected
from pipeline.config import RunConfig
from pipeline.heads import Drift
from pipeline.scoring.scorer import Carried, Compute, Scored, Scorer
from store.tables import read_json, write_json

SCRATCH = ".tables-"


@dataclass(frozen=True)
class ScoreRecipe:
    """What tables are scored with; small, for it travels with every table."""

    heads: tuple[str, ...]
    model: str | None
    device: str
    trust_remote_code: bool
    run: str
    """Of this run alone: a later one loads model and heads again."""

    @classmethod
    def of(
        cls, heads: Iterable[Path], *, model: str | None, device: str, trust_remote_code: bool
    ) -> ScoreRecipe:
        """The recipe of one scoring run; paths as workers see them."""
        folders = tuple(str(folder.resolve()) for folder in heads)
        return cls(folders, model, device, trust_remote_code, uuid.uuid4().hex)


@contextmanager
def computing(
    here: Compute | None,
    config: RunConfig | None,
    recipe: ScoreRecipe,
    output: Path,
    say: Callable[[str], None],
) -> Iterator[Compute | None]:
    """What computes scores: this process, or the workers of the run's cluster.

    Args:
        here: the scorer's method of this process; None in a dry run.
        config: the run, whose ``[cluster]`` says where; None: here.
        recipe: the scorer's heads and model.
        output: folder of scores, on the shared disk; tables under way lie in it for a while.
        say: called with a line for what happens to workers.
    """
    if here is None or config is None or config.cluster.kind == "local":
        yield here
        return
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


_turn = threading.Lock()
_loaded: tuple[ScoreRecipe, Scorer] | None = None


def score_file(recipe: ScoreRecipe, stem: str) -> None:
    """Runs on a worker: score the rows in one file, leave the results beside it."""
    global _loaded
    path = Path(stem)
    with _turn:
        if _loaded is None or _loaded[0] != recipe:
            _loaded = None
            scorer = Scorer.load(
                [Path(folder) for folder in recipe.heads],
                model=recipe.model,
                device=recipe.device,
                trust_remote_code=recipe.trust_remote_code,
            )
            _loaded = (recipe, scorer)
        scored = _loaded[1].score_table(_read(path.with_suffix(".rows")))
    _write(path.with_suffix(".scores"), scored.table)
    write_json(path.with_suffix(".drift"), scored.drift.to_dict())


def _write(path: Path, table: pa.Table) -> None:
    """Write a table under a name of its own and rename it: another worker may do the same."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)
    temporary.rename(path)


def _read(path: Path) -> pa.Table:
    with pa.ipc.open_file(str(path)) as reader:
        return reader.read_all()
