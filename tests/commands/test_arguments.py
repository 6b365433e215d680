from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.commands.arguments import config_at, run_at, store_at
from pipeline.commands.line import run_command
from pipeline.errors import ConfigError
from tests.builders.runs import write_mood_run


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder with a configuration, the store and the run of an extraction."""
    folder = tmp_path_factory.mktemp("extracted")
    assert run_command(["extract", str(write_mood_run(folder, tiny_bert)), "-q"]) == 0
    return folder


def refused(function: object, *arguments: object, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **options)  # type: ignore[operator]
    return str(caught.value)


def test_a_run_is_its_folder_or_its_file(extracted: Path) -> None:
    run, file, store = extracted / "run", extracted / "run.toml", extracted / "activations"
    assert run_at(run) == run and run_at(file) == file
    assert refused(run_at, extracted) == f"{extracted}: no run here; there is one at {run}"
    above = refused(run_at, extracted.parent)
    assert f"there is one at {run}" in above or "there are " in above
    assert "is an activation store, not a run; there is one at" in refused(run_at, store)
    assert f"did you mean '{run}'?" in refused(run_at, extracted / "runn")
    assert refused(run_at, Path("s3://bucket/run")).startswith("s3:/")


def test_a_configuration_is_read_from_both(extracted: Path) -> None:
    run, file = extracted / "run", extracted / "run.toml"
    assert config_at(run).fingerprint == config_at(file).fingerprint
    assert f"needs its TOML file; there is {file}" in refused(config_at, run, folder=False)
    assert f"is a folder; there is {file}" in refused(config_at, extracted, folder=False)
    assert "`salient init FILE` writes one" in refused(
        config_at, extracted / "activations", folder=False
    )


def test_a_store_is_named_by_its_run(extracted: Path, tmp_path: Path) -> None:
    store = extracted / "activations"
    for one in (store, extracted / "run", extracted / "run.toml"):
        assert store_at(one) == str(store)
    assert store_at("s3://bucket/store") == "s3://bucket/store"
    assert f"there is one at {store}" in refused(store_at, extracted)
    assert "did you mean" in refused(store_at, extracted / "activation")
    file = tmp_path / "run.toml"
    text = (extracted / "run.toml").read_text(encoding="utf-8")
    file.write_text(text.replace('"activations"', '"gone"'), encoding="utf-8")
    assert f"its store should be at {tmp_path / 'gone'}, and is not" in refused(store_at, file)


def test_what_comes_before_is_named_with_its_command(
    extracted: Path, tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = str(write_mood_run(tmp_path, tiny_bert))
    run = str(extracted / "run")
    for words, line in (
        (["probe", fresh], f"{fresh}: not extracted yet: `salient extract {fresh}` first"),
        (["consolidate", fresh], f"{fresh}: not extracted yet: `salient extract {fresh}` first"),
        (["consolidate", run], f"{run}: not probed yet: `salient probe {run}` first"),
        (["rank", run], f"{run}: not probed yet: `salient probe {run}` first"),
        (["ablate", run], f"{run}: not probed yet: `salient probe {run}` first"),
        (["run", run], f"{run}: is a run's folder, and this command needs its TOML file; there"),
    ):
        assert run_command([*words, "-q"]) == 2
        assert capsys.readouterr().err.startswith(f"salient: {line}")


def test_later_stages_take_the_runs_folder(
    extracted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all"
    shutil.copytree(extracted, folder)
    run = str(folder / "run")
    for stage in ("probe", "rank"):
        assert run_command([stage, run, "-q"]) == 0, capsys.readouterr().err
    assert (folder / "run" / "rankings" / "mood.parquet").is_file()
