"""Workers started through ssh, by a small server of the test's own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import stages
from pipeline.cluster.credentials import FOLDER
from pipeline.cluster.session import _current
from pipeline.config import RunConfig
from tests.builders.cluster_processes import assert_equal_stores, free_port
from tests.builders.runs import write_mood_run

asyncssh = pytest.importorskip("asyncssh", reason="needs the extra: salient-neurons[ssh]")
pytestmark = pytest.mark.slow
PASSWORD = "only for this test"


def server_class() -> type:
    """Lets in who knows the password."""

    class Server(asyncssh.SSHServer):  # type: ignore[name-defined,misc]
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return password == PASSWORD

    return Server


async def run_command(process: Any) -> None:
    """Run what the client asks for, and end it when the client goes."""
    running = subprocess.Popen(
        process.command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        await process.redirect(stdout=running.stdout, stderr=running.stderr)
        while running.poll() is None and not process.is_closing():
            await asyncio.sleep(0.05)
        process.exit(running.poll() or 0)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
        running.wait()


@pytest.fixture
def ssh_port() -> Iterator[int]:
    port = free_port()
    loop = asyncio.new_event_loop()
    key = asyncssh.generate_private_key("ssh-ed25519")

    async def listen() -> Any:
        return await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=server_class(),
            server_host_keys=[key],
            process_factory=run_command,
        )

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(30)
    yield port
    loop.call_soon_threadsafe(server.close)
    asyncio.run_coroutine_threadsafe(server.wait_closed(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_run_on_hosts_reached_by_ssh(
    ssh_port: int, finished_run: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    data = RunConfig.load(path).model_dump(mode="json")
    login = {"port": ssh_port, "known_hosts": None, "username": "test", "password": PASSWORD}
    data["cluster"] = {
        "kind": "ssh",
        "hosts": ["127.0.0.1", "127.0.0.1", "127.0.0.1"],
        "options": {"connect_options": login},
    }
    config = RunConfig.from_dict(data, origin=path)
    guards: list[tuple[str, int]] = []

    def say(line: str) -> None:
        session = _current.get()
        if line.startswith("workers: ") and session is not None:
            address = str(session.client.scheduler.address)
            guards.append((address, len(list(Path(config.run_dir).glob(f"{FOLDER}*")))))

    stages.extract(config, say=say)
    ((address, num_folders),) = guards
    assert address.startswith("tls://") and num_folders == 1
    assert not list(Path(config.run_dir).glob(f"{FOLDER}*"))
    assert_equal_stores(RunConfig.load(finished_run), config)
