"""The command line, one function for each mode. Heavy imports wait until a mode is chosen."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sluice_inference.export.command import add_arguments, run_export
from sluice_inference.report import (
    EXIT_OK,
    EXIT_PERMANENT,
    EXIT_TRY_AGAIN,
    make_report,
    write_report,
)

if TYPE_CHECKING:
    from sluice_inference.artifact.errors import ArtifactError
    from sluice_inference.errors import SettingsError
    from sluice_inference.settings.trust import Trust


def main(argv: Sequence[str] | None = None) -> int:
    """Run one mode; returns the exit code (0 done, 2 usage, 3 permanent, 4 try again)."""
    from sluice_inference.logs import start_logging

    # The first process of a container ignores signals it has no handler for.
    signal.signal(signal.SIGTERM, _stop)
    options = _make_parser().parse_args(argv)
    start_logging(
        os.environ.get("LOG_LEVEL", "info").strip() or "info",
        environment=os.environ.get("ENVIRONMENT", "").strip(),
    )
    code: int = options.run(options)
    return code


def _stop(number: int, _: object) -> None:
    """End at once, as a shell would report it; `serve` and `compare` put their drain in this place."""
    sys.exit(128 + number)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice-inference",
        description="Serve a model version, compare two, or move an artifact.",
    )
    modes = parser.add_subparsers(required=True, metavar="MODE")
    serve = modes.add_parser("serve", help="serve the model in MODEL_PATH")
    serve.set_defaults(run=_serve)
    compare = modes.add_parser("compare", help="ask two revisions the same, count agreement")
    compare.set_defaults(run=_compare)
    fetch = modes.add_parser("fetch", help="bring an artifact into a folder and verify it")
    fetch.add_argument("--uri", required=True, help="oci://, https:// or pvc://")
    fetch.add_argument("--digest", required=True, help="sha256:… of the artifact's manifest")
    fetch.add_argument("--into", required=True, type=Path, help="folder to write to")
    fetch.add_argument(
        "--report", type=Path, default=Path("/dev/termination-log"), help="where the outcome goes"
    )
    fetch.add_argument(
        "--mount", type=Path, default=Path("/artifact"), help="where a pvc:// claim is mounted"
    )
    fetch.add_argument(
        "--retry-seconds", type=float, default=60.0, help="how long transient trouble is bridged"
    )
    fetch.set_defaults(run=_fetch)
    push = modes.add_parser("push", help="push a folder to an OCI registry; prints the digest")
    push.add_argument("folder", type=Path)
    push.add_argument("uri", help="oci://registry[:port]/repository:tag")
    push.add_argument("--retry-seconds", type=float, default=60.0)
    push.set_defaults(run=_push)
    manifest = modes.add_parser("manifest", help="write manifest.json; prints the digest")
    manifest.add_argument("folder", type=Path)
    manifest.add_argument("--check", metavar="DIGEST", help="verify the folder instead of writing")
    manifest.set_defaults(run=_manifest)
    export = modes.add_parser("export", help="make an ONNX artifact of a version, INT8 if asked")
    add_arguments(export)
    export.set_defaults(run=run_export)
    sign = modes.add_parser("sign", help="sign manifest.json; writes manifest.sig")
    sign.add_argument("folder", type=Path)
    sign.add_argument("--key", required=True, type=Path, help="Ed25519 private key, PEM")
    sign.add_argument("--key-id", required=True, help="the key's name in SIGNATURE_KEYS")
    sign.set_defaults(run=_sign)
    adopt = modes.add_parser("adopt", help="make an artifact of a public model's folder")
    adopt.add_argument("source", type=Path, help="folder with config.json, weights and processor")
    adopt.add_argument("into", type=Path, help="folder to write the artifact to")
    adopt.add_argument("--space", default="", help="embedding space of a dual encoder")
    adopt.add_argument("--labels", type=Path, help="a text file, one label a line")
    adopt.set_defaults(run=_adopt)
    reader = modes.add_parser("adopt-ocr", help="make an artifact of the rapidocr package's models")
    reader.add_argument("into", type=Path, help="folder to write the artifact to")
    reader.set_defaults(run=_adopt_text_reader)
    return parser


def _serve(_: argparse.Namespace) -> int:
    from sluice_inference.errors import SettingsError
    from sluice_inference.server import serve
    from sluice_inference.settings import read_settings

    try:
        serve(read_settings(os.environ))
    except SettingsError as error:
        return _refuse(error)


def _compare(_: argparse.Namespace) -> int:
    from sluice_inference.compare.server import compare
    from sluice_inference.compare.settings import read_compare_settings
    from sluice_inference.errors import SettingsError

    try:
        settings = read_compare_settings(os.environ)
    except SettingsError as error:
        return _refuse(error)
    return compare(settings)


def _refuse(error: SettingsError) -> int:
    """Say which settings can't be used, in the log and in the last words."""
    from sluice_inference.logs import log

    for problem in error.problems:
        log("error", f"setting {problem}")
    path = Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log"))
    report = make_report("Failed", reason="LoadFailed", message=str(error), permanent=True)
    write_report(path, report)
    return EXIT_PERMANENT


