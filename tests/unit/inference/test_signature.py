"""A model is served only when somebody who is trusted has signed its manifest, where that is asked for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sluice_inference.__main__ import main
from sluice_inference.artifact.credentials import Access
from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.fetch import Retry, fetch_artifact
from sluice_inference.artifact.manifest import MANIFEST, SIGNATURE
from sluice_inference.artifact.push import make_oci_manifest, write_manifest
from sluice_inference.artifact.signature import check_signature, sign_manifest
from sluice_inference.artifact.source import make_source
from sluice_inference.errors import LoadError, SettingsError
from sluice_inference.models.artifact_model import open_artifact
from sluice_inference.settings import read_settings
from sluice_inference.settings.reader import Reader
from sluice_inference.settings.trust import Trust, read_trust

DATA = b'{"files":[],"schema":1}'


@dataclass(frozen=True)
class Signer:
    """A key pair in the forms that people have it in."""

    key: Ed25519PrivateKey

    @property
    def private(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def raw(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def pem(self) -> str:
        form = PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(Encoding.PEM, form).decode()

    @property
    def base64(self) -> str:
        return base64.b64encode(self.raw).decode()


TEAM = Signer(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
OTHER = Signer(Ed25519PrivateKey.from_private_bytes(b"2" * 32))
BY_TEAM = sign_manifest(DATA, "team", TEAM.private)
BY_OTHER = sign_manifest(DATA, "other", OTHER.private)


def trust(*, required: bool = True, signature: str = "") -> Trust:
    return Trust({"team": TEAM.raw}, required, signature)


@pytest.mark.parametrize(
    ("found", "trusted", "signer"),
    [
        pytest.param(BY_TEAM, trust(), "team", id="signed"),
        pytest.param(f"{BY_OTHER}\n{BY_TEAM}\n", trust(), "team", id="signed by several"),
        pytest.param("", trust(signature=BY_TEAM), "team", id="given in the environment"),
        pytest.param(
            BY_OTHER, trust(signature=BY_TEAM), "team", id="the environment's comes first"
        ),
        pytest.param("", trust(required=False), "", id="unsigned, and nobody minds"),
        pytest.param(BY_OTHER, trust(required=False), "", id="another's, and nobody minds"),
        pytest.param("no signature at all", Trust(), "", id="nobody is trusted, nothing is read"),
    ],
)
def test_a_signature_is_taken(found: str, trusted: Trust, signer: str) -> None:
    assert check_signature(DATA, found, trusted) == signer


@pytest.mark.parametrize(
    ("found", "trusted", "words"),
    [
        pytest.param("", trust(), "is not signed, and a signature by one of team", id="missing"),
        pytest.param(BY_OTHER, trust(), "is signed by other, and", id="only by somebody else"),
        pytest.param(
            BY_OTHER.replace("other", "team"), trust(), "by 'team' is not one over", id="forged"
        ),
        pytest.param(
            sign_manifest(DATA + b" ", "team", TEAM.private),
            trust(required=False),
            "by 'team' is not one over",
            id="of other bytes, even where none is required",
        ),
        pytest.param("team:AAAA", trust(), "64 bytes", id="too short"),
        pytest.param("team", trust(), "KEY-ID:BASE64", id="no signature"),
        pytest.param("team:\ufffd\ufffd", trust(), "KEY-ID:BASE64", id="no ASCII"),
    ],
)
def test_a_signature_is_refused(found: str, trusted: Trust, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        check_signature(DATA, found, trusted)
    assert (caught.value.reason, caught.value.permanent) == ("SignatureInvalid", True)


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        pytest.param(f"team={TEAM.base64}", ["team"], id="raw"),
        pytest.param(f"team={TEAM.pem}", ["team"], id="PEM"),
        pytest.param(f"team={''.join(TEAM.pem.splitlines()[1:-1])}", ["team"], id="PEM's middle"),
        pytest.param(
            f"team={TEAM.base64}, old={OTHER.pem},", ["team", "old"], id="several, one by one"
        ),
        pytest.param("", [], id="none"),
    ],
)
def test_keys_are_read_as_people_have_them(keys: str, ids: list[str]) -> None:
    read = Reader({"SIGNATURE_KEYS": keys})
    found = read_trust(read)
    assert read.problems == []
    assert list(found.keys) == ids
    if ids:
        assert found.keys["team"] == TEAM.raw


@pytest.mark.parametrize(
    ("env", "words"),
    [
        pytest.param({"SIGNATURE_KEYS": "team"}, "SIGNATURE_KEYS: 'team'", id="no key"),
        pytest.param({"SIGNATURE_KEYS": "team=AAAA"}, "SIGNATURE_KEYS: 'team'", id="a short key"),
        pytest.param({"SIGNATURE_KEYS": "team=ключ"}, "SIGNATURE_KEYS: 'team'", id="no ASCII"),
        pytest.param({"SIGNATURE_KEYS": f"={TEAM.base64}"}, "SIGNATURE_KEYS: ''", id="no name"),
        pytest.param({"REQUIRE_SIGNATURE": "true"}, "needs the keys", id="required by nobody"),
    ],
)
def test_a_setting_that_would_guard_nothing_is_refused(env: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_settings(env)


def test_what_is_required_of_one_model_is_required_of_every_model() -> None:
    env = {"SIGNATURE_KEYS": f"team={TEAM.base64}", "REQUIRE_SIGNATURE": "true"}
    found = read_trust(Reader({**env, "FALLBACK_MODEL_SIGNATURE": BY_TEAM}).scoped("FALLBACK_"))
    assert (list(found.keys), found.is_required, found.signature) == (["team"], True, BY_TEAM)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a version, as `push` leaves it."""
    made = tmp_path / "made"
    made.mkdir()
    config = {"schema": 1, "architecture": "CNN", "labels": ["a"], "tasks": ["Classification"]}
    config["image"] = {"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}
    (made / "config.json").write_text(json.dumps(config))
    write_manifest(made)
    return made


Sign = Callable[[Path], Any]


def sign(folder: Path, signer: Signer = TEAM) -> None:
    key = folder.parent / "key.pem"
    key.write_bytes(signer.private)
    assert main(["sign", str(folder), "--key", str(key), "--key-id", "team"]) == 0


def test_fetch_brings_what_is_signed_and_serve_takes_it(folder: Path) -> None:
    sign(folder)
    digest = write_manifest(folder)  # the signature is no part of what it signs
    into = folder.parent / "into"
    source = make_source("pvc://claim/made", Access(), folder.parent)
    fetch_artifact(source, "pvc://claim/made", digest, into, Retry(0), trust())
    env = {"MODEL_PATH": str(into), "MODEL_DIGEST": digest, "REQUIRE_SIGNATURE": "true"}
    settings = read_settings({**env, "SIGNATURE_KEYS": f"team={TEAM.base64}"}).model
    assert open_artifact(settings).architecture == "CNN"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        pytest.param(lambda folder: None, "is not signed", id="nobody signed"),
        pytest.param(lambda folder: sign(folder, OTHER), "is not one over", id="by another key"),
    ],
)
def test_neither_fetch_nor_serve_takes_the_rest(folder: Path, prepare: Sign, words: str) -> None:
    prepare(folder)
    digest = write_manifest(folder)
    into = folder.parent / "into"
    source = make_source("pvc://claim/made", Access(), folder.parent)
    with pytest.raises(ArtifactError, match=words):
        fetch_artifact(source, "pvc://claim/made", digest, into, Retry(0), trust())
    assert not into.exists()
    env = {"MODEL_PATH": str(folder), "SIGNATURE_KEYS": f"team={TEAM.base64}"}
    with pytest.raises(LoadError, match=words):
        open_artifact(read_settings({**env, "REQUIRE_SIGNATURE": "true"}).model)


