"""Against a stand-in for the hub on this machine (tests/builders/hub.py); no real one is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from safetensors.numpy import load_file, save_file

from store.tables import read_json, write_json
from tests.builders.hub import TOKEN, Client, Repository, StandIn

pytest.importorskip("huggingface_hub", reason="needs the extra: salient-neurons[extract]")

MOODS = "hub:alice/moods"


@pytest.fixture(autouse=True)
def clean(hub: StandIn) -> Iterator[None]:
    yield
    hub.fail.clear()
    hub.sizes.clear()


@pytest.fixture
def pushed(hub: StandIn, client: Client, run: Path) -> str:
    """The commit of a run's heads, in a repository that nothing else is in."""
    hub.repositories.pop("alice/moods", None)
    code, out, err = client.salient("push", run, MOODS, "--json", "-q")
    assert code == 0, err
    commit: str = json.loads(out)["commit"]
    return commit


def files(hub: StandIn, name: str = "alice/moods", revision: str = "main") -> dict[str, bytes]:
    found = hub.repositories[name].files(revision)
    assert found is not None
    return found


def changed_head(content: bytes, path: Path, **changes: Any) -> bytes:
    """``head.json`` with other members and a right checksum."""
    path.write_bytes(content)
    write_json(path, read_json(path) | changes)
    return path.read_bytes()


def scores(folder: Path) -> list[dict[str, Any]]:
    table = ds.dataset(folder, partitioning="hive").to_table().sort_by("id")
    return table.drop(["source_file"]).to_pylist()


def test_round_trip_to_the_bit(
    hub: StandIn, client: Client, run: Path, model: Path, pushed: str, tmp_path: Path
) -> None:
    texts = tmp_path / "new.csv"
    texts.write_text("id,text\n1,a happy cat\n2,an angry dog on the log\n", "utf-8")
    code, out, err = client.salient("pull", f"{MOODS}@{pushed}", tmp_path / "mine")
    assert code == 0 and f"pulled: {MOODS}@{pushed}" in out and "mood (dense" in out, err
    record = read_json(tmp_path / "mine/hub.json")
    assert record["commit"] == record["asked"] == pushed
    words = ("--model", model, "--device", "cpu", "-q")
    own = [x for task in ("mood", "level") for x in ("--heads", run / f"heads/{task}/chosen")]
    ways = {
        "own": own,
        "hub": ["--heads", f"{MOODS}@{pushed}"],
        "folder": ["--heads", tmp_path / "mine"],
    }
    for name, heads in ways.items():
        code, _, err = client.salient("score", texts, *heads, "--out", tmp_path / name, *words)
        assert code == 0, err
    rows = scores(tmp_path / "own")
    assert len(rows) == 2 and {"mood", "mood_p_glad", "level"} <= set(rows[0])
    assert scores(tmp_path / "hub") == rows == scores(tmp_path / "folder")
    (record_of_run,) = (tmp_path / "hub/_runs").glob("*.json")
    assert pushed in record_of_run.read_text("utf-8")
    code, _, _ = client.python(
        "from pipeline.sharing import find_folders\nfrom pipeline.scoring import Scorer\n"
        f"folders = find_folders([{MOODS!r}])\n"
        f"scorer = Scorer.load(folders, model={str(model)!r}, device='cpu')\n"
        "result = [sorted(scorer.outputs(['a happy cat'])), scorer.golden_difference]"
    )
    assert code[0] == ["level", "mood"] and code[1] is not None


def test_what_is_pushed_and_what_is_not(
    hub: StandIn, client: Client, run: Path, pushed: str, tmp_path: Path
) -> None:
    found = files(hub)
    own = ("head.json", "head.safetensors", "golden.json", "golden_activations.safetensors")
    wanted = {f"heads/{t}/{n}" for t in ("mood", "level") for n in (*own, "reference.safetensors")}
    assert set(found) == wanted | {"README.md", ".gitattributes"}
    for name, content in found.items():
        for secret in (b"/fixture", str(run).encode(), str(Path.home()).encode(), TOKEN.encode()):
            assert secret not in content, name
    assert all(TOKEN.encode() not in sent for sent in hub.said)
    assert hub.repositories["alice/moods"].messages[-1].startswith("Heads: mood (dense")


def test_dry_run_sends_nothing(hub: StandIn, client: Client, run: Path) -> None:
    before = len(hub.seen)
    code, out, _ = client.salient("push", run, "hub:alice/other", "--dry-run")
    assert code == 0 and "heads/mood/head.json" in out and "library_name" in out
    assert "nothing was sent" in out and len(hub.seen) == before
    code, out, _ = client.salient("push", run, "hub:alice/other", "--dry-run", "--json")
    assert json.loads(out)["commit"] is None and "alice/other" not in hub.repositories


