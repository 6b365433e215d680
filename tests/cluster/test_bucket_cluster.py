"""Workers that have no folder in common, nor with the client: the bucket is all that they share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")

from pipeline import stages
from pipeline.cluster.carrying import Carried, Needs, carried_with, put_back
from pipeline.config import RunConfig
from pipeline.runfolder import RunFolder, read_metrics
from store import ActivationStore
from store.disk import join, locate
from tests.builders.cluster_processes import ClusterProcesses, on_cluster
from tests.builders.paths import ROOT
from tests.builders.runs import write_mood_run

PRELOAD = str(ROOT / "tests" / "builders" / "own_folders.py")


@pytest.fixture
def apart(tmp_path: Path, bucket: str) -> Iterator[ClusterProcesses]:
    """Two workers, each with its own working and temporary folder; the client's is hidden."""
    processes = ClusterProcesses(
        tmp_path / "cluster", 0, environment={"SALIENT_NOT_SHARED": str(tmp_path / "client")}
    )
    for name in ("one", "two"):
        own = tmp_path / name
        (own / "tmp").mkdir(parents=True)
        processes.workers.append(
            processes.start_worker(
                *("--preload", PRELOAD, "--local-directory", str(own)),
                within=("env", "-C", str(own), f"TMPDIR={own / 'tmp'}"),
            )
        )
    processes.wait_for_workers(2)
    yield processes
    processes.close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_workers_without_a_common_folder_run_the_whole_job(
    apart: ClusterProcesses, bucket: str, finished_run: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    alone = RunConfig.load(finished_run)
    path = write_mood_run(tmp_path / "client", tiny_bert)
    place = {"path": join(bucket, "activations")}
    config = on_cluster(path, apart.address, store=place)
    said: list[str] = []
    metrics = stages.run(config, say=said.append)
    assert metrics["tasks"] == read_metrics(RunFolder(Path(alone.run_dir)))["tasks"]
    assert any(line == "workers: 2, with the same packages as here" for line in said)
    one, two = ActivationStore.open(alone.store.path), ActivationStore.open(config.store.path)
    assert one.samples().equals(two.samples())
    for name, layout in one.schema.arrays.items():
        for layer in layout.layers:
            pair = (store.read_matrix(name, layer=layer) for store in (one, two))
            np.testing.assert_array_equal(*pair)
    kinds = ("probes", "heads", "groups", "sweep", "importance")
    for kind in kinds:
        here, there = Path(alone.run_dir) / kind, Path(config.run_dir) / kind
        assert files_of(here).keys() == files_of(there).keys()
        differing = [
            name
            for name, content in files_of(here).items()
            if files_of(there)[name] != content and not name.endswith("head.json")
        ]
        assert not differing
    assert not list(locate(place["path"]).list(".salient/marks"))  # type: ignore[union-attr]
    for name in ("one", "two"):
        assert not list((tmp_path / name / "tmp").glob("salient-*"))
    again = stages.extract(config)
    assert (again.num_new, again.num_known) == (0, 160)


def grown(config: RunConfig, more: str) -> int:
    """Reads a file, writes another and a card, and changes nothing else."""
    folder = Path(config.run_dir)
    found = (folder / "read" / "a.txt").read_text()
    (folder / "made").mkdir()
    (folder / "made" / "b.bin").write_text(found + more)
    (folder / "made" / "card.json").write_text("{}")
    (folder / "grams").mkdir()
    (folder / "grams" / "large").write_text("stays there")
    return len(list(folder.rglob("*.txt")))


def test_a_run_folder_travels_with_a_task(own_run: RunConfig, tmp_path: Path) -> None:
    config = own_run.model_copy(update={"run_dir": str(tmp_path / "run")})
    for name in ("read/a.txt", "read/not-asked-for.txt", "made/old.json", "made/old.bin"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("old")
    needs = Needs(reads=("read/a*",), replaces=("made",))
    ((files, *task),) = carried_with([(config, "+")], lambda *_: needs)
    result, back = Carried(grown)(files, *task)
    assert result == 1 and back.keys() == {"made/b.bin", "made/card.json"}
    put_back(config, needs, back)
    assert (tmp_path / "run" / "made" / "b.bin").read_text() == "old+"
    assert not (tmp_path / "run" / "made" / "old.json").exists()
    assert (tmp_path / "run" / "read" / "not-asked-for.txt").exists()
