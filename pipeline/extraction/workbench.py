"""What a worker does for an extraction: load the model once, then one block after another.

``compute_block`` runs one block; while it is written the next one is computed. Only names and
counts travel: texts come from the plan in the store, and where the store keeps none from a file
that is there for the time of the extraction; only where no disk is shared they travel too.
Activations go straight into the store, on a shared disk or in a bucket.

A block is marked while it is computed. A mark that stays is the trace of a process that died over
it: after ``MAX_CRASHES`` of them the block is set aside instead of killing another.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.cluster import WorkerRefused
from pipeline.config import BackboneConfig, RunConfig
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.footprint import Footprint, resident_bytes
from pipeline.extraction.golden import write_golden
from pipeline.extraction.proving import proved
from pipeline.extraction.storing import StoreOptions, extract_block, load_for_store, open_store
from pipeline.extraction.throughput import Meter
from store import ActivationStore, AppendPlan, Block
from store.disk import Deletes, Lists, LocalLocation, ObjectLocation, Puts, locate

MAX_CRASHES = 3
TEXTS = "texts.arrow"


@dataclass(frozen=True)
class Recipe:
    """What blocks are made with; small, for it travels with every block."""

    backbone: BackboneConfig
    device: str
    store: str
    """The store's folder or address."""
    options: StoreOptions
    run: str
    """Of this run alone: a later one loads the model again, for its files may have changed."""

    @classmethod
    def of(cls, config: RunConfig) -> Recipe:
        """The recipe of a run."""
        return cls(
            backbone=config.backbone,
            device=config.cluster.device,
            store=config.store.path,
            options=StoreOptions.of(config),
            run=uuid.uuid4().hex,
        )

    def load(self) -> Extractor:
        """The extractor, with its model loaded."""
        backbone = load_for_store(self.backbone, self.store, device=self.device)
        return self.options.going_on(self.store).extractor(backbone)


@dataclass(frozen=True)
class BlockReport:
    """What became of one block."""

    start: int
    worker: str
    """Host and process."""
    elapsed_s: float = 0.0
    meter: Meter = field(default_factory=Meter)
    """Its memory is that of the worker's process."""
    crashed: tuple[str, ...] = ()
    """Workers that died over the block before."""
    set_aside: bool = False
    """Whether the block was not tried again: it has killed ``MAX_CRASHES`` workers."""
    engine: str = ""
    """Kernels that ran."""


class _Workbench:
    """One process's model and open store, and whose turn it is.

    A block holds the cores until it is computed, then the disk until it is written; the next one
    is computed meanwhile, and waits with the cores in hand until the disk is free::

        block 1   |-- cores --|-- disk --|
        block 2               |-- cores --|---- disk ----|
        block 3                           |-- cores --...|-- disk --|

    So no more than two blocks are in memory.
    """

    def __init__(self) -> None:
        self.cores = threading.Lock()
        self.disk = threading.Lock()
        self._recipe: Recipe | None = None
        self._extractor: Extractor | None = None
        self._plan: tuple[str, ActivationStore, AppendPlan] | None = None
        self.before_bytes = 0
        """Memory of the process once its model was loaded."""

    @contextmanager
    def computing(self) -> Iterator[Callable[[], None]]:
        """Hold the cores; calling what this yields changes them for the disk."""
        with ExitStack() as disk, ExitStack() as cores:
            cores.enter_context(self.cores)

            def then_writing() -> None:
                disk.enter_context(self.disk)
                cores.close()
                _let_another_begin()

            yield then_writing

    def extractor(self, recipe: Recipe) -> Extractor:
        if self._extractor is None or recipe != self._recipe:
            self._extractor = None  # gone before the next one comes: both may not fit
            self._extractor, self._recipe = recipe.load(), recipe
            self.before_bytes = resident_bytes()
        return self._extractor

    def plan(self, path: str, plan_id: str) -> tuple[ActivationStore, AppendPlan]:
        # Opening a plan looks at each of its blocks: once is enough.
        if self._plan is None or self._plan[0] != plan_id:
            store = ActivationStore.open(path)
            self._plan = (plan_id, store, store.open_plan(plan_id))
        return self._plan[1], self._plan[2]


_bench = _Workbench()


def prepare_store(recipe: Recipe, num_texts: int, recorded: bytes | None) -> dict[str, Any]:
    """Open the store for the recipe's model, or create it.

    Args:
        recipe: of the run.
        num_texts: of the corpus.
        recorded: the file of what the golden texts activate, as the run has it.

    Returns:
        The model's description, with ``remarks`` for the user, whether heads must load it
        ``whole``, and ``golden``: that file as it is to be.

    Raises:
        BackboneError, ExtractError: as of ``load_backbone``, ``proved`` and ``open_store``.
    """
    with _bench.cores:
        extractor = _bench.extractor(recipe)
        settings, remarks = proved(extractor, recipe.backbone)
        options = recipe.options.noting(settings)
        open_store(recipe.store, extractor, options, num_texts=num_texts)
        return {
            **extractor.backbone.describe(),
            "remarks": remarks,
            "whole": settings.whole,
            "golden": _golden(extractor, options.dtype, recorded),
        }


