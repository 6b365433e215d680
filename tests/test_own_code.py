"""A model's own code runs where the caller allows it, and never because a folder asks for it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import stages
from pipeline.backbone.checkpoint import load_config
from pipeline.backbone.folder import locate
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import BackboneError, ClusterError
from pipeline.explorer.tokenmaps import TokenPlaces, TokenReader
from pipeline.heads.model import Head
from pipeline.runfolder import run_config
from pipeline.scoring.scorer import Scorer
from pipeline.submission.folder import TRUST
from pipeline.submission.running import Driver
from store import ActivationStore
from store.errors import SalientError
from store.tables import read_json, write_json
from tests.builders.models import make_tiny_model
from tests.builders.runs import write_mood_run

OWN_CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel
with Path({marker!r}).open("a") as file:
    file.write("ran")
class OwnConfig(BertConfig):
    model_type = "grapefruit"
class OwnModel(BertModel):
    config_class = OwnConfig
"""
SITE = "encoder.layer.{i}.output.dense"


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What transformers has imported of models' own code in one test is new in the next."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "own"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("transformers_modules"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a model with code of its own, which writes ``ran`` into ``marker``."""
    home = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        cache = str(home / "cache")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        model = make_tiny_model("bert", home)
        (model / "own.py").write_text(OWN_CODE.format(marker=str(home / "marker")), "utf-8")
        config = json.loads((model / "config.json").read_text("utf-8"))
        names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
        config |= {"model_type": "grapefruit", "auto_map": names}
        (model / "config.json").write_text(json.dumps(config), "utf-8")
        path = write_mood_run(home, model, num_rows=80)
        extra = f'trust_remote_code = true\nffn_site = "{SITE}"\n[store]'
        path.write_text(path.read_text("utf-8").replace("[store]", extra), "utf-8")
        stages.run(RunConfig.load(path))
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
    return home


