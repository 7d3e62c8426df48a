"""docs/api.md, made from the table of routes: `python -m session_service.http.reference > docs/api.md`.

Not written by hand: a test compares the file with what this makes, so that the document cannot fall behind.
"""

import sys
from typing import Any

from pydantic import BaseModel

from session_service.base import errors
from session_service.http import idempotency, openapi
from session_service.http.callers import OWN_HEADER
from session_service.http.problems import title_of
from session_service.http.routes import Route
from session_service.http.table import ROUTES

_TAGS = {
    "people": "People: sign-in, accounts, tokens",
    "sessions": "Sessions",
    "files": "Workspaces, checkpoints and files",
    "history": "Receipts, events, alarms, status",
    "upkeep": "Checks and copies",
    "keys": "Keys and erasure",
    "machines": "For machines",
}
_HEAD = f"""# API

Made from the code by `python -m session_service.http.reference > docs/api.md`; do not edit.
A running service shows the same at `/api/v1/docs` and as OpenAPI 3.1 at `/api/v1/openapi.json`.

- **Who asks.** A browser has a cookie; its unsafe requests carry `{OWN_HEADER}: 1` and an `Origin` of this
  service. A program sends `Authorization: Bearer sst_...`. On the unix socket root and the service's own user
  are the administrator, by the socket's credentials.
- **Failures** are problem documents (RFC 9457, `application/problem+json`) with `type`, `title`, `status`,
  `detail`, `code`, `retryable`, `action`, `facts` and `reference`. Decide by `code`. `Retry-After` is there
  where trying again may work. The reference finds the line in the log.
- **Repeats.** Routes marked *key* take `{idempotency.HEADER}` (16 to 128 characters; a UUID is right): for
  24 hours the same request under the same key gets the same answer, another one is refused.
- **Generations.** Routes marked *If-Match* act only on the generation that was read (`ETag`).
- **Lists** have `items` and `next_cursor`; send it back as `cursor` until it is null.
- **Times** are ISO 8601 UTC texts with milliseconds. Unknown is null, never 0.
- **Paths** inside a home are text; a byte that is not UTF-8, and the backslash, is written as `\\xNN`.
- **Live.** `GET /api/v1/events/stream` (server-sent events): `snapshot` (`time`, `sessions`, `alarms`), then
  `session` (one session as in its route), `alarm` (`alarms`, all that are open) and every 15 s without news
  `beat` (`time`). There is no log to go on from: whoever comes back gets a new snapshot.
"""


def markdown(routes: tuple[Route, ...] = ROUTES) -> str:
    """Return the document."""
    parts = [_HEAD]
    for tag, title in _TAGS.items():
        parts.append(f"\n## {title}\n")
        parts += [_route(route) for route in routes if route.tag == tag]
    parts.append("\n## Forms\n")
    parts += [_model(model) for model in _models(routes)]
    parts.append("\n## Problems\n\n| code | status | again | meaning | what to do |\n|---|---|---|---|---|\n")
    parts += [_problem(kind) for kind in openapi.all_errors(routes)]
    return "".join(parts)


def _route(route: Route) -> str:
    marks = [mark for mark, there in (("key", route.idempotent), ("If-Match", route.if_match)) if there]
    takes = route.raw_body or (f"[{_name(route.body)}](#{_anchor(route.body)})" if route.body else "")
    gives = (
        f"[{_name(route.answer)}](#{_anchor(route.answer)})"
        if route.answer
        else ("nothing" if route.status == 204 else f"`{route.media}`")
    )
    lines = [f"\n### {route.method} {route.path}\n", f"{route.summary} {openapi.rights(route)}\n"]
    if route.query is not None:
        lines.append(f"- Query: {_fields(route.query)}")
    lines.append(f"- {f'Takes {takes}; g' if takes else 'G'}ives {gives} ({route.status}).")
    if marks:
        lines.append(f"- Also: {', '.join(f'*{mark}*' for mark in marks)}.")
    codes = ", ".join(f"`{kind.code}`" for kind in openapi.errors_of(route))
    lines.append(f"- Problems: {codes}.")
    return "\n".join(lines) + "\n"


def _models(routes: tuple[Route, ...]) -> list[type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    waiting = [model for route in routes for model in (route.body, route.answer) if model is not None]
    while waiting:
        model = waiting.pop()
        if model.__name__ in found:
            continue
        found[model.__name__] = model
        for field in model.model_fields.values():
            waiting += _inner_models(field.annotation)
    return [found[name] for name in sorted(found)]


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner: list[type[BaseModel]] = []
    for part in getattr(annotation, "__args__", ()):
        inner += _inner_models(part)
    return inner


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _anchor(model: type[BaseModel]) -> str:
    return model.__name__.lower()


def _model(model: type[BaseModel]) -> str:
    words = " ".join((model.__doc__ or "").split())
    return f"\n### {model.__name__}\n\n{words}\n\n{_fields(model) or 'No fields.'}\n"


def _fields(model: type[BaseModel]) -> str:
    """Return the fields with their types, as JSON schema names them."""
    schema = model.model_json_schema(ref_template="{model}")
    needed = set(schema.get("required", ()))
    asked = model.__name__.endswith(("Ask", "Query", "Page"))
    return ", ".join(
        f"`{name}` {_type(field)}{' (required)' if asked and name in needed else ''}"
        for name, field in schema.get("properties", {}).items()
    )


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"])
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if "enum" in field:
        return " or ".join(str(each) for each in field["enum"])
    if "const" in field:
        return str(field["const"])
    kind = str(field.get("type", "any"))
    if kind == "array":
        inner = field.get("items") or {"type": "number"}
        return f"list of {_type(inner) if isinstance(inner, dict) else 'any'}"
    return "time" if field.get("format") == "date-time" else kind


def _problem(kind: type[errors.SessionError]) -> str:
    again = "yes" if kind.retryable else "no"
    return f"| `{kind.code}` | {kind.status} | {again} | {title_of(kind)} | {kind.action} |\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
