"""The guard on the real application: who is let in, what the others are told, what is written of it."""

from __future__ import annotations

import base64
import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluice_inference.errors import SettingsError
from sluice_inference.guarding.guard import _EVENTS_PER_MINUTE
from sluice_inference.guarding.roles import ALWAYS_OPEN, Role, find_role
from sluice_inference.http.catalogue import Purpose
from tests.serving import RAW, make_jpeg, serve

JPEG = make_jpeg()
KEYS = {"infer": "key-of-web", "ops": "key-of-ops", "admin": "key-of-admin"}


@pytest.fixture
def keys_file(tmp_path: Path) -> str:
    """A file with one key of each role; a fourth with a limit of its own."""
    file = tmp_path / "keys"
    lines = [f"{role}-team:{role}:{sha(key)}" for role, key in KEYS.items()]
    file.write_text("\n".join([*lines, f"slow-team:infer:{sha('key-of-slow')}:2"]))
    return str(file)


def write(keys_file: str, text: str) -> None:
    Path(keys_file).write_text(text)


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def embed(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/embed", content=JPEG, headers={**RAW, **headers})


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def test_without_settings_everybody_is_let_in_as_often_as_they_like() -> None:
    async with serve() as served, served.connect() as client:
        statuses = {(await embed(client)).status_code for _ in range(150)}
        for path in ("/status", "/metrics", "/health", "/ready"):
            statuses.add((await client.get(path)).status_code)
    assert served.app.guard.is_open
    assert statuses == {200}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({}, 401, "KEY_REQUIRED", id="no key"),
        pytest.param(bearer("wrong"), 401, "KEY_UNKNOWN", id="a wrong key"),
        pytest.param({"authorization": "Basic eDp5"}, 401, "KEY_REQUIRED", id="another scheme"),
        pytest.param(bearer(KEYS["ops"]), 403, "ROLE_MISSING", id="a key for something else"),
        pytest.param(bearer(KEYS["infer"]), 200, None, id="as a bearer"),
        pytest.param(
            {"authorization": f"bearer  {KEYS['infer']}"}, 200, None, id="in small letters"
        ),
        pytest.param({"x-api-key": KEYS["infer"]}, 200, None, id="as X-API-Key"),
        pytest.param(bearer(KEYS["admin"]), 200, None, id="a key for all"),
    ],
)
async def test_inference_needs_a_key_for_it(
    keys_file: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    async with serve(API_KEYS_FILE=keys_file) as served, served.connect() as client:
        answer = await embed(client, **headers)
    assert answer.status_code == status
    assert answer.headers["sluice-revision"] == "abc123"
    assert answer.headers["x-request-id"]
    if code:
        assert code_of(answer) == code
        assert ("www-authenticate" in answer.headers) is (status == 401)
        assert not any(key in answer.text for key in KEYS.values())


async def test_kubelet_and_operator_need_no_key_whatever_is_set(keys_file: str) -> None:
    env = {"ALLOWED_ADDRESSES": "192.0.2.0/24", "SECURITY_STRICT_MODE": "true"}
    async with serve(API_KEYS_FILE=keys_file, **env) as served, served.connect() as client:
        answers = {path: (await client.get(path)).status_code for path in ALWAYS_OPEN}
        missing = {path for path in ALWAYS_OPEN if not served.app.catalogue.find(path).entry}
        assert not missing
    assert set(answers.values()) == {200}


@pytest.mark.parametrize(
    ("path", "strict", "opened_by"),
    [
        pytest.param("/status", "false", {"ops", "admin"}, id="status"),
        pytest.param("/metrics", "false", {"", "infer", "ops", "admin"}, id="metrics"),
        pytest.param("/metrics", "true", {"ops", "admin"}, id="metrics, strict"),
    ],
)
async def test_what_operates_the_server_needs_a_key_for_that(
    keys_file: str, path: str, strict: str, opened_by: set[str]
) -> None:
    env = {"API_KEYS_FILE": keys_file, "SECURITY_STRICT_MODE": strict}
    opened = set()
    async with serve(**env) as served, served.connect() as client:
        for role in ("", *KEYS):
            headers = bearer(KEYS[role]) if role else {}
            if (await client.get(path, headers=headers)).status_code == 200:
                opened.add(role)
    assert opened == opened_by


async def test_every_route_is_for_the_role_that_its_purpose_says() -> None:
    """The guard's table names paths; this holds it to the routes that there are."""
    async with serve() as served:
        entries = served.app.catalogue.entries
    wrong = []
    for entry in entries:
        role = find_role(entry.path, strict=True)
        open_ = entry.path in ALWAYS_OPEN
        is_of_server = entry.purpose is Purpose.PROBE and not entry.parameters
        if is_of_server and not open_:
            wrong.append(f"{entry.path}: a probe that needs a key")
        if entry.purpose is Purpose.OPS and not (open_ or role is Role.OPS):
            wrong.append(f"{entry.path}: for operators, and open to {role}")
        if entry.purpose is Purpose.INFERENCE and role is not Role.INFER:
            wrong.append(f"{entry.path}: inference without its role")
    assert not wrong


async def test_without_a_key_nobody_learns_which_routes_there_are(keys_file: str) -> None:
    async with serve(API_KEYS_FILE=keys_file) as served, served.connect() as client:
        unknown = await client.get("/no-such-route")
        known = await client.get("/embed")
    assert (unknown.status_code, code_of(unknown)) == (401, "KEY_REQUIRED")
    assert (known.status_code, code_of(known)) == (401, "KEY_REQUIRED")


async def test_keys_are_exchanged_while_the_server_runs(
    keys_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice_inference.guarding.reloading.EVERY_S", 0.0)
    async with serve(API_KEYS_FILE=keys_file) as served, served.connect() as client:
        write(keys_file, f"web:infer:{sha('new')}")
        assert (await embed(client, **bearer("new"))).status_code == 200
        assert (await embed(client, **bearer(KEYS["infer"]))).status_code == 401
        write(keys_file, "a slip of the hand")
        assert (await embed(client, **bearer("new"))).status_code == 200
        assert "sluice_inference_keys_stale 1.0" in served.context.metrics.render().decode()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("web:infer", "line 1", id="a bad line"),
        pytest.param(None, "can't be read", id="no file"),
    ],
)
async def test_a_server_with_bad_keys_does_not_start(
    tmp_path: Path, text: str | None, word: str
) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match="API_KEYS_FILE") as caught:
        async with serve(API_KEYS_FILE=str(file)):
            pass
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "status"),
    [
        pytest.param("10.1.2.3", "", "", 200, id="in it"),
        pytest.param("::ffff:10.1.2.3", "", "", 200, id="in it, as a dual-stack listener says it"),
        pytest.param("192.0.2.1", "", "", 403, id="not in it"),
        pytest.param("192.0.2.1", "10.1.2.3", "", 403, id="a forged address"),
        pytest.param("192.0.2.1", "10.1.2.3", "1", 200, id="seen by a trusted proxy"),
        pytest.param("10.1.2.3", "192.0.2.1", "1", 403, id="another seen by a trusted proxy"),
        pytest.param("10.1.2.3", "10.1.2.3, 192.0.2.1", "1", 403, id="a forged one before it"),
    ],
)
async def test_a_list_of_addresses_lets_in_whom_it_names(
    peer: str, forwarded: str, proxies: str, status: int
) -> None:
    env = {"ALLOWED_ADDRESSES": "10.0.0.0/8,fd00::/8", "TRUSTED_PROXIES": proxies}
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    async with serve(**env) as served, served.connect(peer) as client:
        answer = await embed(client, **headers)
    assert answer.status_code == status
    if status == 403:
        assert code_of(answer) == "ADDRESS_REFUSED"


