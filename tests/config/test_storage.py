"""``[storage]`` and addresses of buckets: how they are reached, and that no secret gets in."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import salient
from pipeline import stages
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from store.disk import storage_options, use_storage
from store.errors import StoreInputError
from tests.builders.runs import write_mood_run

TOML = """
name = "mood"
run_dir = "run"
[backbone]
model = "./model"
[[corpus]]
path = "tweets.csv"
labels = { mood = "label" }
[[tasks]]
name = "mood"
type = "classification"
[store]
path = "s3://bucket/activations/"
"""
STORAGE = """
[storage]
endpoint = "http://127.0.0.1:9000"
region = "eu-central-1"
allow_http = true
request_timeout_s = 30
"""
SECRET = "hunter2hunter2"


@pytest.fixture(autouse=True)
def own_options() -> Iterator[None]:
    before = storage_options()
    yield
    use_storage(before)


def loaded(folder: Path, text: str) -> RunConfig:
    path = folder / "run.toml"
    path.write_text(text)
    return RunConfig.load(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_bucket_is_no_path_of_this_machine(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        TOML
        + '[score]\noutput = "gs://bucket/scores"\n[submission]\nfolder = "s3://bucket/jobs"\n',
    )
    assert config.store.path == "s3://bucket/activations"
    assert config.score.output == "gs://bucket/scores"
    assert config.submission.folder == "s3://bucket/jobs"
    assert config.run_dir == str(tmp_path / "run")
    away = loaded(tmp_path, TOML.replace('"tweets.csv"', '"s3://bucket/in/*.csv"'))
    assert away.corpus[0].path == "s3://bucket/in/*.csv"
    assert loaded(tmp_path, TOML.replace('"tweets.csv"', '"here/in/*.csv"')).fingerprint == (
        away.fingerprint
    )
    near = TOML.replace("s3://bucket/activations/", f"file://{tmp_path}/activations")
    assert loaded(tmp_path, near).store.path == str(tmp_path / "activations")


def test_options_reach_the_client_and_the_record_and_change_no_fingerprint(tmp_path: Path) -> None:
    plain = loaded(tmp_path, TOML)
    assert "storage" not in plain.stated() and "submission" not in plain.stated()
    config = loaded(tmp_path, TOML + STORAGE)
    assert storage_options() == {
        "endpoint": "http://127.0.0.1:9000",
        "region": "eu-central-1",
        "allow_http": True,
        "request_timeout_s": 30.0,
    }
    assert config.fingerprint == plain.fingerprint
    assert config.stated()["storage"]["region"] == "eu-central-1"
    again = RunConfig.from_dict(config.stated(), origin=tmp_path / "config.json")
    assert again.storage == config.storage


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f'[storage]\nsecret_access_key = "{SECRET}"', ["'secret_access_key'", "AWS_SECRET"]),
        (f'[storage]\nAWS_ACCESS_KEY_ID = "{SECRET}"', ["AWS_ACCESS_KEY_ID", "environment"]),
        (f'[storage]\nsas_token = "{SECRET}"', ["AZURE_STORAGE_ACCOUNT_KEY"]),
        (f'[storage]\nendpoint = "https://me:{SECRET}@host"', ["'https://host'", "login"]),
        (f'[storage]\nendpoint = "https://host?token={SECRET}"', ["'https://host'"]),
        (f'[storage]\nendpoint = "me:{SECRET}@host"', ["https://HOST", "without a login"]),
        (f'[storage]\nendpoint = "host?x={SECRET}"', ["https://HOST"]),
        (f'[score]\noutput = "s3://me:{SECRET}@bucket/x"', ["score.output: 's3://bucket/x'"]),
        (f'[score]\noutput = "az://bucket/x?sig={SECRET}"', ["score.output: 'az://bucket/x'"]),
        (f'[submission]\nfolder = "s3://{SECRET}@bucket/x"', ["submission.folder"]),
    ],
)
def test_secrets_are_refused_and_not_repeated(tmp_path: Path, text: str, parts: list[str]) -> None:
    said = refused(tmp_path, f"{TOML}{text}\n")
    assert all(part in said for part in parts), said


def test_options_are_those_of_the_file_that_was_named_last(tmp_path: Path) -> None:
    loaded(tmp_path, TOML + STORAGE)
    before = storage_options()
    plain = {**tomllib.loads(TOML), "storage": {"region": "elsewhere"}}
    RunConfig.from_dict(plain, origin=tmp_path / "looked-at.toml")
    assert storage_options() == before
    loaded(tmp_path, TOML)
    assert storage_options() == {}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[storage]\nendpoint = "127.0.0.1:9000"', ["storage", "endpoint", "http://HOST"]),
        ('[storage]\nendpoint = "http://host"', ["allow_http = true"]),
        ('[storage]\nendpont = "http://host"', ["storage.endpont", "did you mean 'endpoint'?"]),
        ("[storage]\nrequest_timeout_s = 0", ["storage.request_timeout_s"]),
        ('[score]\noutput = "https://host/x"', ["score.output", "s3://BUCKET/FOLDER"]),
    ],
)
def test_what_cannot_be_says_what_can(tmp_path: Path, text: str, parts: list[str]) -> None:
    said = refused(tmp_path, f"{TOML}{text}\n")
    assert all(part in said for part in parts), said


def test_every_option_of_the_client_has_its_key() -> None:
    from pipeline.config import StorageConfig
    from store.disk.storage import CHOICES

    assert set(StorageConfig.model_fields) == set(CHOICES)


def test_every_bucket_of_the_client_may_be_named() -> None:
    from pipeline.config import addresses
    from store.disk.storage import HTTP, KINDS

    known = {scheme for scheme, kind in KINDS.items() if kind != HTTP}
    assert {*addresses.BUCKETS, *addresses._ALSO} == known


def test_a_starter_begins_in_a_bucket(tmp_path: Path) -> None:
    from pipeline.commands.line import run_command

    path, near = tmp_path / "run.toml", tmp_path / "near.toml"
    assert run_command(["init", str(path), "--store", "s3://bucket/activations"]) == 0
    text = path.read_text()
    assert RunConfig.load(path).store.path == "s3://bucket/activations"
    assert text.index("[store]") < text.index("# [storage]") < text.index("[[corpus]]")
    assert run_command(["init", str(near), "--store", str(tmp_path / "there")]) == 0
    assert 'path = "there"' in near.read_text() and "[storage]" not in near.read_text()
    assert run_command(["init", str(tmp_path / "x.toml"), "--store", "ftp://b/a"]) == 2


def test_a_missing_bucket_is_told_before_a_model_is_loaded(
    tmp_path: Path, bucket: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "extract_here", None)  # which loads it
    path = write_mood_run(tmp_path, tiny_bert)
    text = path.read_text().replace('"activations"', '"s3://there-is-no-such-bucket/store"')
    path.write_text(text)
    with pytest.raises(StoreInputError, match="there-is-no-such-bucket"):
        stages.extract(RunConfig.load(path))


def test_python_takes_addresses_of_scores_alone() -> None:
    with pytest.raises(ConfigError, match="folders of a machine"):
        salient.load("s3://bucket/run")
    with pytest.raises(ConfigError, match="folders of a machine"):
        salient.prevalence("memory://bucket/scores", run="s3://bucket/run")
    with pytest.raises(ConfigError, match="memory://bucket/scores"):
        salient.prevalence("memory://bucket/scores")
