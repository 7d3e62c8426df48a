"""Turns the plain data of `storage` into the structs of our ports, and its errors into ours. No decision
is made here.
"""

from collections.abc import Iterable
from typing import Final

import storage
from session_service.base import errors
from session_service.base.ids import hex_to_ulid
from session_service.checkpoints import keyring
from session_service.ports import checkpoints as port
from session_service.ports import damage

_REFUSED: Final = (storage.StoreRefused, storage.StoreUnsafe)


def path(raw: bytes) -> str:
    """Show a name of any bytes as text: what is not UTF-8, and control characters, as \\xNN."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def error(exc: storage.StorageError) -> errors.SessionError:
    """Return our error for one of storage's; its code and facts stay readable."""
    words = f"{_sentence(exc)} ({exc})"
    facts = {"storage_code": exc.code}
    if isinstance(exc, storage.FenceMoved):
        return errors.FenceMoved(words, **facts)
    if isinstance(exc, storage.WorkspaceErased):
        return errors.WorkspaceErased(**facts)
    if isinstance(exc, _REFUSED):
        return errors.StorageRefused(words, **facts)
    if isinstance(exc, storage.TargetFull):
        return errors.NoRoom("The disk of this machine has no room for what is to be restored.", **facts)
    if isinstance(exc, storage.NoSuchCheckpoint | storage.PathMissing):
        return errors.NotFound(f"{_sentence(exc)} ({_values(exc)})", **facts)
    if isinstance(exc, storage.ObjectNotFound):
        return errors.NotFound(words, **facts)
    found = storage.damage_of(exc)
    if found is not None:
        words = f"{found.object or 'An object'} of the store is damaged: {found.reason}"
        return errors.FilesDamaged(words, object=found.object, **facts)
    if exc.retryable:
        return errors.StorageUnavailable(words, **facts)
    return errors.StorageRefused(words, **facts)


def _sentence(exc: storage.StorageError) -> str:
    """Return what an error of this kind is, in the words of its class."""
    paragraph = " ".join((exc.__doc__ or exc.code).partition("\n\n")[0].split())
    return f"{paragraph.partition('. ')[0].rstrip('.')}."


def _values(exc: storage.StorageError) -> str:
    values = (path(one) if isinstance(one, bytes) else str(one) for one in exc.facts.values())
    return ", ".join(values)


def progress(value: storage.Progress) -> port.Progress:
    return port.Progress(stage=value.stage, done=value.done, total=value.total, unit=value.unit)


def _bad(paths: Iterable[storage.BadPath]) -> tuple[port.BadPath, ...]:
    return tuple(port.BadPath(path=path(one.path), grade=one.grade, error=one.error) for one in paths)


def left_out(paths: Iterable[storage.LeftOut]) -> tuple[damage.LeftOut, ...]:
    """What a damaged object kept from being given, as it is told to the service."""
    return tuple(
        damage.LeftOut(path=path(one.path), kind=one.kind, object=one.object, reason=one.reason)
        for one in paths
    )


def info(value: storage.CheckpointInfo) -> port.CheckpointInfo:
    return port.CheckpointInfo(
        seq=value.seq,
        hash=value.hash,
        fence=value.fence,
        session_id=hex_to_ulid(value.session),
        scan_ms=value.scan_ms,
        reason=value.reason,
        complete=value.complete,
        final=value.final,
        frozen=value.frozen,
        entries=value.entries,
        bytes=value.bytes,
        new_stored_bytes=value.new_stored_bytes,
        skipped=value.skipped,
        fuzzy=value.fuzzy,
        unreadable=value.unreadable + value.stale,
        bad_paths=_bad(value.bad_paths),
        pinned=value.pinned,
        side=value.side,
    )


def head(value: storage.LogHead) -> port.LogHead:
    newest = None if value.newest is None else info(value.newest)
    return port.LogHead(fence=value.fence, seq=value.seq, hash=value.hash, newest=newest)


def result(value: storage.CheckpointResult) -> port.CheckpointResult:
    return port.CheckpointResult(
        info=info(value.info),
        unchanged=value.unchanged,
        saved_as_of_ms=value.saved_as_of_ms,
        scan_s=value.scan_s,
        total_s=value.total_s,
    )


def entry(value: storage.EntryInfo) -> port.FolderEntry:
    return port.FolderEntry(
        name=path(value.name),
        raw_name=value.name,
        kind=value.kind,
        size=value.size,
        mode=value.mode,
        mtime_ms=value.mtime_ms,
        grade=value.grade,
        link_target=path(value.link_target),
    )


def page(value: storage.FolderPage) -> port.FolderPage:
    return port.FolderPage(entries=[entry(one) for one in value.entries], more=value.more)


def restored(home: str, value: storage.RestoreReport, seconds: float) -> port.RestoreReport:
    return port.RestoreReport(
        home=home,
        seq=value.seq,
        entries=value.entries,
        bytes=value.bytes,
        not_made=_bad(value.not_made),
        differs=_bad(value.differences),
        seconds=seconds,
        seeded_bytes=value.seeded_bytes,
        left_out=left_out(value.left_out),
        left_out_count=value.left_out_count,
    )


def watching(tally: storage.WatchTally) -> port.WatchLook:
    """How a worker learns of changes, as it is told to the service."""
    return port.WatchLook(
        mode=tally.mode,
        folders=tally.folders,
        folders_max=tally.folders_max,
        homes=tally.homes,
        homes_unwatched=tally.homes_unwatched,
        scans=tally.scans,
        silent=tally.silent,
    )


def traffic(worker: int, since_ms: int, value: storage.StoreTraffic) -> port.TrafficLook:
    """What a worker asked of the store, as it is told to the service."""
    return port.TrafficLook(
        worker=worker,
        since_ms=since_ms,
        requests=value.requests,
        failures=value.failures,
        sent_bytes=value.sent_bytes,
        fetched_bytes=value.fetched_bytes,
    )


def status(url: str, verdict: storage.ProbeVerdict, key: bytes, *, safe: bool) -> port.StoreStatus:
    """`safe` says whether losing this machine would lose no key."""
    failed = [check.words for check in verdict.checks if check.needed and not check.passed]
    return port.StoreStatus(
        url=url,
        usable=verdict.usable,
        verdict=tuple((check.name, check.passed, check.needed, check.words) for check in verdict.checks),
        error="; ".join(failed),
        key_backed_up=safe,
        key_id=keyring.name_of(key),
    )
