"""The refused variables are those that the contract gives to the operator."""

import re
from pathlib import Path

from sluice.api.environment import RESERVED_ENV

CONTRACT = Path(__file__).parents[3] / "docs" / "contract.md"


def test_reserved_names_are_the_contracts_table() -> None:
    section = (
        CONTRACT.read_text(encoding="utf-8").partition("### Environment")[2].partition("## ")[0]
    )
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = [name for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert len(names) > 10
    assert set(names) == set(RESERVED_ENV)
