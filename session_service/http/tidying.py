"""What a log may let go, asked and said by people: which rule keeps checkpoints, what was saved beside the
main line, and what jams a log.

Not forgetting and collecting themselves (`http/upkeep.py`), and no rule of what must stay (storage's own).
"""

from typing import Annotated, Final

from pydantic import Field

from session_service.base import errors
from session_service.http import access, answers, asks, audit, render
from session_service.http.routes import API, Access, Exchange, Reply, Route, workspace_id
from session_service.http.workspaces import any_workspace, owned_workspace, workspace_name

_ADMIN: Final = Access(role="administrator", scope="admin")
_FAILURES: Final = (errors.NotFound, errors.StorageUnavailable, errors.StorageRefused)


class RetentionOut(answers.Answer):
    """Which checkpoints stay when old ones are forgotten."""

    keep_last: int
    keep_hourly: Annotated[int, Field(description="hours of which the newest checkpoint stays")]
    keep_daily: int
    keep_weekly: int
    keep_monthly: int
    keep_within_s: Annotated[float, Field(description="everything younger stays")]


class ForeignOut(answers.Answer):
    """An object behind a log's last entry that does not open and stops everybody."""

    seq: int
    hash: Annotated[str, Field(description="BLAKE3-256 of the whole object, in hex")]
    size: int
    why: str


class ForeignListOut(answers.Answer):
    """All of them, ascending; none is good."""

    items: list[ForeignOut]
    next_cursor: str | None = None


class ConfirmedObject(asks.Ask):
    """One object, as it was shown."""

    seq: asks.Number
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StepOverAsk(asks.Ask):
    """Exactly the objects that lie there, and why they do not count."""

    objects: Annotated[list[ConfirmedObject], Field(min_length=1, max_length=16)]
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class StepOverOut(answers.Answer):
    """The number of the entry that says so."""

    seq: int


async def show_retention(exchange: Exchange) -> RetentionOut:
    """Say which checkpoints of a workspace stay."""
    await owned_workspace(exchange, workspace_id(exchange))
    rule = exchange.services.settings.keep
    return RetentionOut(
        keep_last=rule.keep_last,
        keep_hourly=rule.keep_hourly,
        keep_daily=rule.keep_daily,
        keep_weekly=rule.keep_weekly,
        keep_monthly=rule.keep_monthly,
        keep_within_s=rule.keep_within_s,
    )


async def list_conflicts(exchange: Exchange) -> answers.CheckpointsOut:
    """List what was saved beside the main line. Its user is told of it by this, and the log notes when; an
    operator's look tells the user nothing, and must not start the time after which it may go.
    """
    workspace = await owned_workspace(exchange, workspace_id(exchange))
    name, checkpoints = workspace_name(workspace), exchange.services.checkpoints
    found = await checkpoints.conflicts(name)
    if found and workspace.user_id == exchange.caller.user.id:
        await checkpoints.told(name, seqs=[info.seq for info in found], actor=str(exchange.caller.actor()))
    newest_first = sorted(found, key=lambda info: info.seq, reverse=True)
    return answers.CheckpointsOut(items=[render.checkpoint(info) for info in newest_first], next_cursor=None)


async def drop_conflict(exchange: Exchange) -> Reply:
    """Forget one of one's own conflicts. The audit record stands before anything is written."""
    workspace = await owned_workspace(exchange, workspace_id(exchange))
    if workspace.user_id != exchange.caller.user.id:
        raise errors.NotAllowed("Only its own user may do this.")
    name, seq = workspace_name(workspace), int(exchange.request.match_info["seq"])
    checkpoints = exchange.services.checkpoints
    if seq not in {info.seq for info in await checkpoints.conflicts(name)}:
        raise errors.NotFound()
    await audit.record(
        exchange, audit.entry(exchange, "conflict.dropped", workspace_id=workspace.id, checkpoint=seq)
    )
    actor = str(exchange.caller.actor())
    await checkpoints.forget(name, seqs=[seq], actor=actor, reason="dropped by its user")
    return Reply(body=None, status=204)


async def list_foreign(exchange: Exchange) -> ForeignListOut:
    """Look for objects that stop everybody."""
    workspace = await any_workspace(exchange)
    found = await exchange.services.checkpoints.foreign(workspace_name(workspace))
    return ForeignListOut(
        items=[ForeignOut(seq=one.seq, hash=one.hash.hex(), size=one.size, why=one.why) for one in found]
    )


async def step_over(exchange: Exchange) -> StepOverOut:
    """Let these objects not count. The audit record stands before anything is written."""
    ask = exchange.body(StepOverAsk)
    workspace = await any_workspace(exchange)
    named = " ".join(f"{one.seq}:{one.hash}" for one in ask.objects)
    entry = audit.entry(
        exchange, "log.stepped_over", workspace_id=workspace.id, objects=named, reason=ask.reason
    )
    await audit.record(exchange, entry)
    confirmed = [(one.seq, bytes.fromhex(one.hash)) for one in ask.objects]
    seq = await exchange.services.checkpoints.step_over(workspace_name(workspace), confirmed=confirmed)
    return StepOverOut(seq=seq)


ROUTES: Final = (
    Route(
        method="GET",
        path=f"{API}/workspaces/{{workspace_id}}/retention",
        name="showRetention",
        tag="files",
        summary="Which checkpoints stay when old ones are forgotten.",
        handler=show_retention,
        access=access.READ,
        answer=RetentionOut,
        may_fail_with=(errors.NotFound,),
    ),
    Route(
        method="GET",
        path=f"{API}/workspaces/{{workspace_id}}/conflicts",
        name="listConflicts",
        tag="files",
        summary="What a desktop that was not the owner any more held; kept for 30 days after this was read.",
        handler=list_conflicts,
        access=access.READ,
        answer=answers.CheckpointsOut,
        may_fail_with=_FAILURES,
    ),
    Route(
        method="DELETE",
        path=f"{API}/workspaces/{{workspace_id}}/conflicts/{{seq}}",
        name="dropConflict",
        tag="files",
        summary="Forget what was saved beside the main line; its space is freed by later runs of collect.",
        handler=drop_conflict,
        access=access.FILES_OWN,
        status=204,
        may_fail_with=_FAILURES,
    ),
    Route(
        method="GET",
        path=f"{API}/workspaces/{{workspace_id}}/log/foreign",
        name="listForeignObjects",
        tag="upkeep",
        summary="Objects behind a log's last entry that do not open and stop everybody.",
        handler=list_foreign,
        access=_ADMIN,
        answer=ForeignListOut,
        may_fail_with=_FAILURES,
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/log/step-over",
        name="stepOver",
        tag="upkeep",
        summary="Let objects that do not open not count, each confirmed by its hash.",
        handler=step_over,
        access=_ADMIN,
        body=StepOverAsk,
        answer=StepOverOut,
        idempotent=True,
        may_fail_with=(*_FAILURES, errors.Conflict),
    ),
)
