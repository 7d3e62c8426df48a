"""The worker's calls of upkeep: forget, keep, collect, diff.

Not the schedule (`control/upkeep.py`) and not the rules, which are storage's own.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

import storage
from session_service.base import errors, rpc
from session_service.base.ids import ulid_to_hex
from session_service.checkpoints import translate
from session_service.checkpoints.emitter import Emitter
from session_service.ports.checkpoints import CheckpointInfo, WorkspaceName
from session_service.ports.upkeep import Difference, ForeignLook, KeepRule, PathChange, Upkept

CALLS: Final = ("forget", "keep", "collect", "diff", "conflicts", "foreign", "step_over", "told")


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
    forget: KeepRule | None
    """Also forget what this lets go."""
    witness: tuple[int, bytes] | None = None
    renew_index: bool = False


class StepOver(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    confirmed: list[tuple[int, bytes]]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    seqs: list[int]
    actor: str


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


def _retention(rule: KeepRule) -> storage.Retention:
    return storage.Retention(
        keep_last=rule.keep_last,
        hourly=rule.keep_hourly,
        daily=rule.keep_daily,
        weekly=rule.keep_weekly,
        monthly=rule.keep_monthly,
        within_ms=int(rule.keep_within_s * 1000),
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
            seq, reason = str(exc.facts["seq"]), str(exc.facts["reason"])
            raise errors.Conflict(f"Checkpoint {seq} stays: {reason}.") from exc

    async def keep(self, call: rpc.Call) -> None:
        ask = call.params(Keep)
        await (await self._opened()).keep(
            _ref(ask.workspace), seq=ask.seq, pin=ask.pin, actor=ask.actor, reason=ask.reason
        )

    async def collect(self, call: rpc.Call) -> Upkept:
        ask = call.params(Collect)
        report = await (await self._opened()).collect(
            _ref(ask.workspace),
            policy=None if ask.forget is None else _retention(ask.forget),
            actor=ask.actor,
            witness=ask.witness,
            renew_index=ask.renew_index,
            progress=Emitter(call),
        )
        return Upkept(
            forgotten=report.forgotten,
            deleted_objects=report.deleted_objects,
            deleted_bytes=report.deleted_bytes,
            retired_packs=report.retired_packs,
            repacked_packs=report.repacked_packs,
            orphans=report.orphans,
            retired_bytes=report.retired_bytes,
            folded_entries=report.folded_entries,
            adopted=len(report.adopted),
            refused=report.refused,
            contended=report.contended,
            clocks_apart=report.clocks_apart,
        )

    async def foreign(self, call: rpc.Call) -> list[ForeignLook]:
        ask = call.params(Named)
        found = await (await self._opened()).foreign(_ref(ask.workspace))
        return [ForeignLook(seq=one.seq, hash=one.hash, size=one.size, why=one.why) for one in found]

    async def step_over(self, call: rpc.Call) -> int:
        ask = call.params(StepOver)
        try:
            return await (await self._opened()).step_over(_ref(ask.workspace), confirmed=ask.confirmed)
        except storage.ChainBroken as exc:
            raise errors.Conflict(f"Nothing was stepped over: {exc}") from exc

    async def told(self, call: rpc.Call) -> None:
        ask = call.params(Told)
        await (await self._opened()).told(_ref(ask.workspace), seqs=ask.seqs, actor=ask.actor)

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
        return Difference(changes=changes, more=found.more, left_out=translate.left_out(found.left_out))

    async def conflicts(self, call: rpc.Call) -> list[CheckpointInfo]:
        ask = call.params(Named)
        found = await (await self._opened()).conflicts(_ref(ask.workspace))
        return [translate.info(item) for item in found]
