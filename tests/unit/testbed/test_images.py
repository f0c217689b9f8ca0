"""What an image's key follows from, and what it does not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed import images
from testbed.errors import ClusterError

IMAGE = images.Image("operator", "Dockerfile.operator", "requirements/operator.txt", "operator/it")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in {
        "Dockerfile.operator": "FROM scratch",
        "requirements/operator.txt": "kopf==1",
        ".dockerignore": "*",
        "LICENSE": "Apache-2.0",
        "operator/it/__init__.py": "",
        "operator/it/part/names.py": "NAME = 1",
        "README.md": "about",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        (repository / old).rename(repository / new)

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(write("Dockerfile.operator", "FROM other"), id="the Dockerfile"),
        pytest.param(write("requirements/operator.txt", "kopf==2"), id="a pinned dependency"),
        pytest.param(write(".dockerignore", "**"), id="what is left out of the build"),
        pytest.param(write("LICENSE", "MIT"), id="the licence that is copied in"),
        pytest.param(write("operator/it/part/names.py", "NAME = 2"), id="a line of code"),
        pytest.param(write("operator/it/new.py", ""), id="a new empty module"),
        pytest.param(
            rename("operator/it/part/names.py", "operator/it/part/words.py"),
            id="a module's name alone",
        ),
    ],
)
def test_key_changes_with(repository: Path, change: Callable[[Path], None]) -> None:
    before = images.key_of(IMAGE, repository, "base:1")
    change(repository)
    assert images.key_of(IMAGE, repository, "base:1") != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(write("README.md", "more about"), id="a file that no image holds"),
        pytest.param(
            write("operator/it/__pycache__/names.cpython-311.pyc", "x"), id="Python's bytecode"
        ),
    ],
)
def test_key_stays_with(repository: Path, change: Callable[[Path], None]) -> None:
    before = images.key_of(IMAGE, repository, "base:1")
    change(repository)
    assert images.key_of(IMAGE, repository, "base:1") == before


def test_key_follows_the_base_and_the_target(repository: Path) -> None:
    other = images.Image(IMAGE.name, IMAGE.dockerfile, IMAGE.requirements, IMAGE.source, "gpu")
    keys = {
        images.key_of(IMAGE, repository, "base:1"),
        images.key_of(IMAGE, repository, "base:2"),
        images.key_of(other, repository, "base:1"),
    }
    assert len(keys) == 3


def test_a_missing_package_is_named(repository: Path) -> None:
    image = images.Image("x", IMAGE.dockerfile, IMAGE.requirements, "operator/gone")
    with pytest.raises(ClusterError, match="operator/gone"):
        images.key_of(image, repository, "base:1")


def test_an_unknown_image_is_told_which_there_are() -> None:
    with pytest.raises(ClusterError, match="no image web; there are operator, inference-cpu"):
        images.find(["operator", "web"])


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: str(image.name))
def test_every_image_has_its_files_and_its_target(image: images.Image) -> None:
    dockerfile = (images.REPOSITORY / image.dockerfile).read_text()
    assert f"COPY {image.requirements} " in dockerfile
    assert f"COPY {image.source} " in dockerfile
    assert not image.target or f" AS {image.target}\n" in dockerfile
    assert "--hash=sha256:" in (images.REPOSITORY / image.requirements).read_text()
