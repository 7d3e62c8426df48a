"""Names that others chose write nothing into the terminal of who lists them."""

import json

import pytest

from session_service.cli import console

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202ecod.exe\nroot  0:00  saved [bold]x[/] [/nothing]"


def test_a_file_may_be_called_anything(capsys: pytest.CaptureFixture[str]) -> None:
    """A title, a cleared screen, a line turned round, a row that nobody wrote, marks of our own printer."""
    console.table(("MODE", "NAME"), [["0644", HOSTILE]], empty="")
    console.facts([("Name", HOSTILE)])
    console.out.print(f"not made again: {HOSTILE}", markup=False)
    text = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert text.count("a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\x202ecod.exe") == 3
    assert text.count("[bold]x[/]") == 3
    assert text.count("\nroot") == 1, "only the end of a sentence may have lines of its own"


def test_a_document_for_programs_says_the_same_in_its_own_way(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"name": HOSTILE})
    text = capsys.readouterr().out
    assert not {"\x1b", "\x9b"} & set(text)
    assert json.loads(text) == {"name": HOSTILE}
