"""Every regular expression of the project takes work in proportion to the text, whatever the text.

Those of pydantic (``pattern=``) are matched by Rust's automaton, which can do nothing else.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import translate
from importlib import import_module

import pytest

from pipeline.texts.scanning import _start_pattern
from tests.builders.paths import ROOT
from tests.builders.regex_work import ANCHORED, as_text, worst_growth

METHODS = {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"}
MADE_AT_RUN_TIME = {
    "pipeline.texts.objects": ["hidden + translate(part)"],
    "pipeline.texts.scanning": ["_start_pattern(indent)"],
    "store.upkeep.keptfiles": [
        "f'({samples})/c/(0|[1-9][0-9]*)|({shards})/c/[0-9]+/0/0/(0|[1-9][0-9]*)'"
    ],
}
"""Module -> the expressions of patterns that depend on more than the module itself."""
MADE = {
    "a pattern of keys": (r"(?!\.)" + translate("*.jsonl.gz"), "match"),
    "scanning, no indent": (_start_pattern(0), "search"),
    "scanning, an indent": (_start_pattern(3), "search"),
    "a store's chunks": (
        r"(id|text)/c/(0|[1-9][0-9]*)|(ffn|hidden)/c/[0-9]+/0/0/(0|[1-9][0-9]*)",
        "fullmatch",
    ),
}
LINEAR, QUADRATIC = 2.6, 3.4


def _calls(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Calls that take a pattern, and the pattern."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if (
                isinstance(function, ast.Attribute)
                and isinstance(function.value, ast.Name)
                and function.value.id == "re"
                and function.attr in METHODS
            ):
                yield node, node.args[0]
            for keyword in node.keywords:
                if keyword.arg is not None and keyword.arg.endswith("_pattern"):
                    yield node, keyword.value


def _uses(tree: ast.AST) -> dict[str, set[str]]:
    """Name -> the methods of a pattern that are called on it."""
    uses: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            name = node.value
            if isinstance(name, ast.Subscript):  # a table of patterns
                name = name.value
            if isinstance(name, ast.Name | ast.Attribute):
                uses[name.id if isinstance(name, ast.Name) else name.attr].add(node.attr)
    return uses


def _found() -> tuple[dict[str, tuple[str, str]], dict[str, list[str]]]:
    """Place -> pattern and how it is used; module -> expressions that only run time knows."""
    known: dict[str, tuple[str, str]] = {}
    unknown: dict[str, list[str]] = defaultdict(list)
    for path in sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("store/**/*.py")]):
        tree = ast.parse(path.read_text("utf-8"))
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        calls = list(_calls(tree))
        if not calls:
            continue
        space = vars(import_module(name))
        uses = _uses(tree)
        targets = {
            id(inside): node.targets[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            for inside in ast.walk(node.value)
        }
        for call, argument in calls:
            source = ast.unparse(argument)
            try:
                pattern = as_text(eval(compile(ast.Expression(argument), name, "eval"), space))
            except NameError:
                unknown[name].append(source)
                continue
            except TypeError:
                continue
            method = call.func.attr if isinstance(call.func, ast.Attribute) else "search"
            how = {method} if method != "compile" else uses[targets.get(id(call), "")]
            anchored = how and how <= set(ANCHORED)
            known[f"{name}:{call.lineno}"] = (
                pattern,
                ("match" if "match" in how else "fullmatch") if anchored else "search",
            )
    return known, dict(unknown)


FOUND, UNKNOWN = _found()


def test_all_patterns_are_found() -> None:
    assert {name: sorted(set(made)) for name, made in UNKNOWN.items()} == MADE_AT_RUN_TIME
    texts = [as_text(pattern) for pattern, _ in FOUND.values()]
    assert len(texts) > 30 and r"\bhttps?://[!-~]*" in texts


@pytest.mark.parametrize("place", [*FOUND, *MADE])
def test_work_grows_with_the_text_and_no_faster(place: str) -> None:
    pattern, usage = {**FOUND, **MADE}[place]
    ratio, text = worst_growth(pattern, usage)
    assert ratio < LINEAR, (pattern, usage, text)


@pytest.mark.parametrize(
    "pattern",
    [
        r"""[)\]}>"'.,;:!?]+$""",
        r"a\(\s*\(?\s*x",
        r"\s+$",
        r"(a+)+b",
        r"a*a*b",
        r"<[^>]*x",
        r"(?:a|b)*c",
        r".*,x",
    ],
)
def test_more_work_than_that_is_noticed(pattern: str) -> None:
    assert worst_growth(pattern, "search")[0] > QUADRATIC


@pytest.mark.parametrize("pattern", [r"a+b?", r"(?<![\w@])@\w+", r"'[^']*'", r"a{3}|\d{2}"])
def test_what_is_in_proportion_passes(pattern: str) -> None:
    assert worst_growth(pattern, "search")[0] < LINEAR
