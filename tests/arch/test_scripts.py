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
