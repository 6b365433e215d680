"""Extract a corpus on workers: the blocks of one append, spread over a session.

This process reads the corpus, plans and commits; workers load the model and write the blocks. Run
again to resume: finished blocks are not computed again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cluster import Session
from pipeline.config import RunConfig
from pipeline.errors import ExtractError
from pipeline.events import BlockWritten, Tally, emit
from pipeline.extraction.footprint import Footprint
from pipeline.extraction.storing import check_disk
from pipeline.extraction.throughput import ExtractReport, Meter
from pipeline.extraction.workbench import (
    MAX_CRASHES,
    BlockReport,
    Recipe,
    clear_marks,
    compute_block,
    prepare_store,
    write_texts,
)
from pipeline.progress import Say
from pipeline.runfolder import RunFolder
from store import ActivationStore, AppendPlan, Block, StoreError, disk
from store.tables import write_table

SCRATCH, MARKS = ".blocks", "marks"
"""Folder in the run's, while blocks are under way: marks of who computes what; and the one beside a
bucket's snapshots."""
SET_ASIDE = "set_aside.parquet"
"""In the run's folder: the texts that the last extraction set aside, and the workers they killed;
the next one tries them again."""
SET_ASIDE_SCHEMA = pa.schema({"id": pa.string(), "workers": pa.string()})
MAX_SET_ASIDE = 5
"""More blocks than this are no accident."""


@dataclass(frozen=True)
class WorkerShare:
    """What one worker did."""

    num_blocks: int
    num_texts: int
    num_tokens: int
    busy_s: float
    """Seconds spent on blocks, loading the model included."""
    memory: Footprint
    """The most of its blocks."""

    @property
    def texts_per_s(self) -> float:
        """Rate while busy."""
        return self.num_texts / self.busy_s if self.busy_s else 0.0


@dataclass(frozen=True, kw_only=True)
class ClusterReport(ExtractReport):
    """What an extraction on workers did; stages' seconds are summed over the workers."""

    num_retries: int
    """How often a block ran again because its worker was lost."""
    num_set_aside: int = 0
    """Texts of blocks that killed their workers; listed in the run's ``set_aside.parquet``."""
    workers: Mapping[str, WorkerShare] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """All figures, JSON-ready."""
        shares = {
            name: {
                "num_blocks": share.num_blocks,
                "num_texts": share.num_texts,
                "num_tokens": share.num_tokens,
                "busy_s": share.busy_s,
                "texts_per_s": share.texts_per_s,
                "estimated_bytes": share.memory.estimated,
                "peak_bytes": share.memory.peak,
                "gpu_bytes": share.memory.gpu,
            }
            for name, share in self.workers.items()
        }
        return {**super().to_dict(), "workers": shares}

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self.num_set_aside:
            lines.append(
                f"{self.num_set_aside:,} texts set aside: their blocks killed {MAX_CRASHES} workers"
                f" each; {SET_ASIDE} in the run's folder lists them, the next run tries them again"
            )
        if self.num_retries:
            lines.append(f"{self.num_retries} times a block ran again after its worker was lost")
        for name, share in sorted(self.workers.items()):
            gpu = share.memory.gpu
            memory = f", {gpu / 1e9:.1f} GB of GPU memory" if gpu else ""
            lines.append(
                f"worker {name}: {share.num_blocks} blocks, {share.num_texts:,} texts in"
                f" {share.busy_s:.1f} s, {share.texts_per_s:,.0f} texts/s{memory}"
            )
        return "\n".join(lines)


