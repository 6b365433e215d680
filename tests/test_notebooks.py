from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.builders.paths import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs the extra: salient-neurons[dev]")
nbclient = pytest.importorskip("nbclient", reason="needs the extra: salient-neurons[dev]")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def demo(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run's folder that notebooks may write to."""
    folder = tmp_path_factory.mktemp("notebooks") / "demo"
    shutil.copytree(finished_run.parent, folder)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENT_DEMO", str(demo))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs: nbstripout"
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
