"""Languages of texts that do not say theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import MissingExtra
from pipeline.texts.choosing import InputOptions
from pipeline.texts.filters import Filters
from pipeline.texts.inputs import read_blocks
from pipeline.texts.languages import MAX_CHARS, check_language_detector, language_detector
from tests.builders.dumps import v1, write_tweets

TEXTS = [
    ("Finally a train on time, what a morning", "en"),
    ("Endlich ein pünktlicher Zug, was für ein Morgen", "de"),
    ("Le café du coin a encore augmenté ses prix", "fr"),
    ("今日は電車が時間通りに来た", "ja"),
]


def test_the_same_text_has_the_same_language() -> None:
    pytest.importorskip("py3langid")
    find = language_detector()
    assert find is language_detector(), "loaded once"
    for text, language in TEXTS:
        assert find(text) == find(text) == language
        assert find(f"@user {text} http #TravelingByTrain") == language
    long = (TEXTS[1][0] + " ") * 100
    assert find(long) == find(long[:MAX_CHARS] + "words that are not read " * 1000) == "de"
    for text in ("", "@user http", "😒 123 !!", "#MondayMotivation"):
        assert find(text) is None


def test_rows_without_a_language_get_one(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    path = tmp_path / "a.csv"
    path.write_text(
        "text,lang\n" + "".join(f'"{text}",\n' for text, _ in TEXTS) + "so,nl\n12,\n", "utf-8"
    )
    options = InputOptions(detect_language=True, block_rows=2)
    blocks = list(read_blocks(path, "csv", options))
    found = [one for block in blocks for one in block.rows["lang"].to_pylist()]
    assert found == [language for _, language in TEXTS] + ["nl", None]
    kept, _ = Filters.of(languages=["de"]).apply(blocks[0].rows)
    assert kept["text"].to_pylist() == [TEXTS[1][0]]
    dump = write_tweets(tmp_path / "dump", [v1(0, text=TEXTS[2][0], lang=None), v1(1, lang="xx")])
    (block,) = read_blocks(dump, "tweets", options)
    assert block.rows["lang"].to_pylist() == ["fr", "xx"]


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"py3langid: pip install .*languages"):
        check_language_detector()


@pytest.mark.parametrize(
    ("wanted", "languages", "kept"),
    [
        ("en", ["en", "EN ", "en-GB", "en_us", "English", "eng", "de", None], 5),
        ("he", ["he", "iw", "Hebrew", "hi"], 3),
        ("in", ["in", "id", "indonesian", "it"], 3),
        ("zh-cn", ["zh-CN", "zh", "zh-tw"], 1),
        ("zh", ["zh-CN", "zh", "zh_tw", "chinese"], 4),
    ],
)
def test_languages_as_tables_write_them(
    tmp_path: Path, wanted: str, languages: list[str | None], kept: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,lang\n" + "".join(f"so,{one or ''}\n" for one in languages))
    (block,) = read_blocks(path, "csv", InputOptions())
    assert len(Filters.of(languages=[wanted]).apply(block.rows)[0]) == kept