@pytest.fixture
def ran(made: Path) -> Iterator[Callable[[], bool]]:
    """Whether the model's code has run since the last look."""
    marker = made / "marker"
    marker.unlink(missing_ok=True)

    def look() -> bool:
        found = marker.exists()
        marker.unlink(missing_ok=True)
        for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
            del sys.modules[name]
        return found

    yield look


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def salient(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line; its exit code and what it said."""

    def run(*words: object) -> tuple[int, str]:
        code = run_command([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


def test_scoring_asks_the_caller(
    made: Path, tmp_path: Path, ran: Callable[[], bool], salient: Command
) -> None:
    run, texts = made / "run", made / "tweets.csv"
    head = run / "heads/mood/chosen"
    ways = {
        "--heads": (head, head),
        "--run": (run, run / "heads/mood/chosen"),
    }
    for number, (option, (given, asking)) in enumerate(ways.items()):
        words = ["score", texts, option, given, "--task", "mood", "--out", tmp_path / f"{number}"]
        code, said = salient(*words)
        assert code == 2 and not ran(), said
        assert str(asking) in said and "would run as you" in said
        assert "--trust-remote-code" in said and str(made / "bert") in said
        code, said = salient(*words, "--trust-remote-code")
        assert code == 0 and ran(), said
    code, said = salient("score", texts, "--run", made / "run.toml", "--out", tmp_path / "own")
    assert code == 0 and ran(), said


def test_a_file_of_ones_own_allows_the_code_of_the_model_that_it_names(
    made: Path, tmp_path: Path, ran: Callable[[], bool], salient: Command
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    for name in ("own.toml", "other.toml"):
        text = (made / "run.toml").read_text("utf-8")
        if name == "other.toml":
            text = text.replace(str(made / "bert"), str(tmp_path / "copy" / "bert"))
        (tmp_path / "copy" / name).write_text(text, "utf-8")
    for name, allowed in (("own.toml", True), ("other.toml", False)):
        out = tmp_path / name.removesuffix(".toml")
        words = ["score", made / "tweets.csv", "--run", tmp_path / "copy" / name, "--out", out]
        code, said = salient(*words)
        assert (code == 0) == allowed == ran(), said


def test_a_scorer_from_python_asks_the_caller(made: Path, ran: Callable[[], bool]) -> None:
    folder = made / "run/heads/mood/chosen"
    for refused in (lambda: Scorer.load([folder]), lambda: Scorer([Head.load(folder)])):
        with pytest.raises(BackboneError, match="trust_remote_code=True"):
            refused()
        assert not ran()
    Scorer.load([folder], trust_remote_code=True)
    assert ran()


def test_planning_and_ablation_ask_the_caller(
    made: Path, tmp_path: Path, ran: Callable[[], bool], salient: Command
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    home = tmp_path / "copy"
    few = ("--rounds", "1", "--num-texts", "4", "--task", "mood")
    code, said = salient("plan", home / "run", *few)
    assert code == 2 and "--trust-remote-code" in said and not ran()
    code, said = salient("plan", home / "run", *few, "--trust-remote-code")
    assert code == 0 and ran(), said
    few = ("--task", "mood", "--top", "2", "--draws", "1")
    code, said = salient("ablate", home / "run.toml", *few)
    assert code == 0 and ran(), said
    text = (home / "run.toml").read_text("utf-8").replace("trust_remote_code = true\n", "")
    (home / "run.toml").write_text(text, "utf-8")
    code, said = salient("ablate", home / "run.toml", *few)
    assert code == 2 and "--trust-remote-code" in said and not ran()


def test_the_configuration_in_a_run_folder_allows_nothing(made: Path) -> None:
    own, handed = RunConfig.load(made / "run.toml"), run_config(made / "run")
    assert own.backbone.trust_remote_code and not own.code_withheld
    assert not handed.backbone.trust_remote_code and handed.code_withheld
    assert handed.fingerprint == own.fingerprint
    assert handed.allowing_code().backbone == own.backbone
    assert not handed.trusts(own.backbone.model_dump(), moved=True)


def test_a_stores_word_runs_no_code(made: Path, tmp_path: Path, ran: Callable[[], bool]) -> None:
    shutil.copytree(made / "activations", tmp_path / "store")
    schema = ActivationStore.open(tmp_path / "store").schema
    assert schema.provenance["backbone"]["trust_remote_code"]
    for reader in (TokenReader, TokenPlaces):
        with pytest.raises(SalientError):
            reader.for_store(schema)  # type: ignore[attr-defined]
        assert not ran()


def test_a_jobs_folder_allows_nothing(
    made: Path,
    tmp_path: Path,
    ran: Callable[[], bool],
    salient: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.submission import jobs

    started: list[list[str]] = []
    monkeypatch.setenv("SALIENT_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setattr(jobs, "_detach", lambda command, log: started.append(list(command)))
    shutil.copytree(made, tmp_path / "copy")
    job = jobs.submit("extract", tmp_path / "copy/run.toml")
    assert started[0][-2:] == [str(job.path), TRUST]
    assert TRUST not in job.card().arguments
    code, said = salient("extract", job.config)
    assert code == 2 and TRUST in said and not ran()

    codes: list[int] = []

    def command(words: object) -> int:
        codes.append(run_command(words))  # type: ignore[arg-type]
        return codes[-1]

    Driver(job.path, command, interrupted=130, trust_remote_code=True).run()
    assert codes == [0] and ran()
    jobs.submit("probe", tmp_path / "copy/run.toml")
    assert TRUST not in started[1]
    data = read_json(job.path / "job.json")
    write_json(job.path / "job.json", {**data, "arguments": [*data["arguments"], TRUST]})
    with pytest.raises(ClusterError, match="no folder"):
        job.card()
    assert Driver(job.path, command, interrupted=130).run() != 0 and codes == [0]


def test_no_name_of_a_model_imports_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parent").mkdir()
    marker = tmp_path / "marker"
    text = f"open({str(marker)!r}, 'w').close()"
    (tmp_path / "parent/__init__.py").write_text(text, "utf-8")
    (tmp_path / "parent/child").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackboneError, match=r"package:parent\.child"):
        locate("package:parent.child")
    assert not marker.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation"])
def test_kernels_from_the_hub_are_code_too(tmp_path: Path, key: str) -> None:
    model = make_tiny_model("bert", tmp_path)
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {key: "some-one/kernel"}), "utf-8")
    with pytest.raises(BackboneError, match=rf"{key}.*some-one/kernel"):
        load_config(model)
