"""The command line as a person first meets it: help, version, refusals. Nothing of it needs a service."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from session_service.cli import demo
from session_service.cli.main import application_for

PROGRAM = [sys.executable, "-P", "-c", "from session_service.cli.main import main; main()"]


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False)


def commands(group: typer.Typer) -> list[tuple[str, str]]:
    """Every command below a group with the text of its help."""
    found = []
    for one in group.registered_commands:
        assert one.callback is not None
        found.append((one.name or one.callback.__name__, one.help or one.callback.__doc__ or ""))
    for part in group.registered_groups:
        assert part.typer_instance is not None
        found += [(f"{part.name} {name}", text) for name, text in commands(part.typer_instance)]
    return found


def test_every_command_shows_an_example() -> None:
    missing = [name for name, text in commands(application_for([])) if "Example: session-service" not in text]
    assert not missing


def test_no_help_is_cut_or_too_wide_for_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of commands show whole sentences. What repeats (`[ARGS]...`) is the only thing with dots."""
    monkeypatch.setenv("COLUMNS", "80")
    waiting: list[tuple[Any, str]] = [(typer.main.get_command(application_for([])), "session-service")]
    cut, seen = [], 0
    while waiting:
        command, words = waiting.pop()
        waiting += [(child, f"{words} {name}") for name, child in getattr(command, "commands", {}).items()]
        shown = command.context_class(command, info_name=words).get_help()
        seen += 1
        _, _, listed = shown.partition("\nCommands:\n")
        cut += [line for line in listed.splitlines() if line.endswith(("...", "…"))]
        cut += [line for line in shown.splitlines() if len(line) > 80]
    assert seen > 60
    assert not cut


@pytest.mark.parametrize(
    "name",
    ["serve", "demo", "sessions", "checkpoints", "users", "tokens", "backup", "doctor", "stop", "connect"],
)
def test_the_command_is_there(name: str) -> None:
    assert any(found.split()[0] == name for found, _ in commands(application_for([])))


def test_the_version_is_one_line() -> None:
    done = run("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()[0].isdigit()


def test_without_a_service_it_says_what_to_do(tmp_path: Path) -> None:
    done = run("sessions", "list", "--state-folder", str(tmp_path))
    assert done.returncode == 1
    assert "./deploy/up" in done.stderr
    assert "[no_service]" in done.stderr


def test_an_unknown_setting_is_refused_in_two_lines(tmp_path: Path) -> None:
    done = run("serve", "--state-folder", str(tmp_path / "s"), "--set", "hold.hold=3")
    assert done.returncode != 0
    assert "hold.hold" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_s3_may_stand_alone_in_the_demonstration() -> None:
    assert demo.with_bare_s3(["demo", "--s3", "--json"]) == ["demo", "--s3=minio", "--json"]
    assert demo.with_bare_s3(["demo", "--s3"]) == ["demo", "--s3=minio"]
    assert demo.with_bare_s3(["demo", "--s3", "s3://b/p"]) == ["demo", "--s3", "s3://b/p"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--s3", "nonsense"], "begins with neither file:// nor s3://"),
        (["demo", "--s3", "s3://"], "names no bucket"),
        (["demo", "--s3", "file:folder"], "names no folder"),
        (["connect", "S", "--url", "desk.example"], "https://desk.example"),
        (["connect", "S", "--token-file", "t"], "--url"),
        (["connect", "S", "--url", "http://127.0.0.1:1", "--token-file", "not there"], "[file_unreadable]"),
        (["serve", "--config", "not there", "--check"], "cannot be read"),
    ],
)
def test_what_was_mistyped_is_named_and_nothing_is_started(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.returncode in {1, 2}
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_id_in_a_table_is_whole_wherever_it_is_shown() -> None:
    """In a pipe and on a narrow terminal: the next command needs it, and half a time says nothing."""
    code = (
        "from session_service.cli import console\n"
        "row = ['01J9Z3M4N5P6Q7R8S9T0V1W2X3', 'ended_by_user', 'a/Home', '1:23', 'never_attached', '9:44']\n"
        "console.table(['SESSION', 'STATE', 'WHO', 'HOLD LEFT', 'CAUSE', 'SAVED AS OF'], [row], empty='')"
    )
    for more in ({}, {"COLUMNS": "60"}):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "/usr/bin", **more},
        )
        assert "01J9Z3M4N5P6Q7R8S9T0V1W2X3" in done.stdout
        assert "\u2026" not in done.stdout
