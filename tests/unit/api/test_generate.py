"""The generator: what is committed is what the models say, and drift is told."""

import shutil
from pathlib import Path

import pytest
import yaml

from sluice.api import fieldtable
from sluice.api.generate import main, make_crd, make_files
from sluice.api.kinds import KINDS, KindDefinition

ROOT = Path(__file__).parents[3]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "crds", tmp_path / "crds")
    shutil.copytree(ROOT / "docs" / "spec", tmp_path / "docs" / "spec")
    return tmp_path


def test_committed_files_are_those_that_the_models_give() -> None:
    assert main(["--check", "--root", str(ROOT)]) == 0


def test_check_shows_a_drift_and_changes_nothing(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "crds" / "sluice.dev_modelversions.yaml"
    drifted = path.read_text().replace("maximum: 65536", "maximum: 65537")
    path.write_text(drifted)
    assert main(["--check", "--root", str(copy)]) == 1
    said = capsys.readouterr()
    changes = [line.split() for line in said.out.splitlines() if line[:1] in "+-"]
    assert changes[2:] == [["-", "maximum:", "65537"], ["+", "maximum:", "65536"]]
    assert "python -m sluice.api.generate" in said.err
    assert path.read_text() == drifted


def test_generating_mends_a_drift(copy: Path) -> None:
    path = copy / "crds" / "sluice.dev_modelversions.yaml"
    path.unlink()
    assert main(["--root", str(copy)]) == 0
    assert path.read_text() == (ROOT / "crds" / path.name).read_text()
    assert main(["--check", "--root", str(copy)]) == 0


def test_the_hand_written_part_of_a_page_is_kept(copy: Path) -> None:
    page = copy / "docs" / "spec" / "modelversion.md"
    text = page.read_text().replace("# ModelVersion", "# Our own words") + "\nAnd after.\n"
    page.write_text(text)
    assert make_files(copy)[page] == text


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the marks"):
        fieldtable.replace_table("# Nothing", {})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_yaml_is_the_crd(kind: KindDefinition) -> None:
    crd = make_crd(kind)
    path = ROOT / "crds" / f"sluice.dev_{crd['spec']['names']['plural']}.yaml"
    assert yaml.safe_load(path.read_text()) == crd


@pytest.mark.parametrize(
    ("field", "want"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 16}, "integer 1..16"),
        ({"type": "string", "maxLength": 63}, "string ≤ 63"),
        ({"type": "string", "enum": ["A", "B"]}, "`A`, `B`"),
        ({"type": "string", "format": "date-time"}, "time"),
        ({"type": "boolean"}, "boolean"),
        (
            {"type": "array", "maxItems": 4, "items": {"type": "string", "maxLength": 5}},
            "list of string ≤ 5 (≤ 4)",
        ),
        ({"x-kubernetes-int-or-string": True}, "integer or string"),
    ],
)
def test_a_type_in_a_few_words(field: dict[str, object], want: str) -> None:
    assert fieldtable.describe_type(field) == want
