"""The house: its wings, their doors, and the package that is installed."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.builders.paths import ROOT

WINGS = sorted(path.parent for path in ROOT.glob("pipeline/*/__init__.py"))
STORE_WINGS = sorted(path.parent for path in ROOT.glob("store/*/__init__.py"))
MAX_MODULES = 11
MAX_LINES, MAX_PARAMETERS = 85, 12


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_the_root_holds_wings_and_few_modules() -> None:
    assert len(WINGS) == 19 and len(STORE_WINGS) == 6
    assert len(list((ROOT / "pipeline").glob("*.py"))) <= MAX_MODULES


@pytest.mark.parametrize("wing", [*WINGS, *STORE_WINGS], ids=dotted)
def test_a_wing_tells_its_story_and_exports_names(wing: Path) -> None:
    door = importlib.import_module(dotted(wing))
    story = door.__doc__ or ""
    assert "Read first: " in story
    if wing in WINGS:
        assert "In: " in story and "Out: " in story
    modules = {path.stem for path in wing.glob("*.py")} - {"__init__"}
    assert modules & {word.strip("`,;:.()") for word in story.split()}
    assert door.__all__ and not modules & set(door.__all__)
    for name in door.__all__:
        assert getattr(door, name) is not None, name


@pytest.mark.parametrize("wing", [*WINGS, *STORE_WINGS], ids=dotted)
def test_no_name_of_a_wing_is_anothers_plus_an_ending(wing: Path) -> None:
    names = [path.stem for path in wing.glob("*.py") if path.stem != "__init__"]
    assert not [(a, b) for a in names for b in names if a != b and b.startswith(a)]


def test_doors_open_without_what_lies_behind() -> None:
    """Whoever wants a pure function loads no torch; a missing extra is no error before its use."""
    doors = [dotted(wing) for wing in (*WINGS, *STORE_WINGS)]
    heavy = ("torch", "transformers", "dask", "numpy", "pyarrow", "pydantic", "bokeh", "panel")
    code = (
        f"import importlib, sys\nfor door in {doors}: importlib.import_module(door)\n"
        f"found = [name for name in {heavy} if name in sys.modules]\n"
        "assert not found, found\n"
        "from pipeline.measures import METRICS\nfrom pipeline.heads import RULES\n"
        "assert METRICS and RULES and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_door_has_a_contract() -> None:
    """Others enter a wing through its `__init__`; import-linter holds it, for every wing."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    protected = {
        name for one in contracts if one["type"] == "protected" for name in one["protected_modules"]
    }
    assert protected == {f"{dotted(wing)}.*" for wing in (*WINGS, *STORE_WINGS)}
    layered = [one for one in contracts if one["type"] == "layers" and one.get("containers")]
    assert [one["exhaustive"] for one in layered] == [True, True]


def test_functions_are_short_and_take_few_parameters() -> None:
    """But for the commands, whose parameters are the options of the command line."""
    found, seen = [], 0
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("store/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                seen += 1
                args = node.args
                count = len([*args.posonlyargs, *args.args, *args.kwonlyargs])
                lines = (node.end_lineno or 0) - node.lineno + 1
                if path.parent.name == "commands" and node.decorator_list:
                    continue
                if lines > MAX_LINES or count > MAX_PARAMETERS:
                    found.append(f"{path}:{node.lineno} {node.name}: {lines}, {count}")
    assert seen > 1000 and found == []


def test_no_test_module_imports_another() -> None:
    seen = 0
    for path in sorted((ROOT / "tests").rglob("*.py")):
        seen += 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                parts = [part for name in names for part in name.split(".")]
                if node.module.startswith("tests"):
                    assert not [part for part in parts if part.startswith("test_")], path
    assert seen > 80
