"""Rules about words: the glossary in public names, log events from the closed list.

Only public names, log events and fields are looked at, since libraries have words of their own; what must be
named as the world names it stands in allowances.py with its reason.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.arch.allowances import WORDS
from tests.arch.source import ROOT, Module, at, calls

# The word that is not for this meaning, and the one that is (docs/glossary.md).
GLOSSARY = {
    "snapshot": "checkpoint",
    "savepoint": "checkpoint",
    "spawner": "provider",
    "vm": "desktop",
    "backend": "object store or adapter",
    "channel": "stream",
    "reconnect": "resume",
    "reconnection": "resume",
    "suspended": "held",
    "grace": "hold",
    "callback": "effect",
    "hook": "effect",
    "connection": "session, link or stream",
    "connections": "sessions, links or streams",
    "instance": "session",
    "fatal": "permanent",
    "sync": "reconcile",
}
LOG_FILE = "session_service/base/log.py"
LOGGERS = frozenset({"log", "logger", "_log", "LOG"})
LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "exception"})
EVENT = re.compile(r"^[a-z]+\.[a-z]+(_[a-z]+)*$")


def names_follow_the_glossary(module: Module) -> Iterator[str]:
    """One word for one thing, in every public name."""
    for node, name in public_names(module):
        for word in words(name):
            if word in GLOSSARY and (name not in WORDS and (module.path, name) not in WORDS):
                yield at(module, node, f"{name}: say {GLOSSARY[word]}, not {word}")


def words(name: str) -> list[str]:
    """Return the words of a name in snake_case or CamelCase, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def public_names(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield the public classes, functions, methods, fields and constants of a module."""
    todo: list[ast.stmt] = list(module.tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_"):
                yield node, node.name
                if isinstance(node, ast.ClassDef):
                    todo.extend(node.body)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    yield node, target.id


@cache
def events() -> frozenset[str]:
    """Return the closed list of log events, read from its file without importing it."""
    tree = ast.parse((ROOT / LOG_FILE).read_text(encoding="utf-8"))
    for node in tree.body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and target.id == "EVENTS" and node.value is not None:  # type: ignore[union-attr]  # the test above leaves assignments only
            return frozenset(
                constant.value
                for constant in ast.walk(node)
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
            )
    raise AssertionError(f"{LOG_FILE} has no EVENTS")


def log_events_are_on_the_list(module: Module) -> Iterator[str]:
    """Events, not sentences, and each from the closed list."""
    if module.path == LOG_FILE:
        return
    for call, name in calls(module):
        *owner, level = name.split(".")
        if level not in LEVELS or not owner or owner[-1] not in LOGGERS:
            continue
        first = call.args[0] if call.args else None
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            yield at(module, call, "the event is not written out")
        elif first.value not in events():
            yield at(module, call, f"{first.value} is not in EVENTS of {LOG_FILE}")


def events_have_the_form(listed: frozenset[str]) -> list[str]:
    """Return the events that are not `noun.past_participle`."""
    return sorted(event for event in listed if not EVENT.match(event))
