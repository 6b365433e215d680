"""Plans on a disk: a folder each, `.salient/plans/<plan>/`, and one file that names the active one.

What a plan is stands in `planning`, the states that it goes through in :mod:`store.commits`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import disk
from store.commits.batches import BatchFile
from store.commits.planning import PLAN_TABLES, AppendPlan, Draft, no_plan
from store.disk import LocalLocation
from store.errors import StoreBusy, StoreError
from store.layout import ArrayLayout, Block, write_shard
from store.records import ACTIVE_PLAN, MANIFESTS, PLAN_ID, PLANS, PlanRecord, decode_plan

AnyArray = npt.NDArray[np.generic]
ATTEMPT_NAME = re.compile(r"[0-9a-f]{8}")


class DiskPlan(AppendPlan):
    """A plan in a folder; see `AppendPlan`."""

    def __init__(self, root: Path, record: PlanRecord, *, samples_per_shard: int) -> None:
        self.root = root
        self.directory = root / PLANS / record.id
        self.where = str(self.directory)
        super().__init__(record, samples_per_shard=samples_per_shard)

    @classmethod
    def load(cls, root: Path, plan_id: str, *, samples_per_shard: int) -> DiskPlan:
        """Open a plan by id.

        Raises:
            StoreError: it is finished or superseded, or damaged.
        """
        location, folder = LocalLocation(root), f"{PLANS}/{plan_id}"
        path = f"{folder}/plan.json"
        where, remedy = f"{root}/{path}", remove_plan(root / folder)
        try:
            if not PLAN_ID.fullmatch(plan_id):
                raise FileNotFoundError
            content = location.read(path, max_bytes=disk.MAX_JSON_BYTES, remedy=remedy)
        except (FileNotFoundError, NotADirectoryError):
            raise no_plan(str(root), plan_id) from None
        except OSError as error:
            raise disk.unreadable(where, error, remedy) from None
        data = disk.decode_json(content, where=where, remedy=remedy)
        try:
            most_rows = location.size(f"{folder}/samples.arrow")
        except OSError:
            most_rows = 0
        record = _as_record(data, plan_id, where=where, remedy=remedy, most_rows=most_rows)
        return cls(root, record, samples_per_shard=samples_per_shard)

    @property
    def remedy(self) -> str:  # type: ignore[override]
        """What to do where something of it is damaged."""
        return remove_plan(self.directory)

    def _file(self, name: str) -> BatchFile:
        if name not in self._files:
            path = f"{PLANS}/{self.id}/{name}.arrow"
            try:
                self._files[name] = BatchFile(
                    LocalLocation(self.root), path, PLAN_TABLES[name], remedy=self.remedy
                )
            except FileNotFoundError:
                if not self.directory.exists():
                    raise no_plan(str(self.root), self.id) from None
                raise disk.damaged(f"{self.root}/{path}", "it is missing", self.remedy) from None
        return self._files[name]

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one of the plan's tables durably, in place of what it was."""
        disk.write_file(self.directory / f"{name}.arrow", [self.encode_table(name, table)])
        self._files.pop(name, None)

    def forget_request(self) -> None:
        """No longer be what anybody resumes by asking for the same samples."""
        self.record = replace(self.record, digest="")
        self.save()

    def save(self) -> None:
        """Write `plan.json`."""
        content = disk.encode_json(self.record.to_json())
        disk.write_file(self.directory / "plan.json", [content])

    def attempt_directory(self, block: Block, attempt: str) -> Path:
        """Where the shards of one attempt at a block wait for their commit.

        The block's manifest, which appears in one rename, names the attempt that counts.
        """
        return self.directory / f"{block.slot:08d}-{attempt}"

    def staged_manifest(self, block: Block) -> Path:
        """The manifest whose existence says that the block is finished."""
        return self.directory / f"block-{block.slot:08d}.safetensors"

    def manifest_path(self, block: Block) -> str:
        """Where the block's manifest lives once committed."""
        return f"{MANIFESTS}/{block.slot:08d}-{self.count(block):06d}-{self.id}.safetensors"

    def finished(self) -> set[int]:
        """See `AppendPlan.finished`."""
        return {block.slot for block in self.all_blocks if self.is_finished(block)}

    def is_finished(self, block: Block) -> bool:
        """Whether the block is written (staged or already moved to its place)."""
        return (
            self.staged_manifest(block).exists() or (self.root / self.manifest_path(block)).exists()
        )

    def is_under_way(self) -> bool:
        """See `AppendPlan.is_under_way`."""
        return self.directory.exists()

    def check_space(self, num_bytes: int) -> None:
        """See `AppendPlan.check_space`."""
        free = shutil.disk_usage(self.root).free
        if free < num_bytes:
            raise StoreBusy(
                f"{self.root}: no space left on the disk: the block needs {num_bytes:,} bytes, "
                f"{free:,} are free; free some space and run again, finished blocks are kept"
            )

    def attempt(self, block: Block, name: str) -> DiskAttempt:
        """See `AppendPlan.attempt`."""
        return DiskAttempt(self.attempt_directory(block, name), self.staged_manifest(block))