def test_the_fetch_mode_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNATURE_KEYS", f"team={TEAM.base64}")
    monkeypatch.setenv("REQUIRE_SIGNATURE", "true")
    report = folder.parent / "report"
    words = ["fetch", "--uri", "pvc://claim/made", "--digest", write_manifest(folder)]
    places = ["--into", str(folder.parent / "into"), "--mount", str(folder.parent)]
    assert main([*words, *places, "--report", str(report)]) == 3
    said = json.loads(report.read_text())
    assert (said["reason"], said["permanent"]) == ("SignatureInvalid", True)


def test_a_registry_is_given_the_signature_beside_the_manifest(folder: Path) -> None:
    sign(folder)
    line = (folder / SIGNATURE).read_text().strip()
    value = json.loads(make_oci_manifest((folder / MANIFEST).read_bytes(), line))
    assert value["annotations"] == {"dev.sluice.signature": line}
    assert SIGNATURE not in str(value["layers"])


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(b"no key", id="no PEM"),
        pytest.param(
            X25519PrivateKey.from_private_bytes(b"3" * 32).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            id="of another kind",
        ),
    ],
)
def test_only_an_ed25519_key_signs(key: bytes) -> None:
    with pytest.raises(LoadError, match="key"):
        sign_manifest(DATA, "team", key)