async def test_a_key_has_its_own_limit_and_is_told_when_to_come_again(keys_file: str) -> None:
    env = {"API_KEYS_FILE": keys_file, "RATE_LIMIT_PER_MINUTE": "5"}
    async with serve(**env) as served, served.connect() as client:
        slow = [await embed(client, **bearer("key-of-slow")) for _ in range(3)]
        web = [await embed(client, **bearer(KEYS["infer"])) for _ in range(6)]
        admin = await embed(client, **bearer(KEYS["admin"]))
        ops = [await client.get("/status", headers=bearer(KEYS["ops"])) for _ in range(20)]
        text = served.context.metrics.render().decode()
    assert [answer.status_code for answer in slow] == [200, 200, 429]
    assert (code_of(slow[2]), slow[2].headers["retry-after"]) == ("RATE_LIMITED", "30")
    assert [answer.status_code for answer in web] == [200] * 5 + [429]
    assert web[5].headers["retry-after"] == "12"
    assert admin.status_code == 200, "another client is not to blame"
    assert {answer.status_code for answer in ops} == {200}, "scrapes are no client's requests"
    assert 'sluice_inference_rejected_total{reason="rate"} 2.0' in text


@pytest.mark.parametrize(
    ("proxies", "limited"),
    [
        pytest.param("", False, id="all behind one gateway: nobody knows who is who"),
        pytest.param("0", True, id="clients connect straight"),
        pytest.param("1", True, id="a trusted gateway says who"),
    ],
)
async def test_addresses_are_limited_where_they_tell_clients_apart(
    proxies: str, limited: bool
) -> None:
    env = {"TRUSTED_PROXIES": proxies, "RATE_LIMIT_PER_MINUTE": "3"}
    async with serve(**env) as served, served.connect("10.0.0.9") as client:
        first = [await embed(client, **{"x-forwarded-for": "192.0.2.1"}) for _ in range(5)]
        other = await embed(client, **{"x-forwarded-for": "192.0.2.2"})
    assert (429 in {answer.status_code for answer in first}) is limited
    assert other.status_code == (429 if proxies == "0" else 200)


