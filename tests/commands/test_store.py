from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from pipeline.backbone.loading import load_backbone
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.extraction.adding import add_layers
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.storing import StoreOptions, extract_block, open_store
from store import ActivationStore, StoreError, StoreInputError
from store.upkeep.inspection import verify
from tests.builders.command_processes import add_and_die
from tests.builders.forking import start
from tests.builders.models import make_tiny_model
from tests.builders.runs import write_mood_csv, write_mood_run


@pytest.fixture
def store(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(RunConfig.load(finished_run).store.path, tmp_path / "store")
    return tmp_path / "store"


def test_look_verify_and_damage(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["store", "info", str(store)]) == 0
    assert "160 under 160 ids" in capsys.readouterr().out
    assert run_command(["store", "snapshots", str(store)]) == 0
    assert "160 samples" in capsys.readouterr().out
    assert run_command(["store", "verify", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damage"] == []
    shard = store / "ffn" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 4
    shard.write_bytes(content)
    assert run_command(["store", "verify", str(store)]) == 1
    assert "ffn/c/1/0/0/0" in capsys.readouterr().out
    assert run_command(["store", "gc", str(store), "--dry-run"]) == 0
    assert run_command(["store", "info", str(store / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("salient: ")


def test_delete_compact_export(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ActivationStore.open(store).samples()["id"].to_pylist()
    (store.parent / "ids.txt").write_text(f"{ids[3]}\n{ids[4]}\n")
    arguments = ["store", "delete", str(store), "--id", ids[0], "--ids-file"]
    assert run_command([*arguments, str(store.parent / "ids.txt")]) == 0
    said = capsys.readouterr().out
    assert "3 ids deleted" in said and "salient score delete OUT" in said
    assert run_command(["store", "delete", str(store)]) == 2
    assert run_command(["store", "compact", str(store)]) == 0
    assert run_command(["store", "export", str(store), str(store.parent / "archive")]) == 0
    assert "ffn" in xr.open_zarr(store.parent / "archive")
    table = store.parent / "few.parquet"
    arguments = ["store", "export", str(store), str(table), "--layer", "1", "--neuron", "5"]
    assert run_command([*arguments, "--neuron", "7", "--pooling", "max"]) == 0
    columns = pq.read_table(table).column_names
    assert columns[-2:] == ["ffn_1_max_5", "ffn_1_max_7"]
    assert pq.read_table(table).num_rows == 157
    assert run_command(["store", "export", str(store), str(table)]) == 2
    assert run_command(["store", "export", str(store), "x", "--layer", "1"]) == 2
    capsys.readouterr()


def test_a_deletion_says_what_became_of_each_name(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ActivationStore.open(store).samples()["id"].to_pylist()
    delete = ["store", "delete", str(store)]
    assert run_command([*delete, "--id", ids[0], "--id", ids[1], "--dry-run"]) == 0
    assert capsys.readouterr().out == "2 ids would be deleted; nothing was written\n"
    assert run_command([*delete, "--id", ids[0], "--id", "98", "--id", "99"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("1 id deleted; 2 are not in the store\n")
    assert "store compact" in told.out
    assert told.err == "salient: ids 98, 99: not in the store; all others were deleted\n"
    assert ActivationStore.open(store).num_living == 159
    assert run_command([*delete, "--id", ids[0]]) == 0  # as asked for, if not by this command
    assert capsys.readouterr().out == "0 ids deleted; 1 was deleted before\n"
    assert run_command([*delete, "--id", ids[0], "--id", "98", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["deleted"], report["unknown_ids"]) == (0, ["98"])
    assert report["deleted_before"] == [ids[0]]
    # A file lists what was deleted anywhere: that the store lacks some is no failure.
    (store.parent / "gone").write_text(f"98\n{ids[0]}\n99\n")
    for _ in range(2):
        assert run_command([*delete, "--ids-file", str(store.parent / "gone")]) == 0
        assert "1 was deleted before; 2 are not in the store\n" in capsys.readouterr().out
    (store.parent / "gone").write_text("98\n99\n")
    assert run_command([*delete, "--ids-file", str(store.parent / "gone")]) == 1
    assert "ids 98, 99: not in the store\n" in capsys.readouterr().err
    (store.parent / "latin").write_bytes(b"caf\xe9")
    assert run_command([*delete, "--ids-file", str(store.parent / "latin")]) == 2
    assert "latin: cannot be read" in capsys.readouterr().err
    with pytest.raises(StoreInputError, match=r"keeps no authors .* set author = "):
        ActivationStore.open(store).delete(author_ids=["X"])


def test_a_run_stands_for_its_store(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunConfig.load(finished_run).store.path
    for path in (finished_run.parent / "run", finished_run, store):
        assert run_command(["store", "info", str(path)]) == 0
        assert store in capsys.readouterr().out
    # It may come from elsewhere: what is to be changed is named by who asks for it.
    for words in (["delete", "--id", "1"], ["compact"], ["gc"], ["add", "--hidden", "all"]):
        run = str(finished_run.parent / "run")
        assert run_command(["store", words[0], run, *words[1:]]) == 2
        assert f"name that itself: the run says that it is {store}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder of two extractions of the same texts, with hidden states "final" and "all"."""
    folder = tmp_path_factory.mktemp("extracted")
    for hidden in ("final", "all"):
        config = write_mood_run(folder / hidden, tiny_bert, num_rows=100)
        text = config.read_text(encoding="utf-8")
        text = text.replace("[store]", f'[store]\nhidden = "{hidden}"')
        config.write_text(text, encoding="utf-8")
        assert run_command(["extract", str(config), "--quiet"]) == 0
    return folder


def check_same(store: Path, other: Path, *, hidden: tuple[int, ...]) -> None:
    """Whether two stores hold the same samples, FFN layers and hidden states."""
    one, two = ActivationStore.open(store), ActivationStore.open(other)
    assert verify(one).sound
    assert sorted(one.schema.hidden_layers) == sorted(two.schema.hidden_layers) == sorted(hidden)
    assert one.samples().equals(two.samples())
    for name, layers in (("ffn", range(one.schema.num_layers)), ("hidden", hidden)):
        for layer in layers:
            np.testing.assert_allclose(  # kernels are chosen anew, and agree to rounding
                one.read_matrix(name, layer=layer),
                two.read_matrix(name, layer=layer),
                rtol=2e-3,
                atol=2e-3,
            )


def test_added_hidden_states_are_those_of_an_extraction_with_all(
    extracted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(extracted, tmp_path, dirs_exist_ok=True)
    store, whole = tmp_path / "final" / "activations", tmp_path / "all" / "activations"
    last = ActivationStore.open(store).schema.num_layers
    gone = ActivationStore.open(store).samples()["id"][3].as_py()
    for path in (store, whole):
        assert ActivationStore.open(path).delete([gone]) == 1
    assert run_command(["store", "add", str(store)]) == 2
    assert run_command(["store", "add", str(store), "--hidden", "most"]) == 2
    assert run_command(["store", "add", str(store), "--hidden", f"0,{last + 1}"]) == 2
    assert f"all, final, and numbers from 0 to {last}" in capsys.readouterr().err
    assert run_command(["store", "add", str(store), "--hidden", "0", "-q"]) == 0
    assert "added hidden: layers 0\n100 texts computed" in capsys.readouterr().out
    add_all = ["store", "add", str(store), "--hidden", "all", "--layers", "all", "--quiet"]
    assert run_command([*add_all, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"] == {"hidden": list(range(1, last))}
    check_same(store, whole, hidden=tuple(range(last + 1)))
    assert run_command(add_all) == 0
    assert "nothing to add" in capsys.readouterr().out

    # The run that made it goes on, and its new texts have all that the store holds.
    for folder in ("final", "all"):
        write_mood_csv(tmp_path / folder / "tweets.csv", num_rows=130)
        assert run_command(["extract", str(tmp_path / folder / "run.toml"), "--quiet"]) == 0
    assert ActivationStore.open(store).num_living == 130
    check_same(store, whole, hidden=tuple(range(last + 1)))


def test_an_addition_that_is_killed_goes_on(extracted: Path, tmp_path: Path) -> None:
    origin, store = extracted / "final" / "activations", tmp_path / "store"
    last = ActivationStore.open(origin).schema.num_layers
    files = last + 1  # of a block: a shard of each state that was not there, and the manifest
    plan, blocks = 5, 2  # renames until the plan is active; blocks of the store
    computed = {
        plan + blocks * files - 1: 36,  # the first is staged, the second written only
        plan + 2 * blocks * files: 0,  # all are in place, nothing is published
    }
    for step, num_texts in computed.items():
        shutil.copytree(origin, store)
        process = start(add_and_die, step, str(store))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert ActivationStore.open(store).schema.hidden_layers == (last,)
        assert add_layers(store, hidden="all").num_texts == num_texts, f"died at rename {step}"
        check_same(store, extracted / "all" / "activations", hidden=tuple(range(last + 1)))
        shutil.rmtree(store)


def test_additions_that_cannot_be_made_are_refused(
    extracted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(extracted / "final" / "activations", store)
    other = make_tiny_model("bert", tmp_path / "other", seed=5)
    add_all = ["store", "add", str(store), "--hidden", "all", "--quiet"]
    assert run_command([*add_all, "--model", str(other)]) == 2
    assert f"was made with another model than {other} is now" in capsys.readouterr().err
    schema = ActivationStore.open(store).schema
    assert schema.hidden_layers == (schema.num_layers,)
    private = tmp_path / "private"
    ActivationStore.create(private, replace(schema, store_text=False))
    assert run_command(["store", "add", str(private), "--hidden", "all"]) == 2
    assert "keeps no texts" in capsys.readouterr().err
    ActivationStore.create(tmp_path / "unknown", replace(schema, provenance={}))
    assert run_command(["store", "add", str(tmp_path / "unknown"), "--hidden", "all"]) == 2
    assert "does not say which model" in capsys.readouterr().err


def test_layers_are_added_to_a_store_of_some(tmp_path: Path, tiny_bert: Path) -> None:
    backbone = load_backbone(tiny_bert)
    texts = pa.table({"id": ["a", "b", "c"], "text": ["one cat", "two dogs and a log", ""]})
    stores = []
    for name, layers in (("some", (1,)), ("whole", None)):
        extractor = Extractor(backbone, hidden="none", layers=layers, peaks=True)
        options = StoreOptions(hidden="none", peaks=True, samples_per_shard=2)
        store = open_store(tmp_path / name, extractor, options, num_texts=3)
        plan = store.plan_append(texts)
        for block in plan.blocks:
            extract_block(extractor, store, plan, block)
        store.commit()
        stores.append(store)
    some, whole = stores
    with pytest.raises(StoreError, match=r"`salient store add STORE --layers 0` adds one"):
        some.read_matrix(layer=0)
    report = add_layers(tmp_path / "some", layers="0,1")
    assert report.layers == {"ffn": (0,), "peak": (0,)} and "ffn: layers 0; peak" in str(report)
    some.refresh()
    assert some.schema.layers == (1, 0) and some.schema.hidden_size is None
    assert verify(some).sound
    for name in ("ffn", "peak"):
        np.testing.assert_array_equal(
            some.read_matrix(name, layer=0), whole.read_matrix(name, layer=0)
        )
