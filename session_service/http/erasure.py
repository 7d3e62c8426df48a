"""Erasure: what was saved of a workspace, or of a person with all workspaces, goes for ever, with a receipt.

A person's account is disabled first, so that no new desktop starts; a desktop that runs refuses the erasure
until it has ended. Then the keys of each workspace go, every worker forgets them, then the objects. Of the
account there stay its id, in audit records that nobody may change, and the signed receipts; its name and
password go. A repeat finishes what was begun and shows the same receipts.
"""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from blake3 import blake3
from pydantic import Field

from session_service.base import errors
from session_service.base.ids import UserId
from session_service.core.changes import (
    ForgetSignIns,
    PutApiToken,
    PutSetting,
    PutUser,
    PutWorkspace,
    Unit,
    Write,
)
from session_service.core.records import User, Workspace
from session_service.http import access, answers, asks, audit, limits
from session_service.http.accounts import check_an_administrator_is_left
from session_service.http.instants import iso
from session_service.http.routes import API, Exchange, Route
from session_service.http.sessions import cut_links
from session_service.http.workspaces import any_workspace, workspace_name
from session_service.ports.keys import ErasedLook

ENDING_S: Final = 300.0
"""For a person's desktops to be saved and closed, when the erasure was told to end them."""
LOOK_S: Final = 0.5
SETTING: Final = "erasure."
"""A setting of the registry per erased person, by the id of the account."""
_STORE: Final = (
    errors.NotFound,
    errors.BadInput,
    errors.Conflict,
    errors.StorageUnavailable,
    errors.StorageRefused,
    errors.PartUnavailable,
)
Why = Annotated[str, Field(min_length=1, max_length=limits.REASON_LENGTH_MAX)]


class EraseAsk(asks.Ask):
    """The workspace's own name, typed again, and why."""

    name: asks.Name
    reason: Why


class ErasePersonAsk(asks.Ask):
    """The account's own name, typed again, and why."""

    name: asks.AccountName
    reason: Why
    end_sessions: Annotated[bool, Field(description="End the person's desktops first.")] = False


class ErasedOut(answers.Answer):
    """What an erasure deleted, with its signed receipt."""

    slots: int
    objects: int
    bytes: int
    versions: Annotated[
        int | None,
        Field(description="Older versions that went with them; null: the store cannot say if it keeps any."),
    ]
    processes: Annotated[int, Field(description="Workers that confirmed that they forgot the keys.")]
    finished: Annotated[
        bool, Field(description="False: something is left, as the next fields say; ask again later.")
    ] = True
    second: Annotated[
        str,
        Field(
            description="Of the second store: empty (there is none), erased, or waits: it did not answer, "
            "and is erased as soon as it does."
        ),
    ] = ""
    locked: Annotated[int, Field(description="Versions that a bucket with object lock keeps.")] = 0
    locked_keys: Annotated[
        int,
        Field(description="Of these, key slots: until they go, bucket and master key open what lies there."),
    ] = 0
    locked_until: Annotated[
        answers.Instant | None,
        Field(description="When the last lock ends; null: there is none, or one is a hold without an end."),
    ] = None
    receipt: Annotated[str, Field(description="msgpack of body, signer's key id and signature, in base64")]


class ErasedWorkspaceOut(ErasedOut):
    """One workspace of an erased person."""

    workspace_id: str


class ErasureOut(answers.Answer):
    """The erasure of a person."""

    user_id: str
    finished: Annotated[
        bool, Field(description="False: it was cut off, or a workspace says what is left; ask again.")
    ]
    at: str
    actor: str
    reason: str
    workspaces: list[ErasedWorkspaceOut]


class TombstoneOut(answers.Answer):
    """Who erased a workspace, when and why."""

    at: str
    actor: str
    reason: str


async def erase_workspace(exchange: Exchange) -> ErasedOut:
    """Erase what was saved of a workspace, for ever. Refused while a session may write into it."""
    ask = exchange.body(EraseAsk)
    workspace = await any_workspace(exchange)
    await _refuse_running(exchange, [workspace])
    if ask.name != workspace.name:
        raise errors.BadInput("Type the workspace's name to erase it.", field="name")
    entry = audit.entry(exchange, "workspace.erased", workspace_id=workspace.id, reason=ask.reason)
    await audit.record(exchange, entry)
    done = await exchange.services.checkpoints.erase(
        workspace_name(workspace), actor=str(exchange.caller.actor()), reason=ask.reason
    )
    await audit.record(
        exchange,
        audit.entry(
            exchange, "workspace.erasure_proved", workspace_id=workspace.id, receipt=_digest(done.receipt)
        ),
    )
    _look_again(exchange, workspace)
    return ErasedOut(**_facts(done))


