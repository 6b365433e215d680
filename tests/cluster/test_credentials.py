"""Who has not the session's keys connects to no scheduler and no worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")
from distributed.comm import connect
from distributed.security import Security

from pipeline.cluster.credentials import FOLDER, as_settings, credentials
from pipeline.cluster.kinds import KINDS, exposure, keys_of
from pipeline.cluster.mapping import map_tasks
from pipeline.cluster.session import Session, connected
from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError
from store.errors import MissingExtra

NOBODYS = "2s"
"""How long a client tries that nobody lets in."""
STAND_INS = {
    "sbatch": 'job="$SALIENT_JOB_FOLDER/job" && cp "$1" "$job"\n'
    'setsid sh "$job" > "$job.log" 2>&1 &\necho "Submitted batch job $!"',
    "scancel": 'kill -TERM -- "-$1"',
}


def double(value: int) -> int:
    return 2 * value


def pids(_: int = 0) -> tuple[int, int]:
    return os.getpid(), os.getppid()


def lets_in(address: str, security: Security | None) -> bool:
    """Whether a scheduler, worker or nanny talks to who comes with these keys."""

    async def greet() -> None:
        keys = {} if security is None else security.get_connection_args("client")
        await (await connect(address, timeout=NOBODYS, **keys)).close()

    try:
        asyncio.run(greet())
    except (OSError, TimeoutError, ValueError, TypeError):
        return False
    return True


def assert_guarded(session: Session) -> None:
    """Its scheduler, workers and nannies answer to the session's keys alone."""
    info = session.client.scheduler_info(n_workers=-1)
    places = [info["address"], *info["workers"]]
    places += [facts["nanny"] for facts in info["workers"].values()]
    assert len(places) >= 3
    own = session.client.security
    for place in places:
        assert place.startswith("tls://") and lets_in(place, own)
        assert not lets_in(place, Security.temporary())
        assert not lets_in(place.replace("tls://", "tcp://"), Security())
    assert lets_in(info["address"], own)
    assert not lets_in(info["address"], None)
    assert not lets_in(info["address"].replace("tls://", "tcp://"), None)


def open_ports(pid: int) -> set[tuple[str, int]]:
    """Where a process listens, but for the loopback interface."""
    listening = psutil.Process(pid).net_connections("tcp")
    found = {(c.laddr.ip, c.laddr.port) for c in listening if c.status == psutil.CONN_LISTEN}
    return {place for place in found if place[0] not in ("127.0.0.1", "::1")}


def test_nobody_else_of_this_machine_connects_to_its_processes() -> None:
    cluster = ClusterConfig(kind="processes", workers=1)
    with connected(cluster) as session:
        assert map_tasks(double, [(i,) for i in range(3)], cluster) == [0, 2, 4]
        assert_guarded(session)
        assert "127.0.0.1" in session.dashboard
        # A worker that was killed comes back with the same keys.
        session.client.restart()
        assert map_tasks(double, [(4,)], cluster) == [8]


def test_keys_can_be_done_without() -> None:
    cluster = ClusterConfig(kind="processes", workers=1, security="none")
    assert keys_of(cluster) is None
    with connected(cluster) as session:
        address = session.client.scheduler_info()["address"]
        assert address.startswith("tcp://127.0.0.1:") and lets_in(address, None)
        assert map_tasks(double, [(4,)], cluster) == [8]
    with pytest.raises(ValueError, match=r"security\n.*'tls' or 'none'"):
        ClusterConfig(kind="processes", security="maybe")


