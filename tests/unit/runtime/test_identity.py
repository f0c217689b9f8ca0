import subprocess
import sys
from pathlib import Path

import pytest

from sluice.errors import UserError
from sluice.runtime import identity
from sluice.runtime.identity import claim_identity

HOLD = """
import sys
from pathlib import Path
from sluice.runtime.identity import claim_identity
identity = claim_identity("", {}, Path(sys.argv[1]))
print(identity.name, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("given", "environ", "name"),
    [
        ("mine", {"POD_NAME": "p", "POD_UID": "u"}, "mine"),
        ("", {"POD_NAME": "p", "POD_UID": "u"}, "p_u"),
    ],
    ids=["given by hand", "a pod's"],
)
def test_names_that_are_known(
    given: str, environ: dict[str, str], name: str, tmp_path: Path
) -> None:
    assert claim_identity(given, environ, tmp_path).name == name


def test_two_living_processes_never_share_a_name_and_a_successor_inherits_it(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(identity.__file__).parents[2])},
    ) as other:
        assert other.stdout is not None
        first = other.stdout.readline().strip()
        second = claim_identity("", {}, tmp_path)
        assert first
        assert second.name != first
        other.kill()
        other.wait()
        successor = claim_identity("", {}, tmp_path)
        assert successor.name == first
        second.close()
        successor.close()


def test_a_pod_name_alone_is_not_trusted(tmp_path: Path) -> None:
    # The next pod of a StatefulSet has the same name, perhaps while this one still lives.
    held = claim_identity("", {"POD_NAME": "p"}, tmp_path)
    assert held.name != "p"
    held.close()


def test_too_many_on_one_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SLOTS", 1)
    held = claim_identity("", {}, tmp_path)
    with pytest.raises(UserError, match="give each an --identity"):
        claim_identity("", {}, tmp_path)
    held.close()
