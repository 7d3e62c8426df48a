"""The checks that are programs of their own: ruff, mypy in strict mode, the layers. They run here so that one
command runs all.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.arch.source import ROOT

LIMIT_S = 600


def run(*arguments: str, cwd: Path = ROOT, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a module of this environment."""
    command = [sys.executable, "-P", "-m", *arguments]
    return subprocess.run(
        command, cwd=cwd, input=text, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


def test_ruff_finds_nothing() -> None:
    """Style and frequent mistakes, in product, tests and scripts; a bad sample is found."""
    sample = run(
        "ruff", "check", "--stdin-filename", "session_service/app/x.py", "-", text='"""X."""\nprint(1)\n'
    )
    assert sample.returncode == 1
    done = run("ruff", "check", "--no-cache", "--output-format", "concise", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing(tmp_path: Path) -> None:
    """Every type is written and holds, on the oldest Python that we support; a bad sample is found."""
    bad = tmp_path / "bad.py"
    bad.write_text("def f(x):\n    return x\n")
    config = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache"))
    assert run("mypy", *config, str(bad)).returncode == 1
    done = run("mypy", "--cache-dir", str(ROOT / ".mypy_cache"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_layers_hold() -> None:
    """The arrows of docs/architecture.md: who may import whom."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_layers_can_fail(tmp_path: Path) -> None:
    """In an empty copy of the packages, imports against the arrows break each contract that they should."""
    for folder in ("session_service", "storage"):
        for init in (ROOT / folder).rglob("__init__.py"):
            copy = tmp_path / init.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
    for module in ("storage/ids.py", "storage/errors.py"):
        (tmp_path / module).touch()
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    assert lint_imports(tmp_path).returncode == 0
    against = {
        "session_service/core/x.py": "import session_service.control",
        "session_service/gateway/x.py": "import session_service.http",
        "session_service/host/x.py": "import session_service.control",
        "storage/format/x.py": "import storage.repository",
        "storage/scan/x.py": "import session_service.base",
    }
    for path, line in against.items():
        (tmp_path / path).write_text(line)
    told = lint_imports(tmp_path)
    assert told.returncode == 1
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert told.stdout.count("BROKEN") == len(contracts)


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a tree; its own packages come first, before any installed copy."""
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()"
    command = [sys.executable, "-P", "-c", code, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=LIMIT_S)
