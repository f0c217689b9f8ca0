"""Everything about the process that can be set: flags before SLUICE_* variables before defaults.

One frozen object, read once at the start. What concerns one object belongs into its spec instead.
"""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from sluice.errors import UserError

PREFIX = "SLUICE_"

# The kubelet puts the addresses of a namespace's Services into every pod's environment, and those
# of a Service named sluice-… begin with our prefix.
SERVICE_LINK = re.compile(r"SLUICE_\w*(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_\w+)")


def _option(
    default: Any, text: str, *, choices: tuple[str, ...] = (), minimum: float | None = None
) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices, "minimum": minimum})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of ``sluice-operator run``. Times are seconds."""

    kubeconfig: str = _option("", "kubeconfig file; default $KUBECONFIG, the pod's service account")
    context: str = _option("", "context of the kubeconfig; default its current one")
    namespace: str = _option("", "namespace of the lease; default $POD_NAMESPACE, then 'default'")
    identity: str = _option(
        "", "name towards the lease, used by no other living process; default the pod's, or own"
    )
    lease_name: str = _option("sluice-operator", "name of the lease")
    lease_duration: float = _option(15.0, "when a silent holder loses the lease", minimum=1)
    renew_deadline: float = _option(10.0, "when a holder that cannot renew stops", minimum=0.1)
    lease_retry: float = _option(2.0, "pause between two tries of the lease", minimum=0.01)
    workers: int = _option(32, "reconciles at once", minimum=1)
    reconcile_timeout: float = _option(60.0, "how long one reconcile may take", minimum=1)
    qps: float = _option(400.0, "writes to the API server a second", minimum=1)
    burst: int = _option(800, "writes at once after a quiet time", minimum=1)
    audit_interval: float = _option(600.0, "between two audits of the caches", minimum=1)
    resync: float = _option(3600.0, "in which every object is looked over once", minimum=1)
    drain_lag: float = _option(
        5.0, "how long traffic may still reach pods after it was moved away", minimum=0
    )
    probe_host: str = _option("0.0.0.0", "address of /healthz, /readyz and /metrics")  # noqa: S104 - the kubelet asks on the pod's address
    probe_port: int = _option(8081, "port of the same, 0 for a free one", minimum=0)
    log_level: str = _option("info", "least level", choices=("debug", "info", "warning", "error"))
    log_format: str = _option(
        "auto", "json, text, or text at a terminal only", choices=("auto", "json", "text")
    )


FIELDS = {entry.name: entry for entry in dataclasses.fields(Settings)}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting. Values stay text here, ``load_settings`` checks them."""
    for name, entry in FIELDS.items():
        shown = f" (default {entry.default})" if entry.default != "" else ""
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar="|".join(entry.metadata["choices"]) or name.rsplit("_", maxsplit=1)[-1].upper(),
            help=f"{entry.metadata['help']}{shown} [{PREFIX}{name.upper()}]",
        )


def load_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """The settings. Raises UserError("BadSettings") that names every wrong one at once."""
    wrong = []
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or SERVICE_LINK.fullmatch(variable):
            continue
        if variable.endswith("_PORT") and text.startswith("tcp://"):
            continue  # a service link as well
        if name not in FIELDS:
            wrong.append(f"{variable}: no such setting.{_suggest(name)}")
            continue
        values[name] = (variable, text)
    for name, flag in flags.items():
        if flag is not None:
            values[name] = (f"--{name.replace('_', '-')}", flag)
    parsed = {}
    for name, (where, text) in values.items():
        try:
            parsed[name] = _parse(FIELDS[name], text)
        except ValueError as error:
            wrong.append(f"{where}: {error}")
    if wrong:
        raise UserError("BadSettings", "; ".join(wrong))
    return Settings(**parsed)


def describe(settings: Settings) -> dict[str, Any]:
    """The settings as facts for the log. None of them is a secret; credentials are never settings,
    they come from the kubeconfig or the service account."""
    return dataclasses.asdict(settings)


def _parse(entry: "dataclasses.Field[Any]", text: str) -> Any:
    choices: Sequence[str] = entry.metadata["choices"]
    if choices and text not in choices:
        raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
    if entry.type is str:
        return text
    want = "a whole number" if entry.type is int else "a number"
    try:
        value = int(text) if entry.type is int else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {want}") from None
    minimum = entry.metadata["minimum"]
    # "nan" is a float, and compares with nothing.
    if not minimum <= value < float("inf"):
        raise ValueError(f"{text} is not {want} from {minimum} on")
    return value


def _suggest(name: str) -> str:
    close = get_close_matches(name, FIELDS, n=1)
    return f" Did you mean {PREFIX}{close[0].upper()}?" if close else ""
