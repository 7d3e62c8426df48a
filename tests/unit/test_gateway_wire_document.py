"""The design note of the wire and the table in the code say the same."""

import re
from pathlib import Path

from session_service.core.close_codes import ENDINGS

NOTE = Path(__file__).resolve().parents[2] / "docs" / "design" / "0002-wire.md"


def test_the_note_has_every_close_code_with_its_reason() -> None:
    documented: dict[int, tuple[str, bool]] = {}
    for line in NOTE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"\d{4}(, \d{4})*", cells[0]):
            for code in cells[0].split(", "):
                documented[int(code)] = (cells[1].split()[0], cells[2].startswith("yes"))
    assert documented == {int(code): (row.why, row.by_itself) for code, row in ENDINGS.items()}
