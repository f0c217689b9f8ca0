"""Keys, addresses, rates and files that change: the guard's parts, with fake time and no server."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_inference.errors import SettingsError, UnusableFileError
from sluice_inference.guarding.addresses import (
    find_client,
    is_allowed,
    name_client,
    parse_address,
)
from sluice_inference.guarding.keys import MAX_KEYS, Key, KeyRing, parse_keys
from sluice_inference.guarding.rates import PERIOD_S, LocalRates
from sluice_inference.guarding.reloading import EVERY_S, Reloading, read_text
from sluice_inference.guarding.roles import ALWAYS_OPEN, Role, find_role, may
from sluice_inference.logs import Throttle
from sluice_inference.settings import read_settings
from tests.serving import Recorder


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


# --- keys


def test_a_key_is_found_by_what_its_client_shows() -> None:
    lines = [
        "# of the team",
        "",
        f"web:infer:{sha('one')}",
        f" ops:ops:{sha('two').upper()} ",
        f"web:infer:{sha('3')}:500",
    ]
    ring = parse_keys("\n".join(lines))
    assert len(ring) == 3
    assert ring.find(b"one") == Key("web", Role.INFER, hashlib.sha256(b"one").digest())
    assert ring.find(b"two") == Key("ops", Role.OPS, hashlib.sha256(b"two").digest())
    third = ring.find(b"3")
    assert third is not None
    assert (third.name, third.per_minute) == ("web", 500)


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"ONE", id="another case"),
        pytest.param(b"one ", id="a blank more"),
        pytest.param(hashlib.sha256(b"one").hexdigest().encode(), id="the sum from the file"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"x" * 100_000, id="very long"),
    ],
)
def test_what_is_no_key_finds_none(shown: bytes) -> None:
    assert parse_keys(f"web:infer:{sha('one')}").find(shown) is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("", "no key in it", id="empty"),
        pytest.param("# nothing\n", "no key in it", id="comments only"),
        pytest.param("web:infer", "line 1: has 2 parts", id="too few parts"),
        pytest.param("web:infer:secret-key-in-the-clear", "never the key", id="a bare key"),
        pytest.param("web:root:" + "0" * 64, "the role is one of infer, ops, admin", id="role"),
        pytest.param("w b:infer:" + "0" * 64, "the name", id="name"),
        pytest.param("web:infer:" + "0" * 64 + ":0", "requests per minute", id="no requests"),
        pytest.param("web:infer:" + "0" * 64 + ":many", "requests per minute", id="no number"),
        pytest.param("web:infer:" + sha(""), "SHA-256 of nothing", id="the sum of nothing"),
        pytest.param(f"a:infer:{sha('x')}\nb:ops:{sha('x')}", "listed twice", id="twice"),
        pytest.param(
            "\n".join(f"k{n}:infer:{sha(str(n))}" for n in range(MAX_KEYS + 1)),
            "at most 1000",
            id="too many",
        ),
    ],
)
def test_a_bad_file_of_keys_says_what_is_wrong_and_quotes_nothing(text: str, word: str) -> None:
    with pytest.raises(UnusableFileError) as caught:
        parse_keys(text)
    assert word in str(caught.value)
    assert "secret-key-in-the-clear" not in str(caught.value)


@given(st.text(max_size=300))
def test_any_text_is_keys_or_a_reason(text: str) -> None:
    try:
        ring = parse_keys(text)
    except UnusableFileError:
        return
    assert isinstance(ring, KeyRing)


# --- roles


@pytest.mark.parametrize(
    ("path", "plain", "strict"),
    [
        *(pytest.param(path, None, None, id=path) for path in sorted(ALWAYS_OPEN)),
        pytest.param("/metrics", None, Role.OPS, id="metrics"),
        pytest.param("/docs", None, Role.OPS, id="docs"),
        pytest.param("/status", Role.OPS, Role.OPS, id="status"),
        pytest.param("/embed", Role.INFER, Role.INFER, id="inference"),
        pytest.param("/health/", Role.INFER, Role.INFER, id="nearly a probe"),
        pytest.param("/a-route-of-tomorrow", Role.INFER, Role.INFER, id="unknown"),
    ],
)
def test_each_path_needs_its_role(path: str, plain: Role | None, strict: Role | None) -> None:
    assert find_role(path, strict=False) is plain
    assert find_role(path, strict=True) is strict


def test_a_role_opens_its_own_and_admin_opens_all() -> None:
    opened = {(role, need) for role in Role for need in (Role.INFER, Role.OPS) if may(role, need)}
    assert opened == {
        (Role.INFER, Role.INFER),
        (Role.OPS, Role.OPS),
        (Role.ADMIN, Role.INFER),
        (Role.ADMIN, Role.OPS),
    }


# --- addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "expected"),
    [
        pytest.param("10.0.0.9", "", 0, "10.0.0.9", id="straight"),
        pytest.param("10.0.0.9", "1.2.3.4", 0, "10.0.0.9", id="nobody is believed"),
        pytest.param("10.0.0.9", "1.2.3.4", 1, "1.2.3.4", id="one proxy"),
        pytest.param("10.0.0.9", "6.6.6.6, 1.2.3.4", 1, "1.2.3.4", id="a forged entry before it"),
        pytest.param("10.0.0.9", "6.6.6.6,1.2.3.4, 10.0.0.1", 2, "1.2.3.4", id="two proxies"),
        pytest.param("10.0.0.9", "6.6.6.6", 2, "10.0.0.9", id="past the first proxy"),
        pytest.param("10.0.0.9", "", 1, "10.0.0.9", id="past the only proxy"),
        pytest.param("::ffff:10.0.0.9", "", 0, "10.0.0.9", id="IPv4 on a listener for both"),
        pytest.param("10.0.0.9", "[fd00::1]:443", 1, "fd00::1", id="IPv6 with a port"),
        pytest.param("10.0.0.9", "1.2.3.4:5678", 1, "1.2.3.4", id="IPv4 with a port"),
        pytest.param("10.0.0.9", "unknown", 1, None, id="unreadable"),
        pytest.param("", "", 0, None, id="a socket without address"),
    ],
)
def test_the_client_is_whom_our_own_proxies_saw(
    peer: str, forwarded: str, proxies: int, expected: str | None
) -> None:
    found = find_client(peer, forwarded, proxies)
    assert (str(found) if found else None) == expected


@given(forged=st.lists(st.ip_addresses().map(str), max_size=5), proxies=st.integers(1, 3))
def test_no_header_of_the_client_moves_what_the_proxies_saw(
    forged: list[str], proxies: int
) -> None:
    added = [f"192.0.2.{number}" for number in range(1, proxies + 1)]
    found = find_client("10.0.0.9", ", ".join([*forged, *added]), proxies)
    assert str(found) == "192.0.2.1"


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        pytest.param("10.1.2.3", (), True, id="no list"),
        pytest.param("10.1.2.3", ("10.0.0.0/8",), True, id="in it"),
        pytest.param("11.1.2.3", ("10.0.0.0/8", "fd00::/8"), False, id="in none"),
        pytest.param("fd12::1", ("10.0.0.0/8", "fd00::/8"), True, id="IPv6"),
        pytest.param("::ffff:10.1.2.3", ("10.0.0.0/8",), True, id="IPv4 written as IPv6"),
        pytest.param("nonsense", ("0.0.0.0/0", "::/0"), False, id="unreadable"),
        pytest.param("nonsense", (), True, id="unreadable without a list"),
    ],
)
def test_a_list_of_networks_decides(
    address: str, networks: tuple[str, ...], expected: bool
) -> None:
    parsed = tuple(ipaddress.ip_network(network) for network in networks)
    assert is_allowed(parse_address(address), parsed) is expected


def test_a_subscriber_does_not_get_a_limit_for_each_of_its_addresses() -> None:
    addresses = [ipaddress.ip_address("2001:db8::1"), ipaddress.ip_address("2001:db8::ffff:1")]
    assert len({name_client(address) for address in addresses}) == 1
    assert name_client(ipaddress.ip_address("2001:db8:0:1::1")) != name_client(addresses[0])
    assert name_client(ipaddress.ip_address("192.0.2.1")) == "192.0.2.1"


# --- rates


def test_a_client_may_ask_so_often_at_once_and_then_at_that_pace() -> None:
    clock = Clock()
    rates = LocalRates(clock)
    assert [rates.count("a", 100) for _ in range(100)] == [0.0] * 100
    assert rates.count("a", 100) == pytest.approx(0.6)
    assert rates.count("b", 100) == 0.0, "another client is not to blame"
    clock.now += 0.61
    assert rates.count("a", 100) == 0.0
    assert rates.count("a", 100) > 0
    clock.now += PERIOD_S
    assert [rates.count("a", 100) for _ in range(100)] == [0.0] * 100


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    rates = LocalRates(clock)
    for _ in range(3):
        rates.count("a", 3)
    waits = {round(rates.count("a", 3), 6) for _ in range(50)}
    assert waits == {20.0}


@given(
    st.integers(1, 1000),
    st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=300),
)
def test_a_client_never_gets_more_than_a_full_bucket_and_what_flowed_in(
    per_minute: int, pauses: list[float]
) -> None:
    clock = Clock()
    rates, granted, started = LocalRates(clock), 0, clock.now
    for pause in pauses:
        clock.now += pause
        granted += rates.count("a", per_minute) == 0.0
        assert granted <= per_minute + (clock.now - started) * per_minute / PERIOD_S + 1e-3


@given(st.integers(1, 500))
def test_who_waits_as_long_as_told_is_let_in(per_minute: int) -> None:
    clock = Clock()
    rates = LocalRates(clock)
    while (wait := rates.count("a", per_minute)) == 0.0:
        pass
    clock.now += wait
    assert rates.count("a", per_minute) == 0.0


def test_clients_who_left_are_forgotten() -> None:
    clock = Clock()
    rates = LocalRates(clock)
    for number in range(50_000):
        clock.now += 0.01
        rates.count(f"client {number}", 100)
    assert len(rates) < 3000


# --- files that change


def write(file: Path, text: str, clock: Clock) -> None:
    file.write_text(text)
    clock.now += EVERY_S


def watch(file: Path, clock: Clock) -> Reloading[str]:
    def make() -> str:
        text = read_text(file)
        if "bad" in text:
            raise UnusableFileError("bad")
        return text

    return Reloading("the words", [file], make, clock)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "words"
    file.write_text("one")
    words = watch(file, clock)
    file.write_text("two!")
    assert words.get() == "one", "not yet looked at"
    clock.now += EVERY_S
    assert words.get() == "two!"


def test_a_swap_of_links_as_mounted_secrets_do_it_is_seen(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words").write_text(f"of {name}")
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "words").symlink_to("data/words")
    words = watch(tmp_path / "words", clock)
    assert words.get() == "of 1"
    (tmp_path / "new").symlink_to("2")
    os.replace(tmp_path / "new", tmp_path / "data")
    clock.now += EVERY_S
    assert words.get() == "of 2"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda file: file.write_text("bad"), id="unusable"),
        pytest.param(lambda file: file.unlink(), id="gone"),
        pytest.param(lambda file: file.write_bytes(b"\xff\xff"), id="no text"),
        pytest.param(lambda file: file.write_bytes(b"x" * (2 << 20)), id="too large"),
    ],
)
def test_a_spoilt_file_leaves_the_old_value_until_it_is_mended(
    tmp_path: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    clock, file = Clock(), tmp_path / "words"
    file.write_text("good")
    words = watch(file, clock)
    spoil(file)
    for _ in range(3):
        clock.now += EVERY_S
        assert words.get() == "good"
    assert words.is_stale
    assert sum("can't be used" in record.message for record in caplog.records) == 1
    write(file, "better", clock)
    assert (words.get(), words.is_stale) == ("better", False)


def test_a_file_that_is_missing_from_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match="can't be read: No such file"):
        watch(tmp_path / "words", Clock())


# --- events


def test_a_flood_of_events_of_one_kind_is_held_back_and_counted() -> None:
    clock = Clock()
    throttle = Throttle(3, 60.0, clock)
    assert [throttle.admit("key") for _ in range(5)] == [0, 0, 0, None, None]
    assert throttle.admit("rate") == 0, "another kind has its own count"
    clock.now += 60
    assert [throttle.admit("key") for _ in range(2)] == [2, 0]


# --- settings


def test_without_settings_the_guard_is_open_and_rates_are_ready_for_known_clients() -> None:
    guard = read_settings({}).guard
    assert (guard.strict, guard.keys_file, guard.allowed, guard.tls) == (False, None, (), None)
    assert (guard.trusted_proxies, guard.rate_per_minute, guard.cors_origins) == (None, 100, ())


def test_no_proxy_is_not_the_same_as_not_knowing() -> None:
    assert read_settings({"TRUSTED_PROXIES": "0"}).guard.trusted_proxies == 0


@pytest.mark.parametrize(
    ("env", "words"),
    [
        pytest.param({"SECURITY_STRICT_MODE": "true"}, ["API_KEYS_FILE"], id="strict, no keys"),
        pytest.param(
            {"ALLOWED_ADDRESSES": "10.0.0.1/8"}, ["ALLOWED_ADDRESSES", "10.0.0.1/8"], id="bits"
        ),
        pytest.param({"ALLOWED_ADDRESSES": "all"}, ["ALLOWED_ADDRESSES", "'all'"], id="no network"),
        pytest.param({"CORS_ORIGINS": "https://a.b/c"}, ["CORS_ORIGINS", "a.b/c"], id="a path"),
        pytest.param({"CORS_ORIGINS": "a.b"}, ["CORS_ORIGINS"], id="no scheme"),
        pytest.param({"TLS_CERT_FILE": "/x"}, ["TLS_KEY_FILE", "needs both"], id="no key"),
        pytest.param({"TLS_KEY_FILE": "/x"}, ["TLS_CERT_FILE", "needs both"], id="no certificate"),
        pytest.param({"TRUSTED_PROXIES": "-1"}, ["TRUSTED_PROXIES"], id="fewer than none"),
        pytest.param({"RATE_LIMIT_PER_MINUTE": "lots"}, ["RATE_LIMIT_PER_MINUTE"], id="rate"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(env: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(env)
    (problem,) = caught.value.problems
    assert all(word in problem for word in words), problem


@pytest.mark.parametrize(
    "name",
    [
        "ENVIRONMENT",
        "LOG_LEVEL",
        "MAX_WORKERS",
        "BATCH_SIZE",
        "CACHE_SIZE_MB",
        "MAX_CONCURRENT_REQUESTS",
        "RATE_LIMIT_PER_MINUTE",
        "SECURITY_STRICT_MODE",
        "MONITORING_ENABLED",
        "REDIS_URL",
        "MODEL_VERSION",
    ],
)
def test_the_promised_names_are_read_and_documented(name: str) -> None:
    env = Recorder()
    read_settings(env)
    assert name in env.asked
    docs = Path(__file__).parents[3] / "docs"
    assert f"`{name}`" in (docs / "inference.md").read_text() + (docs / "contract.md").read_text()
