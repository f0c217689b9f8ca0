"""`python -m examples.pizza`: build the versions, look at a scene, write the held-out set.

Responsible for the command line alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from examples.pizza.cache import (
    compute_fallback_key,
    compute_key,
    copy_folder,
    ensure_built,
    find_root,
)
from examples.pizza.registration import (
    CNN_MODEL,
    CNN_VERSION,
    make_cnn_modelversion,
    make_modelversion,
    write_modelversion,
)
from examples.pizza.summary import read_summary, write_summary
from examples.pizza.versions import MODEL, RECIPES, TRAINED

DEFAULT_OUT = Path(__file__).parent / "out"
DEFAULT_PREFIX = "oci://registry.testbed:5000/models"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the process's exit code."""
    options = make_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.pizza", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser(
        "build", help="train what is not cached; write artifacts and ModelVersions"
    )
    build.add_argument("--version", action="append", help="only this version (repeatable)")
    build.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="folder (default: %(default)s)"
    )
    build.add_argument(
        "--uri-prefix",
        default=DEFAULT_PREFIX,
        help="where the artifacts will be pushed (default: %(default)s)",
    )
    build.set_defaults(run=run_build)

    fallback = commands.add_parser(
        "fallback", help="train the CNN that stands in for them; write it in INT8"
    )
    fallback.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="folder (default: %(default)s)"
    )
    fallback.add_argument(
        "--uri-prefix",
        default=DEFAULT_PREFIX,
        help="where the artifact will be pushed (default: %(default)s)",
    )
    fallback.set_defaults(run=run_fallback)

    scene = commands.add_parser("scene", help="render one held-out scene; print caption and label")
    scene.add_argument("--seed", type=int, default=0, help="number of the scene, from 0")
    scene.add_argument("--out", type=Path, required=True, help="PNG file to write")
    scene.set_defaults(run=run_scene)

    holdout = commands.add_parser("holdout", help="write the held-out set as PNG + labels.jsonl")
    holdout.add_argument("--out", type=Path, required=True, help="folder to write into")
    holdout.set_defaults(run=run_holdout)
    return parser


def run_build(options: argparse.Namespace) -> int:
    """Build or find all versions, then write those asked for."""
    known = [recipe.version for recipe in RECIPES]
    wanted = options.version or known
    if unknown := sorted(set(wanted) - set(known)):
        print(
            f"--version {unknown[0]}: no such version; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    say = _make_say()
    folder = find_build(say)
    summary = read_summary(folder)
    for recipe in RECIPES:
        if recipe.version not in wanted:
            continue
        built = summary.find(recipe.version)
        target = options.out / recipe.version
        copy_folder(folder / recipe.version / "artifact", target / "artifact")
        uri = f"{options.uri_prefix.rstrip('/')}/{MODEL}:{recipe.version}"
        write_modelversion(
            target / "modelversion.yaml",
            make_modelversion(recipe, uri, built.digest, built.bytes, built.metrics),
        )
        say(f"wrote {target} ({built.bytes} bytes, {built.digest})")
        print(f"{MODEL} {recipe.version}  accuracy {built.accuracy:.3f}")
    write_summary(options.out, summary)
    last = summary.find(TRAINED[-1][0].version)
    print(
        f"without geometry  accuracy {summary.without_geometry:.3f}  "
        f"({last.accuracy - summary.without_geometry:+.3f} with it, {last.version})"
    )
    return 0


def run_fallback(options: argparse.Namespace) -> int:
    """Build or find the fallback, then write it."""
    say = _make_say()
    folder = find_fallback(say)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    parity = report["graphs"]["image"]["parity"]
    target = options.out / CNN_MODEL
    copy_folder(folder / "artifact", target / "artifact")
    files = [path for path in (target / "artifact").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    uri = f"{options.uri_prefix.rstrip('/')}/{CNN_MODEL}:{CNN_VERSION}"
    metrics = {
        "accuracy": f"{parity['accuracy_export']:.3f}",
        "agreement": f"{parity['agreement']:.3f}",
    }
    write_modelversion(
        target / "modelversion.yaml", make_cnn_modelversion(uri, report["digest"], size, metrics)
    )
    say(f"wrote {target} ({size} bytes, {report['digest']})")
    print(
        f"{CNN_MODEL} {CNN_VERSION}  accuracy {parity['accuracy_export']:.3f} in INT8, "
        f"{parity['accuracy_source']:.3f} in float32"
    )
    return 0


def _make_say() -> Callable[[str], None]:
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.1f}s] {line}", file=sys.stderr, flush=True)

    return say


def find_fallback(say: Callable[[str], None]) -> Path:
    """The folder of the fallback's build of these sources, from the cache or made now."""

    def build(folder: Path) -> None:
        from examples.pizza.fallback import build_fallback

        build_fallback(folder, say)

    key = compute_fallback_key()
    found = ensure_built(find_root(), f"cnn-{key}", build)
    say(f"build cnn-{key}")
    return found


def find_build(say: Callable[[str], None]) -> Path:
    """The folder of the build of these sources, from the cache or made now."""

    def build(folder: Path) -> None:
        from examples.pizza.build import build_all

        build_all(folder, say)

    key = compute_key()
    found = ensure_built(find_root(), key, build)
    say(f"build {key}")
    return found


def run_scene(options: argparse.Namespace) -> int:
    """Render one held-out scene."""
    from PIL import Image

    from examples.pizza.render import render_scene
    from examples.pizza.scenes import Split, draw_scene, read_label, write_caption

    scene = draw_scene(Split.HOLDOUT, options.seed)
    pixels, _ = render_scene(scene)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(options.out)
    print(f"caption  {write_caption(scene)}")
    print(f"label    {read_label(scene)}")
    return 0


def run_holdout(options: argparse.Namespace) -> int:
    """Write the held-out set: 0000.png … and labels.jsonl with one object per image."""
    from PIL import Image

    from examples.pizza.dataset import HOLDOUT_SIZE, make_dataset
    from examples.pizza.scenes import LABELS, Split

    data = make_dataset(Split.HOLDOUT, HOLDOUT_SIZE)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for row, caption in enumerate(data.captions):
        name = f"{row:04d}.png"
        Image.fromarray(data.pixels[row]).save(options.out / name)
        label = LABELS[int(data.labels[row])]
        lines.append(json.dumps({"image": name, "label": label, "caption": caption}))
    (options.out / "labels.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} images in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
