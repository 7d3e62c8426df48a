"""`doctor client` and the pytest plugin: the kit as the authors of other clients meet it."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner, Result

from session_service.cli.main import application_for
from tests.fakes import conformance_program

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow
PROGRAM = [sys.executable, conformance_program.__file__]
CLIENT = " ".join(f"'{word}'" for word in PROGRAM) + " {url} {session} {token}"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "conformance.md"
PLUGIN = "session_service.conformance.plugin"


def doctor(*words: str) -> Result:
    return CliRunner().invoke(application_for(["doctor"]), ["doctor", "client", *words])


def test_a_client_that_is_right_is_green(tmp_path: Path) -> None:
    """With a report for programs and one for a build server."""
    files = tmp_path / "report.json", tmp_path / "report.xml"
    done = doctor(
        "--run", CLIENT, "--only", "^cut$|^clock_jump$", "--json", f"{files[0]}", "--junit", f"{files[1]}"
    )
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert "1 green, 0 red, 1 untried, of 2 cases." in done.output
    told = json.loads(files[0].read_text())
    assert (told["ok"], told["counts"]) == (True, {"green": 1, "red": 0, "untried": 1})
    assert [case["case"] for case in told["cases"]] == ["cut", "clock_jump"]
    suite = ET.fromstring(files[1].read_text())
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "0", "1")


def test_a_client_that_is_wrong_is_explained(tmp_path: Path) -> None:
    """What was expected, what was seen, where it is written, and the client's last words."""
    file = tmp_path / "report.xml"
    done = doctor(
        "--run", "sh -c 'echo no such token\\\\001; exit 3'", "--only", "^cut$", "--junit", str(file)
    )
    assert done.exit_code == 1
    for words in (
        "RED  cut",
        "expected After a cut line the client resumes by itself",
        "ended with the exit status 3 before it asked for a ticket or dialled",
        'docs/protocol.md, "Resume":',
        "no such token",
    ):
        assert words in done.output
    [case] = ET.fromstring(file.read_text())
    assert "exit status 3" in case[0].get("message", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--run", "no-such-client {url}"], "There is no program 'no-such-client'"),
        (["--run", "sh 'half"], "cannot be split into words"),
        (["--only", "["], "is no regular expression"),
        (["--only", "nobody"], "No case has such a name"),
        (["ftp://127.0.0.1"], "an address without a path"),
        (["http://127.0.0.1:9180/here"], "an address without a path"),
        (["http://127.0.0.1:x"], "an address without a path"),
        (["https://127.0.0.1"], "--certificate"),
        (["--listen", "9180"], "It is HOST:PORT"),
        (["http://192.0.2.1:9", "--only", "^cut$"], "Nothing can listen there"),
    ],
)
def test_wrong_use_is_said_in_words(words: list[str], told: str) -> None:
    done = doctor(*words)
    assert done.exit_code == 2
    assert told in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.output).split())


def test_the_list_names_every_case_with_its_promise() -> None:
    done = doctor("--list", "--only", "^cut$")
    assert done.output == "cut  After a cut line the client resumes by itself and the stream goes on.\n"


def _example() -> str:
    [code] = [
        code
        for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        if "conformance_driver" in code
    ]
    return code.replace('"my-client"', ", ".join(map(repr, PROGRAM)))


def test_the_documented_test_is_one_test_for_each_case(pytester: pytest.Pytester) -> None:
    """Run as it stands in the document; only the name of the client is another."""
    pytester.makepyfile(_example())
    done = pytester.runpytest_subprocess(
        "-p",
        PLUGIN,
        "--conformance-only",
        "^(cut|drain|clock_jump)$",
        "-v",
        "-W",
        "error",
        "-p",
        "no:asyncio",
    )
    done.assert_outcomes(passed=2, skipped=1)
    done.stdout.fnmatch_lines(["*test_my_client[[]cut[]] PASSED*"])


def test_a_red_case_fails_its_test_with_the_report(pytester: pytest.Pytester) -> None:
    """A coroutine may play it too, and an option may name the client."""
    pytester.makepyfile(
        """
        import asyncio
        def test_mine(conformance):
            asyncio.run(conformance.play())
        """
    )
    words = ["-p", PLUGIN, "--conformance-quick", "--conformance-only", "^cut$"]
    done = pytester.runpytest_subprocess(*words, "--conformance-run", "sh -c 'exit 3'")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*expected After a cut line*", "*seen * exit status 3 before it asked*"])
    assert "Traceback" not in done.stdout.str()
    without = pytester.runpytest_subprocess(*words)
    without.stdout.fnmatch_lines(["*Give a fixture `conformance_driver`, or --conformance-run.*"])