async def test_what_the_comparer_asks_again_is_not_on_the_clients_account(keys_file: str) -> None:
    """Else a client would be turned away because somebody ships a model with a shadow."""
    shadow = {**bearer("key-of-slow"), "sluice-shadow": "true"}
    async with serve(API_KEYS_FILE=keys_file) as served, served.connect() as client:
        mirrored = [(await embed(client, **shadow)).status_code for _ in range(3)]
        own = [(await embed(client, **bearer("key-of-slow"))).status_code for _ in range(2)]
    assert own == [200, 200]
    assert mirrored == [200, 200, 429], "and is no way around the limit either"


async def test_who_is_denied_takes_no_place_from_others(keys_file: str) -> None:
    env = {"API_KEYS_FILE": keys_file, "MAX_CONCURRENT_REQUESTS": "1"}
    async with serve(**env) as served:
        seen = []
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:  # a body that is still on its way
            seen.append(served.context.traffic.in_flight)
            return {"type": "http.request", "body": b"", "more_body": len(seen) < 3}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/embed",
            "query_string": b"",
            "headers": [],
            "client": ("10.0.0.9", 1),
        }
        await served.app(scope, receive, send)
    assert sent[0]["status"] == 401
    assert seen == [0, 0, 0]


async def test_a_flood_of_denied_requests_is_counted_in_full_and_written_in_part(
    keys_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sluice_inference")
    async with serve(API_KEYS_FILE=keys_file) as served, served.connect("192.0.2.7") as client:
        for _ in range(_EVENTS_PER_MINUTE + 20):
            await embed(client, **{**bearer("stolen"), "x-request-id": "r-1"})
        text = served.context.metrics.render().decode()
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == _EVENTS_PER_MINUTE
    fields: dict[str, Any] = vars(lines[0])["fields"]
    wanted = {
        "event": "security",
        "reason": "unknown_key",
        "status": 401,
        "address": "192.0.2.7",
        "path": "/embed",
        "request_id": "r-1",
    }
    assert wanted.items() <= fields.items()
    assert "stolen" not in str(fields)
    denied = 'sluice_inference_rejected_total{reason="unknown_key"} '
    assert f"{denied}{_EVENTS_PER_MINUTE + 20}.0" in text


async def test_the_log_says_whose_key_asked(
    keys_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="sluice_inference")
    async with serve(API_KEYS_FILE=keys_file) as served, served.connect() as client:
        await embed(client, **bearer(KEYS["infer"]))
    fields = [vars(record).get("fields", {}) for record in caplog.records]
    assert [one["client"] for one in fields if "client" in one] == ["infer-team"]


# --- strict mode


async def test_strict_answers_tell_browsers_and_caches_to_be_careful(keys_file: str) -> None:
    env = {"API_KEYS_FILE": keys_file, "SECURITY_STRICT_MODE": "true"}
    async with serve(**env) as served, served.connect() as client:
        answers = [
            await embed(client, **bearer(KEYS["infer"])),
            await embed(client),
            await client.get("/health"),
            await client.get("/nowhere", headers=bearer(KEYS["infer"])),
        ]
        async with served.connect(scheme="https") as secure:
            over_tls = await secure.get("/health")
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "strict-transport-security" not in answer.headers
    assert over_tls.headers["strict-transport-security"]


async def test_other_answers_have_no_such_headers() -> None:
    async with serve() as served, served.connect() as client:
        answer = await embed(client)
    assert not {"x-content-type-options", "cache-control", "vary"} & set(answer.headers)


@pytest.mark.parametrize(
    ("strict", "tells"),
    [pytest.param("false", True, id="plain"), pytest.param("true", False, id="strict")],
)
async def test_strict_refusals_say_nothing_of_the_inside(
    keys_file: str, strict: str, tells: bool
) -> None:
    env = {
        "API_KEYS_FILE": keys_file,
        "SECURITY_STRICT_MODE": strict,
        "MAX_CONCURRENT_REQUESTS": "1",
    }
    async with serve(**env) as served, served.connect() as client:
        missing = await client.get("/nowhere", headers=bearer(KEYS["infer"]))
        served.context.traffic.working = 1
        busy = await embed(client, **bearer(KEYS["infer"]))
        served.context.traffic.working = 0
        own_fault = await client.post(
            "/embed", content=b"x", headers={**RAW, **bearer(KEYS["infer"])}
        )
    assert (missing.status_code, busy.status_code) == (404, 503)
    assert ("/embed" in missing.text) is tells
    assert ("MAX_CONCURRENT_REQUESTS" in busy.text) is tells
    assert busy.headers["retry-after"]
    assert own_fault.status_code in (415, 422)
    assert len(own_fault.json()["error"]["message"]) > 20, "what is wrong with a request is told"


async def test_strict_mode_with_tls_leaves_probes_alone_on_the_plain_port(
    keys_file: str, tmp_path: Path
) -> None:
    env = {"TLS_CERT_FILE": str(tmp_path / "c"), "TLS_KEY_FILE": str(tmp_path / "k")}
    env |= {"API_KEYS_FILE": keys_file, "SECURITY_STRICT_MODE": "true"}
    async with (
        serve(**env) as served,
        served.connect() as plain,
        served.connect(scheme="https") as secure,
    ):
        refused = await embed(plain, **bearer(KEYS["infer"]))
        probe = await plain.get("/ready")
        answer = await embed(secure, **bearer(KEYS["infer"]))
    assert (refused.status_code, code_of(refused)) == (403, "TLS_REQUIRED")
    assert (probe.status_code, answer.status_code) == (200, 200)


# --- browsers


PAGE = "https://app.example.com"
ASKING = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        pytest.param(PAGE, PAGE, PAGE, id="listed"),
        pytest.param("*", PAGE, "*", id="all"),
        pytest.param(PAGE, "https://evil.example.com", None, id="not listed"),
        pytest.param(PAGE, f"{PAGE}.evil.com", None, id="one that begins like it"),
        pytest.param(PAGE, "null", None, id="null"),
    ],
)
async def test_pages_of_listed_origins_may_ask(
    keys_file: str, origins: str, origin: str, allowed: str | None
) -> None:
    env = {"API_KEYS_FILE": keys_file, "CORS_ORIGINS": origins}
    async with serve(**env) as served, served.connect() as client:
        preflight = await client.options("/embed", headers={"origin": origin, **ASKING})
        answers = [
            preflight,
            await embed(client, origin=origin, **bearer(KEYS["infer"])),
            await embed(client, origin=origin),
        ]
    assert [answer.status_code for answer in answers] == [204, 200, 401]
    for answer in answers:
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers
    assert ("x-api-key" in preflight.headers.get("access-control-allow-headers", "")) is bool(
        allowed
    )


