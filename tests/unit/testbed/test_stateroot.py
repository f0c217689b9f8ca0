"""The folder of all records: where it is, and that nobody else's is ever used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed import stateroot
from testbed.cluster import Cluster
from testbed.errors import ClusterError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folder is to be, with nothing there yet."""
    place = tmp_path / "state"
    monkeypatch.setattr(stateroot, "path_of", lambda user: place)
    return place


def test_root_has_one_place_however_it_became_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = set()
    for runtime in (str(tmp_path), str(tmp_path / "gone"), ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        places.add(stateroot.path_of(0))
    assert places == {Path("/run/sluice-testbed-state")}


@pytest.mark.parametrize(
    ("runtime", "want"),
    [
        pytest.param("", "{tmp}/run/sluice-testbed", id="in the session's own folder"),
        pytest.param("/gone", "/tmp/sluice-testbed-1000", id="in /tmp where that is not there"),
    ],
)
def test_the_place_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, want: str
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{tmp_path}/run{runtime}")
    assert str(stateroot.path_of(1000)) == want.format(tmp=tmp_path)


def test_it_is_made_for_its_owner_alone_and_found_again(place: Path) -> None:
    assert stateroot.find() == place
    assert not place.exists()
    assert stateroot.ensure() == place
    assert place.stat().st_mode & 0o777 == 0o700
    assert stateroot.find() == stateroot.ensure() == place


def link(place: Path) -> None:
    target = place.with_name("elsewhere")
    target.mkdir(mode=0o700)
    place.symlink_to(target)


def open_to_others(place: Path) -> None:
    place.mkdir()
    place.chmod(0o750)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(link, "is not a folder", id="a link, wherever it leads"),
        pytest.param(Path.touch, "is not a folder", id="a file"),
        pytest.param(open_to_others, "has mode 750", id="a folder that others may look into"),
    ],
)
def test_what_is_refused(place: Path, make: Callable[[Path], None], says: str) -> None:
    make(place)
    for use in (stateroot.find, stateroot.ensure, lambda: Cluster("unit"), Cluster.load):
        with pytest.raises(ClusterError, match=says):
            use()


def test_a_folder_of_another_user_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(ClusterError, match=f"belongs to user {owner}"):
        stateroot.find()


def test_a_folder_that_cannot_be_made_is_named(place: Path) -> None:
    place.parent.joinpath("file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stateroot, "path_of", lambda user: place.parent / "file" / "state")
        with pytest.raises(ClusterError, match="file/state, where instances are recorded"):
            stateroot.ensure()
