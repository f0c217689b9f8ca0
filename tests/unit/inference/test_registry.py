"""Credentials for OCI registries: what is asked for, what is sent, and to whom."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sluice_inference.artifact.credentials import Access, read_access
from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.registry import Registry
from sluice_inference.artifact.uri import parse_oci

BLOB = b"the content"
BASIC = "Basic " + base64.b64encode(b"ci:secret").decode()


@dataclass
class Host:
    """A registry that wants credentials of one kind, with a token service and a place for uploads."""

    challenge: str = ""
    wanted: str = ""
    address: str = ""
    upload_to: str = ""
    token_answer: bytes = b'{"token":"t-1"}'
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def paths(self, method: str) -> list[str]:
        return [path for verb, path, _ in self.asked if verb == method]


def make_handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            authorization = self.headers.get("Authorization", "")
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            host.asked.append((self.command, self.path, authorization))
            if self.path.startswith("/token"):
                known = authorization == BASIC
                self.reply(200 if known else 401, host.token_answer)
            elif self.path.startswith("/elsewhere"):
                self.reply(201)
            elif host.wanted and authorization != host.wanted:
                self.reply(401, headers={"WWW-Authenticate": host.challenge})
            elif self.command == "POST":
                self.reply(202, headers={"Location": host.upload_to})
            else:
                self.reply(200, BLOB)

        do_GET = do_POST = do_PUT = do_HEAD = answer  # noqa: N815 - the base class's names

        def reply(
            self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Quiet: `asked` says what a test needs."""

    return Handler


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(made))
    made.address = f"127.0.0.1:{server.server_address[1]}"
    made.upload_to = f"http://{made.address}/elsewhere"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def open_registry(host: Host, **access: str) -> Registry:
    env = {f"ARTIFACT_{name.upper()}": value for name, value in access.items()}
    plain = {"ARTIFACT_PLAIN_HTTP": f"other:1, {host.address}"}
    reference = parse_oci(f"oci://{host.address}/models/pizza:1")
    return Registry(reference, read_access({**env, **plain}))


def read(registry: Registry) -> bytes:
    try:
        return registry.read_blob("sha256:1", 1000)
    finally:
        registry.close()


def ask_for_token(host: Host) -> None:
    host.challenge = f'Bearer realm="http://{host.address}/token",service="r",scope="repository:models/pizza:pull"'
    host.wanted = "Bearer t-1"


def test_an_open_registry_is_asked_without_credentials(host: Host) -> None:
    assert read(open_registry(host, username="ci", password="secret")) == BLOB
    assert [sent for _, _, sent in host.asked] == [""]


def test_a_token_is_fetched_with_the_challenges_scope(host: Host) -> None:
    ask_for_token(host)
    assert read(open_registry(host, username="ci", password="secret")) == BLOB
    token_request = host.asked[1]
    assert token_request[1].startswith("/token?service=r&scope=repository")
    assert [sent for _, _, sent in host.asked] == ["", BASIC, "Bearer t-1"]


def test_basic_credentials_are_sent_where_they_are_asked_for(host: Host) -> None:
    host.challenge, host.wanted = 'Basic realm="x"', BASIC
    assert read(open_registry(host, username="ci", password="secret")) == BLOB


def test_a_ready_made_token_is_sent_at_once(host: Host) -> None:
    host.challenge, host.wanted = "Bearer", "Bearer mine"
    assert read(open_registry(host, token="mine")) == BLOB
    assert len(host.asked) == 1


@pytest.mark.parametrize(
    "access",
    [
        pytest.param({"username": "ci", "password": "wrong"}, id="a wrong password"),
        pytest.param({"token": "old"}, id="a token that is not valid any more"),
        pytest.param({}, id="none at all"),
    ],
)
def test_refused_credentials_are_unauthorized(host: Host, access: dict[str, str]) -> None:
    ask_for_token(host)
    with pytest.raises(ArtifactError, match="HTTP 401") as caught:
        read(open_registry(host, **access))
    assert caught.value.reason == "Unauthorized"
    assert "wrong" not in caught.value.message


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        pytest.param(b"<html>Sign in</html>", "Unreachable", "JSON with a token", id="HTML"),
        pytest.param(b'["t-1"]', "Unauthorized", "gave no token", id="a list"),
        pytest.param(b'{"token":""}', "Unauthorized", "gave no token", id="an empty token"),
        pytest.param(b'{"token":7}', "Unauthorized", "gave no token", id="a number"),
    ],
)
def test_a_token_service_that_gives_no_token_is_named(
    host: Host, answer: bytes, reason: str, words: str
) -> None:
    ask_for_token(host)
    host.token_answer = answer
    with pytest.raises(ArtifactError, match=f"http://{host.address}/token: .*{words}") as caught:
        read(open_registry(host, username="ci", password="secret"))
    assert (caught.value.reason, caught.value.permanent) == (reason, False)


def test_a_certificate_file_that_is_not_there_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ArtifactError, match=r"SSL_CERT_FILE: .*'/nowhere/ca\.pem'") as caught:
        open_registry(host)
    assert caught.value.reason == "Unreachable"


def test_credentials_stay_with_the_registry_when_an_upload_goes_elsewhere(host: Host) -> None:
    host.challenge, host.wanted = "Bearer", "Bearer mine"
    host.upload_to = host.upload_to.replace("127.0.0.1", "localhost")
    registry = open_registry(host, token="mine")
    registry.push_blob("sha256:1", len(BLOB), lambda: iter([BLOB]))
    registry.close()
    assert [(verb, sent) for verb, _, sent in host.asked] == [("POST", "Bearer mine"), ("PUT", "")]
    assert host.paths("PUT") == ["/elsewhere?digest=sha256%3A1"]


def test_what_is_larger_than_allowed_is_not_read_to_its_end(host: Host) -> None:
    registry = open_registry(host)
    with pytest.raises(ArtifactError, match="more than 4 bytes"):
        registry.read_blob("sha256:1", 4)
    registry.close()


def test_passwords_are_in_no_representation() -> None:
    assert "secret" not in repr(Access(username="ci", password="secret", token="secret"))