def _fetch(options: argparse.Namespace) -> int:
    from sluice_inference.artifact.credentials import read_access
    from sluice_inference.artifact.errors import ArtifactError
    from sluice_inference.artifact.fetch import Retry, fetch_artifact
    from sluice_inference.artifact.source import make_source
    from sluice_inference.logs import log

    started = time.monotonic()
    try:
        trust = _read_trust()
        source = make_source(options.uri, read_access(os.environ), options.mount)
        retry = Retry(options.retry_seconds)
        try:
            fetched = fetch_artifact(
                source, options.uri, options.digest, options.into, retry, trust
            )
        finally:
            source.close()
    except ArtifactError as error:
        write_report(
            options.report,
            make_report(
                "Failed", reason=error.reason, message=error.message, permanent=error.permanent
            ),
        )
        return EXIT_PERMANENT if error.permanent else EXIT_TRY_AGAIN
    except Exception as error:
        # The outermost edge: without a report, the version would wait without a word.
        log("error", "the fetch failed unexpectedly", exc_info=True)
        # Only an OSError's own words: a library's may quote a header, and with it a credential.
        detail = f" ({error})" if isinstance(error, OSError) else ""
        message = (
            f"{options.uri}: unexpected {type(error).__name__}{detail}; the log of container fetch "
            "has the traceback"
        )
        write_report(
            options.report,
            make_report("Failed", reason="Unreachable", message=message, permanent=False),
        )
        return EXIT_TRY_AGAIN
    write_report(
        options.report,
        make_report(
            "Verified",
            digest=options.digest,
            files=fetched.files,
            bytes=fetched.bytes,
            seconds=f"{time.monotonic() - started:.1f}",
        ),
    )
    return EXIT_OK


def _read_trust() -> Trust:
    """Whose signatures count. Raises ArtifactError where a setting can't be used."""
    from sluice_inference.artifact.errors import ArtifactError
    from sluice_inference.settings.reader import Reader
    from sluice_inference.settings.trust import read_trust

    read = Reader(os.environ)
    trust = read_trust(read)
    if read.problems:
        raise ArtifactError("SignatureInvalid", "; ".join(read.problems))
    return trust


def _push(options: argparse.Namespace) -> int:
    from sluice_inference.artifact.credentials import read_access
    from sluice_inference.artifact.errors import ArtifactError
    from sluice_inference.artifact.fetch import Retry
    from sluice_inference.artifact.push import push_artifact

    try:
        digest = push_artifact(
            options.folder, options.uri, read_access(os.environ), Retry(options.retry_seconds)
        )
    except ArtifactError as error:
        return _explain(error)
    print(digest)
    return EXIT_OK


def _manifest(options: argparse.Namespace) -> int:
    from sluice_inference.artifact.errors import ArtifactError
    from sluice_inference.artifact.manifest import verify_folder
    from sluice_inference.artifact.push import write_manifest

    try:
        if options.check:
            verify_folder(options.folder, options.check)
            print(options.check)
        else:
            print(write_manifest(options.folder))
    except ArtifactError as error:
        return _explain(error)
    return EXIT_OK


def _sign(options: argparse.Namespace) -> int:
    from sluice_inference.artifact.manifest import MANIFEST, SIGNATURE
    from sluice_inference.artifact.push import write_manifest
    from sluice_inference.artifact.signature import sign_manifest
    from sluice_inference.errors import LoadError

    path = options.folder / MANIFEST
    try:
        if not path.is_file():
            write_manifest(options.folder)
        line = sign_manifest(path.read_bytes(), options.key_id, options.key.read_bytes())
        (options.folder / SIGNATURE).write_text(line + "\n")
    except (LoadError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_PERMANENT
    print(line)
    return EXIT_OK


def _adopt(options: argparse.Namespace) -> int:
    from sluice_inference.artifact.errors import ArtifactError
    from sluice_inference.errors import LoadError
    from sluice_inference.models.adoption import adopt

    try:
        lines = options.labels.read_text().splitlines() if options.labels else []
        labels = tuple(line.strip() for line in lines if line.strip())
        print(adopt(options.source, options.into, space=options.space, labels=labels))
    except ArtifactError as error:
        return _explain(error)
    except (LoadError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_PERMANENT
    return EXIT_OK


def _adopt_text_reader(options: argparse.Namespace) -> int:
    from sluice_inference.errors import LoadError
    from sluice_inference.models.text_reader import adopt_text_reader

    try:
        print(adopt_text_reader(options.into))
    except (LoadError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_PERMANENT
    return EXIT_OK


def _explain(error: ArtifactError) -> int:
    print(f"{error.reason}: {error.message}", file=sys.stderr)
    return EXIT_PERMANENT if error.permanent else EXIT_TRY_AGAIN


if __name__ == "__main__":
    sys.exit(main())
