"""The files around the code agree with it and with each other."""

from __future__ import annotations

import re

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.builders.extras import PROJECT, wanted
from tests.builders.paths import ROOT, tracked_files

LOCKED = ("all", "dev")
CONDA_NAMES = {
    "dask-core": "dask",
    "matplotlib-base": "matplotlib",
    "prometheus_client": "prometheus-client",
    "pytorch": "torch",
}


def requirements(*extras: str) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in wanted(*extras)]
    return {canonicalize_name(r.name): r for r in parsed}


def test_conda_environment_has_the_same_dependencies() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {}
    for line in listed:
        if isinstance(line, str) and line != "pip":
            found = Requirement(line)
            conda[CONDA_NAMES.get(found.name, found.name)] = str(found.specifier)
    assert conda.pop("python") == PROJECT["requires-python"]
    expected = {name: str(r.specifier) for name, r in requirements("cluster", "explore").items()}
    assert conda == expected


def test_lock_pins_every_dependency_in_range() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    locked = {canonicalize_name(name): version for name, version in pins.items()}
    for name, needed in requirements(*LOCKED).items():
        assert needed.specifier.contains(locked[name]), f"{name} {locked[name]} is out of range"


def test_only_the_agreed_top_level_folders_exist() -> None:
    folders = {name.split("/")[0] for name in tracked_files() if "/" in name}
    assert folders <= {"pipeline", "store", "tests", "notebooks", ".ci"}


def test_no_pickle_anywhere() -> None:
    paths = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("store/**/*.py")]
    assert len(paths) > 100
    for path in paths:
        assert not re.search(r"\b(pickle|joblib|torch\.load|torch\.save)\b", path.read_text()), path
