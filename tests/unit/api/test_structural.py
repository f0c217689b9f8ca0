"""From pydantic to a structural schema, and what may not be generated."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field

from sluice.api.base import LIST_ATOMIC, LIST_SET, OPTIONAL, Form, Model, Rule
from sluice.api.generate import make_schema
from sluice.api.kinds import KINDS
from sluice.api.structural import SchemaError, make_structural, walk_fields

Short = Annotated[str, Field(max_length=5)]


class Colour(StrEnum):
    """A colour."""

    RED = "Red"


class Inner(Model):
    """An inner object."""

    rules: ClassVar[tuple[Rule, ...]] = (Rule("has(self.a)", "a is needed"),)

    a: Short | None = Field(None, description="An a.")


class Item(Model):
    """An item."""

    name: Short = Field(description="A name.")


class Everything(Model):
    """All there is."""

    text: Annotated[Short, Form("[a-z]*", "must be lower-case")] = Field(description="Text.")
    colour: Colour = Field(Colour.RED, description="Colour.")
    big: int = Field(ge=0, le=2**40, description="Big.", json_schema_extra=OPTIONAL)
    inner: Inner | None = Field(None, description="Said here.")
    names: Annotated[tuple[Short, ...], Field(max_length=2)] = Field(
        (), description="Names.", json_schema_extra=LIST_SET
    )
    more: dict[str, Any] | None = Field(None, description="Anything.")
    volumes: Annotated[tuple[Item, ...], Field(max_length=1)] = Field(
        (), description="Volumes.", json_schema_extra=LIST_ATOMIC
    )
    counts: Annotated[dict[str, Short], Field(max_length=3)] | None = Field(
        None, description="Counts."
    )


def test_every_construct_has_its_structural_form() -> None:
    schema = make_structural(Everything, "spec")
    assert schema["required"] == ["text"]
    assert schema["properties"] == {
        "text": {
            "description": "Text.",
            "type": "string",
            "maxLength": 5,
            "x-kubernetes-validations": [
                {"rule": "self.matches(r'^([a-z]*)$')", "message": "must be lower-case"}
            ],
        },
        "colour": {
            "description": "Colour.",
            "type": "string",
            "default": "Red",
            "enum": ["Red"],
        },
        "big": {
            "description": "Big.",
            "type": "integer",
            "format": "int64",
            "minimum": 0,
            "maximum": 2**40,
        },
        "inner": {
            "description": "Said here.",
            "type": "object",
            "properties": {"a": {"description": "An a.", "type": "string", "maxLength": 5}},
            "x-kubernetes-validations": [{"rule": "has(self.a)", "message": "a is needed"}],
        },
        "names": {
            "description": "Names.",
            "type": "array",
            "maxItems": 2,
            "x-kubernetes-list-type": "set",
            "items": {"type": "string", "maxLength": 5},
        },
        "more": {
            "description": "Anything.",
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "volumes": {
            "description": "Volumes.",
            "type": "array",
            "maxItems": 1,
            "x-kubernetes-list-type": "atomic",
            "items": {
                "description": "An item.",
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"description": "A name.", "type": "string", "maxLength": 5}
                },
            },
        },
        "counts": {
            "description": "Counts.",
            "type": "object",
            "maxProperties": 3,
            "additionalProperties": {"type": "string", "maxLength": 5},
        },
    }


@pytest.mark.parametrize(
    ("annotation", "field", "want"),
    [
        pytest.param(str, Field(description="x"), "a string needs a maxLength", id="no maxLength"),
        pytest.param(
            int, Field(ge=0, description="x"), "needs a minimum and a maximum", id="no max"
        ),
        pytest.param(Short, Field(), "has no description", id="no description"),
        pytest.param(
            float, Field(description="x"), "'number' has no structural form", id="a float"
        ),
        pytest.param(
            tuple[Short, ...], Field(description="x"), "a list needs maxItems", id="endless list"
        ),
        pytest.param(
            dict[str, Short], Field(description="x"), "needs a maxProperties", id="endless map"
        ),
        pytest.param(Short | bool, Field(description="x"), "union of 2 types", id="a union"),
    ],
)
def test_a_field_against_the_house_rules_is_not_generated(
    annotation: Any, field: Any, want: str
) -> None:
    namespace = {"__annotations__": {"wrong": annotation}, "wrong": field, "__doc__": "A thing."}
    namespace["__module__"] = __name__
    wrong = type("Wrong", (Model,), namespace)
    with pytest.raises(SchemaError, match=want):
        make_structural(wrong, "spec")


class Frozen(Model):
    """Never changes, but for one field."""

    mutable: ClassVar[frozenset[str] | None] = frozenset({"free"})

    free: Short = Field(description="Free.")
    fixed: Short = Field(description="Fixed.")
    maybe: Short | None = Field(None, description="Maybe.")
    part: Inner | None = Field(None, description="Part.")


def test_immutability_reaches_every_leaf_and_sees_fields_come_and_go() -> None:
    schema = make_structural(Frozen, "spec")
    rules = {rule["fieldPath"]: rule["rule"] for rule in schema["x-kubernetes-validations"]}
    assert rules == {
        ".fixed": "self.fixed == oldSelf.fixed",
        ".maybe": "has(self.maybe) == has(oldSelf.maybe) && "
        "(!has(self.maybe) || self.maybe == oldSelf.maybe)",
        ".part": "has(self.part) == has(oldSelf.part)",
    }
    inner = schema["properties"]["part"]["x-kubernetes-validations"][-1]
    assert inner["message"] == "spec.part.a is immutable: register a new version instead"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_no_default_stands_inside_a_list(kind: Any) -> None:
    """There it would make every client-side diff of a GitOps tool differ for good."""
    spec = make_schema(kind)["properties"]["spec"]
    assert [
        path for path, node in walk_fields(spec, "spec") if "[]" in path and "default" in node
    ] == []
