"""The worker's calls of the second store: replicate, verify, repair, promote; and the machine's own witness.

Not the schedule (`control/replication.py`) and not the rules, which are storage's own. The witness is a small
file beside the master key: which store this machine knows to be the main one. An older main store that comes
back is refused by it even where nobody else is there to ask.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

import storage
from session_service.base import errors, rpc
from session_service.base.ids import ulid_to_hex
from session_service.ports.checkpoints import WorkspaceName
from session_service.ports.replication import Repaired, ReplicaLook, SecondProof, SecondStatus

CALLS: Final = ("replicate", "second_status", "verify_second", "repair", "promote")
WITNESS: Final = "main-store"
"""Beside the master key."""
Level = Literal["structure", "sample", "full"]
LEVELS: Final[tuple[Level, ...]] = ("structure", "sample", "full")


class Replicate(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    whole: bool = False
    receipts: tuple[str, ...] = ()


class SecondAsk(msgspec.Struct, frozen=True, kw_only=True):
    probe: bool = False


class VerifySecond(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    level: Level


def verify_second(workspace: WorkspaceName, level: str) -> VerifySecond:
    """Return the call with a checked level. Raises BadInput."""
    for known in LEVELS:
        if known == level:
            return VerifySecond(workspace=workspace, level=known)
    raise errors.BadInput(f"a level is one of {', '.join(LEVELS)}", level=level)


class Promote(msgspec.Struct, frozen=True, kw_only=True):
    actor: str
    reason: str


def read_witness(folder: Path) -> bytes | None:
    """Return what this machine knows of the main store, or None if it never had a second one."""
    try:
        return (folder / WITNESS).read_bytes()
    except FileNotFoundError:
        return None


def write_witness(folder: Path, kept: bytes | None) -> None:
    """Keep it, durably; nothing is written where nothing changed."""
    if kept is None or kept == read_witness(folder):
        return
    draft = folder / f"{WITNESS}.{os.getpid()}.new"
    with open(draft, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / WITNESS)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _ref(workspace: WorkspaceName) -> storage.WorkspaceRef:
    return storage.WorkspaceRef(
        tenant=ulid_to_hex(workspace.tenant_id), workspace=ulid_to_hex(workspace.workspace_id)
    )


class ReplicaCalls:
    """Answers them. `opened` opens the main store, `second` the other one as if it were the main one."""

    def __init__(
        self,
        *,
        opened: Callable[[], Awaitable[storage.Storage]],
        second: Callable[[], Awaitable[storage.Storage]],
        main_spec: storage.StoreSpec,
        second_spec: storage.StoreSpec | None,
        keys_folder: Path,
        clock_ms: Callable[[], int],
    ) -> None:
        self._opened = opened
        self._second = second
        self._main_spec = main_spec
        self._second_spec = second_spec
        self._keys_folder = keys_folder
        self._clock_ms = clock_ms

    async def replicate(self, call: rpc.Call) -> ReplicaLook:
        ask = call.params(Replicate)
        look = await (await self._opened()).replicate(
            _ref(ask.workspace),
            whole=ask.whole,
            receipts=[ulid_to_hex(session) for session in ask.receipts],
        )
        return ReplicaLook(
            state=look.state,
            main_seq=look.main_seq,
            replica_seq=look.replica_seq,
            behind_entries=look.behind_entries,
            behind_bytes=look.behind_bytes,
            oldest_ms=look.oldest_ms,
            copied_objects=look.copied_objects,
            copied_bytes=look.copied_bytes,
            removed_objects=look.removed_objects,
            faults=look.faults,
            error=look.error,
        )

    async def second_status(self, call: rpc.Call) -> SecondStatus:
        call.params(SecondAsk)
        url = self._required().url
        spared: tuple[tuple[str, str], ...] = ()
        try:
            opened = await self._opened()
            spared = tuple(opened.spared().items())
            verdict = await opened.probe_second()
        except (errors.SessionError, storage.StorageError) as exc:
            return SecondStatus(url=url, usable=False, error=str(exc), spared=spared)
        failed = [one.words for one in verdict.checks if one.needed and not one.passed]
        return SecondStatus(
            url=url,
            usable=verdict.usable,
            error="; ".join(failed),
            verdict=tuple((one.name, one.passed, one.words) for one in verdict.checks),
            spared=spared,
        )

    async def verify_second(self, call: rpc.Call) -> SecondProof:
        ask = call.params(VerifySecond)
        self._required()
        store, ref = await self._second(), _ref(ask.workspace)
        head = await store.head(ref)
        if head is None:
            return SecondProof(seq=0, newest_seq=None, newest_scan_ms=None, faults=())
        report = await store.verify(ref, level=ask.level)
        newest = head.newest
        return SecondProof(
            seq=head.seq,
            newest_seq=newest.seq if newest is not None else None,
            newest_scan_ms=newest.scan_ms if newest is not None else None,
            faults=report.faults,
        )

    async def repair(self, call: rpc.Call) -> Repaired:
        ask = call.params(Replicate)
        done = await (await self._opened()).repair(_ref(ask.workspace))
        return Repaired(objects=done.objects, left=done.left)

    async def promote(self, call: rpc.Call) -> str:
        ask = call.params(Promote)
        spec = self._required()
        kept = await storage.promote_second(
            spec,
            self._main_spec,
            kept=read_witness(self._keys_folder),
            clock_ms=self._clock_ms,
            actor=ask.actor,
            reason=ask.reason,
        )
        write_witness(self._keys_folder, kept)  # from now on no worker of this machine opens the old one
        return spec.url

    def _required(self) -> storage.StoreSpec:
        if self._second_spec is None:
            raise errors.BadInput("There is no second store: set store.second_url.", field="second_url")
        return self._second_spec
