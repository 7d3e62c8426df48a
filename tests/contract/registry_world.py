"""Records for the tests of a registry, with small names and everything that does not matter filled in."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from session_service.base.errors import Conflict
from session_service.core.changes import (
    PutLease,
    PutNode,
    PutSession,
    PutSetting,
    Unit,
    Write,
)
from session_service.core.records import (
    AuditEntry,
    Hold,
    Lease,
    Node,
    NodeState,
    Outcome,
    Session,
    State,
    Ticket,
    User,
    Workspace,
)
from session_service.ports.registry import Registry
from session_service.registry.memory import MemoryRegistry
from session_service.registry.sqlite import FILE_NAME, SqliteRegistry


@pytest.fixture(params=["memory", "sqlite"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    """Each adapter in turn, empty."""
    opened = await open_registry(request.param, tmp_path)
    yield opened
    await opened.close()


async def open_registry(kind: str, folder: Path) -> Registry:
    """Open one adapter, empty."""
    if kind == "memory":
        return MemoryRegistry()
    return await SqliteRegistry.open(folder / FILE_NAME)


TOUCH = PutSetting(name="touched", value=b"", expected=None)
"""A write that only shows whether its unit was carried out."""


def a_session(name: str = "S1", **changes: Any) -> Session:
    fields: dict[str, Any] = {
        "id": name,
        "workspace_id": f"W-{name}",
        "user_id": "U1",
        "policy_id": "P1",
        "policy_rev": 1,
        "state": State.ACTIVE,
        "generation": 1,
        "registry_epoch": 1,
        "fence": 1,
        "node_id": "N1",
        "hold_s": 1800.0,
        "created_at_ms": 1000,
    }
    fields |= changes
    if fields["state"] is State.CLOSED:
        fields.setdefault("outcome", Outcome.SAVED)
    return Session(**fields)


def a_held_session(name: str = "S1", *, left_ms: int = 10_000, **changes: Any) -> Session:
    hold = Hold(clock="N1", base_ms=5000, left_ms=left_ms)
    return a_session(name, state=State.HELD, loss_epoch=1, hold=hold, **changes)


def a_workspace(id_: str = "W1", **changes: Any) -> Workspace:
    fields: dict[str, Any] = {"id": id_, "user_id": "U1", "tenant_id": "T1", "name": f"home {id_}"}
    return Workspace(**(fields | changes))


def a_lease(workspace_id: str = "W1", **changes: Any) -> Lease:
    fields: dict[str, Any] = {"fence": 1, "node_id": "N1", "session_id": "S1", "generation": 1}
    return Lease(workspace_id=workspace_id, **(fields | changes))


def a_node(name: str = "N1", **changes: Any) -> Node:
    fields: dict[str, Any] = {
        "boot_id": "boot",
        "incarnation": 1,
        "address": "127.0.0.1",
        "count_ms": 0,
        "beat": 0,
        "state": NodeState.UP,
    }
    return Node(id=name, **(fields | changes))


def a_ticket(hash_: bytes = b"ticket", **changes: Any) -> Ticket:
    fields: dict[str, Any] = {
        "session_id": "S1",
        "user_id": "U1",
        "device_id": "D1",
        "device_label": "Firefox",
        "mode": "control",
        "created_at_ms": 1000,
        "expires_at_ms": 61_000,
    }
    return Ticket(hash=hash_, **(fields | changes))


def a_user(id_: str = "U1", **changes: Any) -> User:
    fields: dict[str, Any] = {
        "tenant_id": "T1",
        "name": id_,
        "role": "user",
        "password_hash": "argon2",
        "created_at_ms": 1,
    }
    return User(id=id_, **(fields | changes))


def an_entry(kind: str = "session.held", **changes: Any) -> AuditEntry:
    fields: dict[str, Any] = {"actor": "system", "at_ms": 1000, "facts": (("cause", "silent"), ("n", 1))}
    return AuditEntry(kind=kind, **(fields | changes))


async def write(registry: Registry, *writes: Write, **rest: Any) -> None:
    """Commit the writes as one unit."""
    await registry.commit(Unit(writes=writes, **rest))


async def with_node(registry: Registry, **changes: Any) -> None:
    await write(registry, PutNode(node=a_node(**changes), expected_incarnation=None))


async def with_session(registry: Registry, session: Session) -> Session:
    await write(registry, PutSession(session=session, expected=None))
    return session


async def with_lease(registry: Registry, lease: Lease) -> None:
    await write(registry, PutLease(lease=lease, expected=None))


async def all_at_once(registry: Registry, units: Sequence[Unit]) -> list[BaseException | None]:
    """Commit units in one turn of the loop, in this order, and return what each was answered."""
    return await asyncio.gather(*(registry.commit(unit) for unit in units), return_exceptions=True)


def reason(error: BaseException | None) -> str:
    """Return why a unit was refused; anything but a Conflict is no refusal."""
    assert isinstance(error, Conflict), error
    return str(error.facts["reason"])


async def refusal(registry: Registry, *writes: Write, **rest: Any) -> str:
    """Commit the writes as one unit that must be refused, and return why."""
    with pytest.raises(Conflict) as caught:
        await write(registry, *writes, **rest)
    return reason(caught.value)
