"""Changes the rollout core a little, a thousand times, and counts how often a test notices.

    python -m tests.mutation [--least 95] [--children 2]

mutmut makes the mutants of `sluice/rollout` in a temporary copy of the package and runs the fast tables of
`tests/unit/operator` on each; the working tree isn't touched.  `EQUIVALENT` are mutants that no test can
tell from the original, each with the reason; they are counted apart.  The exit status is 1 where fewer
than `--least` percent of the others are killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUTATED = "sluice/rollout"
TESTS = tuple(
    f"tests/unit/operator/test_{name}.py" for name in ("machine", "asked", "course", "cursor")
)
CONFIG = f"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/{MUTATED}/*"]
pytest_add_cli_args = ["-q", "-x", "-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {list(TESTS)!r}
mutate_only_covered_lines = false

[tool.pytest.ini_options]
pythonpath = ["src", "."]
addopts = "--import-mode=importlib"
"""

EQUIVALENT: dict[str, str] = {
    "# noqa: S101": "the words of an assertion that holds by construction",
    "-        case _:": "what falls through a match gives None, which is as false as what it gave",
}
"""By a part of the changed lines as mutmut shows them: why it is the same program."""

KILLED = frozenset({"killed", "timeout", "segfault", "suspicious", "caught by type check"})


def main() -> int:
    """Runs it all; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--least", type=float, default=95.0, help="percent that must be killed")
    parser.add_argument("--children", type=int, default=2, help="mutants that run side by side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-mutation-") as name:
        copy = Path(name)
        prepare(copy)
        run(copy, arguments.children)
        return tell(copy, arguments.least)


def prepare(copy: Path) -> None:
    """The package and the tests that concern it, laid out as mutmut wants them."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "operator" / "sluice", copy / "src" / "sluice", ignore=skip)
    for test in (*TESTS, "tests/builders.py"):
        (copy / test).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / test, copy / test)
    (copy / "pyproject.toml").write_text(CONFIG)


def run(copy: Path, children: int) -> None:
    """Makes the mutants and tries each."""
    # The working tree's own packages must not be found before the mutants.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children)]
    log = copy / "mutmut.log"
    with log.open("w") as output:
        done = subprocess.run(
            command, cwd=copy, env=environment, stdout=output, stderr=output, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"mutmut ended with {done.returncode}:\n{log.read_text()[-4000:]}")


def tell(copy: Path, least: float) -> int:
    """Prints what survived and the counts; 1 where too much did."""
    counts: Counter[str] = Counter()
    for mutant, outcome in read_results(copy):
        if outcome in KILLED:
            counts["killed"] += 1
            continue
        shown = ask(copy, "show", mutant)
        changed = [
            line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in _HEAD
        ]
        text = "\n".join(changed)
        reason = next((why for part, why in EQUIVALENT.items() if part in text), "")
        counts["equivalent" if reason else "survived"] += 1
        print(f"{mutant}: {f'equivalent: {reason}' if reason else outcome}")
        print("\n".join(f"    {line}" for line in changed))
    judged = counts["killed"] + counts["survived"]
    share = 100 * counts["killed"] / judged if judged else 0.0
    print(
        f"killed {counts['killed']}, survived {counts['survived']}, equivalent "
        f"{counts['equivalent']}: {share:.1f}% killed, wanted {least}%"
    )
    return 0 if share >= least else 1


_HEAD = ("+++", "---")


def read_results(copy: Path) -> list[tuple[str, str]]:
    """Every mutant with what became of it."""
    lines = ask(copy, "results", "--all", "true").splitlines()
    found = [line.strip().partition(": ") for line in lines if ": " in line]
    return [(mutant, outcome) for mutant, _, outcome in found if "__mutmut_" in mutant]


def ask(copy: Path, *words: str) -> str:
    """What mutmut says."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *words],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
