from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sharing.card import LONGEST, Terms, escaped, model_card
from pipeline.sharing.packing import pack
from store.tables import read_json, write_json

yaml = pytest.importorskip("yaml", reason="comes with huggingface_hub")
BAD = "](http://evil.example) <script>x</script> | `a` **b** &amp; www.evil.example # ---"


def metadata(card: str) -> dict[str, object]:
    _, head, _ = card.split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(head)
    return found


def test_the_card_says_what_is_known(run: Path) -> None:
    card = model_card(pack(run), "alice/moods", Terms("apache-2.0", "made up by the demo"))
    assert metadata(card) == {
        "library_name": "salient",
        "license": "apache-2.0",
        "pipeline_tag": "text-classification",
        "tags": ["salient", "interpretability", "feed-forward-neurons"],
        "metrics": ["macro_f1", "pearson"],
    }
    for part in (
        "one of the classes: glad, sad",
        "on 22 test rows, with 95 % bootstrap intervals",
        "| **this head** | 0.954 (0.848 to 1.000) | |",
        "conventional head, on the final hidden state | 0.861",
        "TF-IDF and a linear model",
        "Runs 3 of 3 blocks",
        "144 neurons of 3 blocks",
        "Made from 108 labelled texts",
        "A model folder called bert",
        "made up by the demo",
        "No training text is in here",
        'salient.load("hub:alice/moods")',
        "43d5e303e845a840",
    ):
        assert part in card, part
    assert "/fixture" not in card


def test_a_backbone_of_the_hub_is_named(run: Path) -> None:
    folder = run / "heads/level/chosen"
    data = read_json(folder / "head.json")
    data["extraction"]["backbone"] |= {"model": "org/bert", "revision": "e" * 40}
    data["extraction"]["backbone"] |= {"trust_remote_code": True}
    write_json(folder / "head.json", data | {"licence": "ask me first"})
    card = model_card(pack(folder), "alice/moods", Terms())
    assert metadata(card)["base_model"] == "org/bert"
    assert metadata(card)["license"] == "other" and "ask me first" in card
    assert "e" * 40 in card and "code of its own" in card
    assert "No test metrics are known" in card


def test_names_are_words_and_nothing_else(run: Path) -> None:
    (one, _) = pack(run)
    card = replace(one.head.card, classes=(BAD, "sad"), selection=BAD)
    changed = replace(one, head=replace(one.head, card=card))
    text = model_card([changed], "alice/moods", Terms(BAD, BAD))
    assert metadata(text)["license"] == "other"
    body = re.sub(r"\\.", "", text.split("---\n", 2)[2])  # without what is escaped
    for sign in ("http:", "<script", "`a`", "**b**", "www.evil", "&", "x |"):
        assert sign not in body
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


@given(st.text(), st.integers(2, 300))
def test_escaped_text_is_one_line_without_signs(text: str, longest: int) -> None:
    found = escaped(text, longest)
    assert found.isprintable() and "\n" not in found
    plain = re.sub(r"\\(.)", "", found)
    assert not set(plain) & set('`*_{}[]<>()#+-.!|~:/\\@&^$="')
    assert len(re.sub(r"\\(.)", r"\1", found)) <= longest


def test_long_names_are_cut() -> None:
    assert escaped("a" * 1000) == "a" * (LONGEST - 1) + "…"
