"""The API pages are complete: they are made of docstrings, and nothing public is without one."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline import config
from pipeline.config import RunConfig
from tests.builders.paths import ROOT

MODULES = sorted(
    path for package in ("pipeline", "store") for path in ROOT.glob(f"{package}/**/*.py")
)
SHAPED = [
    *ROOT.glob("store/**/*.py"),
    *(
        ROOT / "pipeline" / f"{name}.py"
        for name in (
            "backbone/transformer", "backbone/loading", "backbone/pooling", "backbone/tokens",
            "explorer/atlas", "extraction/encoding", "extraction/extractor", "extraction/golden",
            "heads/drift", "heads/model", "linear/estimators", "linear/fitted",
            "measures/bootstrap", "measures/metrics", "probes/model", "scoring/prediction",
            "scoring/scorer", "texts/given", "texts/lexical", "texts/lookup",
        )
    ),
]  # fmt: skip
"""Modules that people call from their own code: their arrays' shapes are to be documented."""
ARRAY = re.compile(r"\b(Array|NDArray|ndarray|Tensor)\b")
SHAPE = re.compile(r"\([\w*+ ().…]*,|\bshapes?\b")


def module_name(path: Path) -> str:
    """As it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """What a module or class defines and offers, methods included."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_everything_public_has_a_docstring(path: Path) -> None:
    module = ast.parse(path.read_text())
    assert ast.get_docstring(module)
    assert [name for name, found in public(module) if not ast.get_docstring(found)] == []


@pytest.mark.parametrize("path", SHAPED, ids=module_name)
def test_arrays_have_documented_shapes(path: Path) -> None:
    without = []
    for name, found in public(ast.parse(path.read_text())):
        if isinstance(found, ast.ClassDef):
            continue
        arguments = [*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs]
        annotations = [argument.annotation for argument in arguments] + [found.returns]
        has_arrays = any(ARRAY.search(ast.unparse(one)) for one in annotations if one)
        if has_arrays and not SHAPE.search(ast.get_docstring(found) or ""):
            without.append(name)
    assert without == []


def test_every_key_of_the_configuration_is_explained() -> None:
    sections = [
        value
        for value in (getattr(config, name) for name in config.__all__)  # some not loaded so far
        if isinstance(value, type)
        and issubclass(value, BaseModel)
        and not issubclass(value, config.Record)  # of results, which nobody writes by hand
    ]
    assert {"RunConfig", "BackboneConfig", "ClusterConfig"} <= {one.__name__ for one in sections}
    without, num_keys = [], 0
    for section in sections:
        (found,) = ast.parse(inspect.getsource(section)).body
        assert isinstance(found, ast.ClassDef)
        for at, node in enumerate(found.body):
            if isinstance(node, ast.AnnAssign):
                num_keys += 1
                after = found.body[at + 1] if at + 1 < len(found.body) else None
                value = after.value if isinstance(after, ast.Expr) else None
                if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
                    without.append(f"{section.__name__}.{ast.unparse(node.target)}")
    assert without == []
    assert num_keys > 50


def test_the_index_names_what_exists() -> None:
    """The package's docstring is the pages' index: its names exist."""
    import pipeline

    names = re.findall(r"`((?:pipeline|store)(?:\.\w+)+)\.(\w+)`", pipeline.__doc__ or "")
    assert len(names) > 10
    for module, name in names:
        assert hasattr(import_module(module), name), f"{module}.{name}"


def parameters(module: ast.Module) -> dict[str, set[str]]:
    """Names of arguments of a module's functions, and of its dataclasses' fields."""
    found = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is None:
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found[node.name] = {argument.arg for argument in every}
        elif isinstance(node, ast.ClassDef) and "dataclass" in map(callee, node.decorator_list):
            fields = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
            found[node.name] = {ast.unparse(field) for field in fields}
    return found


def callee(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def examples(docstring: str) -> Iterator[ast.Module]:
    """The indented blocks that are Python."""
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", docstring + "\n", re.M):
        with contextlib.suppress(SyntaxError):
            yield ast.parse(textwrap.dedent(block))


def test_examples_give_arguments_that_exist() -> None:
    num_checked = 0
    for path in MODULES:
        module = ast.parse(path.read_text())
        known = parameters(module)
        for example in examples(ast.get_docstring(module) or ""):
            for node in ast.walk(example):
                if isinstance(node, ast.Call) and callee(node) in known:
                    given = {keyword.arg for keyword in node.keywords}
                    assert given <= known[callee(node)], f"{path}: {ast.unparse(node)}"
                    num_checked += 1
    assert num_checked > 20


def test_docstrings_hold_no_bare_html() -> None:
    """``<s>`` outside of code would strike out the rest of a page."""
    for path in MODULES:
        module = ast.parse(path.read_text())
        texts = [
            node.value.value
            for node in ast.walk(module)
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ]
        for text in texts:
            prose = re.sub(r"``.*?``|`.*?`", "", text, flags=re.S)
            prose = re.sub(r"^ {4,}.*$", "", prose, flags=re.M) if "::" in text else prose
            assert not re.search(r"<[a-z/][a-z0-9_ ]*>", prose), f"{path}: {text}"


def test_pages_are_made_and_show_the_configuration(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="needs the extra: salient-neurons[dev]")
    from pdoc import doc, render

    render.configure(docformat="google")

    page = render.html_module(doc.Module(config), all_modules={})
    for name, field in RunConfig.model_fields.items():
        assert f'id="RunConfig.{name}"' in page, field
    for section in ("BackboneConfig.special_tokens", "HeadConfig.judge", "ClusterConfig.kind"):
        assert f'id="{section}"' in page
    assert "<s>" not in page
