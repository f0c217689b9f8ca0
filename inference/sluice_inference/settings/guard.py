"""Who may ask the server, how often, and over what: keys, addresses, rates, browsers, TLS."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from sluice_inference.settings.reader import Reader

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The largest a limit may be: beyond it a limit says nothing, and the counters stay small integers.
MAX_PER_MINUTE = 1_000_000
_ORIGIN = re.compile(r"\*|https?://([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Certificate chain and private key, both PEM, and the port that speaks TLS."""

    cert_file: Path
    key_file: Path
    port: int


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """What is asked of clients before their request is looked at.

    `trusted_proxies` is how many proxies stand before the server; None where that isn't known, and
    then an address may be a gateway's and stands for nobody. `rate_per_minute` is 0 for no limit.
    """

    strict: bool
    keys_file: Path | None
    allowed: tuple[Network, ...]
    trusted_proxies: int | None
    rate_per_minute: int
    cors_origins: tuple[str, ...]
    tls: TlsSettings | None


def read_guard(read: Reader) -> GuardSettings:
    strict = read.flag("SECURITY_STRICT_MODE", default=False)
    keys_file = read.text("API_KEYS_FILE")
    if strict and not keys_file:
        read.tell(
            "API_KEYS_FILE",
            "SECURITY_STRICT_MODE needs one; give the path of a file with keys, or set "
            "SECURITY_STRICT_MODE=false",
        )
    proxies = read.integer("TRUSTED_PROXIES", -1, 0, 16)
    return GuardSettings(
        strict=strict,
        keys_file=Path(keys_file) if keys_file else None,
        allowed=_read_networks(read),
        trusted_proxies=None if proxies < 0 else proxies,
        rate_per_minute=read.integer("RATE_LIMIT_PER_MINUTE", 100, 0, MAX_PER_MINUTE),
        cors_origins=_read_origins(read),
        tls=_read_tls(read),
    )


def _read_networks(read: Reader) -> tuple[Network, ...]:
    networks: list[Network] = []
    for part in _split(read.text("ALLOWED_ADDRESSES")):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            read.tell(
                "ALLOWED_ADDRESSES",
                f"{part!r} is not an address or a network such as 10.0.0.0/8 or fd00::/8 (no bits "
                "set beyond the prefix)",
            )
    return tuple(networks)


def _read_origins(read: Reader) -> tuple[str, ...]:
    origins = _split(read.text("CORS_ORIGINS"))
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            read.tell(
                "CORS_ORIGINS",
                f"{origin!r} is not an origin such as https://app.example.com, without a path, or * "
                "for all",
            )
    # Browsers send origins in lower case.
    return tuple(origin.lower() for origin in origins)


def _read_tls(read: Reader) -> TlsSettings | None:
    cert, key = read.text("TLS_CERT_FILE"), read.text("TLS_KEY_FILE")
    port = read.integer("TLS_PORT", 8443, 0, 65535)
    if bool(cert) != bool(key):
        missing, given = (
            ("TLS_KEY_FILE", "TLS_CERT_FILE") if cert else ("TLS_CERT_FILE", "TLS_KEY_FILE")
        )
        read.tell(missing, f"{given} is set without it; TLS needs both")
    return TlsSettings(Path(cert), Path(key), port) if cert and key else None


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
