"""The shell scripts: they parse, they are strict, and they can be run."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path
    for path in [ROOT / ".ci" / "run", *(ROOT / "deploy").iterdir()]
    if path.is_file() and not path.suffix
)
LIBRARIES = sorted((ROOT / "deploy" / "lib").glob("*.sh"))


@pytest.mark.parametrize("script", [*SCRIPTS, *LIBRARIES], ids=lambda path: path.name)
def test_every_script_parses(script: Path) -> None:
    """bash reads the whole file without running it."""
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_strict_and_can_be_run(script: Path) -> None:
    """A failed command, an unset name and a failed pipe end it; the run bit is set."""
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("script", ["up", "down", "test", "bench"])
def test_every_command_explains_itself(script: str) -> None:
    """--help tells its use, installs nothing and starts nothing."""
    done = subprocess.run(
        [str(ROOT / "deploy" / script), "--help"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert f"deploy/{script} " in done.stdout


@pytest.mark.parametrize(
    "arguments", [["up", "--wiht"], ["up", "--with", "gnome"], ["down", "--x"], ["bench", "none"]]
)
def test_a_slip_is_told_and_changes_nothing(arguments: list[str]) -> None:
    """What is wrong, and where to look."""
    command = [str(ROOT / "deploy" / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1
    assert "Not possible: " in done.stderr


def test_every_package_says_why_it_is_there() -> None:
    """A line of a package list is a name, or names to choose from, and a reason."""
    for path in (ROOT / "deploy" / "packages").glob("*.txt"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
        assert lines
        assert not [line for line in lines if len(line.split(maxsplit=1)) != 2]


def test_ci_runs_what_people_run() -> None:
    """No second way of testing that only the machine knows."""
    assert "exec ./deploy/test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_unit_keeps_desktops_alive() -> None:
    """A stop of the unit ends the program alone, and desktops may have groups of their own."""
    unit = (ROOT / "deploy" / "systemd" / "session-service.service").read_text(encoding="utf-8").splitlines()
    assert {"KillMode=process", "Delegate=yes", "Restart=always"} <= set(unit)
