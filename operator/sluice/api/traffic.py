"""`spec.traffic`: the gateway in front of a service, and the names that clients reach it by.

It must not know the HTTPRoute's whole shape: only what users may ask of it.
"""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from sluice.api.base import LIST_ATOMIC, LIST_SET, Form, Model, Rule
from sluice.api.scalars import (
    SUBDOMAIN_PATTERN,
    Duration,
    Label,
    ObjectName,
    between,
    parse_duration,
)

# CEL keeps `namespace` for itself: the field is __namespace__ there.
_SAME_PARENT = (
    "p.name == q.name && has(p.__namespace__) == has(q.__namespace__) && "
    "(!has(p.__namespace__) || p.__namespace__ == q.__namespace__)"
)

Hostname = Annotated[
    str,
    Field(max_length=253),
    Form(
        rf"(\*\.)?{SUBDOMAIN_PATTERN}",
        "must be a DNS name such as pizza.example.com or *.example.com: lower-case letters, "
        "digits, '-' and '.', with '*' as the whole first part only",
    ),
]
"""A host name of clients' requests; a leading `*.` stands for any name below."""


class ParentReference(Model):
    """A Gateway that the service's route hangs on."""

    name: ObjectName = Field(description="Name of the Gateway.")
    namespace: Label | None = Field(
        None,
        description=(
            "The Gateway's namespace; its listener must allow routes from the service's. Absent: "
            "the service's namespace."
        ),
    )
    section_name: ObjectName | None = Field(
        None, description="Name of one listener of the Gateway. Absent: every listener that fits."
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Only listeners on this port, 1 to 65535. Absent: any port.",
    )


class Traffic(Model):
    """How clients' requests come in through a gateway."""

    parent_refs: Annotated[
        tuple[ParentReference, ...],
        Field(min_length=1, max_length=4),
        Rule(
            f"self.all(p, self.exists_one(q, {_SAME_PARENT}) || (has(p.sectionName) && "
            f"self.exists_one(q, {_SAME_PARENT} && has(q.sectionName) && "
            "p.sectionName == q.sectionName)))",
            "entries for the same Gateway must each have a sectionName of their own",
        ),
    ] = Field(
        description=(
            "The Gateways that carry the service's requests, 1 to 4. The operator makes an "
            "HTTPRoute of the service's name that hangs on them."
        ),
        json_schema_extra=LIST_ATOMIC,
    )
    hostnames: Annotated[tuple[Hostname, ...], Field(min_length=1, max_length=16)] = Field(
        description=(
            "Names that clients reach the service by, 1 to 16, such as pizza.example.com. A "
            "leading *. stands for any name below."
        ),
        json_schema_extra=LIST_SET,
    )
    timeout: Annotated[Duration, between("1s", "1h")] = Field(
        "30s",
        description=(
            "How long the gateway waits for a whole answer, a duration such as 30s, 1s to 1h. A "
            "revision that has lost its traffic keeps its pods for at least as long. Default 30s."
        ),
    )

    @property
    def timeout_after(self) -> timedelta:
        """`timeout` as a length of time."""
        return parse_duration(self.timeout)
