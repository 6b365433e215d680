"""Jobs on a real Slurm of one node, started for the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.submission.jobs import cancel, describe, status_of, submit
from tests.builders.cluster_processes import free_port
from tests.builders.paths import ROOT
from tests.builders.runs import write_mood_run
from tests.builders.waiting import wait_until

pytestmark = pytest.mark.slow
START = ROOT / "tests" / "builders" / "slurm.sh"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm of four slots; the folder of its files."""
    if missing := [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]:
        pytest.skip(f"no {missing[0]} here: apt-get install -y slurm-wlm munge")
    if os.geteuid():
        pytest.skip("starting a Slurm needs root")
    pytest.importorskip("dask_jobqueue", reason="needs the extra: salient-neurons[jobqueue]")
    folder = tmp_path_factory.mktemp("slurm")
    settings = {**os.environ, "SLURM_PORT": str(free_port())}
    started = subprocess.run(
        [START, folder, "4"], capture_output=True, text=True, timeout=60, env=settings
    )
    if started.returncode:
        pytest.skip(f"Slurm does not start here: {started.stderr[-500:]}")
    yield folder
    subprocess.run(["scancel", "--user=root"], env=environment(folder), check=False)
    subprocess.run([START, "--stop", folder], check=False)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}


@pytest.fixture(autouse=True)
def settings(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm / "slurm.conf"))
    monkeypatch.setenv("SALIENT_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def on_slurm(folder: Path, model: Path, *, num_rows: int = 160, walltime: str = "00:10:00") -> Path:
    path = write_mood_run(folder, model, num_rows=num_rows)
    cluster = f'kind = "slurm"\nworkers = 2\nmemory = "1GB"\nwalltime = "{walltime}"\n'
    path.write_text(f"{path.read_text()}[cluster]\n{cluster}")
    return path


def queue() -> list[str]:
    """The jobs that Slurm knows to wait or run."""
    states = "--states=PENDING,RUNNING"
    shown = subprocess.run(["squeue", "-h", states, "-o", "%i %j"], capture_output=True, text=True)
    return shown.stdout.splitlines()


def test_a_run_goes_through_to_its_end(finished_run: Path, tmp_path: Path, tiny_bert: Path) -> None:
    job = submit("run", on_slurm(tmp_path / "run", tiny_bert))
    wait_until(lambda: status_of(job).state not in ("queued", "running"))
    assert status_of(job).state == "done", job.log.read_text()
    print(job.log.read_text())
    alone = read_metrics(RunFolder(Path(RunConfig.load(finished_run).run_dir)))
    assert read_metrics(RunFolder(tmp_path / "run" / "run"))["tasks"] == alone["tasks"]
    wait_until(lambda: not queue())


def test_jobs_are_cancelled_waiting_and_running(tmp_path: Path, tiny_bert: Path) -> None:
    path = on_slurm(tmp_path / "run", tiny_bert, num_rows=4000)
    hold = subprocess.run(
        ["sbatch", "--parsable", "-n4", "--output=/dev/null", "--wrap=sleep 300"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wait_until(lambda: len(queue()) == 1)
    waiting = submit("extract", path)
    wait_until(lambda: "PENDING" in describe(waiting)["note"])
    assert status_of(waiting).state == "queued"
    cancel(waiting)
    wait_until(lambda: status_of(waiting).state == "cancelled")
    subprocess.run(["scancel", hold], check=True)
    wait_until(lambda: not queue())
    running = submit("extract", path)
    wait_until(lambda: "extracted" in describe(running)["progress"])
    cancel(running)
    wait_until(lambda: status_of(running).state not in ("queued", "running"))
    assert status_of(running).state == "cancelled", running.log.read_text()
    wait_until(lambda: not queue())  # its workers went with it
    again = submit("extract", path)
    wait_until(lambda: status_of(again).state not in ("queued", "running"))
    assert status_of(again).state == "done", again.log.read_text()


def test_a_job_past_its_wall_time_stops_cleanly(tmp_path: Path, tiny_bert: Path) -> None:
    # Nothing is left for its workers, so that it waits for them until its time is up.
    command = ["sbatch", "--parsable", "-n3", "--mem=100M", "--output=/dev/null"]
    hold = subprocess.run(
        [*command, "--wrap=sleep 300"], capture_output=True, text=True, check=True
    ).stdout.strip()
    job = submit("extract", on_slurm(tmp_path / "run", tiny_bert, walltime="00:01:00"))
    wait_until(lambda: status_of(job).state not in ("queued", "running"))
    print(describe(job), job.log.read_text())
    assert status_of(job).state == "stopped"
    assert "wall time was up" in describe(job)["note"]
    wait_until(lambda: len(queue()) == 1)
    subprocess.run(["scancel", hold], check=True)
