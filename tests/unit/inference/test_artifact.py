"""Fetching an artifact: what is verified, in which order, and what is said when it is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sluice_inference.__main__ import _make_parser
from sluice_inference.artifact.credentials import Access
from sluice_inference.artifact.errors import ArtifactError, make_http_error
from sluice_inference.artifact.fetch import Retry, fetch_artifact
from sluice_inference.artifact.manifest import (
    FileEntry,
    compute_digest,
    make_manifest,
    parse_manifest,
    verify_folder,
)
from sluice_inference.artifact.push import make_oci_manifest
from sluice_inference.artifact.source import make_source
from sluice_inference.artifact.uri import parse_oci
from sluice_inference.report import MAX_BYTES, make_report

URI = "https://models.example/pizza/"
SHA = "a" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artifact"
    (made / "golden").mkdir(parents=True)
    (made / "config.json").write_text('{"schema":1}')
    (made / "golden" / "golden.json").write_text("{}")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return made


class MemorySource:
    """Serves a folder from memory; `changes` replaces content, `troubles` come first."""

    def __init__(
        self,
        folder: Path,
        changes: dict[str, bytes] | None = None,
        troubles: list[ArtifactError] | None = None,
    ) -> None:
        self.manifest = make_manifest(folder)
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.files.update(changes or {})
        self.troubles = list(troubles or [])
        self.reads: list[str] = []

    def read_manifest(self, digest: str) -> bytes:
        self.reads.append("manifest.json")
        if self.troubles:
            raise self.troubles.pop(0)
        return self.files.get("manifest.json", self.manifest)

    def read_file(self, entry: FileEntry) -> Iterator[bytes]:
        self.reads.append(entry.path)
        data = self.files[entry.path]
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    def close(self) -> None:
        self.reads.append("closed")


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def once() -> Retry:
    return Retry(0)


def fetch(source: MemorySource, into: Path, digest: str = "", retry: Retry | None = None) -> int:
    wanted = digest or compute_digest(source.manifest)
    return fetch_artifact(source, URI, wanted, into, retry or once()).files


def test_the_manifest_is_canonical_and_the_same_for_the_same_files(folder: Path) -> None:
    data = make_manifest(folder)
    value = json.loads(data)
    assert data == json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    assert [entry["path"] for entry in value["files"]] == [
        "config.json",
        "golden/golden.json",
        "model.safetensors",
    ]
    (folder / "manifest.json").write_bytes(data)
    assert make_manifest(folder) == data
    assert verify_folder(folder, compute_digest(data)).total_bytes == 10254


def test_a_fetch_brings_every_file_and_the_manifest_last(folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "model"
    assert fetch(MemorySource(folder), into) == 3
    assert (into / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert verify_folder(into, compute_digest((into / "manifest.json").read_bytes()))
    assert not list(into.rglob("*.part"))


def test_a_second_fetch_reads_only_what_is_not_there_already(folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "model"
    fetch(MemorySource(folder), into)
    (into / "config.json").write_text('{"schema":2}')
    again = MemorySource(folder)
    fetch(again, into)
    assert again.reads == ["manifest.json", "config.json"]
    assert (into / "config.json").read_text() == '{"schema":1}'


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        pytest.param(
            {"config.json": b'{"schema":9}'},
            "FileCorrupt",
            ["config.json", "sha256 is"],
            id="same size, other bytes",
        ),
        pytest.param(
            {"config.json": b"{}"}, "FileCorrupt", ["2 bytes", "says 12"], id="a file cut short"
        ),
        pytest.param(
            {"config.json": b"x" * 50_000},
            "FileCorrupt",
            ["1000 bytes", "says 12"],
            id="more bytes than promised are not read to the end",
        ),
        pytest.param(
            {"manifest.json": b"not even json"},
            "DigestMismatch",
            ["version names"],
            id="another manifest is not parsed",
        ),
    ],
)
def test_wrong_content_is_refused_and_leaves_no_manifest(
    folder: Path, tmp_path: Path, changes: dict[str, bytes], reason: str, words: list[str]
) -> None:
    into = tmp_path / "model"
    with pytest.raises(ArtifactError) as caught:
        fetch(MemorySource(folder, changes), into)
    assert (caught.value.reason, caught.value.permanent) == (reason, True)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert not (into / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.part"))


def make_document(**entry: object) -> bytes:
    value = {"files": [{"path": "a", "sha256": SHA, "size": 1, **entry}], "schema": 1}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        pytest.param(make_document(path="../evil"), "plain relative", id="up and out"),
        pytest.param(make_document(path="/etc/passwd"), "plain relative", id="absolute"),
        pytest.param(make_document(path="a/./b"), "plain relative", id="dot inside"),
        pytest.param(make_document(path="a//b"), "plain relative", id="double slash"),
        pytest.param(make_document(path="a\\b"), "not allowed", id="backslash"),
        pytest.param(make_document(path=""), "empty", id="no path"),
        pytest.param(make_document(path="manifest.json"), "itself", id="the manifest in itself"),
        pytest.param(make_document(path="w.pkl"), "may hold code", id="a pickle"),
        pytest.param(make_document(path="pytorch_model.bin"), "may hold code", id="a torch file"),
        pytest.param(make_document(sha256="A" * 64), "lowercase hex", id="upper-case hash"),
        pytest.param(make_document(size=-1), "size of -1", id="negative size"),
        pytest.param(make_document(size=1 << 41), "bytes in all", id="two tebibytes"),
        pytest.param(make_document(mode=7), "unknown field", id="a field nobody knows"),
        pytest.param(make_document() + b"\n", "not canonical", id="white space"),
        pytest.param(b'{"files":[],"schema":1}', "0 files", id="nothing in it"),
        pytest.param(b'{"files":[],"schema":2}', "schema 2", id="another schema"),
        pytest.param(b"[]", "schema 1", id="a list"),
        pytest.param(
            make_document().replace(
                b"]", b',{"path":"a","sha256":"' + SHA.encode() + b'","size":1}]'
            ),
            "twice",
            id="a path twice",
        ),
        pytest.param(
            make_document().replace(
                b"]", b',{"path":"a/b","sha256":"' + SHA.encode() + b'","size":1}]'
            ),
            "'a', which is a file too",
            id="a file that is a folder too",
        ),
        pytest.param(make_document(path="manifest.json/a"), "itself", id="under the manifest"),
        pytest.param(make_document(path="a.part/b"), "itself", id="under a part"),
    ],
)
def test_an_unsafe_manifest_is_invalid(data: bytes, word: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_manifest(data)
    assert caught.value.reason == "ManifestInvalid"
    assert word in caught.value.message


def test_a_folder_with_a_link_has_no_manifest(folder: Path) -> None:
    (folder / "link.json").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="symbolic link"):
        make_manifest(folder)


def test_what_is_transient_is_tried_again_with_growing_waits(folder: Path, tmp_path: Path) -> None:
    time = FakeTime()
    troubles = [make_http_error(URI, 503), make_http_error(URI, 429), make_http_error(URI, 500)]
    source = MemorySource(folder, troubles=troubles)
    assert fetch(source, tmp_path / "model", retry=Retry(60, time.clock, time.wait)) == 3
    assert [round(wait) for wait in time.waits] in ([0, 1, 2], [1, 1, 2])


def test_transient_trouble_without_end_is_given_up_within_the_bound(
    folder: Path, tmp_path: Path
) -> None:
    time = FakeTime()
    source = MemorySource(folder, troubles=[make_http_error(URI, 503)] * 100)
    with pytest.raises(ArtifactError, match="HTTP 503") as caught:
        fetch(source, tmp_path / "model", retry=Retry(60, time.clock, time.wait))
    assert 40 < time.now <= 60
    assert not caught.value.permanent


class SlowSource(MemorySource):
    """Takes `seconds` of `time` for each file, and breaks off before the end while `cuts` last."""

    def __init__(self, folder: Path, time: FakeTime, seconds: float, cuts: int) -> None:
        super().__init__(folder)
        self.time, self.seconds, self.cuts = time, seconds, cuts

    def read_file(self, entry: FileEntry) -> Iterator[bytes]:
        pieces = list(super().read_file(entry))
        for piece in pieces[: len(pieces) // 2] if self.cuts else pieces:
            self.time.now += self.seconds / len(pieces)
            yield piece
        if self.cuts:
            self.cuts -= 1
            raise make_http_error(URI, 503)


def test_a_large_file_that_is_cut_late_is_tried_again(folder: Path, tmp_path: Path) -> None:
    time = FakeTime()
    (folder / "config.json").unlink()
    (folder / "golden" / "golden.json").unlink()
    source = SlowSource(folder, time, seconds=600, cuts=1)
    assert fetch(source, tmp_path / "model", retry=Retry(20, time.clock, time.wait)) == 1


def test_a_file_that_is_always_cut_at_the_same_byte_is_given_up(
    folder: Path, tmp_path: Path
) -> None:
    time = FakeTime()
    source = SlowSource(folder, time, seconds=30, cuts=100)
    with pytest.raises(ArtifactError, match="HTTP 503"):
        fetch(source, tmp_path / "model", retry=Retry(60, time.clock, time.wait))
    assert time.now < 200


def test_a_claim_that_can_not_be_read_is_not_a_full_disk(folder: Path, tmp_path: Path) -> None:
    digest = compute_digest(make_manifest(folder))
    (folder / "manifest.json").write_bytes(make_manifest(folder))
    broken = folder / "model.safetensors"
    broken.unlink()
    broken.symlink_to("/proc/self/mem")  # opens well, and its first byte is an input/output error
    source = make_source("pvc://claim/artifact", Access(), tmp_path)
    with pytest.raises(ArtifactError) as caught:
        fetch_artifact(source, "pvc://claim/artifact", digest, tmp_path / "model", once())
    assert (caught.value.reason, caught.value.permanent) == ("Unreachable", False)
    assert "pvc://claim/artifact: model.safetensors can't be read" in caught.value.message


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        pytest.param(
            lambda into: (into / "config.json.part").symlink_to("/dev/full"),
            "NoSpace",
            "No space left on device; make room",
            id="the volume is full",
        ),
        pytest.param(
            lambda into: (into / "config.json").mkdir(),
            "Unreachable",
            "the artifact can't be stored: Is a directory",
            id="a folder in the file's place",
        ),
    ],
)
def test_what_hinders_writing_is_told_as_it_is(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str, words: str
) -> None:
    into = tmp_path / "model"
    into.mkdir()
    spoil(into)
    with pytest.raises(ArtifactError) as caught:
        fetch(MemorySource(folder), into)
    assert (caught.value.reason, caught.value.permanent) == (reason, False)
    assert words in caught.value.message


def test_whatever_else_goes_wrong_is_reported_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("Illegal header value b'Bearer secret'")

    monkeypatch.setattr("sluice_inference.artifact.source.make_source", break_down)
    report = tmp_path / "report.json"
    words = ["fetch", "--uri", URI, "--digest", "sha256:" + SHA, "--into", str(tmp_path)]
    options = _make_parser().parse_args([*words, "--report", str(report)])
    assert options.run(options) == 4
    said = json.loads(report.read_text())
    assert (said["outcome"], said["reason"], said["permanent"]) == ("Failed", "Unreachable", False)
    assert f"{URI}: unexpected RuntimeError" in said["message"]
    assert "secret" not in said["message"]
    assert caplog.records[0].exc_info


@pytest.mark.parametrize(
    ("status", "reason", "retriable"),
    [
        pytest.param(401, "Unauthorized", False, id="no credentials"),
        pytest.param(403, "Unauthorized", False, id="not allowed"),
        pytest.param(404, "NotFound", False, id="not there"),
        pytest.param(429, "Unreachable", True, id="too many requests"),
        pytest.param(502, "Unreachable", True, id="bad gateway"),
        pytest.param(418, "Unreachable", False, id="something odd"),
    ],
)
def test_an_http_status_has_a_reason(status: int, reason: str, retriable: bool) -> None:
    error = make_http_error(URI, status)
    assert (error.reason, error.retriable, error.permanent) == (reason, retriable, False)
    assert URI in error.message
    assert str(status) in error.message


def test_an_oci_manifest_points_at_the_manifest_and_each_file(folder: Path) -> None:
    data = make_manifest(folder)
    made = json.loads(make_oci_manifest(data))
    assert made["config"]["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
    assert made["artifactType"] == "application/vnd.sluice.model.v1"
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in made["layers"]]
    assert titles == ["config.json", "golden/golden.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("uri", "registry", "repository", "tag"),
    [
        ("oci://registry.testbed:5000/models/pizza:1.0.0", "registry.testbed:5000", "models/pizza", "1.0.0"),
        ("oci://ghcr.io/a/b/c:v1", "ghcr.io", "a/b/c", "v1"),
    ],
)  # fmt: skip
def test_an_oci_uri_is_taken_apart(uri: str, registry: str, repository: str, tag: str) -> None:
    reference = parse_oci(uri)
    assert (reference.registry, reference.repository, reference.tag) == (registry, repository, tag)
    assert str(reference) == uri


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("s3://bucket/x", id="a scheme that is not served"),
        pytest.param("/model", id="a path"),
        pytest.param("oci://host/Upper:1", id="upper-case repository"),
        pytest.param("oci://host/repo", id="no tag"),
        pytest.param("oci://host/repo:1/../x", id="a path after the tag"),
        pytest.param("pvc://claim/../x", id="out of the claim"),
        pytest.param("pvc:///x", id="no claim"),
    ],
)
def test_other_uris_are_refused_with_the_form_wanted(uri: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        make_source(uri, Access(), Path("/artifact"))
    assert caught.value.reason == "UnsupportedScheme"
    assert caught.value.permanent


def test_a_report_is_small_whatever_the_message() -> None:
    text = make_report("Failed", reason="FileCorrupt", message="ä\n" * 9000, permanent=True)
    assert len(text.encode()) <= MAX_BYTES
    assert json.loads(text)["permanent"] is True
    assert json.loads(text)["message"].endswith("…")
