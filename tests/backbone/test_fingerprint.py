"""The fingerprint: every byte counts, a large file is read once, earlier fingerprints are known."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.backbone import fingerprint as module
from pipeline.backbone.fingerprint import fingerprint
from pipeline.backbone.loading import load_backbone
from pipeline.backbone.silencing import silenced
from pipeline.errors import BackboneError
from pipeline.extraction.extractor import Extractor
from store.disk.filestate import SETTLED_NS, FileState

SETTINGS = {"site": "x", "max_length": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file({"w": np.zeros(50_000, np.float32)}, path / "model.safetensors")
    return path


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of weights that were read whole."""
    names: list[str] = []
    whole = module._sha256

    def counted(file: Path) -> str:
        if file.suffix == ".safetensors":
            names.append(file.name)
        return whole(file)

    monkeypatch.setattr(module, "_sha256", counted)

    return names


def set_clock(monkeypatch: pytest.MonkeyPatch, file: Path, *, after_ns: int) -> None:
    """Let it be so long after the file's last change."""
    last = max(file.stat().st_mtime_ns, file.stat().st_ctime_ns)
    monkeypatch.setattr(module.time, "time_ns", lambda: last + after_ns)


def of(folder: Path, **options: bool) -> str:
    return fingerprint(folder, [folder / "model.safetensors"], SETTINGS, **options).present


def test_a_byte_between_the_samples_counts_and_did_not_before(folder: Path) -> None:
    file = folder / "model.safetensors"
    before = fingerprint(folder, [file], SETTINGS)
    assert len(before.present) == 64 and before.older() != before.present
    content = bytearray(file.read_bytes())
    content[-20_000] = 1
    file.write_bytes(content)
    after = fingerprint(folder, [file], SETTINGS)
    assert after.present != before.present
    assert after.older() == before.older()


@pytest.mark.parametrize(
    "name", ["merges.txt", "added_tokens.json", "config.json", "tokenizer.json", "bpe.codes"]
)
def test_what_changes_numbers_counts(name: str, folder: Path) -> None:
    before = of(folder)
    (folder / name).write_text("[]")
    first = of(folder)
    (folder / name).write_text("[0]")
    assert len({before, first, of(folder)}) == 3


@pytest.mark.parametrize("name", ["README.md", "chat_template.jinja", "generation_config.json"])
def test_nothing_else_counts(name: str, folder: Path) -> None:
    before = of(folder)
    (folder / name).write_text("[]")
    assert of(folder) == before


def test_code_counts_where_it_runs(folder: Path) -> None:
    (folder / "own.py").write_text("")
    before = of(folder)
    assert of(folder, trust_remote_code=True) == before  # the config names none
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "own.Own"}}')
    named = of(folder, trust_remote_code=True)
    (folder / "own.py").write_text("# changed")
    assert of(folder, trust_remote_code=True) != named
    assert of(folder) != of(folder, trust_remote_code=True)


def test_settings_and_the_order_of_files_count(folder: Path) -> None:
    one = folder / "model.safetensors"
    other = folder / "other.safetensors"
    save_file({"v": np.ones(3, np.float32)}, other)
    found = {
        fingerprint(folder, files, settings).present
        for files in ([one], [one, other], [other, one])
        for settings in (SETTINGS, {**SETTINGS, "prefix": "query: "})
    }
    assert len(found) == 6


def test_a_damaged_file_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BackboneError, match="damaged or cut short"):
        of(folder)


# ------------------------------------------------------------------ read once


def test_a_file_is_read_once(
    folder: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "model.safetensors"
    set_clock(monkeypatch, file, after_ns=SETTLED_NS + 1)
    first = of(folder)
    assert of(folder) == first and read_files == [file.name]
    new = folder / "new"  # of the same size and time, in the place of the other
    new.write_bytes(file.read_bytes()[:-1] + b"\1")
    os.utime(new, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    os.replace(new, file)
    assert of(folder) != first and read_files == [file.name] * 2


def test_a_file_that_was_just_written_is_read_again(
    folder: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, folder / "model.safetensors", after_ns=SETTLED_NS)
    assert of(folder) == of(folder)
    assert len(read_files) == 2


def test_a_file_that_changes_while_it_is_read_is_read_again(
    folder: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, folder / "model.safetensors", after_ns=10 * SETTLED_NS)
    states = iter(FileState(9, mtime_ns, 1, 1) for mtime_ns in (1, 2, 2, 2, 2))
    monkeypatch.setattr(FileState, "of", lambda file: next(states))
    assert of(folder) == of(folder) == of(folder)
    assert len(read_files) == 2


# ------------------------------------------------------------------ what was recorded before


def as_before(path: Path) -> Extractor:
    """An extractor that knows its model as earlier versions did."""
    backbone = load_backbone(path, engine="torch")
    assert backbone.older_fingerprint is not None
    backbone.fingerprint = backbone.older_fingerprint()
    return Extractor(backbone)


def test_what_an_older_version_recorded_is_recognised(
    tiny_bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extractor = Extractor(load_backbone(tiny_bert, engine="torch"))
    cleaned = {"lower": True}
    now = extractor.fingerprint(normalisation=cleaned)
    before = as_before(tiny_bert).fingerprint(normalisation=cleaned)
    with caplog.at_level(logging.WARNING):
        assert extractor.compared(now, normalisation=cleaned) == "every byte"
        assert not caplog.messages
        assert extractor.compared(before, normalisation=cleaned) == "samples"
        assert extractor.compared(before, normalisation=cleaned) == "samples"
    assert len(caplog.messages) == 1 and "not every byte" in caplog.messages[0]
    assert extractor.compared(before) is None
    assert extractor.compared("0" * 64, normalisation=cleaned) is None


def test_a_backbone_with_silenced_neurons_is_none_that_was_recorded(tiny_bert: Path) -> None:
    backbone = load_backbone(tiny_bert, engine="torch")
    quiet = Extractor(silenced(backbone, {0: [1]}))
    assert quiet.compared(as_before(tiny_bert).fingerprint()) is None
    assert quiet.compared(Extractor(backbone).fingerprint()) is None
    assert Extractor(backbone).compared(as_before(tiny_bert).fingerprint()) == "samples"
