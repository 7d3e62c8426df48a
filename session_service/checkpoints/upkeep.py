"""The worker's calls of upkeep: forget, keep, collect, diff.

Not the schedule (`control/upkeep.py`) and not the rules, which are storage's own. The policy is storage's
default until policies carry one.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

import storage
from session_service.base import errors, rpc
from session_service.base.ids import ulid_to_hex
from session_service.checkpoints import translate
from session_service.ports.checkpoints import CheckpointInfo, WorkspaceName
from session_service.ports.upkeep import Difference, PathChange, Upkept

CALLS: Final = ("forget", "keep", "collect", "diff", "conflicts")


class Forget(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    seqs: list[int]
    actor: str
    reason: str


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    seq: int
    pin: bool
    actor: str
    reason: str


class Collect(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    actor: str
    forget: bool
    """Also forget what the policy lets go."""
    witness: tuple[int, bytes] | None = None


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    before: int
    after: int


class Named(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName


def _ref(workspace: WorkspaceName) -> storage.WorkspaceRef:
    return storage.WorkspaceRef(
        tenant=ulid_to_hex(workspace.tenant_id), workspace=ulid_to_hex(workspace.workspace_id)
    )


class UpkeepCalls:
    """Answers them, on the storage that the worker opens."""

    def __init__(self, opened: Callable[[], Awaitable[storage.Storage]]) -> None:
        self._opened = opened

    async def forget(self, call: rpc.Call) -> None:
        ask = call.params(Forget)
        try:
            await (await self._opened()).forget(
                _ref(ask.workspace), seqs=ask.seqs, actor=ask.actor, reason=ask.reason
            )
        except storage.MustBeKept as exc:
            seq, reason = exc.facts["seq"], exc.facts["reason"]
            raise errors.Conflict(f"Checkpoint {seq!r} stays: {reason!r}.") from exc

    async def keep(self, call: rpc.Call) -> None:
        ask = call.params(Keep)
        await (await self._opened()).keep(
            _ref(ask.workspace), seq=ask.seq, pin=ask.pin, actor=ask.actor, reason=ask.reason
        )

    async def collect(self, call: rpc.Call) -> Upkept:
        ask = call.params(Collect)
        report = await (await self._opened()).collect(
            _ref(ask.workspace),
            policy=storage.Retention() if ask.forget else None,
            actor=ask.actor,
            witness=ask.witness,
        )
        return Upkept(
            forgotten=report.forgotten,
            deleted_objects=report.deleted_objects,
            deleted_bytes=report.deleted_bytes,
            retired_packs=report.retired_packs,
            orphans=report.orphans,
            retired_bytes=report.retired_bytes,
            folded_entries=report.folded_entries,
            refused=report.refused,
        )

    async def diff(self, call: rpc.Call) -> Difference:
        ask = call.params(Diff)
        found = await (await self._opened()).diff(_ref(ask.workspace), before=ask.before, after=ask.after)
        changes = tuple(
            PathChange(
                path=translate.path(one.path),
                what=one.what,
                size_before=one.size_before,
                size_after=one.size_after,
            )
            for one in found.changes
        )
        return Difference(changes=changes, more=found.more)

    async def conflicts(self, call: rpc.Call) -> list[CheckpointInfo]:
        ask = call.params(Named)
        found = await (await self._opened()).conflicts(_ref(ask.workspace))
        return [translate.info(item) for item in found]
