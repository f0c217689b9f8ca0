"""Artifacts over https, against a real TLS server in this process with a certificate of its own."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from sluice_inference.artifact.credentials import Access
from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.fetch import Retry, fetch_artifact
from sluice_inference.artifact.manifest import compute_digest, make_manifest
from sluice_inference.artifact.source import HttpsSource
from sluice_inference.settings.trust import Trust


@dataclass
class Store:
    """What the server holds and how it behaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    broken: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    authorization: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)


def make_handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/pizza/")
            store.asked.append(path)
            data = store.files.get(path)
            if self.headers.get("Authorization", "") != store.authorization:
                self.send_error(401)
            elif store.broken[path] > 0:
                store.broken[path] -= 1
                self.send_error(503)
            elif data is None:
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if store.cut[path] > 0:
                    store.cut[path] -= 1
                    data = data[: len(data) // 2]
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Quiet: `asked` says what a test needs."""

    return Handler


def write_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sluice test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    source = tmp_path / "artifact"
    (source / "golden").mkdir(parents=True)
    (source / "config.json").write_text('{"schema":1}')
    (source / "golden" / "a b.txt").write_text("a name with a space")
    (source / "model.safetensors").write_bytes(b"\x07" * 3_000_000)
    made = Store()
    for path in source.rglob("*"):
        if path.is_file():
            made.files[path.relative_to(source).as_posix().replace(" ", "%20")] = path.read_bytes()
    made.files["manifest.json"] = make_manifest(source)
    cert_file, key_file = write_certificate(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(made))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.url = f"https://127.0.0.1:{server.server_address[1]}/pizza/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(cert_file))
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(store: Store, into: Path, access: Access | None = None, retries_s: float = 0) -> int:
    source = HttpsSource(store.url, access or Access())
    digest = compute_digest(store.files["manifest.json"])
    retry = Retry(retries_s, clock=lambda: 0.0, wait=lambda _: None)
    try:
        return fetch_artifact(source, store.url, digest, into, retry).bytes
    finally:
        source.close()


def test_an_artifact_is_fetched_with_a_private_ca(store: Store, tmp_path: Path) -> None:
    into = tmp_path / "model"
    assert fetch(store, into) == 3_000_031
    assert (into / "golden" / "a b.txt").read_text() == "a name with a space"


def test_a_server_error_and_a_cut_connection_are_bridged(store: Store, tmp_path: Path) -> None:
    store.broken["manifest.json"] = 2
    store.cut["model.safetensors"] = 1
    assert fetch(store, tmp_path / "model", retries_s=60) == 3_000_031
    assert store.asked.count("manifest.json") == 3
    assert store.asked.count("model.safetensors") == 2


@pytest.mark.parametrize(
    ("access", "wanted"),
    [
        pytest.param(Access(username="ci", password="pass"), "Basic Y2k6cGFzcw==", id="basic"),
        pytest.param(Access(token="abc"), "Bearer abc", id="token"),
    ],
)
def test_credentials_are_sent(store: Store, tmp_path: Path, access: Access, wanted: str) -> None:
    store.authorization = wanted
    assert fetch(store, tmp_path / "model", access) == 3_000_031
    assert access.password not in repr(access) or not access.password


def test_missing_credentials_are_named(store: Store, tmp_path: Path) -> None:
    store.authorization = "Bearer wanted"
    with pytest.raises(ArtifactError, match=r"HTTP 401; set .*credentialsSecretRef") as caught:
        fetch(store, tmp_path / "model")
    assert caught.value.reason == "Unauthorized"


def test_a_file_that_is_not_there_is_not_found(store: Store, tmp_path: Path) -> None:
    del store.files["model.safetensors"]
    with pytest.raises(ArtifactError, match=r"model\.safetensors: HTTP 404") as caught:
        fetch(store, tmp_path / "model")
    assert caught.value.reason == "NotFound"


def test_an_unknown_ca_is_no_reason_to_try_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ArtifactError, match="SSL_CERT_FILE") as caught:
        fetch(store, tmp_path / "model", retries_s=60)
    assert (caught.value.reason, caught.value.retriable) == ("Unreachable", False)


def test_a_refused_connection_is_unreachable_and_retriable(store: Store, tmp_path: Path) -> None:
    port = store.url.split(":")[2].split("/")[0]
    store.url = store.url.replace(port, "1")
    with pytest.raises(ArtifactError, match="refused") as caught:
        fetch(store, tmp_path / "model")
    assert (caught.value.reason, caught.value.retriable) == ("Unreachable", True)


def test_a_signature_is_found_beside_the_manifest(store: Store, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    trust = Trust({"team": key.public_key().public_bytes_raw()}, is_required=True)
    digest = compute_digest(store.files["manifest.json"])
    source = HttpsSource(store.url, Access())
    retry = Retry(0)
    try:
        with pytest.raises(ArtifactError, match="is not signed") as caught:
            fetch_artifact(source, store.url, digest, tmp_path / "a", retry, trust)
        assert caught.value.reason == "SignatureInvalid"
        signature = base64.b64encode(key.sign(store.files["manifest.json"])).decode()
        store.files["manifest.sig"] = f"team:{signature}\n".encode()
        fetch_artifact(source, store.url, digest, tmp_path / "b", retry, trust)
    finally:
        source.close()
    assert (tmp_path / "b" / "manifest.sig").read_text() == f"team:{signature}\n"


def test_nobody_is_asked_for_a_signature_that_does_not_count(store: Store, tmp_path: Path) -> None:
    fetch(store, tmp_path / "model")
    assert "manifest.sig" not in store.asked
