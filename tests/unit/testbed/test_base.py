"""Which Debian archive the base image is made from."""

from pathlib import Path

import pytest

from testbed import base


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        pytest.param(
            "deb http://archive.example/debian bookworm main\n",
            ["http://archive.example/debian"],
            id="one line",
        ),
        pytest.param(
            "deb [signed-by=/usr/x.gpg] https://archive.example/debian/ bookworm main\n",
            ["https://archive.example/debian"],
            id="one line with options",
        ),
        pytest.param(
            "Types: deb\nURIs: http://archive.example/debian\nSuites: bookworm\n",
            ["http://archive.example/debian"],
            id="the newer format",
        ),
        pytest.param(
            "deb http://archive.example/debian-security bookworm-security main\n",
            [],
            id="updates alone are no archive",
        ),
        pytest.param("# deb http://archive.example/debian bookworm main\n", [], id="switched off"),
        pytest.param("deb http://other.example/tools stable main\n", [], id="of somebody else"),
    ],
)
def test_mirror(tmp_path: Path, text: str, mirror: list[str]) -> None:
    source = tmp_path / "a.list"
    source.write_text(text)
    assert base.find_mirror([tmp_path / "not-there", source]) == mirror
