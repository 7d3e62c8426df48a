"""OpenAPI 3.1 and the readable page, made from the table of routes.

Nothing is written twice: summaries, models, rights and codes come from the table, so a route cannot lack
any of them. The page needs no script and loads one style sheet of its own.
"""

import html
import re
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from session_service.base import errors
from session_service.http import answers, idempotency
from session_service.http.callers import OWN_HEADER, SAFE_METHODS
from session_service.http.problems import MEDIA_TYPE, title_of
from session_service.http.routes import API, Route

_REF: Final = "#/components/schemas/{model}"
_DESCRIPTION: Final = (
    "Remote desktops that survive dropped links. Times are ISO 8601 UTC; unknown is null, never 0. "
    "Lists have a `cursor`; every failure is a problem document with a stable `code`. "
    f"A browser's unsafe requests carry `{OWN_HEADER}: 1` and an Origin of this service; "
    "programs send `Authorization: Bearer`."
)
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


def errors_of(route: Route) -> tuple[type[errors.SessionError], ...]:
    """Return every error that a route may answer with: its own and those that its form brings along."""
    found: list[type[errors.SessionError]] = list(route.may_fail_with)
    if route.path != "/healthz":
        found.append(errors.RegistryUnavailable)
    if route.access.role is not None:
        found += [errors.SignInRequired, errors.NotAllowed]
    if route.method not in SAFE_METHODS:
        found.append(errors.OriginRefused)
    if _PARAMETER.search(route.path):
        found.append(errors.NotFound)
    found += [errors.BadInput, errors.TooLarge]  # a body where none is taken is looked at, too
    if route.body is not None:
        found.append(errors.UnsupportedMedia)
    if route.idempotent:
        found.append(errors.IdempotencyMismatch)
    if route.if_match:
        found.append(errors.GenerationMoved)
    found.append(errors.SessionError)
    return tuple(dict.fromkeys(found))


def document(routes: tuple[Route, ...], *, version: str) -> dict[str, Any]:
    """Return the OpenAPI document as plain data."""
    models: list[type[BaseModel]] = [answers.ProblemOut]
    for route in routes:
        models += [model for model in (route.body, route.answer) if model is not None]
    _, schemas = models_json_schema(
        [(model, "serialization" if issubclass(model, answers.Answer) else "validation") for model in models],
        ref_template=_REF,
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "session-service", "version": version, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "cookie": {"type": "apiKey", "in": "cookie", "name": "__Host-session"},
                "token": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": rights(route),
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route),
        "security": [] if route.access.role is None else [{"cookie": []}, {"token": []}],
    }
    if route.body is not None:
        schema = {"$ref": _REF.format(model=route.body.__name__)}
        required = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    if route.raw_body:
        operation["requestBody"] = {"required": True, "content": {route.raw_body: {}}}
    return operation


def rights(route: Route) -> str:
    """Return who may use a route, in words."""
    access = route.access
    if access.role is None:
        return "Nobody needs to be signed in."
    return f"Role {access.role} or more, scope `{access.scope}`. {access.words}".strip()


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        schema = route.query.model_json_schema()
        for name, field in schema["properties"].items():
            found.append(
                {"name": name, "in": "query", "required": name in schema.get("required", []), "schema": field}
            )
    if route.idempotent:
        found.append({"name": idempotency.HEADER, "in": "header", "schema": {"type": "string"}})
    if route.if_match:
        found.append({"name": "If-Match", "in": "header", "schema": {"type": "string"}})
    return found


def _responses(route: Route) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if route.answer is not None:
        good["content"] = {route.media: {"schema": {"$ref": _REF.format(model=route.answer.__name__)}}}
    elif route.status != 204:
        good["content"] = {route.media: {}}
    responses = {str(route.status): good}
    by_status: dict[int, list[str]] = {}
    for error in errors_of(route):
        by_status.setdefault(error.status, []).append(error.code)
    problem = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="ProblemOut")}}}
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {"description": ", ".join(sorted(codes)), "content": problem}
    if route.name == "startSession":
        responses["200"] = {**good, "description": "The open session of this workspace."}
    return dict(sorted(responses.items()))


def all_errors(routes: tuple[Route, ...]) -> tuple[type[errors.SessionError], ...]:
    """Return every error of the service by code: the API passes each of them on as it is."""
    found: dict[str, type[errors.SessionError]] = {}
    waiting: list[type[errors.SessionError]] = [errors.SessionError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__ == errors.__name__:
            found[kind.code] = kind
        waiting.extend(kind.__subclasses__())
    for route in routes:
        found |= {kind.code: kind for kind in errors_of(route)}
    return tuple(found[code] for code in sorted(found))


def page(routes: tuple[Route, ...], *, version: str) -> str:
    """Return the readable page."""
    rows = []
    for route in routes:
        codes = ", ".join(f"<a href='#{kind.code}'>{kind.code}</a>" for kind in errors_of(route))
        models = " → ".join(
            f"<code>{model.__name__}</code>" for model in (route.body, route.answer) if model is not None
        )
        rows.append(
            f"<section id='{route.name}'><h3><code>{route.method} {html.escape(route.path)}</code></h3>"
            f"<p>{html.escape(route.summary)} {html.escape(rights(route))}</p>"
            f"<p>{models}</p><p class='codes'>{codes}</p></section>"
        )
    faults = "".join(
        f"<tr id='{kind.code}'><td><code>{kind.code}</code></td><td>{kind.status}</td>"
        f"<td>{html.escape(title_of(kind))}</td><td>{html.escape(kind.action)}</td></tr>"
        for kind in all_errors(routes)
    )
    return (
        "<!doctype html><html lang='en-GB'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>API of session-service {html.escape(version)}</title>"
        f"<link rel='stylesheet' href='{API}/docs.css'></head><body><main>"
        f"<h1>API of session-service {html.escape(version)}</h1><p>{html.escape(_DESCRIPTION)}</p>"
        f"<p>For programs: <a href='{API}/openapi.json'>openapi.json</a>.</p>"
        f"<h2>Addresses</h2>{''.join(rows)}<h2>Problems</h2>"
        "<table><thead><tr><th>Code</th><th>Status</th><th>Meaning</th><th>What to do</th></tr></thead>"
        f"<tbody>{faults}</tbody></table></main></body></html>"
    )


STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem; }
section { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: .5rem 0; }
h3 { margin: .5rem 0; font-size: 1rem; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, monospace; }
.codes { font-size: .85rem; opacity: .8; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; display: block; overflow-x: auto; }
td, th { text-align: start; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #8884; }
:target { outline: 2px solid; }
"""