def test_jobs_of_a_batch_system_read_their_keys_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Slurm all but its queue: what it is handed runs here at once."""
    pytest.importorskip("dask_jobqueue", reason="needs the extra: salient-neurons[jobqueue]")
    for name, line in STAND_INS.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{line}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SALIENT_JOB_FOLDER", str(tmp_path))
    cluster = ClusterConfig(kind="slurm", workers=1, cores=1, memory="1GB")
    with connected(cluster, folders=[tmp_path]) as session:
        (folder,) = tmp_path.glob(f"{FOLDER}*")
        script = session.client.cluster.job_script()
        assert "--protocol tls://" in script and f"--tls-key {folder}/key.pem" in script
        assert "PRIVATE KEY" not in script
        assert_guarded(session)
        ((worker, nanny),) = map_tasks(pids, [(0,)], cluster)
        info = session.client.scheduler_info(n_workers=-1)
        guarded = {int(address.rpartition(":")[2]) for address in info["workers"]}
        guarded |= {int(f["nanny"].rpartition(":")[2]) for f in info["workers"].values()}
        for pid in (worker, nanny):
            assert {port for _, port in open_ports(pid)} <= guarded
        listening = {port for _, port in open_ports(os.getpid())}
        assert int(info["address"].rpartition(":")[2]) in listening
        assert session.client.scheduler_info()["services"]["dashboard"] not in listening
    assert not list(tmp_path.glob(f"{FOLDER}*"))


def test_keys_in_files_are_their_owners_and_go_with_the_session(tmp_path: Path) -> None:
    old = tmp_path / f"{FOLDER}old"
    old.mkdir()
    os.utime(old, (0, 0))
    before = os.umask(0)  # the loosest
    try:
        with credentials("files", [tmp_path]) as security:
            (folder,) = tmp_path.iterdir()
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            assert modes == {"cert.pem": 0o600, "key.pem": 0o600}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            sent: dict[str, Any] = as_settings(security)
            assert sent["require_encryption"] is True
            assert {Path(v).parent for v in sent.values() if isinstance(v, str)} == {folder}
            assert Security(**sent).get_connection_args("client")["ssl_context"]
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.cluster.credentials import credentials
with credentials("files", [Path(sys.argv[1])]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_keys_of_a_killed_client_go_with_the_next_session(tmp_path: Path) -> None:
    with credentials("files", [tmp_path]):
        (living,) = tmp_path.iterdir()
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        (killed,) = set(tmp_path.iterdir()) - {living}
        elsewhere = killed.with_name(f"{FOLDER}another-x")
        shutil.copytree(killed, elsewhere)  # whose client's lock is not seen here
        assert "PRIVATE KEY" in (killed / "key.pem").read_text()
        with credentials("files", [tmp_path]):
            assert living.is_dir() and elsewhere.is_dir() and not killed.exists()
        assert set(tmp_path.iterdir()) == {living, elsewhere}
    assert set(tmp_path.iterdir()) == {elsewhere}


def test_a_folder_that_keeps_no_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folders: Sequence[Path]) -> str:
        with pytest.raises(ConfigError) as caught, credentials("files", folders):
            pass
        assert 'security = "none"' in str(caught.value)
        return str(caught.value)

    assert "spaces" in refused([tmp_path / "my runs"])
    assert "cannot be written" in refused([tmp_path / "missing"])

    def open_to_all(prefix: str, dir: Path) -> str:
        folder = dir / f"{prefix}x"
        folder.mkdir()
        folder.chmod(0o777)  # as a file system without permissions shows it
        return str(folder)

    monkeypatch.setattr("tempfile.mkdtemp", open_to_all)
    assert "keeps no permissions" in refused([tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_every_kind_that_starts_a_scheduler_has_keys_or_says_so() -> None:
    own = {"gateway"}  # its server makes the keys
    for kind, row in KINDS.items():
        fields: dict[str, Any] = {}
        if kind in ("scheduler", "gateway"):
            fields["address"] = "tcp://host:8786"
        if kind == "ssh":
            fields["hosts"] = ("a", "b")
        cluster = ClusterConfig(kind=kind, **fields)
        said = exposure(cluster)
        assert kind in own or kind == "local" or (row.keys is None) == (said is not None), kind
        assert exposure(cluster.model_copy(update={"security": "none"})) is None
    safe = ClusterConfig(kind="scheduler", address="tls://host:8786")
    assert exposure(safe) is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with (
        pytest.raises(MissingExtra, match=r"cryptography: pip install .+\[cluster\]"),
        credentials("memory"),
    ):
        pass