def test_pushing_again(hub: StandIn, client: Client, run: Path, pushed: str) -> None:
    code, out, err = client.salient("push", run, MOODS)
    assert code == 0 and f"nothing has changed since: {MOODS}@{pushed}" in out
    assert "is there already, public" in err
    hub.repositories["alice/moods"].add({**files(hub), "notes.txt": b"mine"}, "by hand")
    code, out, err = client.salient("push", run, MOODS, "--task", "mood", "--license", "mit")
    assert code == 0 and "5 files of earlier heads go" in err
    found = files(hub)
    assert "notes.txt" in found and not [name for name in found if "level" in name]
    assert b'license: "mit"' in found["README.md"]
    assert files(hub, revision=pushed).keys() != found.keys()  # the earlier commit is as it was


def test_revisions(hub: StandIn, client: Client, run: Path, pushed: str, tmp_path: Path) -> None:
    code, out, _ = client.salient("push", run, MOODS, "--license", "mit", "-q", "--json")
    newer = json.loads(out)["commit"]
    code, out, err = client.salient("pull", MOODS, "--json")
    assert code == 0 and json.loads(out)["commit"] == newer
    assert f"is now at commit {newer}" in err and f"{MOODS}@{newer} always means" in err
    code, out, err = client.salient("pull", f"{MOODS}@{pushed}", "--json")
    assert json.loads(out)["commit"] == pushed and "is now at" not in err
    assert f"/snapshots/{pushed}/heads/mood" in json.loads(out)["heads"]["mood"]
    code, _, err = client.salient("pull", f"{MOODS}@{'0' * 40}")
    assert code == 2 and "no such revision" in err


def test_a_commit_in_the_cache_serves_without_the_hub(
    hub: StandIn, client: Client, pushed: str, tmp_path: Path
) -> None:
    code, out, err = client.salient("pull", f"{MOODS}@{pushed}", "--json")
    assert code == 0, err
    hub.fail[("GET", "/")] = 0
    code, _, err = client.salient("pull", f"{MOODS}@{pushed}", tmp_path / "mine")
    assert code == 0 and "cannot be reached, so the copy in the cache is used" in err
    shutil.rmtree(json.loads(out)["heads"]["level"])
    code, _, err = client.salient("pull", f"{MOODS}@{pushed}")
    assert code == 75 and "cannot be reached" in err  # the library knows that it is not whole
    code, _, err = client.salient("pull", MOODS)
    assert code == 75 and hub.url in err and "cannot be reached" in err and "HF_ENDPOINT" in err


def test_offline(hub: StandIn, client: Client, run: Path, pushed: str, tmp_path: Path) -> None:
    """The variable is read when huggingface_hub is imported; what it sets then is set here."""
    switch = "from huggingface_hub import constants\nconstants.HF_HUB_OFFLINE = "
    assert client.salient("pull", f"{MOODS}@{pushed}")[0] == 0
    client.python(f"{switch}True")
    try:
        before = len(hub.seen)
        code, _, err = client.salient("pull", f"{MOODS}@{pushed}", tmp_path / "mine")
        assert code == 0 and "HF_HUB_OFFLINE is set, so what is in the cache is used" in err
        code, _, err = client.salient("pull", f"{MOODS}@{'0' * 40}")
        assert code == 2 and "not whole, in the cache" in err and "HF_HUB_OFFLINE is set" in err
        code, _, err = client.salient("push", run, MOODS)
        assert code == 2 and "HF_HUB_OFFLINE is set; unset it" in err
        assert len(hub.seen) == before
    finally:
        client.python(f"{switch}False")


def test_who_may_do_what(hub: StandIn, client: Client, run: Path, pushed: str) -> None:
    code, _, err = client.salient("push", run, "hub:alice/fresh", token=None)
    assert code == 2 and "hf auth login" in err and "alice/fresh" not in hub.repositories
    code, _, err = client.salient("push", run, "hub:bob/moods")
    assert code == 2 and "HTTP 403" in err and "write access" in err
    code, _, err = client.salient("pull", "hub:alice/nothing")
    assert code == 2 and "no such repository, or a private one" in err
    hub.repositories["bob/gated"] = Repository(gated=True)
    hub.repositories["bob/gated"].add({}, "initial commit")
    code, _, err = client.salient("pull", "hub:bob/gated", token="hf_SomebodyElsesToken")
    assert code == 2 and "gives access on request" in err and "hf_" not in err
    for status, part in ((401, "hf auth login"), (403, "access to pull"), (500, "run again later")):
        hub.fail[("GET", "/api/models/alice/moods")] = status
        code, _, err = client.salient("pull", MOODS)
        assert code == (75 if status == 500 else 2) and part in err and TOKEN not in err


