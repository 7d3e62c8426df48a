"""Rules about the shape of a module: docstring, size, name, data classes, marks left behind."""

import ast
import re
from collections.abc import Iterator

from tests.arch.allowances import BY_POSITION
from tests.arch.source import Module, at

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
REASON_CHARACTERS_MIN = 6
BANNED_NAMES = frozenset({"utils", "util", "helpers", "common", "misc", "types", "manager"})
EXPLAINED = ("session_service/core", "session_service/ports", "storage/format")
FROZEN = ("session_service/core", "session_service/ports")
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def module_says_what_it_is(module: Module) -> Iterator[str]:
    """A docstring opens each module that holds anything."""
    if module.text.strip() and not ast.get_docstring(module.tree):
        yield f"{module.path}: no docstring"


def packages_are_empty(module: Module) -> Iterator[str]:
    """A name is imported from where it is made; only storage has a front door."""
    if module.path.endswith("__init__.py") and module.path != "storage/__init__.py" and module.text.strip():
        yield f"{module.path}: not empty"


def modules_have_nouns_for_names(module: Module) -> Iterator[str]:
    """Names that fit everything say nothing."""
    name = module.path.rpartition("/")[2].removesuffix(".py")
    if name in BANNED_NAMES or module.package.rpartition("/")[2] in BANNED_NAMES:
        yield f"{module.path}: name it by its noun"


def files_stay_short(module: Module) -> Iterator[str]:
    """A file aims at 200 lines and stops at 600."""
    lines = len(module.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield f"{module.path}: {lines} lines"


def functions_stay_short(module: Module) -> Iterator[str]:
    """A function stops at 70 lines, docstring included."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield at(module, node, f"{node.name} has {lines} lines")


def thinking_parts_explain_themselves(module: Module) -> Iterator[str]:
    """Public classes and functions of the core, the ports and the format have docstrings."""
    if not module.within(*EXPLAINED):
        return
    for node in module.tree.body:
        public = isinstance(node, (*Function, ast.ClassDef)) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield at(module, node, f"{node.name} has no docstring")


def values_cannot_change(module: Module) -> Iterator[str]:
    """Data classes of the core and the ports are frozen, slotted and built by keyword."""
    if not module.within(*FROZEN):
        return
    for node in ast.walk(module.tree):
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if "dataclass" in ast.unparse(decorator):
                given = (
                    {word.arg for word in decorator.keywords} if isinstance(decorator, ast.Call) else set()
                )
                asked = {"frozen", "slots", "kw_only"} - (
                    {"kw_only"} if (module.path, node.name) in BY_POSITION else set()
                )
                if lacking := asked - given:
                    yield at(module, node, f"{node.name} lacks {', '.join(sorted(lacking))}")


# Written in pieces, so that this file does not hold what it looks for.
UNFINISHED = re.compile(
    r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b|NotImplemented" + "Error"
)
SILENCED = re.compile(
    r"#\s*(?:type:\s*ig" + r"nore(?:\[[^\]]*\])?|no" + r"qa(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?)(?P<rest>.*)"
)
LEFT_OUT = re.compile(r"pytest\.(?:mark\.)?(?:sk" + r"ip|xf" + r"ail)")


def nothing_is_left_unfinished(module: Module) -> Iterator[str]:
    """No marks of unfinished work, no silenced check without its reason beside it, no test left out."""
    for number, line in enumerate(module.text.splitlines(), 1):
        place = f"{module.path}:{number}"
        if UNFINISHED.search(line):
            yield f"{place}: unfinished work"
        if LEFT_OUT.search(line):
            yield f"{place}: a test is left out"
        found = SILENCED.search(line)
        if found and len(found["rest"].strip(" #:-—")) < REASON_CHARACTERS_MIN:
            yield f"{place}: a check is silenced without a reason beside it"
