"""Whole stages on a real cluster of separate processes: equal to one process, whatever dies."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")

from pipeline import stages
from pipeline.cluster.preflight import TOKEN
from pipeline.config import RunConfig
from pipeline.errors import ClusterError, ConfigError
from pipeline.events import BlockWritten, Event, watch
from pipeline.extraction.distributed import SCRATCH, SET_ASIDE, ClusterReport
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.scoring.files import score_files
from pipeline.submission.jobs import status_of, submit
from store import ActivationStore
from store.tables import read_table
from store.upkeep.inspection import verify
from tests.builders.cluster_processes import ClusterProcesses, assert_equal_stores, on_cluster
from tests.builders.dumps import scores
from tests.builders.paths import ROOT
from tests.builders.runs import write_mood_csv, write_mood_run
from tests.builders.waiting import wait_until

PRELOAD = ("--preload", str(ROOT / "tests" / "builders" / "crash_preload.py"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    processes = ClusterProcesses(tmp_path_factory.mktemp("cluster"), 3, arguments=PRELOAD)
    yield processes
    processes.close()


def assert_left_nothing(config: RunConfig) -> None:
    for folder in (Path(config.run_dir), Path(config.store.path).parent):
        assert not list(folder.glob(f"{TOKEN}*"))
        assert not list(folder.glob(f"{SCRATCH}*"))


def test_a_run_on_workers_equals_one_in_one_process(
    cluster: ClusterProcesses, finished_run: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    alone = RunConfig.load(finished_run)
    config = on_cluster(write_mood_run(tmp_path, tiny_bert), cluster.address)
    said: list[str] = []
    events: list[Event] = []
    with watch(events.append):
        metrics = stages.run(config, say=said.append)
    assert_equal_stores(alone, config)
    blocks = [event for event in events if isinstance(event, BlockWritten)]
    assert sum(block.stop - block.start for block in blocks) == 160
    assert all(block.estimated_bytes > 0 and block.peak_bytes > 50e6 for block in blocks)
    assert {block.worker.partition(":")[0] for block in blocks} == {socket.gethostname()}
    assert metrics["tasks"] == read_metrics(RunFolder(Path(alone.run_dir)))["tasks"]
    assert_left_nothing(config)
    assert any("with the same packages and folders" in line for line in said)
    again = stages.extract(config)
    assert isinstance(again, ClusterReport)
    assert (again.num_new, again.num_known) == (0, 160)
    assert again.snapshot_id == ActivationStore.open(config.store.path).snapshot_id


def test_scores_of_workers_equal_those_of_one_process(
    cluster: ClusterProcesses, finished_run: Path, tmp_path: Path
) -> None:
    alone = RunConfig.load(finished_run)
    dump = tmp_path / "new.csv"
    write_mood_csv(dump, num_rows=300, seed=5)
    score = {"block_rows": 40, "output": str(tmp_path / "scores-cluster")}
    config = on_cluster(finished_run, cluster.address, score=score)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    report = score_files([dump], path)
    score_files([dump], finished_run, tmp_path / "scores")
    assert report.to_dict()["problem"] is None
    one, two = (scores(tmp_path / name) for name in ("scores", "scores-cluster"))
    assert one.schema.equals(two.schema) and len(one) == 300
    for name in one.column_names:
        if pa.types.is_floating(one.schema.field(name).type):
            # Other numbers of cores cut the batches otherwise: the last bits may differ.
            pair = (table[name].to_numpy() for table in (one, two))
            np.testing.assert_allclose(*pair, atol=1e-5)
        else:
            assert one[name].equals(two[name]), name
    assert not list((tmp_path / "scores-cluster").glob(".t*"))
    assert alone.store == config.store


def test_workers_store_the_same_peaks(
    cluster: ClusterProcesses, tmp_path: Path, tiny_bert: Path
) -> None:
    paths = [write_mood_run(tmp_path / name, tiny_bert) for name in ("alone", "cluster")]
    for path in paths:
        path.write_text(path.read_text().replace("[store]", "[store]\npeaks = true"))
    alone = RunConfig.load(paths[0])
    config = on_cluster(paths[1], cluster.address)
    stages.extract(alone)
    assert isinstance(stages.extract(config), ClusterReport)
    assert "peak" in ActivationStore.open(config.store.path).schema.arrays
    assert_equal_stores(alone, config)


def test_texts_that_the_store_must_not_keep_reach_the_workers(
    cluster: ClusterProcesses, finished_run: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    config = on_cluster(path, cluster.address, store={"keep_text": False})
    report = stages.extract(config)
    assert isinstance(report, ClusterReport)
    assert sum(share.num_texts for share in report.workers.values()) == 160
    one = ActivationStore.open(RunConfig.load(finished_run).store.path)
    two = ActivationStore.open(config.store.path)
    np.testing.assert_array_equal(one.read_matrix(layer=1), two.read_matrix(layer=1))
    assert_left_nothing(config)


def test_a_block_that_kills_its_workers_is_set_aside_and_named(
    cluster: ClusterProcesses, tmp_path: Path, tiny_bert: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=160)
    lines = (tmp_path / "tweets.csv").read_text().splitlines()
    lines[70] = lines[70].replace("it was", "it was poison")
    (tmp_path / "tweets.csv").write_text("\n".join(lines) + "\n")
    config = on_cluster(path, cluster.address)
    said: list[str] = []
    report = stages.extract(config, say=said.append)
    assert isinstance(report, ClusterReport)
    assert report.num_set_aside == 64 and report.num_retries >= 3
    assert "64 texts set aside" in str(report)
    assert any("3 workers died over their block" in line for line in said)
    # Nothing but its block is missing, and the run goes on without it.
    store = ActivationStore.open(config.store.path)
    assert store.num_samples == 96 and not verify(store).damage
    aside = read_table(Path(config.run_dir) / SET_ASIDE)
    assert not set(aside["id"].to_pylist()) & set(store.samples()["id"].to_pylist())
    assert lines[70].split(",")[0] in aside["id"].to_pylist()
    assert stages.probe(config)
    # The next extraction tries again; one that can compute the block makes the store whole.
    alone = stages.extract(RunConfig.load(path))
    assert (alone.num_new, alone.num_known) == (64, 96)
    assert ActivationStore.open(config.store.path).num_samples == 160


def test_workers_that_differ_are_refused_before_work_starts(
    cluster: ClusterProcesses,
    tmp_path: Path,
    tiny_bert: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = on_cluster(write_mood_run(tmp_path, tiny_bert), cluster.address)
    from pipeline.cluster import session

    other = {**session.versions(), "torch": "1.0"}
    monkeypatch.setattr(session, "versions", lambda: other)
    with pytest.raises(ConfigError, match=r"worker tcp://.*torch is .*the client's is 1\.0"):
        stages.extract(config)
    assert not (tmp_path / "activations").exists()


def test_gpu_work_is_refused_where_no_worker_has_one(
    cluster: ClusterProcesses, tmp_path: Path, tiny_bert: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    config = on_cluster(path, cluster.address, cluster={"device": "cuda"})
    with pytest.raises(ConfigError, match="no worker offers the resource GPU"):
        stages.extract(config)


def test_a_scheduler_without_workers_is_not_waited_for_without_end(
    tmp_path: Path, tiny_bert: Path
) -> None:
    processes = ClusterProcesses(tmp_path / "cluster", 0)
    try:
        path = write_mood_run(tmp_path, tiny_bert)
        config = on_cluster(path, processes.address, cluster={"wait_s": 0.5})
        with pytest.raises(ClusterError, match="no worker for"):
            stages.extract(config)
    finally:
        processes.close()


def in_own_mounts(hidden: Path) -> tuple[str, ...]:
    """Runs a command that sees an empty disk at ``hidden``, as on a machine that shares none."""
    script = f'mount -t tmpfs none "{hidden}" && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")


@pytest.mark.slow
def test_a_worker_with_another_disk_is_refused(tmp_path: Path, tiny_bert: Path) -> None:
    data = tmp_path / "data"
    path = write_mood_run(data, tiny_bert)
    tried = subprocess.run([*in_own_mounts(data), "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip("mount namespaces need root")
    processes = ClusterProcesses(tmp_path / "cluster", 1)
    try:
        processes.workers.append(processes.start_worker(within=in_own_mounts(data)))
        config = on_cluster(path, processes.address)
        processes.wait_for_workers(2)
        with pytest.raises(ConfigError, match="is not the client's folder"):
            stages.extract(config)
    finally:
        processes.close()


DEATHS = {
    "extract": ("encode.0", "encode.1"),
    "probe": ("labels.0", "labels.1"),
    "consolidate": ("labels.0", "save.0"),
}
"""Stage -> the calls over which workers die in it; fewer than a task may lose before it is given
up."""


@pytest.mark.slow
def test_workers_killed_in_every_stage_change_nothing(tmp_path: Path, tiny_bert: Path) -> None:
    paths = [write_mood_run(tmp_path / name, tiny_bert, num_rows=1000) for name in ("a", "b")]
    alone = RunConfig.load(paths[0])
    expected = stages.run(alone)
    orders = tmp_path / "deaths"
    orders.mkdir()
    told = {"DEATHS": str(orders)}
    processes = ClusterProcesses(tmp_path / "cluster", 3, arguments=PRELOAD, environment=told)
    config = on_cluster(paths[1], processes.address)
    try:
        found: Any = None
        for stage in (stages.extract, stages.probe, stages.consolidate):
            for order in DEATHS[stage.__name__]:
                (orders / order).touch()
            found = stage(config)
            assert not list(orders.iterdir()), f"nobody died in {stage.__name__}"
        assert_equal_stores(alone, config)
        assert found["tasks"] == expected["tasks"]
        assert_left_nothing(config)
    finally:
        processes.close()


@pytest.mark.slow
def test_a_submitted_job_survives_restarts_of_its_scheduler(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALIENT_JOBS", str(tmp_path / "jobs"))
    paths = [write_mood_run(tmp_path / name, tiny_bert, num_rows=4000) for name in ("a", "b")]
    alone = RunConfig.load(paths[0])
    expected = stages.run(alone)
    processes = ClusterProcesses(tmp_path / "cluster", 3)
    config = on_cluster(paths[1], processes.address, cluster={"wait_s": 120})
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    try:
        job = submit("run", path)
        for moment in ("backbone: ", "extracted 4,000"):  # in the blocks; before the probes
            wait_until(lambda moment=moment: moment in job.log.read_text())
            assert status_of(job).state == "running", job.log.read_text()
            processes.restart_scheduler()
        wait_until(lambda: status_of(job).state != "running", timeout_s=400)
        print(job.log.read_text())
        assert status_of(job).state == "done"
        assert_equal_stores(alone, config)
        assert read_metrics(RunFolder(Path(config.run_dir)))["tasks"] == expected["tasks"]
    finally:
        processes.close()


def test_the_report_names_what_each_worker_did() -> None:
    from pipeline.extraction.distributed import _summary
    from pipeline.extraction.footprint import Footprint
    from pipeline.extraction.throughput import Meter
    from pipeline.extraction.workbench import BlockReport

    reports = [
        BlockReport(0, "a:1", 2.0, Meter(10, 100, memory=Footprint(7, 9, 5 * 10**9))),
        BlockReport(
            10, "a:1", 2.0, Meter(10, 100, memory=Footprint(8, 6, 6 * 10**9)), engine="torch"
        ),
        BlockReport(
            20, "b:2", 1.0, Meter(num_texts=5, num_tokens=50), crashed=("a:1",), engine="onednn"
        ),
    ]
    report = _summary(
        reports, num_known=3, num_retries=1, elapsed_s=5.0, snapshot_id="000001", whole=False
    )
    assert (report.num_new, report.num_tokens, report.num_retries) == (25, 250, 1)
    assert report.workers["a:1"].texts_per_s == pytest.approx(5)
    assert report.engine == "onednn and torch"
    text = str(report)
    assert "6.0 GB of GPU memory" in text and "worker b:2: 1 blocks" in text
    assert dataclasses.asdict(report)["snapshot_id"] == "000001"
    share = report.to_dict()["workers"]["a:1"]  # type: ignore[index]
    assert (share["num_blocks"], share["estimated_bytes"], share["peak_bytes"]) == (2, 8, 9)
    assert (report.estimated_bytes, report.peak_bytes) == (8, 9)


@pytest.mark.slow
def test_a_scheduler_behind_tls_is_reached_with_its_keys(tmp_path: Path, tiny_bert: Path) -> None:
    pytest.importorskip("cryptography")
    from distributed.security import Security

    made = Security.temporary()
    keys = {"tls_ca": "ca.pem", "tls_cert": "cert.pem", "tls_key": "key.pem"}
    pems = {"ca.pem": made.tls_ca_file, "cert.pem": made.tls_client_cert}
    for name, pem in {**pems, "key.pem": made.tls_client_key}.items():
        (tmp_path / name).write_text(pem)
    section = "DASK_DISTRIBUTED__COMM__TLS__"
    tls = {f"{section}CA_FILE": str(tmp_path / "ca.pem")}
    for role in ("SCHEDULER", "WORKER"):
        tls[f"{section}{role}__CERT"] = str(tmp_path / "cert.pem")
        tls[f"{section}{role}__KEY"] = str(tmp_path / "key.pem")
    processes = ClusterProcesses(tmp_path / "cluster", 1, protocol="tls", environment=tls)
    try:
        path = write_mood_run(tmp_path, tiny_bert)
        paths = {key: str(tmp_path / name) for key, name in keys.items()}
        config = on_cluster(path, processes.address, cluster=paths)
        assert stages.extract(config).num_new == 160
        bare = on_cluster(path, processes.address)
        with pytest.raises(ConfigError, match="no Dask scheduler answers"):
            stages.extract(bare)
    finally:
        processes.close()