class DiskAttempt:
    """Shards that wait in a folder of their own; see `Attempt`."""

    def __init__(self, directory: Path, manifest: Path) -> None:
        self._directory = directory
        self._manifest = manifest
        disk.make_directories(directory)

    def write(self, layout: ArrayLayout, layer: int, shard: AnyArray) -> None:
        """See `Attempt.write`."""
        write_shard(self._directory / shard_name(layout.name, layer), shard)

    def settle(self) -> None:
        """See `Attempt.settle`."""
        disk.sync_directory(self._directory)

    def finish(self, manifest: bytes) -> None:
        """See `Attempt.finish`."""
        disk.write_file(self._manifest, [manifest], shared=True)

    def abandon(self) -> None:
        """See `Attempt.abandon`."""
        shutil.rmtree(self._directory, ignore_errors=True)


def remove_plan(directory: Path) -> str:
    """What to do about a damaged plan."""
    return (
        f"remove the plan (`rm -r {shlex.quote(str(directory))}`) and run the append again: what "
        "is committed stays, the rest is computed again"
    )


def _as_record(
    data: dict[str, Any], plan_id: str, *, where: str, remedy: str, most_rows: int
) -> PlanRecord:
    """The record that `plan.json` holds, of a plan that can be; StoreError otherwise."""
    record = decode_plan(data, where=where, remedy=remedy)
    too_long = record.stop > record.start + most_rows
    if record.id != plan_id or record.kind == "compact" or too_long or record.tables:
        raise disk.damaged(where, "it is not the plan of an append", remedy)
    return record


def active_plan_id(root: Path) -> str | None:
    """Id of the plan under way, if any."""
    path = root / ACTIVE_PLAN
    place = shlex.quote(str(path))
    remedy = f"remove it (`rm {place}`) and run the append again: what is committed stays"
    location = LocalLocation(root)
    try:
        content = location.read(ACTIVE_PLAN, max_bytes=disk.MAX_JSON_BYTES, remedy=remedy)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk.unreadable(str(path), error, remedy) from None
    plan_id = disk.decode_json(content, where=str(path), remedy=remedy).get("plan")
    if not isinstance(plan_id, str) or not PLAN_ID.fullmatch(plan_id):
        raise StoreError(f"{path}: names no plan; {remedy}")
    # A crash may have left the name and taken the folder.
    return plan_id if (root / PLANS / plan_id / "plan.json").exists() else None


def drop_plan(root: Path, plan_id: str) -> None:
    """Forget a plan and remove its directory."""
    if active_plan_id(root) in (plan_id, None):
        disk.remove(root / ACTIVE_PLAN)
    disk.remove(root / PLANS / plan_id)


def shard_name(array: str, layer: int) -> str:
    """File name of a staged shard in its attempt's directory."""
    return f"{array}.{layer}"


def save_plan(root: Path, draft: Draft, *, samples_per_shard: int) -> DiskPlan:
    """Write a new plan durably and make it the active one."""
    plan = DiskPlan(root, draft.record, samples_per_shard=samples_per_shard)
    if not draft.tables:
        return plan
    disk.make_directories(plan.directory)
    for name, table in draft.tables.items():
        plan.write_table(name, table)
    plan.save()
    disk.write_file(root / ACTIVE_PLAN, [disk.encode_json({"plan": draft.record.id})])
    return plan