async def show_tombstone(exchange: Exchange) -> TombstoneOut:
    """Say who erased a workspace. 404 if nobody did."""
    workspace = await any_workspace(exchange)
    found = await exchange.services.checkpoints.tombstone(workspace_name(workspace))
    if found is None:
        raise errors.NotFound("This workspace was not erased.")
    return TombstoneOut(at=iso(found.at_ms), actor=found.actor, reason=found.reason)


async def erase_person(exchange: Exchange) -> ErasureOut:
    """Erase everything that was saved of a person, for ever; or refuse before anything is done."""
    ask = exchange.body(ErasePersonAsk)
    services = exchange.services
    user = await _user(exchange)
    begun = await _stored(exchange, user.id)
    if begun is not None and begun["finished"]:
        return _out(user.id, begun)
    if begun is None and ask.name != user.name:
        raise errors.BadInput("Type the account's name to erase it.", field="name")
    workspaces = await services.registry.workspaces(user_id=user.id)
    if not ask.end_sessions:
        await _refuse_running(exchange, workspaces)
    user = await _close_account(exchange, user, ask.reason)
    if ask.end_sessions:
        await _end_running(exchange, workspaces, ask.reason)
    await _refuse_running(exchange, workspaces)
    begun = await _stored(exchange, user.id)
    assert begun is not None, "the account was closed with this record"
    erased: list[dict[str, Any]] = []
    for workspace in workspaces:
        done = await services.checkpoints.erase(
            workspace_name(workspace), actor=begun["actor"], reason=begun["reason"]
        )
        _look_again(exchange, workspace)
        erased.append(_joined({"workspace_id": workspace.id, **_facts(done)}, begun["workspaces"]))
    finished = all(one["finished"] for one in erased)
    return await _finish(exchange, user, workspaces, begun | {"finished": finished, "workspaces": erased})


async def show_erasure(exchange: Exchange) -> ErasureOut:
    """Show the receipts of an erased person. 404 if nobody erased that account."""
    user = await _user(exchange)
    stored = await _stored(exchange, user.id)
    if stored is None:
        raise errors.NotFound("This account was not erased.")
    return _out(user.id, stored)


def _look_again(exchange: Exchange, workspace: Workspace) -> None:
    """Let the second store be looked at soon: until it says "erased", it is told as what it is."""
    second = exchange.services.control.second()
    if second is not None:
        second.compare_soon(workspace.id)


