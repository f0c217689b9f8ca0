"""Rules of the tree that no other tool holds."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_operator_is_a_folder_and_no_package() -> None:
    """`operator` is a module of the standard library. With operator/__init__.py, a plain `python` started
    in the root of the repository would import our folder in its place and die inside `collections`."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "inference" / "__init__.py").exists()


def test_python_in_the_root_finds_the_standard_library() -> None:
    code = "import operator, collections; print(operator.__name__, operator.add(1, 2))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert answer.stdout.split() == ["operator", "3"]


def test_only_packages_lie_in_the_containers() -> None:
    """An editable install puts both folders on sys.path: a stray types.py would be importable."""
    for container in ("operator", "inference"):
        assert [path.name for path in (ROOT / container).glob("*.py")] == []
