"""What is built and installed: the wheel, the sdist, and the base without any extra."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import EXTRAS, missing, require
from store.errors import DISTRIBUTION, MissingExtra, SalientError
from store.layout import own_version, program
from tests.builders.bare import bare_environment, needed
from tests.builders.built import build, outside
from tests.builders.extras import PROJECT, wanted
from tests.builders.paths import ROOT, tracked_files

FORMATS = ROOT / "tests" / "formats"
NEWEST = max((path for path in FORMATS.iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OWN = ("pipeline", "store")


def shell(*words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user would: no folder of ours on its path."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**outside(), "MPLBACKEND": "Agg", **more},
        capture_output=True,
        text=True,
        check=False,
    )


def packed(name: str) -> bool:
    """Whether a file of the repository belongs into the wheel."""
    return name.split("/")[0] in OWN or name == "salient.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def wheel(built: tuple[Path, Path]) -> Path:
    return built[1]


def install(wheel: Path, folder: Path, *extras: str) -> Path:
    """An environment with the wheel and what some extras ask for; returns its interpreter."""
    python = bare_environment(folder, *extras)
    words = ["--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    done = shell(*PIP, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("base") / "venv")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A copy of a finished run with its store, corpus and model, as a version wrote them."""
    return Path(shutil.copytree(NEWEST, tmp_path / "made"))


# What is built.