def _golden(extractor: Extractor, dtype: str, recorded: bytes | None) -> bytes:
    with tempfile.TemporaryDirectory(prefix="salient-golden-") as folder:
        path = Path(folder) / "golden.safetensors"
        if recorded is not None:
            path.write_bytes(recorded)
        write_golden(path, extractor, stored_dtype=dtype)
        return path.read_bytes()


def compute_block(
    recipe: Recipe,
    plan_id: str,
    start: int,
    stop: int,
    scratch: str,
    texts: pa.Table | None,
) -> BlockReport:
    """Compute and write one block of a plan; harmless if it is written already.

    Args:
        recipe: of the run.
        plan_id: of the append under way.
        start, stop: positions of the block's samples.
        scratch: folder or address for marks, which all workers share.
        texts: columns id and text of the block, where neither store nor scratch hold them.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}"
    bench = _bench
    with bench.cores:
        store, plan = bench.plan(recipe.store, plan_id)
    block = next(block for block in plan.all_blocks if block.start == start)
    assert block.stop == stop
    marks = _marks(scratch)
    crashed = _crashed(marks, start)
    if plan.is_finished(block):
        return BlockReport(start, worker, crashed=crashed)
    if len(crashed) >= MAX_CRASHES:
        return BlockReport(start, worker, crashed=crashed, set_aside=True)
    with bench.computing() as then_writing, _marked(marks, start, worker):
        begin = time.perf_counter()
        extractor = bench.extractor(recipe)
        _check_model(extractor, recipe, store)
        extractor.meter = meter = Meter()
        if texts is None and not store.schema.store_text:
            texts = _block_texts(plan, block, Path(scratch))
        extract_block(extractor, store, plan, block, texts=texts, on_computed=then_writing)
        size, device = store.schema.bytes_per_sample, extractor.backbone.device
        meter.memory = Footprint.now(bench.before_bytes, len(block), size, device)
        elapsed_s, engine = time.perf_counter() - begin, extractor.backbone.engine
        return BlockReport(start, worker, elapsed_s, meter, crashed, engine=engine)


def _check_model(extractor: Extractor, recipe: Recipe, store: ActivationStore) -> None:
    """Each worker reads the model from its own disk, which may hold another one."""
    normalisation = recipe.options.normalisation
    if extractor.compared(store.schema.fingerprint, normalisation=normalisation) is None:
        from distributed import get_worker

        raise WorkerRefused(
            get_worker().address,
            f"{recipe.backbone.model} is another model there than the store's; give all workers"
            " the same files",
        )


class _Marks(Puts, Lists, Deletes, Protocol):
    """Where blocks are marked."""

    def read(self, path: str) -> bytes:
        """A mark."""


@contextmanager
def _marked(marks: _Marks, start: int, worker: str) -> Iterator[None]:
    """Leave a mark on a block, which stays if the process dies over it."""
    mark = f"{start}-{uuid.uuid4().hex[:8]}"
    marks.put(mark, worker.encode())
    try:
        yield
    finally:
        marks.delete([mark])


def _crashed(marks: _Marks, start: int) -> tuple[str, ...]:
    """Who died over the block that starts there."""
    found = [one.path for one in marks.list() if one.path.startswith(f"{start}-")]
    return tuple(marks.read(path).decode() for path in found)


def _marks(scratch: str) -> _Marks:
    place = locate(scratch)
    assert isinstance(place, LocalLocation | ObjectLocation)
    return place


def clear_marks(scratch: str) -> None:
    """Take all marks away."""
    marks = _marks(scratch)
    marks.delete([one.path for one in marks.list()])


def write_texts(plan: AppendPlan, find: Callable[[Block], pa.Table], scratch: Path) -> None:
    """Leave the texts of a plan for workers where the store itself keeps none."""
    schema = pa.schema({"id": pa.string(), "text": pa.string()})
    with pa.ipc.new_file(str(scratch / TEXTS), schema) as writer:
        for block in plan.all_blocks:
            writer.write(find(block).combine_chunks().to_batches(len(block))[0])


def _block_texts(plan: AppendPlan, block: Block, scratch: Path) -> pa.Table:
    with pa.memory_map(str(scratch / TEXTS)) as source, pa.ipc.open_file(source) as reader:
        return pa.Table.from_batches([reader.get_batch(plan.all_blocks.index(block))])


def _let_another_begin() -> None:
    """A worker has one slot: Dask begins the next block only when this one gives it back."""
    from distributed import secede

    with suppress(ValueError):  # not on a worker
        secede()