async def test_a_page_may_say_and_read_what_a_client_may() -> None:
    async with serve(CORS_ORIGINS=PAGE) as served, served.connect() as client:
        preflight = await client.options("/embed", headers={"origin": PAGE, **ASKING})
        answer = await embed(client, origin=PAGE)
    may_say = set(preflight.headers["access-control-allow-headers"].split(", "))
    may_read = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {"cache-control", "traceparent", "tracestate", "x-api-key"} <= may_say
    assert {"deprecation", "link", "sunset", "x-request-id"} <= may_read


async def test_without_origins_no_page_may_ask() -> None:
    async with serve() as served, served.connect() as client:
        preflight = await client.options("/embed", headers={"origin": PAGE, **ASKING})
        answer = await embed(client, origin=PAGE)
    assert preflight.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


# --- URLs in inputs


class Sockets:
    """Every attempt of this process to look up a name or to connect, while it is watched."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.is_watching = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_watching and event in ("socket.connect", "socket.getaddrinfo"):
            self.seen.append(f"{event}{arguments[-1]!r}")

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        self.seen.clear()
        self.is_watching = True
        try:
            yield self.seen
        finally:
            self.is_watching = False


SOCKETS = Sockets()
URL = "http://169.254.169.254/latest/meta-data"
NATIVE = {"inputs": [{"image": URL}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/embed", NATIVE, id="embed"),
        pytest.param("/classify", NATIVE, id="classify"),
        pytest.param("/predict", NATIVE, id="predict"),
        pytest.param("/embed", {"inputs": [{"image": "file:///etc/passwd"}]}, id="a file"),
        pytest.param("/embed", {"inputs": [{"url": URL}]}, id="a field for URLs"),
        pytest.param("/embed", {"inputs": [{"image": {"url": URL}}]}, id="an object with one"),
        pytest.param("/vqa", {"inputs": [{"image": URL, "question": "?"}]}, id="vqa"),
        pytest.param("/v1/models/pizza:predict", {"instances": [{"b64": URL}]}, id="KServe v1"),
        pytest.param("/v1/models/pizza:predict", {"instances": [{"url": URL}]}, id="KServe v1 url"),
        pytest.param(
            "/v1/embeddings",
            {"model": "pizza", "input": [{"type": "image_url", "image_url": {"url": URL}}]},
            id="OpenAI",
        ),
        pytest.param(
            "/v2/models/pizza/infer",
            {"inputs": [{"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [URL]}]},
            id="Open Inference Protocol",
        ),
    ],
)
async def test_a_url_in_place_of_an_image_is_refused_and_nobody_goes_there(
    path: str, body: dict[str, Any]
) -> None:
    async with serve() as served, served.connect() as client:
        with SOCKETS.watch() as seen:
            answer = await client.post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert seen == []


async def test_a_text_that_looks_like_a_url_is_a_text() -> None:
    async with serve() as served, served.connect() as client:
        with SOCKETS.watch() as seen:
            answer = await client.post("/embed", json={"inputs": [{"text": URL}]})
    assert answer.status_code == 200
    assert seen == []


async def test_an_image_in_base64_is_taken_where_a_url_is_not() -> None:
    """So that the refusals above are for the URL."""
    body = {"inputs": [{"image": base64.b64encode(JPEG).decode()}]}
    async with serve() as served, served.connect() as client:
        assert (await client.post("/embed", json=body)).status_code == 200


def test_the_watch_on_sockets_sees_one() -> None:
    import socket

    with SOCKETS.watch() as seen, socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))
    assert len(seen) == 1