def test_private_repositories(hub: StandIn, client: Client, run: Path, pushed: str) -> None:
    hub.repositories.pop("alice/own", None)
    code, _, err = client.salient("push", run, "hub:alice/own", "--private")
    assert code == 0 and "made, private" in err and hub.repositories["alice/own"].private
    assert client.salient("pull", "hub:alice/own")[0] == 0
    assert client.salient("pull", "hub:alice/own", token=None)[0] == 2
    code, _, err = client.salient("push", run, MOODS, "--private")
    assert code == 2 and "is there already, and public" in err
    assert files(hub).keys() == files(hub, revision=pushed).keys()


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (("PUT", "/lfs/"), 403),
        (("POST", "/api/models/alice/moods/commit"), 500),
        (("POST", "/api/models/alice/moods/commit"), 412),
        (("POST", "/api/models/alice/moods/commit"), 0),
    ],
)
def test_a_push_that_fails_has_published_nothing(
    hub: StandIn, client: Client, run: Path, call: tuple[str, str], status: int
) -> None:
    hub.repositories.pop("alice/moods", None)
    hub.blobs.clear()
    hub.fail[call] = status
    code, _, err = client.salient("push", run, MOODS)
    assert code == (2 if status == 403 else 75) and "cannot be pushed" in err
    assert "Traceback" not in err and TOKEN not in err
    assert set(files(hub)) == {".gitattributes"}
    hub.fail.clear()
    assert client.salient("push", run, MOODS)[0] == 0


def test_a_file_that_the_hub_leaves_out_is_told(hub: StandIn, client: Client, run: Path) -> None:
    hub.repositories["alice/moods"] = Repository()
    hub.repositories["alice/moods"].add(
        {".gitignore": b"reference.safetensors\n"}, "initial commit"
    )
    code, _, err = client.salient("push", run, MOODS)
    assert code == 1 and "left out heads/level/reference.safetensors" in err and ".gitignore" in err


def test_damage_on_the_way_is_refused(
    hub: StandIn, client: Client, pushed: str, tmp_path: Path
) -> None:
    for name in ("head.safetensors", "head.json", "golden.json", "reference.safetensors"):
        content = bytearray(files(hub, revision=pushed)[f"heads/mood/{name}"])
        at = content.rindex(b"0") if name.endswith(".json") else len(content) - 3
        content[at] ^= 1
        damaged = files(hub, revision=pushed) | {f"heads/mood/{name}": bytes(content)}
        commit = hub.repositories["alice/moods"].add(damaged, name)
        for words in (("pull", f"{MOODS}@{commit}", tmp_path / name), ("pull", MOODS)):
            code, _, err = client.salient(*words)
            assert code == 1 and name in err and "Traceback" not in err, err
        assert not (tmp_path / name).exists()


def test_another_model_and_other_golden_outputs_are_refused(
    hub: StandIn, client: Client, model: Path, pushed: str, tmp_path: Path
) -> None:
    texts = tmp_path / "new.csv"
    texts.write_text("id,text\n1,a happy cat\n", "utf-8")
    other = shutil.copytree(model, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("output.dense.weight"))
    save_file(weights | {name: weights[name] * np.float32(1.5)}, other / "model.safetensors")
    words = ("score", texts, "--out", tmp_path / "out", "-q", "--heads")
    code, _, err = client.salient(*words, f"{MOODS}@{pushed}", "--model", other)
    assert code == 2 and "not the backbone these heads were trained on" in err, err
    code, _, err = client.salient(*words, f"{MOODS}@{pushed}")
    assert code == 2 and "./bert: no such model directory" in err and "--model" in err
    path = tmp_path / "golden.json"
    content = files(hub, revision=pushed)["heads/mood/golden.json"]
    path.write_bytes(content)
    outputs = [[-value for value in row] for row in read_json(path)["outputs"]]
    changed = {"heads/mood/golden.json": changed_head(content, path, outputs=outputs)}
    commit = hub.repositories["alice/moods"].add(files(hub, revision=pushed) | changed, "golden")
    code, _, err = client.salient(*words, f"{MOODS}@{commit}", "--model", model)
    assert code == 1 and "golden texts" in err and "differs" in err