def test_the_sdist_and_its_wheel_hold_every_module_and_file(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    names = {name for name in tracked_files() if packed(name)}
    assert len(names) > 180
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == names
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert names | {"LICENSE", "README.md", "pyproject.toml"} <= held
    assert not {name for name in held if name.startswith(("tests", "notebooks"))}


def test_the_image_copies_what_the_build_reads() -> None:
    text = (ROOT / "Containerfile").read_text("utf-8")
    copied = {
        word for line in text.splitlines() if line.startswith("COPY") for word in line.split()
    }
    assert {*OWN, "salient.py", "pyproject.toml", "README.md", "LICENSE"} <= copied


def test_one_name_everywhere() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    installed = metadata.version(DISTRIBUTION)
    assert own_version() == installed and program() == f"salient {installed}"


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another project either, which is called ``salient``."""

    def version(name: str) -> str:
        if name == "salient":
            return "99.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    own_version.cache_clear()
    try:
        assert own_version() is None and program() == "salient"
    finally:
        own_version.cache_clear()


# What the base does.


def test_the_base_has_no_torch() -> None:
    names = needed(wanted())
    assert {"numpy", "xarray", "zarr", "matplotlib"} <= names
    optional = metadata.packages_distributions()
    held = {name.lower().replace("_", "-") for name in names}
    for package in EXTRAS:
        for distribution in optional.get(package, ()):
            assert distribution.lower().replace("_", "-") not in held, package


def test_the_base_opens_a_store_asks_it_and_plots(base: Path, made: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code = f"""
import sys, salient
heavy = {{"numpy", "xarray", "zarr", "pandas", "pyarrow", "rich", "typer"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import xarray
path = {str(made / "activations")!r}
array = salient.open(path)["ffn"]
assert array.identical(xarray.open_dataset(path, engine="salient")["ffn"])
found = array.isel(layer=0, pooling=0, neuron=slice(0, 4)).mean("sample").compute()
assert found.shape == (4,) and found.notnull().all(), found
found.plot()
from matplotlib import pyplot
pyplot.savefig("plot.png")
"""
    done = shell(base, "-c", code, cwd=empty)
    assert done.returncode == 0, done.stderr
    assert (empty / "plot.png").stat().st_size > 1000


MANY = """
import contextlib, io, json, sys
from pipeline.commands.line import run_command
answers = []
for words in json.loads(sys.argv[1]):
    said, failed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        code = run_command(words)
    answers.append([code, said.getvalue(), failed.getvalue()])
print(json.dumps(answers))
"""


def run_many(
    python: Path, commands: Iterable[list[str]], *, cwd: Path, home: Path
) -> list[tuple[list[str], int, str, str]]:
    """Each command's words, exit code and output, all in one process, which is soon begun."""
    done = shell(python, "-c", MANY, json.dumps(list(commands)), cwd=cwd, HOME=str(home))
    assert done.returncode == 0, done.stderr
    return [
        (words, *answer) for words, answer in zip(commands, json.loads(done.stdout), strict=True)
    ]


def test_the_base_looks(base: Path, made: Path, tmp_path: Path) -> None:
    commands = (
        ["init", "new.toml"],
        ["store", "info", "activations"],
        ["store", "verify", "activations"],
        ["store", "export", "activations", "rows.parquet", "--layer", "1", "--neuron", "5"],
        ["inspect", "activations"],
        ["inspect", "run"],
        ["inspect", "scores"],
        ["inspect", "run.toml"],
        ["score", "repair", "scores"],
        ["jobs"],
    )
    for words, code, said, failed in run_many(base, commands, cwd=made, home=tmp_path):
        assert code == 0 and said + failed, (words, failed)


# What an extra brings.

NEEDS = {
    "extract": (
        ["run", "run.toml"],
        ["extract", "run.toml"],
        ["probe", "run.toml"],
        ["rank", "run.toml"],
        ["consolidate", "run.toml"],
        ["ablate", "run.toml"],
        ["plan", "run.toml"],
        ["check", "bert"],
        ["demo"],
        ["score", "tweets.jsonl", "--run", "run.toml"],
        ["store", "add", "activations", "--layers", "0"],
        ["submit", "run.toml"],
        ["push", "run", "hub:someone/heads"],
        ["pull", "hub:someone/heads"],
    ),
    "report": (["report", "run"],),
    "explore": (["explore", "activations"],),
}


@pytest.mark.parametrize("extra", NEEDS)
def test_a_command_names_the_extra_that_it_lacks(
    base: Path, wheel: Path, made: Path, tmp_path: Path, extra: str
) -> None:
    """In one line, with the wheel that this one was installed from, before anything is written."""
    before, home = sorted(made.rglob("*")), tmp_path / "home"
    for words, code, said, failed in run_many(base, NEEDS[extra], cwd=made, home=home):
        assert code == 2 and said == "", (words, failed)
        assert failed.count("\n") == 1 and failed.startswith("salient: "), (words, failed)
        assert failed.endswith(f": pip install '{wheel}[{extra}]'\n"), (words, failed)
    assert before == sorted(made.rglob("*")) and not home.exists()


def test_the_command_itself(base: Path, wheel: Path, made: Path) -> None:
    for command in ([base.parent / "salient"], [base, "-m", "salient"], [base, "-m", "pipeline"]):
        done = shell(*command, "run", "run.toml", cwd=made)
        line = f"salient: this needs the package torch: pip install '{wheel}[extract]'\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def check_names(python: Path, folder: Path, *extras: str) -> dict[str, str]:
    """Ask every wing for every name; returns those that name an extra, with what they say."""
    code = """
import importlib, json, pkgutil, pipeline, salient, store
wings = [
    importlib.import_module(part.name)
    for root in (pipeline, store)
    for part in pkgutil.iter_modules(root.__path__, root.__name__ + ".")
    if part.ispkg
]
found, opened = {}, 0
for door in (salient, store, *wings):
    for name in door.__all__:
        try:
            getattr(door, name)
            opened += 1
        except ImportError as error:
            found[f"{door.__name__}.{name}"] = [type(error).__name__, str(error)]
print(json.dumps([opened, found]))
"""
    done = shell(python, "-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    opened, found = json.loads(done.stdout)
    assert opened > 150
    for name, (kind, text) in found.items():
        assert kind == "MissingExtra" and ": pip install '/" in text, (name, text)
        assert not [extra for extra in extras if f"[{extra}]" in text], (name, text)
    return {name: text for name, (_, text) in found.items()}


def test_every_name_of_the_wings_opens_or_names_its_extra(base: Path, tmp_path: Path) -> None:
    found = check_names(base, tmp_path)
    assert found["pipeline.backbone.load_backbone"].endswith("[extract]'")
    assert found["pipeline.report.write_report"].endswith("[report]'")
    assert found["pipeline.explorer.serve"].endswith("[explore]'")


@pytest.mark.slow
@pytest.mark.parametrize("extras", [("report",), ("extract",), ("cluster", "hub")], ids="+".join)
def test_every_name_with_some_extras(wheel: Path, tmp_path: Path, extras: tuple[str, ...]) -> None:
    found = check_names(install(wheel, tmp_path / "venv", *extras), tmp_path, *extras)
    assert ("pipeline.backbone.load_backbone" in found) == (extras == ("report",))


@pytest.mark.slow
def test_the_report_needs_no_models(wheel: Path, made: Path, tmp_path: Path) -> None:
    python = install(wheel, tmp_path / "venv", "report")
    done = shell(python.parent / "salient", "report", "run", "--images", "png", cwd=made)
    assert done.returncode == 0, done.stderr
    assert (made / "run" / "report.html").stat().st_size > 100_000


def test_a_missing_package_is_both_errors() -> None:
    error = missing("torch", "encode")
    assert isinstance(error, ImportError) and isinstance(error, SalientError)
    assert error.name == "torch"
    said = r"encode needs the package torch: pip install (-c /.+ -e '/.+|'.+)\[extract\]'"
    assert re.fullmatch(said, str(error))
    with pytest.raises(MissingExtra, match="package dask_gateway"):
        require("numpy", "dask_gateway")


def test_the_extras_bring_what_they_are_named_for() -> None:
    """Each optional package is named by the extra that brings it, and by an import of ours."""
    pytest.importorskip("torch")
    lacking = {"kubernetes", "gateway"}  # in no environment of ours
    distributions = metadata.packages_distributions()
    for package, extra in EXTRAS.items():
        if extra in lacking:
            assert any(line.startswith(package.replace("_", "-")) for line in wanted(extra))
            continue
        names = {name.lower().replace("_", "-") for name in distributions[package]}
        brought = {name.lower().replace("_", "-") for name in needed(wanted(extra))}
        assert names & brought, (package, extra)


def test_the_whole_extra_has_every_other() -> None:
    optional = set(PROJECT["optional-dependencies"]) - {
        "all",
        "dev",
        "notebook",
        "kubernetes",
        "gateway",
    }
    assert set(wanted("all")) == set(wanted(*optional))
    assert "torch>=2.6" in wanted("demo") and "holoviews>=1.20" in wanted("demo")


def test_every_import_is_of_the_base_or_of_an_extra() -> None:
    """What is imported must be asked for by name, not come along with another package."""
    modules = metadata.packages_distributions()
    asked = {line.split(">")[0].split("[")[0].lower() for line in wanted()}
    found: dict[str, set[str]] = {}
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("store/**/*.py"), ROOT / "salient.py"]:
        for name in imports(path):
            if name not in sys.stdlib_module_names and name not in (*OWN, "salient"):
                found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    unknown: dict[str, Any] = {}
    for name, places in found.items():
        brought = {one.lower().replace("_", "-") for one in modules.get(name, [name])}
        if name not in EXTRAS and not brought & asked:
            unknown[name] = sorted(places)
    # Triton comes with torch's CUDA builds, and is tried for; Panel's server is Tornado; what Jinja
    # gives and takes is MarkupSafe's.
    assert set(unknown) <= {"triton", "tornado", "markupsafe", "_typeshed"}, unknown


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


# A user's own modules of our packages' names.

SHADOWS = {
    "store.py": "store.py",
    "pipeline.py": "pipeline.py",
    "pipeline/__init__.py": "pipeline/__init__.py",
    "store/__init__.py": "store/__init__.py",
}


@pytest.mark.parametrize("name", SHADOWS)
def test_a_shadow_is_named_with_the_remedy(base: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('imported')\n")
    line = f"{tmp_path / name} hides the package {name.partition('/')[0].partition('.')[0]!r}"
    done = shell(base, "-c", "import salient", cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {line} of Salient") and "rename it" in last
    for command in ([base, "-m", "salient"], [base.parent / "salient"]):
        done = shell(*command, "jobs", cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"salient: {line}") and done.stderr.count("\n") == 1
    done = shell(base.parent / "salient", "jobs", cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr  # the folder is not on the command's path


def test_a_folder_of_data_is_no_shadow(base: Path, tmp_path: Path) -> None:
    """The usual name of an activation store."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "zarr.json").write_text("{}")
    done = shell(base, "-c", "import salient, store; print(store.__file__)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(base.parents[1])


def test_a_shadow_that_is_imported_already(base: Path, tmp_path: Path) -> None:
    """A notebook's folder, in which the user's own module has been imported before ours."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "store.py").write_text("")
    code = "import sys; sys.path.insert(0, 'own'); import store; sys.path.pop(0); import salient"
    done = shell(base, "-c", code, cwd=tmp_path)
    assert "own/store.py hides the package 'store'" in done.stderr.splitlines()[-1]
    code = "import sys, types; sys.modules['store'] = types.ModuleType('store'); import salient"
    done = shell(base, "-c", code, cwd=tmp_path)
    said = done.stderr.splitlines()[-1]
    assert "a module without a file hides the package 'store'" in said


def test_a_checkout_sees_its_own_packages(tmp_path: Path) -> None:
    """Through a link to it as well."""
    (tmp_path / "linked").symlink_to(ROOT)
    for path in (ROOT, tmp_path / "linked"):
        code = "import salient, store; print(store.__file__)"
        done = shell(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(path))
        assert done.returncode == 0 and done.stdout.startswith(str(path)), done.stderr
