"""Problem documents (RFC 9457): what every failed request is told, in one form with a stable code.

Not a place for texts: they are those of `base/errors.py`. A failure that is not expected is told as
`internal` with a reference and nothing else; its cause is in the log under the same reference.
"""

import json
from typing import Any, Final

from aiohttp import web

from session_service.base import errors
from session_service.http import limits

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/api/v1/docs#"
_STATUS_CODES: Final[dict[int, type[errors.SessionError]]] = {
    404: errors.NotFound,
    405: errors.NoSuchMethod,
    413: errors.TooLarge,
    415: errors.UnsupportedMedia,
}


def title_of(kind: type[errors.SessionError]) -> str:
    """Return the sentence of an error, the same for every time it happens."""
    if kind is errors.SessionError:
        return "The service failed."
    return " ".join((kind.__doc__ or kind.code).strip().partition("\n\n")[0].split())


def document(error: errors.SessionError, reference: str) -> dict[str, Any]:
    """Return the problem document of an error as plain data."""
    return {
        "type": TYPE_PREFIX + error.code,
        "title": title_of(type(error)),
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "action": error.action,
        "facts": dict(error.facts),
        "reference": reference,
    }


def response(error: errors.SessionError, reference: str) -> web.Response:
    """Return the answer for an error, with `Retry-After` where trying again may work."""
    answer = web.Response(
        status=error.status,
        body=json.dumps(document(error, reference)).encode(),
        content_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store"},
    )
    if error.retryable:
        seconds = error.facts.get("retry_after_s")
        wait = seconds if isinstance(seconds, int | float) else limits.RETRY_AFTER_S
        answer.headers["Retry-After"] = str(max(1, round(wait)))
    if isinstance(error, errors.SignInRequired):
        answer.headers["WWW-Authenticate"] = 'Bearer realm="session-service"'
    return answer


def from_http(exc: web.HTTPException) -> errors.SessionError:
    """Return the error of ours for one that aiohttp raised before a handler of ours ran."""
    kind = _STATUS_CODES.get(exc.status)
    if kind is errors.NoSuchMethod and isinstance(exc, web.HTTPMethodNotAllowed):
        return errors.NoSuchMethod(allowed=", ".join(sorted(exc.allowed_methods)))
    if kind is errors.TooLarge:
        return errors.TooLarge(limit_bytes=limits.JSON_BODY_BYTES_MAX)
    if kind is not None:
        return kind()
    if 400 <= exc.status < 500:
        return errors.BadInput(exc.reason)
    return errors.SessionError("The service failed; the reference finds the cause in its log.")