def extract_on_workers(
    config: RunConfig, texts: pa.Table, session: Session, *, say: Say
) -> tuple[ClusterReport, pa.Table]:
    """Extract the texts that the store does not have yet, on a session's workers.

    Args:
        config: the run.
        texts: columns id and text, and what else ``ActivationStore.plan_append`` takes.
        session: with workers.
        say: called with progress.

    Returns:
        The report, and the texts that were set aside: ``SET_ASIDE_SCHEMA``.

    Raises:
        ExtractError: the store does not fit, the disk is too small, or block after block kills its
            workers. One or a few that do are set aside.
        ClusterError: workers or scheduler stay away.
    """
    begin = time.perf_counter()
    retries = session.num_retries
    recipe = Recipe.of(config)
    golden = RunFolder(Path(config.run_dir)).golden
    recorded = golden.read_bytes() if golden.is_file() else None
    model = session.call(prepare_store, recipe, texts.num_rows, recorded, gpu=session.gpu)
    if model["golden"] != recorded:
        disk.write_files({golden: [model["golden"]]})
    say(
        f"backbone: {model['model_type']}, {model['num_layers']} blocks of {model['neuron_size']}"
        f" neurons, on {session.num_slots()} workers"
    )
    for remark in model["remarks"]:
        say(remark)
    store = ActivationStore.open(config.store.path)
    scratch = _scratch(config)
    reports: list[BlockReport] = []
    aside = SET_ASIDE_SCHEMA.empty_table()
    num_known = 0
    try:
        while True:
            plan = store.plan_append(texts)
            num_known = max(num_known, plan.num_known)
            found = _run_blocks(session, recipe, store, plan, texts, scratch)
            reports += found
            deadly = next((report for report in found if report.set_aside), None)
            snapshot = store.commit()
            if deadly is None:
                break
            texts, more = _without(texts, plan, deadly)
            aside = pa.concat_tables([aside, more])
            say(
                f"set aside {len(more):,} texts, ids {more['id'][0].as_py()!r} to"
                f" {more['id'][-1].as_py()!r}: {len(deadly.crashed)} workers died over their block"
                f" ({', '.join(deadly.crashed)}); the others go on"
            )
            if sum(report.set_aside for report in reports) > MAX_SET_ASIDE:
                raise ExtractError(
                    f"{config.store.path}: more than {MAX_SET_ASIDE} blocks killed {MAX_CRASHES}"
                    " workers each, so the texts are not to blame; give workers more memory"
                    " (cluster.memory), or fewer texts at a time (store.samples_per_shard of a new"
                    " store), and run again: what is finished is kept"
                )
    finally:
        store.release()
        with suppress(StoreError):  # what is left there is no harm
            _clear(scratch)
    report = _summary(
        reports,
        num_known=num_known,
        num_set_aside=len(aside),
        num_retries=session.num_retries - retries + sum(len(r.crashed) for r in reports),
        elapsed_s=time.perf_counter() - begin,
        snapshot_id=snapshot,
        whole=model["whole"],
    )
    return report, aside


def _scratch(config: RunConfig) -> str:
    """Where workers leave marks: in the run's folder, or where they see none beside the store."""
    if disk.is_url(config.store.path):
        return disk.join(config.store.path, ".salient", MARKS)
    return str(Path(config.run_dir) / SCRATCH)


def _clear(scratch: str) -> None:
    if disk.is_url(scratch):
        clear_marks(scratch)
    else:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_blocks(
    session: Session,
    recipe: Recipe,
    store: ActivationStore,
    plan: AppendPlan,
    texts: pa.Table,
    scratch: str,
) -> list[BlockReport]:
    """Have a plan's blocks written; ends early with a block that must be set aside."""
    todo, done = sum(len(block) for block in plan.blocks), 0
    if not todo:
        return []
    check_disk(store.location.address, todo * store.schema.bytes_per_sample)
    _clear(scratch)  # of a driver that was killed: nobody else appends
    if not disk.is_url(scratch):
        Path(scratch).mkdir(mode=0o700)
    find = None if store.schema.store_text else _finder(plan, texts)
    if find is not None and not disk.is_url(scratch):
        write_texts(plan, find, Path(scratch))
        find = None
    tasks = (
        (recipe, plan.id, block.start, block.stop, scratch, find and find(block))
        for block in plan.blocks
    )
    reports, tally = [], Tally("extracted", todo, "texts")
    stream = session.stream(compute_block, tasks, gpu=session.gpu, whole_worker=True, give_up=False)
    with closing(stream):
        for index, report in stream:
            reports.append(report)
            if report.set_aside:
                break
            block = plan.blocks[index]
            done += len(block)
            if report.meter.num_texts:
                emit(_written(store, block, report))
            tally(done, note=f"{len(session.workers())} workers")
    return reports


