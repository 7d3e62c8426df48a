"""The errors of the service: facts with a stable code, not sentences.

Each class has `code` (stable: API, metrics, tests), `retryable` and `status` (what HTTP answers); `facts`
are plain data that
may be shown to the caller, `action` says what to do next. Broken invariants are assertions and are not here.
"""

from collections.abc import Mapping
from typing import ClassVar


class SessionError(Exception):
    """Root of every expected failure of `session_service`."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500
    action: ClassVar[str] = "Report this with the reference of the request."

    def __init__(self, detail: str = "", **facts: str | int | float | bool | None) -> None:
        super().__init__(detail or (self.__doc__ or "").strip().splitlines()[0])
        self.detail = str(self)
        self.facts: Mapping[str, str | int | float | bool | None] = facts


class NotFound(SessionError):
    """There is nothing of this name for you."""

    code, status, action = "not_found", 404, "Check the address, or sign in with the account that owns it."


class NotAllowed(SessionError):
    """Your account may not do this."""

    code, status, action = "not_allowed", 403, "Ask an administrator, or sign in with another account."


class SignInRequired(SessionError):
    """You are not signed in, or your sign-in has expired."""

    code, status, action = "sign_in_required", 401, "Sign in and try again; nothing was lost."


class WrongPassword(SessionError):
    """Account or password is not right."""

    code, status, action = "wrong_password", 401, "Try again; after several failures there is a pause."


class TooManyAttempts(SessionError):
    """Too many attempts; there is a pause before the next one counts."""

    code, retryable, status, action = (
        "too_many_attempts",
        True,
        429,
        "Wait the time that is named, then try again.",
    )


class BadInput(SessionError):
    """What was sent has not the form that is documented."""

    code, status, action = "bad_input", 422, "Correct the field that is named and send it again."


class Conflict(SessionError):
    """Somebody else changed the record first; nothing was changed by this request."""

    code, retryable, status, action = "conflict", True, 409, "Read the record again and decide anew."


class TransitionRefused(SessionError):
    """The lifecycle does not allow this event in this state; nothing changed."""

    code, status, action = "transition_refused", 409, "Read the session's state; it may have moved on."


class RegistryUnavailable(SessionError):
    """The registry does not answer; nothing destructive is decided without it."""

    code, retryable, status = "registry_unavailable", True, 503
    action = "Free disk space or repair the registry's disk; the service goes on by itself."


class StorageUnavailable(SessionError):
    """The object store does not answer; desktops are kept until it does."""

    code, retryable, status = "storage_unavailable", True, 503
    action = "Bring the object store back; nothing else needs to be done."


class StorageRefused(SessionError):
    """The object store refuses us for good: wrong credentials, no bucket, or broken semantics."""

    code, status, action = (
        "storage_refused",
        503,
        "Run `session-service doctor`; it names the setting to correct.",
    )


class WorkspaceErased(StorageRefused):
    """What was saved of this workspace was erased on purpose, for ever."""

    code, status, action = (
        "workspace_erased",
        410,
        "The tombstone says who did it and why; start with a new account or a new workspace.",
    )


class FilesDamaged(StorageRefused):
    """What was asked for needs an object of the store that is damaged or missing."""

    code, status, action = (
        "files_damaged",
        409,
        "Older checkpoints start, all else can be fetched. `replica repair` or a backup brings it back.",
    )


class FenceMoved(SessionError):
    """Another owner has taken the workspace over; this one writes nothing more to its main line."""

    code, status, action = "fence_moved", 409, "Nothing; the newer owner goes on."


class CheckpointIncomplete(SessionError):
    """Some files could not be read; a close needs them saved, or accepted by name."""

    code, status, action = "checkpoint_incomplete", 409, "Make the named files readable, or accept the list."


class OlderOnly(SessionError):
    """The newest checkpoint is not there or not whole; only an older state can be started."""

    code, status, action = "older_only", 409, "Choose the checkpoint to start with; nothing is deleted."


class DesktopStartFailed(SessionError):
    """The desktop did not become ready; its last words are kept."""

    code, status, action = (
        "desktop_start_failed",
        503,
        "Read the last words; `session-service doctor` checks the parts.",
    )


class SandboxImpossible(SessionError):
    """No sandbox can be made on this machine, so no desktop is started in one."""

    code, status = "sandbox_impossible", 503
    action = "Allow user namespaces (doctor says how), or set sandbox = off knowingly."


class DesktopGone(SessionError):
    """The desktop named by this handle does not exist any more."""

    code, status, action = "desktop_gone", 410, "Start a new desktop; it begins with the saved files."


class ProofRequired(SessionError):
    """Nothing is ended or wiped without a proof that its files are saved."""

    code, status, action = "proof_required", 409, "Save first; the proof comes from the verified checkpoint."


class FreezeFailed(SessionError):
    """A process of the desktop could not be frozen; the close waits."""

    code, retryable, status, action = (
        "freeze_failed",
        True,
        503,
        "See the alarm for the process; it is tried again.",
    )


class NoRoom(SessionError):
    """This machine has no memory or disk left for another desktop."""

    code, retryable, status = "no_room", True, 503
    action = "End a desktop, or free memory or disk; running desktops are not touched."


class HoldExpired(SessionError):
    """The session was not resumed in time and is closing or closed."""

    code, status, action = "hold_expired", 410, "Start a new desktop; it begins with the saved files."


class AuditBroken(SessionError):
    """The audit chain does not verify: a record was changed or removed."""

    code, status, action = (
        "audit_broken",
        500,
        "Keep the file, restore the last good backup beside it, and compare.",
    )


class NoSuchMethod(SessionError):
    """This address does not take this method."""

    code, status, action = "method_not_allowed", 405, "Use one of the methods that `Allow` names."


class TooLarge(SessionError):
    """What was sent is larger than the limit."""

    code, status, action = "too_large", 413, "Send less; the limit is named in the facts."


class UnsupportedMedia(SessionError):
    """The body is of a type that this address does not take."""

    code, status, action = "unsupported_media_type", 415, "Send it as the type that the documentation names."


class GenerationMoved(SessionError):
    """The record is not at the generation that If-Match named; nothing was changed."""

    code, status, action = "generation_moved", 412, "Read the record again and decide anew."


class IdempotencyMismatch(SessionError):
    """This Idempotency-Key was used for another request; nothing was done."""

    code, status, action = "idempotency_mismatch", 409, "Use a fresh key for each new request."


class OriginRefused(SessionError):
    """The request does not come from a page of this service."""

    code, status = "origin_refused", 403
    action = "Open the service at its own address; programs use a token instead of a cookie."


class WrongSetupCode(SessionError):
    """The setup code is not right, or its time is over."""

    code, status, action = "wrong_setup_code", 401, "Type the newest code that the terminal shows."


class SetupDone(SessionError):
    """This service has an administrator already."""

    code, status, action = "setup_done", 409, "Sign in, or ask the administrator for an account."


class NameTaken(SessionError):
    """This name is in use already; nothing was changed."""

    code, status, action = "name_taken", 409, "Choose another name."


class TooManyStreams(SessionError):
    """Too many live event streams are open."""

    code, retryable, status, action = "too_many_streams", True, 503, "Close a page, then try again."


class Misdirected(SessionError):
    """A link was asked for on a connection that carries pages already."""

    code, status = "misdirected", 421
    action = "Dial again on a fresh connection; a proxy must not reuse one for an upgrade."


class PartUnavailable(SessionError):
    """Another part of the service does not answer; it is being started again."""

    code, retryable, status, action = "part_unavailable", True, 503, "Wait a second and try again."


class PartRefused(SessionError):
    """Another part of the service failed in a way that has no code of its own."""

    code, status, action = "part_refused", 500, "Report this with the reference of the request."


class NotTheService(PartRefused):
    """Something else answers in the service's place: a network that wants a sign-in, or a proxy."""

    code, retryable, status = "not_the_service", True, 502
    action = "Sign in to this network, or look at what stands in between; it is tried again by itself."


def _tree(root: type[SessionError]) -> dict[str, type[SessionError]]:
    """Return the classes by code; a special case that has the code of its kind is told as its kind."""
    found: dict[str, type[SessionError]] = {}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found | {root.code: root}


def by_code(code: str) -> type[SessionError]:
    """Return the class of a stable code, so that an error keeps its identity across processes."""
    return _tree(SessionError).get(code, PartRefused)
