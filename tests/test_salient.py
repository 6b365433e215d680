"""The Python face: light to import, every name documented, and nothing of its own."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import salient
from pipeline.config import RunConfig
from tests.builders.hub import Client, StandIn
from tests.builders.paths import ROOT

HEAVY = ("numpy", "torch", "transformers", "pandas", "xarray", "pyarrow", "pydantic", "sklearn")


def test_import_is_light() -> None:
    code = (
        "import sys, salient; dir(salient)\n"
        f"found = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not found, found\n"
        "assert issubclass(salient.SalientError, Exception) and salient.__version__\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_name_is_there_and_documented() -> None:
    assert salient.__all__ == sorted(salient.__all__)
    assert set(salient._HOMES) < set(salient.__all__) == set(dir(salient)) - {"open"}
    for name in dir(salient):
        found = getattr(salient, name)
        if name != "__version__":
            assert inspect.getdoc(found), name
    with pytest.raises(AttributeError, match="no attribute 'decode'"):
        _ = salient.decode  # type: ignore[attr-defined]


def test_functions_say_what_they_take() -> None:
    """Each argument has its type, and stands in the docstring."""
    for name in ("encode", "encode_stream", "load", "open"):
        function = getattr(salient, name)
        text = inspect.getdoc(function) or ""
        for argument in inspect.signature(function).parameters.values():
            assert argument.annotation is not inspect.Parameter.empty, argument
            assert argument.name in text, f"{name}: {argument.name}"


def test_the_pages_show_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pdoc", reason="needs the extra: salient-neurons[dev]")
    from pdoc import doc, render

    monkeypatch.setattr(salient, "__all__", dir(salient))  # as the Makefile does
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert (
        'from salient import *; salient.__all__ += ["open"]' in make
        and "-o runs/docs salient pipeline store" in make
    )
    for name in salient.__all__:
        getattr(salient, name)
    render.configure(docformat="google")
    page = render.html_module(doc.Module(salient), all_modules={})
    for name in set(salient.__all__) - {"__version__"}:
        assert f'id="{name}"' in page, name
    for words in ("Activations of texts inside a model", "Heads to predict with", "Scorer.predict"):
        assert words in page


def test_three_lines(finished_run: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """What the docstrings show, on a tiny model."""
    found = salient.encode(["what a day", "so sad"], str(tiny_bert), out=tmp_path / "store")
    opened = salient.open(tmp_path / "store")
    assert isinstance(opened, xr.Dataset)
    np.testing.assert_array_equal(opened.ffn.sel(sample="0"), found.sel(sample="0"))
    (block,) = salient.encode_stream(["what a day"], str(tiny_bert))
    np.testing.assert_allclose(block, found.isel(sample=[0]), atol=2e-2)

    scorer = salient.load(str(finished_run))
    assert isinstance(scorer, salient.Scorer)
    run = RunConfig.load(finished_run)
    heads = [Path(run.run_dir) / "heads" / name / "chosen" for name in ("mood", "level")]
    for other in (salient.load(run.run_dir), salient.load(heads)):
        np.testing.assert_array_equal(
            scorer.predict(["so sad"], "level"), other.predict(["so sad"], "level")
        )
    results = salient.open(run.run_dir)
    assert results.tasks == scorer.tasks and "mood" in results.importance
    frame = scorer.predict_frame(pd.DataFrame({"text": ["so sad"]}))
    assert frame["mood"].tolist() == scorer.predict(["so sad"], "mood").tolist()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(salient.SalientError, match="nothing there"):
        salient.load(tmp_path / "gone")
    with pytest.raises(salient.SalientError, match="gone"):
        salient.open(tmp_path / "gone")
    for path in (None, 5, "a\0b"):
        with pytest.raises(salient.SalientError, match="is none; give that of a store or a run"):
            salient.open(path)  # type: ignore[arg-type]
    (tmp_path / "head.json").touch()
    with pytest.raises(salient.SalientError, match="is a file; name its folder"):
        salient.load(tmp_path / "head.json")
    for heads in (None, 5, [None], {"run"}):
        with pytest.raises(salient.SalientError, match="is no path; give a run's folder"):
            salient.load(heads)  # type: ignore[arg-type]
    with pytest.raises(salient.SalientError, match="is a run, and labels is said of stores only"):
        salient.open(tmp_path / "run.toml", labels=[])


def test_paths_may_begin_at_home(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = salient.encode(["what a day"], tiny_bert, out="~/store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert salient.open("~/store").ffn.sizes["sample"] == found.sizes["sample"] == 1


def test_heads_come_from_a_hub(finished_run: Path, tiny_bert: Path, tmp_path: Path) -> None:
    run = RunConfig.load(finished_run).run_dir
    with StandIn() as hub, Client(hub, tmp_path) as client:
        code, _, error = client.salient("push", run, "hub:alice/moods")
        assert code == 0, error
        found, _, error = client.python(
            "import salient\n"
            f"scorer = salient.load('hub:alice/moods', model={str(tiny_bert)!r})\n"
            "result = [scorer.tasks, scorer.predict(['so sad'], 'level').tolist()]"
        )
    assert isinstance(found, list), found
    tasks, level = found
    assert sorted(tasks) == ["level", "mood"], error
    assert level == salient.load(run).predict(["so sad"], "level").tolist()
