from __future__ import annotations

import tomllib
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from pipeline.backbone import POOLINGS
from pipeline.config import RunConfig, changes, configuration_page, every_key, every_section
from pipeline.config.keys import section_class
from pipeline.config.sections import HeadConfig, StoreConfig
from pipeline.config.writing import toml_key, toml_value
from pipeline.neurons import RANKINGS
from tests.builders.paths import ROOT
from tests.builders.runs import RUN_TOML


def test_every_field_is_a_key_with_a_meaning_and_an_example_that_is_valid() -> None:
    keys = every_key()
    for name, field in RunConfig.model_fields.items():
        section = section_class(field.annotation)
        fields = {name: field} if section is None else section.model_fields
        for key, own in fields.items():
            found = keys[key if section is None else f"{name}.{key}"]
            assert len(found.meaning) > 10 and found.type and found.example, found.path
            wanted = own.annotation
            for rule in own.metadata:
                wanted = Annotated[wanted, rule]
            (value,) = tomllib.loads(found.example).values()
            TypeAdapter(wanted).validate_python(value)
            if found.name != "format_version":  # which has one value only
                assert found.example != f"{key} = {found.default}", found.path


def test_keys_say_type_default_and_choices() -> None:
    keys = every_key()
    depth, kind, name = keys["head.max_depth"], keys["tasks.type"], keys["name"]
    assert (depth.type, depth.default, depth.choices) == ("number, above 0, at most 1", "1.0", ())
    assert kind.choices == ('"classification"', '"regression"', '"multilabel"')
    assert kind.default == name.default == "required"
    assert keys["backbone.prefix"].default == keys["score.languages"].default == "not set"
    assert keys["corpus.labels"].type == "table of name = text or list of texts"
    assert [one.header for one in every_section()][:4] == [
        "", "[backbone]", "[[corpus]]", "[[tasks]]",
    ]  # fmt: skip


def test_names_that_are_rows_of_other_wings_are_theirs() -> None:
    for section, key, names in (
        (HeadConfig, "ranking", ["weight", *RANKINGS]),
        (StoreConfig, "poolings", [*POOLINGS]),
    ):
        name = "head" if section is HeadConfig else "store"
        assert [*map(toml_value, names)] == [*every_key()[f"{name}.{key}"].choices]


def test_the_page_in_the_guide_is_what_is_written_now() -> None:
    page = ROOT / "notebooks" / "guide" / "configuration.md"
    assert page.read_text(encoding="utf-8") == configuration_page(), "run `make guide`"


def test_what_differs_from_the_defaults(tmp_path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN_TOML.format(model="some/model"), encoding="utf-8")
    config = RunConfig.load(path)
    found = changes(config.model_dump(mode="json"))
    assert found.keys() == {
        "name", "run_dir", "backbone", "corpus", "tasks", "store", "probe", "head",
    }  # fmt: skip
    assert found["head"] == {"folds": 3, "hidden_width": 4}
    assert found["backbone"] == {"model": "some/model"}
    assert RunConfig.from_dict(found, origin=path) == config
    assert changes({"of": "another version"}) == {"of": "another version"}


@pytest.mark.parametrize(
    "value",
    ["", 'a "b"\n\\ é \x7f', True, 3, 1e-5, 0.1, 1e300, [], [["a"], [1, 2.5]], {"a b": {"c": "d"}}],
)
def test_values_are_read_back(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}
    assert tomllib.loads(f"{toml_key('é.1')} = 1") == {"é.1": 1}