def _joined(now: dict[str, Any], before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what an erasure that was asked for again says: the first receipt has the counts, the last one
    says what is left.
    """
    first = next((one for one in before if one["workspace_id"] == now["workspace_id"]), None)
    if first is None:
        return now
    counts = {name: max(first[name], now[name]) for name in ("slots", "objects", "bytes")}
    return now | counts


async def _user(exchange: Exchange) -> User:
    user = await exchange.services.registry.user(UserId(exchange.request.match_info["user_id"]))
    if user is None:
        raise errors.NotFound()
    return user


async def _refuse_running(exchange: Exchange, workspaces: Sequence[Workspace]) -> None:
    for workspace in workspaces:
        lease = await exchange.services.registry.lease(workspace.id)
        if lease is not None and lease.session_id is not None:
            raise errors.Conflict(
                f"A desktop may still write into {workspace.name}: end its session first.",
                session_id=lease.session_id,
            )


async def _end_running(exchange: Exchange, workspaces: Sequence[Workspace], reason: str) -> None:
    """End the desktops of these workspaces and wait until they are closed."""
    services = exchange.services
    for workspace in workspaces:
        lease = await services.registry.lease(workspace.id)
        if lease is not None and lease.session_id is not None:
            await services.control.end(
                lease.session_id, actor=exchange.caller.actor(owner=workspace.user_id), reason=reason
            )
    try:
        async with asyncio.timeout(ENDING_S):
            while True:
                leases = [await services.registry.lease(workspace.id) for workspace in workspaces]
                if not any(lease is not None and lease.session_id is not None for lease in leases):
                    return
                await asyncio.sleep(LOOK_S)
    except TimeoutError as exc:
        raise errors.Conflict(
            "A desktop of this account is still being closed; nothing was erased yet: ask again."
        ) from exc


async def _close_account(exchange: Exchange, user: User, reason: str) -> User:
    """Let nobody sign in any more, and write down that the erasure has begun."""
    services = exchange.services
    async with services.accounts:
        user = await _user(exchange)
        if await _stored(exchange, user.id) is not None:
            return user
        closed = replace(user, disabled=True, generation=user.generation + 1)
        await check_an_administrator_is_left(exchange, user, closed)
        begun = {
            "finished": False,
            "at_ms": services.clock.wall_ms(),
            "actor": str(exchange.caller.actor()),
            "reason": reason,
            "workspaces": [],
        }
        writes: list[Write] = [
            PutUser(user=closed, expected=user.generation),
            ForgetSignIns(user_id=user.id),
            PutSetting(name=SETTING + user.id, value=json.dumps(begun).encode(), expected=None),
        ]
        writes += [
            PutApiToken(token=replace(token, revoked_at_ms=services.clock.wall_ms()))
            for token in await services.registry.api_tokens(user.id)
            if token.revoked_at_ms is None
        ]
        entry = audit.entry(exchange, "user.erasure_begun", user_id=user.id, reason=reason)
        await services.registry.commit(Unit(writes=tuple(writes), audit=(entry,)))
    await cut_links(exchange, user.id, reason="account erased")
    return closed


async def _finish(
    exchange: Exchange, user: User, workspaces: Sequence[Workspace], value: dict[str, Any]
) -> ErasureOut:
    """Take the person's own words out of the registry, and put the receipts in, in one transaction."""
    services = exchange.services
    async with services.accounts:
        user = await _user(exchange)
        stored = await services.registry.setting(SETTING + user.id)
        nameless = replace(
            user, name=f"erased-{user.id}", password_hash="", disabled=True, generation=user.generation + 1
        )
        writes: list[Write] = [
            PutUser(user=nameless, expected=user.generation),
            PutSetting(name=SETTING + user.id, value=json.dumps(value).encode(), expected=stored),
        ]
        for workspace in workspaces:
            renamed = replace(workspace, name=f"erased-{workspace.id}", generation=workspace.generation + 1)
            writes.append(PutWorkspace(workspace=renamed, expected=workspace.generation))
        proofs = " ".join(_digest(base64.b64decode(one["receipt"])) for one in value["workspaces"])
        entry = audit.entry(
            exchange, "user.erased", user_id=user.id, receipts=proofs, workspaces=len(workspaces)
        )
        await services.registry.commit(Unit(writes=tuple(writes), audit=(entry,)))
    return _out(user.id, value)


async def _stored(exchange: Exchange, user_id: UserId) -> dict[str, Any] | None:
    raw = await exchange.services.registry.setting(SETTING + user_id)
    if raw is None:
        return None
    value: dict[str, Any] = json.loads(raw)
    return value


def _out(user_id: UserId, value: dict[str, Any]) -> ErasureOut:
    return ErasureOut(
        user_id=user_id,
        finished=value["finished"],
        at=iso(value["at_ms"]),
        actor=value["actor"],
        reason=value["reason"],
        workspaces=[ErasedWorkspaceOut(**one) for one in value["workspaces"]],
    )


def _facts(done: ErasedLook) -> dict[str, Any]:
    return {
        "slots": done.slots,
        "objects": done.objects,
        "bytes": done.size,
        "versions": done.versions,
        "processes": done.processes,
        "receipt": base64.b64encode(done.receipt).decode("ascii"),
        "finished": done.finished,
        "second": done.second,
        "locked": done.locked,
        "locked_keys": done.locked_keys,
        "locked_until": None if done.locked_until_ms is None else iso(done.locked_until_ms),
    }


def _digest(receipt: bytes) -> str:
    """Return what binds a receipt into the audit chain."""
    return blake3(receipt).hexdigest()


ROUTES: Final = (
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/erase",
        name="eraseWorkspace",
        tag="keys",
        summary="Erase what was saved of a workspace for ever: tombstone, keys, objects.",
        handler=erase_workspace,
        access=access.ADMIN,
        body=EraseAsk,
        answer=ErasedOut,
        idempotent=True,
        may_fail_with=_STORE,
    ),
    Route(
        method="GET",
        path=f"{API}/workspaces/{{workspace_id}}/erasure",
        name="showTombstone",
        tag="keys",
        summary="Who erased a workspace, when and why.",
        handler=show_tombstone,
        access=access.ADMIN,
        answer=TombstoneOut,
        may_fail_with=_STORE,
    ),
    Route(
        method="POST",
        path=f"{API}/users/{{user_id}}/erase",
        name="erasePerson",
        tag="keys",
        summary="Erase everything that was saved of a person for ever, with signed receipts.",
        handler=erase_person,
        access=access.ADMIN,
        body=ErasePersonAsk,
        answer=ErasureOut,
        idempotent=True,
        may_fail_with=_STORE,
    ),
    Route(
        method="GET",
        path=f"{API}/users/{{user_id}}/erasure",
        name="showErasure",
        tag="keys",
        summary="The signed receipts of an erased person.",
        handler=show_erasure,
        access=access.ADMIN,
        answer=ErasureOut,
        may_fail_with=(errors.NotFound,),
    ),
)
