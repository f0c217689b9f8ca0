"""The mode `export`: its arguments, and how a report reaches people, programs and the exit code.

Cheap to import: every mode's command line is made of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sluice_inference.report import EXIT_OK, EXIT_PERMANENT

EXIT_USAGE = 2
_CALIBRATION = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The mode's command line."""
    parser.add_argument("folder", type=Path, help="the version's artifact")
    parser.add_argument("into", type=Path, help="new folder for the ONNX artifact")
    parser.add_argument("--int8", action="store_true", help="quantise: INT8 instead of float32")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--calibrate",
        type=int,
        default=_CALIBRATION,
        metavar="N",
        help="pictures that INT8 ranges are taken from, at most half of all (default: %(default)s)",
    )
    how.add_argument(
        "--dynamic",
        action="store_true",
        help="no ranges: quantise the weights of matrix products alone, as transformers want it",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="pictures to calibrate on and to compare on; labels.jsonl in it says what is right "
        "(default: the golden samples' pictures)",
    )
    parser.add_argument("--min-cosine", type=float, metavar="X", help="least cosine of embeddings")
    parser.add_argument(
        "--min-agreement", type=float, metavar="X", help="least share of equal labels"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the figures there as JSON"
    )


def run_export(options: argparse.Namespace) -> int:
    """Export; the table goes to stderr, one line of JSON to stdout and to the report's file.

    Returns 0; 2 for options that don't go together; 3 where there is no export: then nothing was written
    but the report.
    """
    from sluice_inference.export.errors import ExportError
    from sluice_inference.export.exporter import (
        FLOAT_LIMITS,
        INT8_LIMITS,
        Options,
        export_artifact,
    )
    from sluice_inference.export.report import Limits

    if (options.dynamic or options.calibrate != _CALIBRATION) and not options.int8:
        print("--dynamic and --calibrate say how to quantise; add --int8", file=sys.stderr)
        return EXIT_USAGE
    if options.calibrate < 1:
        print(f"--calibrate: {options.calibrate} is no number of pictures", file=sys.stderr)
        return EXIT_USAGE
    usual = INT8_LIMITS if options.int8 else FLOAT_LIMITS
    limits = Limits(
        usual.min_cosine if options.min_cosine is None else options.min_cosine,
        usual.min_agreement if options.min_agreement is None else options.min_agreement,
    )
    asked = Options(options.int8, options.dynamic, options.calibrate, options.images, limits)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.1f}s] {line}", file=sys.stderr, flush=True)

    try:
        report = export_artifact(options.folder, options.into, asked, say=say)
    except ExportError as error:
        print(f"no export: {error}", file=sys.stderr)
        return EXIT_PERMANENT
    print(report.to_table(), file=sys.stderr)
    if options.report is not None:
        options.report.write_text(report.to_json() + "\n", encoding="utf-8")
    print(report.to_json())
    for problem in report.problems:
        print(f"no export: {problem}", file=sys.stderr)
    if report.problems:
        return EXIT_PERMANENT
    say(f"wrote {options.into}, {report.digest}")
    return EXIT_OK
