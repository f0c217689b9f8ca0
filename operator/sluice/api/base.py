"""What all API types share: the frozen base model, CEL rules, and list types.

It knows pydantic and the CRD extensions, and no kind. A rule written here ends up as
`x-kubernetes-validations` in the CRD; the API server evaluates it, Python never does.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

JSON = dict[str, Any]
Opaque = dict[str, Any]
"""An object that passes through as it is: only core/v1 knows what is in it."""
VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL validation: `rule` is true for what is allowed.

    `message` is what the user reads; `message_expression` (CEL giving a string) takes its place
    where a value helps. `field_path` moves the reported field to a property, such as
    `.maxReplicas`. As Annotated metadata a rule belongs to that leaf; in a model's `rules` it
    belongs to the object.
    """

    rule: str
    message: str
    message_expression: str | None = None
    field_path: str | None = None

    def to_dict(self) -> JSON:
        """The rule as an item of `x-kubernetes-validations`."""
        out: JSON = {"rule": self.rule, "message": self.message}
        if self.message_expression:
            out["messageExpression"] = self.message_expression
        if self.field_path:
            out["fieldPath"] = self.field_path
        return out

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JSON:
        out = handler(schema)
        out[VALIDATIONS] = [*out.get(VALIDATIONS, []), self.to_dict()]
        return out


@dataclass(frozen=True, slots=True)
class Form:
    """A string's form: one RE2 pattern, held by CEL in the cluster and by `parse` here.

    CEL rather than OpenAPI's `pattern`, because CEL says the message instead of the pattern. The
    pattern has no anchors and no single quotes, and means the same in RE2 and in Python.
    """

    pattern: str
    message: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        pattern = re.compile(self.pattern)

        def check(value: str) -> str:
            if pattern.fullmatch(value) is None:
                raise ValueError(f"{value!r} {self.message}")
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JSON:
        out = handler(schema)
        rule = Rule(f"self.matches(r'^({self.pattern})$')", self.message)
        out[VALIDATIONS] = [*out.get(VALIDATIONS, []), rule.to_dict()]
        return out


class Model(BaseModel):
    """An object of the API: frozen, camelCase outside, snake_case inside, unknown fields refused.

    `rules` are CEL over the whole object. `mutable` is None for an ordinary object; for one that no
    update may change it names the fields that are exempt, and the generator writes the transition
    rules, down to the leaves.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    mutable: ClassVar[frozenset[str] | None] = None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JSON:
        out = handler.resolve_ref_schema(handler(core_schema))
        if cls.rules:
            out[VALIDATIONS] = [rule.to_dict() for rule in cls.rules]
        return out

    def to_dict(self) -> JSON:
        """The object as Kubernetes writes it: camelCase, without what is absent or at its default.

        So a default added to the API later changes no hash of what was dumped before.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def cel_list(values: tuple[str, ...]) -> str:
    """A CEL list of strings."""
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"


def list_map(*keys: str) -> JSON:
    """Marks a list as a map by `keys`: server-side apply merges it by them, doubles are refused."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: JSON = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: JSON = {"x-kubernetes-list-type": "atomic"}
OPTIONAL_MARK = "x-sluice-optional"
OPTIONAL: JSON = {OPTIONAL_MARK: True}
"""For a field that users may leave out although it always has a value once parsed."""
DEFAULT_EMPTY: JSON = {"default": {}}
"""For an object whose fields have defaults: they then hold where the object is absent too."""


def default_to(field: str, value: str) -> JSON:
    """DEFAULT_EMPTY for an object with rules: they are tried on the default as it stands here.

    So `field`, which they read, must be in it; it is the field's own default.
    """
    return {"default": {field: value}}


def without_default(schema: JSON) -> None:
    """For a field below a list: its default holds once parsed, and is not in the CRD.

    There it would make every client-side diff of a GitOps tool differ for good.
    """
    schema.pop("default", None)