def _finder(plan: AppendPlan, texts: pa.Table) -> Callable[[Block], pa.Table]:
    """How to get a block's texts, columns id and text, for a worker."""
    by_id = dict(zip(texts["id"].to_pylist(), texts["text"].to_pylist(), strict=True))

    def find(block: Block) -> pa.Table:
        ids = plan.samples(block)["id"].to_pylist()
        own = [by_id.get(key, "") for key in ids]
        return pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(own, pa.string())})

    return find


def _written(store: ActivationStore, block: Block, report: BlockReport) -> BlockWritten:
    memory = report.meter.memory
    return BlockWritten(
        store=store.location.address,
        start=block.start,
        stop=block.stop,
        elapsed_s=report.elapsed_s,
        estimated_bytes=memory.estimated,
        peak_bytes=memory.peak,
        gpu_bytes=memory.gpu,
        worker=report.worker,
    )


def _without(texts: pa.Table, plan: AppendPlan, report: BlockReport) -> tuple[pa.Table, pa.Table]:
    """The texts but for those of a block, under whatever ids, and a table of what was set aside.

    A store has no gaps: what was written behind the block moves up, so it is computed again. That
    is little, for a deadly block is tried again, and so found out, before others are begun.
    """
    block = next(block for block in plan.all_blocks if block.start == report.start)
    own = pc.is_in(texts["id"], value_set=plan.samples(block)["id"].combine_chunks())
    same = pc.is_in(texts["text"], value_set=texts.filter(own)["text"].combine_chunks())
    ids = texts.filter(same)["id"]
    workers = pa.array([", ".join(report.crashed)] * len(ids), pa.string())
    return texts.filter(pc.invert(same)), pa.table([ids, workers], schema=SET_ASIDE_SCHEMA)


def write_set_aside(run_dir: Path, aside: pa.Table) -> None:
    """Leave the list of what was set aside in the run's folder; none if nothing was."""
    path = run_dir / SET_ASIDE
    if len(aside):
        write_table(path, aside)
    else:
        path.unlink(missing_ok=True)


def _summary(
    reports: list[BlockReport],
    *,
    num_known: int,
    num_set_aside: int = 0,
    num_retries: int,
    elapsed_s: float,
    snapshot_id: str,
    whole: bool,
) -> ClusterReport:
    total = Meter()
    shares: dict[str, WorkerShare] = {}
    for report in reports:
        meter = report.meter
        for name in ("num_texts", "num_tokens", "num_slots", "num_truncated", "flops"):
            setattr(total, name, getattr(total, name) + getattr(meter, name))
        total.memory = total.memory.most(meter.memory)
        for stage, seconds in meter.stage_s.items():
            total.stage_s[stage] += seconds
        if meter.num_texts:
            before = shares.get(report.worker, WorkerShare(0, 0, 0, 0.0, Footprint()))
            shares[report.worker] = WorkerShare(
                before.num_blocks + 1,
                before.num_texts + meter.num_texts,
                before.num_tokens + meter.num_tokens,
                before.busy_s + report.elapsed_s,
                before.memory.most(meter.memory),
            )
    return ClusterReport(
        num_new=total.num_texts,
        num_known=num_known,
        num_truncated=total.num_truncated,
        num_tokens=total.num_tokens,
        num_slots=total.num_slots,
        elapsed_s=elapsed_s,
        stage_s=total.stage_s,
        flops=total.flops,
        snapshot_id=snapshot_id,
        whole=whole,
        engine=" and ".join(sorted({report.engine for report in reports if report.engine})),
        estimated_bytes=total.memory.estimated,
        peak_bytes=total.memory.peak,
        num_retries=num_retries,
        num_set_aside=num_set_aside,
        workers=shares,
    )
