"""push and fetch against a real registry: the testbed's own."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from testbed import build
from testbed.progress import Progress

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {data}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass
class Registry:
    host: str

    def run(self, *args: str, **env: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "sluice_inference", *args],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT / "inference"),
                "ARTIFACT_PLAIN_HTTP": self.host,
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout.strip()


def wait_for(url: str, process: subprocess.Popen[bytes], deadline_s: float = 20) -> None:
    """Poll until something answers at `url`; the one place that waits."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        assert process.poll() is None, "the registry ended"
        try:
            httpx.get(url)
        except httpx.ConnectError:
            time.sleep(0.05)
            continue
        return
    raise AssertionError(f"{url} did not answer within {deadline_s} s")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    program = build.ensure(["registry"], Progress())["registry"]
    folder = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(data=folder / "data", port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "serve", str(config)],
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/v2/", process)
        yield Registry(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artifact"
    (made / "golden").mkdir(parents=True)
    (made / "config.json").write_text('{"schema":1}')
    (made / "golden" / "golden.json").write_text("{}")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 20_000)
    return made


def test_what_is_pushed_is_fetched_byte_by_byte(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    uri = f"oci://{registry.host}/models/pizza:1.0.0"
    code, digest = registry.run("push", str(folder), uri)
    assert code == 0
    assert registry.run("manifest", str(folder), "--check", digest) == (0, digest)
    report, into = tmp_path / "report", tmp_path / "model"
    code, _ = registry.run(
        *("fetch", "--uri", uri, "--digest", digest),
        *("--into", str(into), "--report", str(report)),
    )
    assert code == 0
    said = json.loads(report.read_text())
    assert (said["outcome"], said["digest"], said["files"]) == ("Verified", digest, 3)
    for path in folder.rglob("*"):
        if path.is_file():
            assert (into / path.relative_to(folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("tag", "digest", "code", "reason"),
    [
        pytest.param("moved", "sha256:" + "0" * 64, 3, "DigestMismatch", id="another digest"),
        pytest.param("never-pushed", "sha256:" + "0" * 64, 4, "NotFound", id="no such tag"),
        pytest.param("moved", "sha256:12", 3, "ManifestInvalid", id="no digest at all"),
    ],
)
def test_what_was_not_registered_is_refused(
    registry: Registry, folder: Path, tmp_path: Path, tag: str, digest: str, code: int, reason: str
) -> None:
    assert registry.run("push", str(folder), f"oci://{registry.host}/models/pizza:moved")[0] == 0
    report, into = tmp_path / "report", tmp_path / "model"
    uri = f"oci://{registry.host}/models/pizza:{tag}"
    got, _ = registry.run(
        *("fetch", "--uri", uri, "--digest", digest),
        *("--into", str(into), "--report", str(report)),
    )
    said = json.loads(report.read_text())
    assert (got, said["reason"], said["permanent"]) == (code, reason, code == 3)
    assert uri in said["message"] or digest in said["message"]
    assert not (into / "manifest.json").exists()


def test_a_registered_version_outlives_a_tag_that_was_moved(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    uri = f"oci://{registry.host}/models/pizza:latest"
    _, first = registry.run("push", str(folder), uri)
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text('{"schema":1,"changed":true}')
    _, second = registry.run("push", str(folder), uri)
    assert first != second
    into = tmp_path / "model"
    code, _ = registry.run(
        *("fetch", "--uri", uri, "--digest", first),
        *("--into", str(into), "--report", str(tmp_path / "report")),
    )
    assert code == 0
    assert (into / "config.json").read_text() == '{"schema":1}'


def test_a_signature_is_found_even_after_the_tag_was_moved(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    wanted = {"SIGNATURE_KEYS": f"team={public}", "REQUIRE_SIGNATURE": "true"}
    private = tmp_path / "key.pem"
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private.write_bytes(key.private_bytes(*form))
    uri = f"oci://{registry.host}/models/pizza:signed"
    assert registry.run("sign", str(folder), "--key", str(private), "--key-id", "team")[0] == 0
    _, signed = registry.run("push", str(folder), uri)
    for name in ("manifest.json", "manifest.sig"):
        (folder / name).unlink()
    (folder / "config.json").write_text('{"schema":1,"changed":true}')
    _, unsigned = registry.run("push", str(folder), uri)
    report = tmp_path / "report"
    codes = {}
    for digest in (signed, unsigned):
        into = ("--into", str(tmp_path / digest.replace(":", "-")), "--report", str(report))
        codes[digest], _ = registry.run("fetch", "--uri", uri, "--digest", digest, *into, **wanted)
    assert codes == {signed: 0, unsigned: 3}
    assert json.loads(report.read_text())["reason"] == "SignatureInvalid"
