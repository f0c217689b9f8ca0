"""Lets a request in or not: by address, key, role and rate, in this order.

Decides by the head of a request alone. Who was let in is returned, who was not is counted and logged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.types import Scope

from sluice_inference.errors import SettingsError, UnusableFileError
from sluice_inference.guarding.addresses import Address, find_client, is_allowed, name_client
from sluice_inference.guarding.denial import DeniedError
from sluice_inference.guarding.keys import Key, KeyRing, parse_keys
from sluice_inference.guarding.rates import LocalRates, Rates, SharedRates
from sluice_inference.guarding.reloading import Reloading, read_text
from sluice_inference.guarding.roles import ALWAYS_OPEN, Role, find_role, may
from sluice_inference.logs import Throttle, log
from sluice_inference.metrics import Metrics
from sluice_inference.settings.guard import GuardSettings

_BEARER = b"bearer "
_SHADOW = b"true"
_CHALLENGE = (("www-authenticate", 'Bearer realm="sluice"'),)
# Security events of one reason that are written in a minute; the others are counted.
_EVENTS_PER_MINUTE = 10


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of the key, and the address that can be believed; each empty if unknown."""

    name: str = ""
    address: str = ""


@dataclass(slots=True)
class _Head:
    """What the headers say of the caller. None of it is true before it is checked."""

    bearer: bytes = b""
    api_key: bytes = b""
    forwarded: bytes = b""
    is_shadow: bool = False


class Guard:
    """The guard of one server. Without a setting that asks for more it lets everybody in."""

    def __init__(
        self,
        settings: GuardSettings,
        keys: Reloading[KeyRing] | None,
        rates: Rates,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._rates = rates
        self._metrics = metrics
        self._throttle = Throttle(_EVENTS_PER_MINUTE, 60.0)
        self._needs_tls = settings.strict and settings.tls is not None
        knows_clients = keys is not None or settings.trusted_proxies is not None
        self.is_open = not (knows_clients or settings.allowed or self._needs_tls)
        if keys is not None:
            metrics.keys_stale.set_function(lambda: float(keys.is_stale))

    async def admit(self, scope: Scope) -> Caller:
        """Who asks, if that one may. Raises DeniedError: 401, 403, 429."""
        if self.is_open:
            return _NOBODY
        path = scope["path"]
        if path in ALWAYS_OPEN:
            return _NOBODY
        need = find_role(path, strict=self._settings.strict)
        head = _read_head(scope)
        address = self._find_address(scope, head)
        shown = Caller(address=str(address or ""))
        try:
            self._check_way(scope, address)
            if need is None:
                return shown
            key = self._check_key(head, need)
            shown = Caller(key.name if key else "", shown.address)
            if need is Role.INFER:
                await self._check_rate(key, address, is_shadow=head.is_shadow)
        except DeniedError as denied:
            self._note(denied, scope, shown)
            raise
        return shown

    async def close(self) -> None:
        await self._rates.close()

    def _find_address(self, scope: Scope, head: _Head) -> Address | None:
        peer = scope.get("client") or ("", 0)
        forwarded = head.forwarded.decode("latin-1")
        return find_client(peer[0], forwarded, self._settings.trusted_proxies or 0)

    def _check_way(self, scope: Scope, address: Address | None) -> None:
        if not is_allowed(address, self._settings.allowed):
            raise DeniedError(
                "address",
                403,
                "ADDRESS_REFUSED",
                "requests from this address are not taken; ask those who run the service",
            )
        if self._needs_tls and scope.get("scheme") == "http":
            raise DeniedError(
                "plain",
                403,
                "TLS_REQUIRED",
                "this port is for probes; ask by https on the TLS port",
            )

    def _check_key(self, head: _Head, need: Role) -> Key | None:
        if self._keys is None:
            return None
        shown = head.bearer or head.api_key
        if not shown:
            raise DeniedError(
                "no_key",
                401,
                "KEY_REQUIRED",
                "a key is needed: send it as Authorization: Bearer KEY or as X-API-Key: KEY",
                headers=_CHALLENGE,
            )
        key = self._keys.get().find(shown)
        if key is None:
            raise DeniedError(
                "unknown_key",
                401,
                "KEY_UNKNOWN",
                "the key is not (or no longer) a good one; ask those who run the service for another",
                headers=_CHALLENGE,
            )
        if not may(key.role, need):
            raise DeniedError(
                "role",
                403,
                "ROLE_MISSING",
                f"the key is for {key.role}; this needs one for {need} or {Role.ADMIN}",
            )
        return key

    async def _check_rate(
        self, key: Key | None, address: Address | None, *, is_shadow: bool
    ) -> None:
        settings = self._settings
        limit = settings.rate_per_minute
        if key is not None:
            limit = limit if key.per_minute is None else key.per_minute
            client = f"key/{key.name}"
        elif settings.trusted_proxies is not None and address is not None:
            client = f"address/{name_client(address)}"
        else:
            return
        if not limit:
            return
        if is_shadow:
            # The comparer asks again what the client asked once, and that was not its client's doing.
            client += "/shadow"
        wait_s = await self._rates.take(client, limit)
        if wait_s > 0:
            raise DeniedError(
                "rate",
                429,
                "RATE_LIMITED",
                f"more than {limit} requests a minute; try again after Retry-After",
                retry_after_s=max(1, math.ceil(wait_s)),
            )

    def _note(self, denied: DeniedError, scope: Scope, shown: Caller) -> None:
        """Count it, and write a security event unless there were many of the kind lately."""
        self._metrics.rejected_total.labels(denied.reason).inc()
        left_out = self._throttle.admit(denied.reason)
        if left_out is None:
            return
        log(
            "warning",
            "request denied",
            event="security",
            reason=denied.reason,
            status=denied.status,
            client=shown.name,
            address=shown.address,
            method=scope["method"],
            path=scope["path"][:128],
            request_id=scope.get("request_id", ""),
            left_out=left_out,
        )


_NOBODY = Caller()


def make_guard(
    settings: GuardSettings,
    metrics: Metrics,
    *,
    service: str = "",
    redis_url: str = "",
    redis_timeout_s: float = 0.02,
) -> Guard:
    """The guard that the settings ask for.

    Servers of one `service` share limits where they share a Redis. Raises SettingsError where the
    keys can't be read.
    """
    keys: Reloading[KeyRing] | None = None
    if file := settings.keys_file:
        try:
            keys = Reloading("the API keys", [file], lambda: parse_keys(read_text(file)))
        except UnusableFileError as error:
            raise SettingsError([f"API_KEYS_FILE: {error}"]) from error
    rates: Rates = LocalRates()
    if redis_url:
        rates = SharedRates(redis_url, f"sluice:rate:{service}:", redis_timeout_s)
    return Guard(settings, keys, rates, metrics)


def _read_head(scope: Scope) -> _Head:
    head = _Head()
    for name, value in scope["headers"]:
        if name == b"authorization":
            if value[: len(_BEARER)].lower() == _BEARER:
                head.bearer = value[len(_BEARER) :].strip()
        elif name == b"x-api-key":
            head.api_key = value.strip()
        elif name == b"x-forwarded-for":
            # Several of these headers are one list, in their order (RFC 9110, section 5.3).
            head.forwarded += b"," + value if head.forwarded else value
        elif name == b"sluice-shadow":
            head.is_shadow = value == _SHADOW
    return head
