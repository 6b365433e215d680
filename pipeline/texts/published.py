"""Layouts in which labelled sets are published: TweetEval's pairs of files, trees of phrases, and a
folder for each class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.errors import CorpusError
from pipeline.texts.blocks import Blocks, RowBlock, Wanted, missing_column, strict, text_lines
from pipeline.texts.containers import readable
from pipeline.texts.framing import excerpt, too_long

TEXTS_ENDING, LABELS_ENDING = "_text.txt", "_labels.txt"
_TREE = re.compile(r"\((\d+) .*\)")
_LEAF = re.compile(r"\(\d+ ([^()]+)\)")
_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}


def _check_columns(path: Path, wanted: Wanted, found: tuple[str, ...]) -> None:
    for column in wanted.columns:
        if column not in found:
            raise missing_column(path, column, found)


def read_tweeteval(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """``*_text.txt`` with ``*_labels.txt`` (and ``mapping.txt``) beside it: columns text, label."""
    _check_columns(path, wanted, ("text", "label"))
    labels_path = path.with_name(path.name.removesuffix(TEXTS_ENDING) + LABELS_ENDING)
    if not path.name.endswith(TEXTS_ENDING) or not labels_path.exists():
        raise CorpusError(
            f"{path}: not of the TweetEval layout, which is a file of texts named *{TEXTS_ENDING} "
            f"with its labels beside it in *{LABELS_ENDING}; looked for {labels_path.name}"
        )
    names = _mapping(path.with_name("mapping.txt"), wanted)
    texts = [line.rstrip("\r\n") for line in _all_lines(path, wanted)]
    labels = [line.strip() for line in _all_lines(labels_path, wanted)]
    if len(texts) != len(labels):
        raise CorpusError(
            f"{path}: {len(texts)} texts, but {labels_path.name} has {len(labels)} labels"
        )
    if names is not None:
        for line, label in enumerate(labels, 1):
            if label and label not in names:
                raise CorpusError(
                    f"{labels_path}: line {line}: label {label!r} is not in mapping.txt, "
                    f"which has {', '.join(names)}"
                )
        labels = [names[label] if label else "" for label in labels]
    data: dict[str, list[str]] = {"text": texts, "label": labels}
    for start in range(0, len(texts), wanted.block_rows):
        stop = min(start + wanted.block_rows, len(texts))
        yield RowBlock(
            {name: [*data[name][start:stop]] for name in wanted.columns},
            list(range(start + 1, stop + 1)),
        )


def _all_lines(path: Path, wanted: Wanted) -> Iterator[str]:
    return text_lines(path, replace(wanted, on_bad=strict(path)))


def _mapping(path: Path, wanted: Wanted) -> dict[str, str] | None:
    if not path.exists():
        return None
    pairs = [line.split(maxsplit=1) for line in _all_lines(path, wanted) if line.strip()]
    if not all(len(pair) == 2 for pair in pairs):
        raise CorpusError(f"{path}: every line needs a number and a name")
    return {number: name.strip() for number, name in pairs}


def read_trees(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """A tree of phrases per line, ``(3 (2 It) (4 works))``: columns text, its words with blanks
    between, and label, the number of the whole."""
    _check_columns(path, wanted, ("text", "label"))
    rows = Blocks(wanted)
    for number, line in enumerate(text_lines(path, wanted), 1):
        tree = line.strip()
        if not tree:
            continue
        match = _TREE.fullmatch(tree)
        words = _LEAF.findall(tree)
        if match is None or not words or tree.count("(") != tree.count(")"):
            reason = "is no tree of phrases, as in (3 (2 It) (4 works))"
            wanted.on_bad(number, reason, excerpt(tree))
            continue
        text = " ".join(_BRACKETS.get(word, word) for word in words)
        row = {"text": text, "label": match.group(1)}
        if rows.add([row[name] for name in wanted.columns], number, len(text)):
            yield from rows.block()
    yield from rows.block()


def read_folders(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """A text per file, in a folder for each class: columns text, folder, file (the names)."""
    _check_columns(path, wanted, ("text", "folder", "file"))
    if not path.is_dir():
        raise CorpusError(f'{path}: is no folder; format = "folders" is for a folder of folders')
    rows, number = Blocks(wanted), 0
    for folder in sorted(one for one in path.iterdir() if is_visible(one) and one.is_dir()):
        for file in sorted(one for one in folder.iterdir() if is_visible(one) and one.is_file()):
            number += 1
            size = file.stat().st_size
            if size > wanted.max_line_bytes:
                wanted.on_bad(number, f"{file}: {too_long(wanted.max_line_bytes)}", "")
                continue
            text = "".join(_all_lines(file, wanted)).strip()
            row = {"text": text, "folder": readable(folder.name), "file": readable(file.name)}
            if rows.add([row[name] for name in wanted.columns], number, len(text)):
                yield from rows.block()
    yield from rows.block()


def is_visible(path: Path) -> bool:
    """Whether a file belongs to a data set, rather than to the program or system that wrote it."""
    return not path.name.startswith((".", "_"))