def test_a_backbone_of_the_hub_is_fetched_at_its_commit(
    hub: StandIn, client: Client, run: Path, model: Path, tmp_path: Path
) -> None:
    hub.repositories["alice/bert"] = Repository()
    content = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    commit = hub.repositories["alice/bert"].add(content, "a model")
    hub.repositories["alice/bert"].add(content | {"config.json": b"{}"}, "spoiled")
    for task in ("mood", "level"):
        path = run / f"heads/{task}/chosen/head.json"
        card = read_json(path)
        card["extraction"]["backbone"] |= {"model": "alice/bert", "revision": commit}
        write_json(path, card)
    code, _, err = client.salient("push", run, "hub:alice/whole")
    assert code == 0, err
    assert b'base_model: "alice/bert"' in files(hub, "alice/whole")["README.md"]
    texts = tmp_path / "new.csv"
    texts.write_text("id,text\n1,a happy cat\n", "utf-8")
    words = ("--heads", "hub:alice/whole", "--task", "mood", "--device", "cpu")
    code, out, err = client.salient("score", texts, *words, "--out", tmp_path / "out", "--json")
    assert code == 0 and json.loads(out)["scored"] == 1, err
    assert "golden texts: outputs" in err and "is now at commit" in err


def test_a_strangers_repository(
    hub: StandIn, client: Client, model: Path, pushed: str, tmp_path: Path
) -> None:
    """Only files of heads are fetched, each is looked through, and none of them runs."""
    good, repository = files(hub, revision=pushed), hub.repositories["alice/moods"]

    def pull(content: dict[str, bytes], message: str) -> tuple[int, str, Path]:
        commit = repository.add(content, message)
        target = tmp_path / message.replace(" ", "_")
        code, _, err = client.salient("pull", f"{MOODS}@{commit}", target)
        return code, err, target

    odd = {"evil.py": b"1/0", "heads/evil.py": b"1/0", "heads/mood/model.pkl": b"x", "a/b": b"x"}
    odd |= {"heads/mood/more/head.json": b"{}", "heads/.x/head.json": b"{}", "head.json": b"{}"}
    code, err, target = pull(good | odd, "more files")
    there = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert code == 0 and there == (set(good) - {".gitattributes"}) | {"hub.json"}, err
    assert not [path for _, path in hub.seen if path.endswith((".py", ".pkl", "/x/head.json"))]

    code, err, target = pull({"config.json": b"{}"}, "no heads")
    assert code == 2 and "holds no heads" in err and "salient push" in err
    lacking = {name: content for name, content in good.items() if name != "heads/mood/golden.json"}
    code, err, target = pull(lacking, "no golden texts")
    assert code == 1 and "heads/mood has no golden.json" in err and not target.exists()
    swapped = {name.replace("mood", "anger"): content for name, content in good.items()}
    code, err, target = pull(swapped, "another task")
    assert code == 1 and "heads/anger is a head of task 'mood'" in err
    hub.sizes["heads/mood/head.json"] = 10**12
    before = len(hub.seen)
    code, err, target = pull(good, "too large")
    assert code == 2 and "nothing was fetched" in err and len(hub.seen) == before + 1


def test_no_head_allows_a_models_own_code(
    hub: StandIn, client: Client, model: Path, pushed: str, tmp_path: Path
) -> None:
    good, path = files(hub, revision=pushed), tmp_path / "head.json"
    path.write_bytes(good["heads/mood/head.json"])
    extraction = read_json(path)["extraction"]
    extraction["backbone"]["trust_remote_code"] = True
    asking = changed_head(good["heads/mood/head.json"], path, extraction=extraction)
    commit = hub.repositories["alice/moods"].add(good | {"heads/mood/head.json": asking}, "code")
    texts = tmp_path / "new.csv"
    texts.write_text("id,text\n1,a happy cat\n", "utf-8")
    words = ("score", texts, "--out", tmp_path / "out", "--task", "mood", "--model", model)
    code, _, err = client.salient(*words, "--heads", f"{MOODS}@{commit}")
    assert code == 2 and "would run as you" in err and "--trust-remote-code" in err


def test_wrong_words(client: Client, run: Path, tmp_path: Path) -> None:
    for words, part in (
        (("push", run, "hub:moods"), "hub:user/name"),
        (("push", run, f"{MOODS}@v1"), "main branch"),
        (("push", tmp_path / "nowhere", MOODS), "no such file or folder"),
        (("push", run, MOODS, "--task", "anger"), "mood, level"),
        (("push", run, MOODS, "--license", "a\nb"), "control characters"),
        (("pull", "moods"), "hub:user/name"),
        (("pull", MOODS, run), "not empty"),
        (("score", run / "run.json", "--heads", "hub:moods", "--out", tmp_path), "hub:user/name"),
    ):
        code, out, err = client.salient(*words)
        assert code == 2 and part in err and out == "", err
    for command in ("push", "pull"):
        assert client.salient(command, "--help")[0] == 0
    shutil.rmtree(run)
