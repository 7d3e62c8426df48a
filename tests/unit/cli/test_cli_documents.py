"""What the documents tell people to type: every command and every option of it is there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from session_service.cli.main import application_for

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
_QUOTED = re.compile(r"`([^`\n]+)`")
_HEADER = re.compile(r"\| command \(`session-service (\w+) \.\.\.`\)")
PROGRAM = "session-service "


def typed(text: str, groups: frozenset[str]) -> Iterator[str]:
    """Every command in a document, without the program's name.

    In a block, in the first column of a table, and in quotes that begin like one (`keys check`).
    """
    block, table = False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            block = not block
        elif block:
            lines = (part.partition(" #")[0].strip("` ") for part in line.split(PROGRAM)[1:])
            yield from (one for one in lines if one and "useradd" not in line)
        else:
            header = _HEADER.match(line)
            table = header[1] if header else table if line.startswith("|") else ""
            if table and not header:
                yield from (f"{table} {quoted}" for quoted in _QUOTED.findall(line.split("|")[1]))
                continue
            for quoted in _QUOTED.findall(line):
                if quoted.startswith(PROGRAM):
                    yield quoted.removeprefix(PROGRAM)
                elif quoted.split()[0] in groups and len(quoted.split()) > 1:
                    yield quoted


def flaw(command: Any, words: list[str]) -> str:
    """Say what of a typed command is not there; nothing where all is."""
    while words and (children := getattr(command, "commands", None)) and not words[0].startswith("-"):
        if words[0] == "...":
            return ""
        if words[0] not in children:
            return "" if command.name == "doctor" else f"no command {words[0]}"
        command, words = children[words[0]], words[1:]
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    asked = {re.split(r"[^-a-z0-9]", word)[0] for word in words if word.startswith("--")}
    return f"no option {', '.join(sorted(asked - known))}" if asked - known else ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_tells_to_type_is_there(path: Path) -> None:
    root = typer.main.get_command(application_for([]))
    groups = frozenset(name for name, one in root.commands.items() if hasattr(one, "commands"))
    found = [(told, flaw(root, told.split())) for told in typed(path.read_text(), groups)]
    assert not [(told, why) for told, why in found if why]
    assert found or path.name != "running.md"
