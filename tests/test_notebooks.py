from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.builders.extras import wanted
from tests.builders.paths import ROOT
from tests.notebooks import execute, faults, normalised, notebooks, unfit

nbformat = pytest.importorskip("nbformat", reason="needs the extra: salient-neurons[dev]")
pytest.importorskip("nbclient", reason="needs the extra: salient-neurons[dev]")
pytest.importorskip("PIL", reason="needs the extra: salient-neurons[dev]")

ALL = pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def demo(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run's folder."""
    folder = tmp_path_factory.mktemp("notebooks") / "demo"
    shutil.copytree(finished_run.parent, folder)
    return folder


@ALL
def test_notebook_runs(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell as it stands, on a small run, or on the example tweets; nothing complains."""
    monkeypatch.setenv("SALIENT_DEMO", str(demo))
    monkeypatch.delenv("SALIENT_IMDB", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    before = {file: file.stat().st_mtime_ns for file in demo.rglob("*") if file.is_file()}
    found = execute(path, timeout=580)
    assert [one for one in faults(found) if str(demo) not in one] == []
    # What opens a store or a run to read may take its lock, and leaves all else alone.
    after = {file: file.stat().st_mtime_ns for file in demo.rglob("*") if file.is_file()}
    assert {file.name for file, _ in before.items() ^ after.items()} <= {".lock"}


@ALL
def test_notebook_is_kept_with_its_outputs(path: Path) -> None:
    assert unfit(path) == []


def test_texts_of_a_neuron_are_shown_with_their_tokens() -> None:
    (path,) = notebooks(["03"])
    (html,) = (
        output.data["text/html"]
        for cell in nbformat.read(path, as_version=4).cells
        if 'fragment("texts"' in cell.source
        for output in cell.outputs
    )
    assert html.count("<li>") == 6 and html.count("<mark") >= 6
    shades = set(re.findall(r"--[a-z]+", html))
    assert shades == {"--warmth"}, "the style and the marks speak of different properties"


@ALL
def test_notebook_says_how_to_start(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0].source
    assert "pip install -c requirements.lock -e '.[demo,notebook]'" in first
    assert "jupyter lab notebooks" in first


def test_lock_pins_jupyter_in_range() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    locked = {canonicalize_name(name): version for name, version in pins.items()}
    for needed in map(Requirement, wanted("notebook")):
        assert needed.specifier.contains(locked[canonicalize_name(needed.name)]), needed


def picture() -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def test_progress_times_and_widgets_are_not_kept() -> None:
    new = nbformat.v4
    outputs = [
        new.new_output("display_data", {"text/plain": "", "text/html": ""}),
        new.new_output("display_data", {"text/html": '<progress value="1"></progress> read'}),
        new.new_output("stream", name="stdout", text="kept in /root/.cache\n"),
        new.new_output("display_data", {"image/png": picture()}),
        new.new_output("execute_result", {"text/plain": "2"}, execution_count=7),
    ]
    timed = {"tags": ["progress"], "execution": {"iopub.status.busy": "2026-11-29T23:45:00"}}
    cells = [new.new_code_cell("fit()", outputs=outputs, metadata=timed)]
    printed = [new.new_output("stream", name="stdout", text=text) for text in ("a\n", "b\n")]
    cells.append(new.new_code_cell("print()", outputs=printed))
    found = normalised(new.new_notebook(cells=cells, metadata={"widgets": {}}))
    assert [[*one.data] for one in found.cells[0].outputs] == [["image/png"], ["text/plain"]]
    assert len(found.cells[0].outputs[0].data["image/png"]) < len(picture())
    assert found.cells[0].metadata == {"tags": ["progress"]}
    assert found.cells[0].outputs[1].execution_count == 1
    assert [one.text for one in found.cells[1].outputs] == ["a\nb\n"]
    assert faults(found) == []


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ({"output_type": "stream", "name": "stdout", "text": "at /home/me/x"}, "/home/me/x"),
        ({"output_type": "stream", "name": "stderr", "text": "hm"}, "stderr: hm"),
        (
            {"output_type": "display_data", "data": {"text/html": "UserWarning:"}, "metadata": {}},
            "UserWarning",
        ),
        (
            {
                "output_type": "display_data",
                "data": {"text/html": '<h3>Highest</h3><p class="soft">none</p>'},
                "metadata": {},
            },
            "none",
        ),
        (
            {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []},
            "KeyError: 'x'",
        ),
    ],
)
def test_faults_of_outputs_are_named(output: dict[str, object], fault: str) -> None:
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.from_dict(output)])
    (found,) = faults(nbformat.v4.new_notebook(cells=[cell]))
    assert found.startswith("cell 0: ") and fault in found


def test_paths_within_a_folder_are_no_machines() -> None:
    said = [nbformat.v4.new_output("stream", text="../runs/demo/tmp/x and a/work/b\n")]
    cell = nbformat.v4.new_code_cell("x", outputs=said)
    assert faults(nbformat.v4.new_notebook(cells=[cell])) == []
