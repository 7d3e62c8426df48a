"""What an answer of an S3 server, or the lack of one, means for us.

A create is only "not written" when the server said so with a 4xx or was never reached; everything else
leaves it open (storage.md 4.4, "Answers of PUT"). Reads are simpler: a clean NoSuchKey, or try again, or
give up.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from storage.errors import (
    AmbiguousWrite,
    CreateConflict,
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

_TRY_AGAIN = frozenset({408, 425, 429})
_TRY_AGAIN_CODES = frozenset(
    {"RequestTimeout", "SlowDown", "Throttling", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"}
)
_ADVICE = {
    "RequestTimeTooSkewed": "set the clock of this machine (NTP)",
    "NoSuchBucket": "make the bucket, or add create=true to the address of the store",
    "InvalidAccessKeyId": "check the access key",
    "SignatureDoesNotMatch": "check the secret key and the region",
    "AccessDenied": "check the keys and what they may do in this bucket",
    "ObjectLocked": "ask again when the lock has ended; who runs the bucket may lift a hold",
    "NotImplemented": "this server lacks conditional writes and cannot be used",
}


def client_error() -> type[Any]:
    """The one exception of botocore that carries an answer; fetched late, like the library."""
    from botocore.exceptions import ClientError

    found: type[Any] = ClientError
    return found


def status(exc: Any) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code(exc: Any) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def is_past_the_end(exc: Any) -> bool:
    return status(exc) == 416


@contextlib.contextmanager
def of_write(name: str) -> Iterator[None]:
    """Around one create."""
    try:
        yield
    except client_error() as exc:
        raise _refused_write(name, exc) from exc
    except _lost() as exc:
        if _never_reached(exc):
            raise StoreUnavailable(name=name, reason=_words(exc)) from exc
        raise AmbiguousWrite(name=name, reason=_words(exc)) from exc


@contextlib.contextmanager
def of_read(name: str) -> Iterator[None]:
    """Around one read, listing or delete: all of them may simply be repeated."""
    try:
        yield
    except client_error() as exc:
        if status(exc) == 404 and code(exc) == "NoSuchKey":
            raise ObjectNotFound(name=name) from exc
        raise _plain(name, exc) from exc
    except _lost() as exc:
        raise StoreUnavailable(name=name, reason=_words(exc)) from exc


@contextlib.contextmanager
def of_bucket(bucket: str, endpoint: str | None) -> Iterator[None]:
    """Around the first look at a bucket."""
    told = endpoint or "AWS"
    try:
        yield
    except client_error() as exc:
        if status(exc) == 404:
            raise StoreRefused(
                bucket=bucket, endpoint=told, reason="no such bucket", advice=_ADVICE["NoSuchBucket"]
            ) from exc
        if status(exc) in {400, 401, 403}:  # HEAD has no body, so the server cannot say which
            raise StoreRefused(
                bucket=bucket,
                endpoint=told,
                reason=f"refused ({status(exc)})",
                advice=_ADVICE["AccessDenied"],
            ) from exc
        raise _plain(bucket, exc) from exc
    except _lost() as exc:
        raise StoreUnavailable(bucket=bucket, endpoint=told, reason=_words(exc)) from exc


def lock_of(name: str, answer: Mapping[str, Any]) -> ObjectLocked | None:
    """Return what keeps a version from being removed, from the answer to a HEAD of it."""
    until = answer.get("ObjectLockRetainUntilDate")
    held = answer.get("ObjectLockLegalHoldStatus") == "ON"
    if not held and until is None:
        return None
    until_ms = None if held or until is None else int(until.timestamp() * 1000)
    return ObjectLocked(
        name=name,
        until_ms=until_ms,
        mode="legal hold" if held else str(answer.get("ObjectLockMode", "")).lower(),
        advice=_ADVICE["ObjectLocked"],
    )


def _refused_write(name: str, exc: Any) -> StoreError:
    answered = status(exc)
    if answered == 412:
        return ObjectExists(name=name)
    if answered == 409:
        return CreateConflict(name=name, code=code(exc))
    if answered == 501:
        return StoreRefused(name=name, code=code(exc), advice=_ADVICE["NotImplemented"])
    if answered >= 500 or answered < 300:
        # A 200 with an error in its body is S3's way of failing late.
        return AmbiguousWrite(name=name, status=answered, code=code(exc))
    return _plain(name, exc)


def _plain(name: str, exc: Any) -> StoreError:
    answered, said = status(exc), code(exc)
    if answered >= 500 or answered in _TRY_AGAIN or said in _TRY_AGAIN_CODES:
        return StoreUnavailable(name=name, status=answered, code=said)
    if answered == 404 and said != "NoSuchBucket":
        return StoreUnavailable(name=name, reason="a 404 that is not the store's own", code=said)
    return StoreRefused(name=name, status=answered, code=said, advice=_ADVICE.get(said, ""))


def _lost() -> tuple[type[Exception], ...]:
    import aiohttp
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError)


def _never_reached(exc: Exception) -> bool:
    """Whether no connection came about, so that no byte can have been sent."""
    import aiohttp
    from botocore import exceptions

    if isinstance(exc, exceptions.ConnectTimeoutError):
        return True
    cause = getattr(exc, "kwargs", {}).get("error", exc)
    return isinstance(cause, aiohttp.ClientConnectorError)


def _words(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"[:300]
