"""The second store for operators and administrators: how far it is, compare, check, repair, take its place.

Not copying itself (`control/replication.py` decides when, the workers do it). Whatever changes anything is in
the audit log before it is done.
"""

import asyncio
from typing import Annotated, Final, Literal

from pydantic import Field

from session_service.base import errors
from session_service.control.replication import Copy, Replication
from session_service.http import access, answers, asks, audit, limits
from session_service.http.instants import iso
from session_service.http.routes import API, Access, Exchange, Reply, Route, workspace_id

LONG_S: Final = 3600.0
"""For a check or a repair of one workspace. Over it: `storage_unavailable`."""
_ADMIN: Final = Access(role="administrator", scope="admin")


class ReplicaOut(answers.Answer):
    """How far the second copy of one workspace is."""

    workspace_id: str
    state: Annotated[
        str,
        Field(description="in_step, behind, away, refused, diverged, damaged, erased, none or unknown"),
    ]
    behind_entries: int
    behind_bytes: int
    behind_seconds: Annotated[float, Field(description="age of the oldest checkpoint that is not there")]
    replica_seq: int | None
    looked_at: answers.Instant | None
    faults: list[str]
    error: str


class SparedOut(answers.Answer):
    """An object of the main store that was read from the second one."""

    object: str
    what: str


class SecondStoreOut(answers.Answer):
    """The second store, and all workspaces together."""

    configured: bool
    required: Annotated[str, Field(description="close: a close waits for the second copy; off")]
    url: str | None
    usable: bool | None
    error: str
    in_step: bool
    behind_entries: int
    behind_bytes: int
    behind_seconds: float
    workspaces: list[ReplicaOut]
    spared: list[SparedOut]


class SecondVerifyAsk(asks.Ask):
    """How closely to look."""

    level: Literal["structure", "sample", "full"] = "structure"


class SecondVerifyOut(answers.Answer):
    """What stands on the second store, looked at as if it were the only one."""

    entries: int
    newest_checkpoint: int | None
    newest_saved_as_of: answers.Instant | None
    faults: list[str]


class RepairOut(answers.Answer):
    """What came back into the main store."""

    objects: list[str]
    left: Annotated[list[str], Field(description="What could not be repaired, with the reason.")]


class PromoteAsk(asks.Ask):
    """The second store's address, typed again, and why."""

    url: Annotated[str, Field(min_length=1, max_length=1_000)]
    reason: Annotated[str, Field(min_length=1, max_length=limits.REASON_LENGTH_MAX)]


class PromoteOut(answers.Answer):
    """What is the main store now: set store.url to it and start again."""

    url: str


async def show_second_store(exchange: Exchange) -> SecondStoreOut:
    """Say how far the second store is; the store itself is asked, and not waited for long."""
    second = exchange.services.control.second()
    if second is None:
        return SecondStoreOut(
            configured=False, required="off", url=None, usable=None, error="", in_step=False,
            behind_entries=0, behind_bytes=0, behind_seconds=0.0, workspaces=[], spared=[],
        )  # fmt: skip
    try:
        async with asyncio.timeout(limits.STATUS_S):
            status = await second.second.second_status()
    except (errors.SessionError, TimeoutError):
        status = None
    rows = [_row(second, copy) for copy in second.copies()]
    return SecondStoreOut(
        configured=True,
        required="close" if second.required else "off",
        url=status.url if status else None,
        usable=status.usable if status else None,
        error=status.error if status else "It did not answer in time.",
        in_step=all(row.state in ("in_step", "erased", "none") for row in rows),
        behind_entries=sum(row.behind_entries for row in rows),
        behind_bytes=sum(row.behind_bytes for row in rows),
        behind_seconds=second.lag_ms() / 1000,
        workspaces=rows,
        spared=[SparedOut(object=name, what=what) for name, what in (status.spared if status else ())],
    )


def _row(second: Replication, copy: Copy) -> ReplicaOut:
    look = copy.look
    return ReplicaOut(
        workspace_id=copy.name.workspace_id,
        state=look.state if look else "unknown",
        behind_entries=look.behind_entries if look else 0,
        behind_bytes=look.behind_bytes if look else 0,
        behind_seconds=second.lag_ms(copy) / 1000,
        replica_seq=look.replica_seq if look else None,
        looked_at=iso(copy.looked_at_ms) if copy.looked_at_ms is not None else None,
        faults=list(look.faults) if look else [],
        error=look.error if look else "",
    )


