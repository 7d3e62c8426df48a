"""The source tree as the tests of the architecture read it: parsed, never imported.

Not a linter of its own: what ruff and mypy can check is left to them. A rule is a function from one module to
its offences, so that it can be shown a small bad sample and be seen to fail.
"""

import ast
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("session_service", "storage")
ASSETS = "session_service/http/assets/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One Python file: where it lies below the root, its text, its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """Its folder, with slashes: `session_service/core`."""
        return self.path.rpartition("/")[0]

    def within(self, *folders: str) -> bool:
        """Say whether it lies in or below one of these folders."""
        return any(self.path.startswith(folder + "/") for folder in folders)


Rule = Callable[[Module], Iterator[str]]


def parse(path: str, text: str) -> Module:
    """Return a module from text that need not be a file; samples of bad code are made so."""
    return Module(path=path, text=text, tree=ast.parse(text))


@cache
def product() -> tuple[Module, ...]:
    """Return every module of the two packages that can be parsed; `broken` names the others."""
    made = []
    for path in product_paths():
        try:
            made.append(parse(path, (ROOT / path).read_text(encoding="utf-8")))
        except SyntaxError:
            continue
    return tuple(made)


@cache
def product_paths() -> tuple[str, ...]:
    """Return the path of every Python file of the two packages."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    paths = (file.relative_to(ROOT).as_posix() for file in files)
    return tuple(sorted(path for path in paths if not path.startswith(ASSETS)))


def broken() -> set[str]:
    """Return the files that are no Python."""
    return set(product_paths()) - {module.path for module in product()}


@cache
def tracked() -> tuple[str, ...]:
    """Return the path of every file that git tracks."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return tuple(path for path in done.stdout.split("\0") if path and (ROOT / path).is_file())


def read(path: str) -> str:
    """Return the text of a tracked file; what is not text is empty."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def at(module: Module, node: ast.AST, what: str) -> str:
    """Return an offence with its place."""
    return f"{module.path}:{getattr(node, 'lineno', 1)}: {what}"


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for names and attributes; a call or subscript within is `?`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Yield each call with the dotted name of what is called."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def imports(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield the dotted name of each module or name imported, wherever in the file."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"
