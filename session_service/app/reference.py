"""docs/configuration.md and docs/errors.md, made from the code: `python -m session_service.app.reference
configuration`.

Not prose of its own: a setting's words are its docstring, an error's words are its class's. A test
compares the files with what this makes.
"""

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

import session_service
from session_service.app import settings
from session_service.base import errors

ORDER: Final = (
    "Order: default, file (`serve --config FILE`, TOML), environment, flag (`--set NAME=VALUE`, or the flag "
    "of its own). In the file a group is a table: `[hold]` and `hold_s = 600`. In the environment "
    "`hold.hold_s` is `SESSION_SERVICE_HOLD__HOLD_S`. Both there and by `--set` a list is JSON: "
    "`'listen.public_origins=[\"https://desk.example\"]'`. Unknown keys are refused at start. "
    "Secrets come from files."
)
STABLE: Final = (
    "The code is stable: it stands in problem documents of the API, at the end of what the command prints, "
    "and in log events. *Again* says whether trying again may help."
)


def _docstrings(kind: type) -> dict[str, str]:
    """Return the text under each field of a class, which Python itself does not keep."""
    tree = ast.parse(inspect.getsource(kind).lstrip()).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            assert isinstance(after, ast.Expr)
            assert isinstance(after.value, ast.Constant)
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def _shown(value: Any) -> str:
    if value is None or value in ("", ()):
        return "(empty)"
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def configuration() -> str:
    """Return docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "Made from the code by `python -m session_service.app.reference configuration`; do not edit.",
        "",
        ORDER,
        "",
    ]
    top = _docstrings(settings.Settings)
    lines += ["| setting | default | |", "|---|---|---|"]
    for name, info in settings.Settings.model_fields.items():
        if not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            default = (
                "/var/lib/session-service, or ~/.local/share/session-service"
                if name == "state_folder"
                else ""
            )
            lines.append(f"| `{name}` | {default or _shown(info.default)} | {top.get(name, '')} |")
    for name, info in settings.Settings.model_fields.items():
        group = info.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            lines += [
                "",
                f"## {name}",
                "",
                inspect.getdoc(group) or "",
                "",
                "| setting | default | |",
                "|---|---|---|",
            ]
            words = _docstrings(group)
            for field, field_info in group.model_fields.items():
                lines.append(f"| `{name}.{field}` | {_shown(field_info.default)} | {words.get(field, '')} |")
    return "\n".join(lines) + "\n"


def _every_error() -> Iterator[type[errors.SessionError]]:
    for module in pkgutil.walk_packages(session_service.__path__, "session_service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    waiting: list[type[errors.SessionError]] = [errors.SessionError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield kind


def error_table() -> str:
    """Return docs/errors.md."""
    lines = [
        "# Errors",
        "",
        "Made from the code by `python -m session_service.app.reference errors`; do not edit.",
        "",
        STABLE,
        "",
        "| code | HTTP | again | what it is | what to do |",
        "|---|---|---|---|---|",
    ]
    # A special case of an error has its code, and stands below it.
    for kind in sorted(set(_every_error()), key=lambda kind: (kind.code, len(kind.mro()), kind.__name__)):
        words = " ".join((inspect.getdoc(kind) or "").split())
        again = "yes" if kind.retryable else "no"
        lines.append(f"| `{kind.code}` | {kind.status} | {again} | {words} | {kind.action} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(configuration() if sys.argv[1:] == ["configuration"] else error_table())