async def compare_second_store(exchange: Exchange) -> Reply:
    """Compare every workspace with its second copy as soon as possible, instead of within the hour."""
    second = _required(exchange)
    await audit.record(exchange, audit.entry(exchange, "replica.compared"))
    second.compare_soon()
    return Reply(body=None, status=204)


async def verify_second_copy(exchange: Exchange) -> SecondVerifyOut:
    """Check the second copy of a workspace, without the main store."""
    ask, second = exchange.body(SecondVerifyAsk), _required(exchange)
    name = await second.workspace(workspace_id(exchange))
    entry = audit.entry(exchange, "replica.verified", workspace_id=workspace_id(exchange), level=ask.level)
    await audit.record(exchange, entry)
    try:
        async with asyncio.timeout(LONG_S):
            found = await second.second.verify_second(name, level=ask.level)
    except TimeoutError as exc:
        raise errors.StorageUnavailable("The check did not end in time.") from exc
    return SecondVerifyOut(
        entries=found.seq,
        newest_checkpoint=found.newest_seq,
        newest_saved_as_of=iso(found.newest_scan_ms) if found.newest_scan_ms is not None else None,
        faults=list(found.faults),
    )


async def repair_workspace(exchange: Exchange) -> RepairOut:
    """Bring back into the main store what it lacks and the second one has whole."""
    second = _required(exchange)
    name = await second.workspace(workspace_id(exchange))
    await audit.record(
        exchange, audit.entry(exchange, "workspace.repaired", workspace_id=workspace_id(exchange))
    )
    try:
        async with asyncio.timeout(LONG_S):
            done = await second.second.repair(name)
    except TimeoutError as exc:
        raise errors.StorageUnavailable("The repair did not end in time.") from exc
    second.compare_soon(str(name.workspace_id))
    return RepairOut(objects=list(done.objects), left=list(done.left))


async def promote_second_store(exchange: Exchange) -> PromoteOut:
    """Make the second store the main one, for good. The old one is refused from then on."""
    ask, second = exchange.body(PromoteAsk), _required(exchange)
    status = await second.second.second_status()
    if ask.url != status.url:
        raise errors.BadInput("Type the second store's address to make it the main one.", field="url")
    await audit.record(exchange, audit.entry(exchange, "replica.promoted", url=ask.url, reason=ask.reason))
    url = await second.second.promote(actor=str(exchange.caller.actor()), reason=ask.reason)
    return PromoteOut(url=url)


def _required(exchange: Exchange) -> Replication:
    second = exchange.services.control.second()
    if second is None:
        raise errors.Conflict("There is no second store: set store.second_url.")
    return second


_MAY_FAIL: Final = (
    errors.NotFound,
    errors.Conflict,
    errors.StorageUnavailable,
    errors.StorageRefused,
)
ROUTES: Final = (
    Route(
        method="GET",
        path=f"{API}/second-store",
        name="showSecondStore",
        tag="upkeep",
        summary="How far the second store is: entries, bytes and seconds behind, by workspace.",
        handler=show_second_store,
        access=access.OPERATE,
        answer=SecondStoreOut,
    ),
    Route(
        method="POST",
        path=f"{API}/second-store/compare",
        name="compareSecondStore",
        tag="upkeep",
        summary="Compare both stores by listing, now instead of within the hour.",
        handler=compare_second_store,
        access=_ADMIN,
        status=204,
        idempotent=True,
        may_fail_with=(errors.Conflict,),
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/second-copy/verify",
        name="verifySecondCopy",
        tag="upkeep",
        summary="Check a workspace's second copy as if it were the only one.",
        handler=verify_second_copy,
        access=_ADMIN,
        body=SecondVerifyAsk,
        answer=SecondVerifyOut,
        may_fail_with=_MAY_FAIL,
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/repair",
        name="repairWorkspace",
        tag="upkeep",
        summary="Bring back into the main store what it lacks and the second one has whole.",
        handler=repair_workspace,
        access=_ADMIN,
        answer=RepairOut,
        idempotent=True,
        may_fail_with=_MAY_FAIL,
    ),
    Route(
        method="POST",
        path=f"{API}/second-store/promote",
        name="promoteSecondStore",
        tag="upkeep",
        summary="Make the second store the main one, for good; the old one is refused from then on.",
        handler=promote_second_store,
        access=_ADMIN,
        body=PromoteAsk,
        answer=PromoteOut,
        idempotent=True,
        may_fail_with=(errors.BadInput, errors.Conflict, errors.StorageUnavailable, errors.StorageRefused),
    ),
)
