"""The first account: a one-time code on the terminal, typed into the page, makes the administrator.

No default password and no link with a secret. The code is kept hashed in a registry setting, ends after 15
minutes, and is used up in the transaction that makes the account, so that two pages cannot both win.
"""

import json
from dataclasses import dataclass
from typing import Final

from session_service.base import errors
from session_service.base.ids import TenantId, UserId, WorkspaceId
from session_service.core.actor import SYSTEM
from session_service.core.changes import PutSetting, PutUser, PutWorkspace, Unit
from session_service.core.records import AuditEntry, User, Workspace
from session_service.http import limits, secrets
from session_service.ports.clock import Clock, Ids
from session_service.ports.registry import Registry

SETTING: Final = "setup.code"
DEFAULT_WORKSPACE: Final = "Home"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    hash: bytes
    expires_at_ms: int


async def is_needed(registry: Registry) -> bool:
    """Say whether there is no administrator yet."""
    return not any(user.role == "administrator" for user in await registry.users())


async def offer_setup(registry: Registry, clock: Clock, ids: Ids) -> str | None:
    """Make a fresh setup code for the terminal and forget the one before; None when setup is done.

    Raises:
        RegistryUnavailable: the code is not durable, so it must not be shown.
    """
    if not await is_needed(registry):
        return None
    code = secrets.setup_code(ids.secret())
    now = clock.wall_ms()
    value = {
        "hash": secrets.hash_of("setup", secrets.plain_code(code)).hex(),
        "expires_at_ms": now + round(limits.SETUP_CODE_S * 1000),
    }
    unit = Unit(
        writes=(
            PutSetting(
                name=SETTING, value=json.dumps(value).encode(), expected=await registry.setting(SETTING)
            ),
        ),
        audit=(AuditEntry(kind="setup.offered", actor=str(SYSTEM), at_ms=now),),
    )
    await registry.commit(unit)
    return code


async def use_up(registry: Registry, *, code: str, now_ms: int) -> PutSetting:
    """Return the write that uses the code up; it goes into the transaction that makes the account.

    Raises:
        WrongSetupCode: no code was offered, it is another, or its time is over.
    """
    stored = await registry.setting(SETTING)
    offer = _offer(stored)
    given = secrets.hash_of("setup", secrets.plain_code(code))
    right = secrets.same(given, offer.hash if offer else bytes(32))
    if offer is None or not right or now_ms >= offer.expires_at_ms:
        raise errors.WrongSetupCode()
    return PutSetting(name=SETTING, value=b"", expected=stored)


def _offer(stored: bytes | None) -> _Offer | None:
    if not stored:
        return None
    value = json.loads(stored)
    return _Offer(hash=bytes.fromhex(value["hash"]), expires_at_ms=int(value["expires_at_ms"]))


def new_account(
    ids: Ids, *, tenant_id: TenantId | None, name: str, role: str, password_hash: str, now_ms: int
) -> tuple[User, tuple[PutUser, PutWorkspace]]:
    """Return a new account and the writes that make it, its default workspace included."""
    user = User(
        id=UserId(ids.ulid()),
        tenant_id=tenant_id or TenantId(ids.ulid()),
        name=name,
        role=role,
        password_hash=password_hash,
        created_at_ms=now_ms,
    )
    workspace = Workspace(
        id=WorkspaceId(ids.ulid()),
        user_id=user.id,
        tenant_id=user.tenant_id,
        name=DEFAULT_WORKSPACE,
        created_at_ms=now_ms,
    )
    return user, (
        PutUser(user=user, expected=None),
        PutWorkspace(workspace=workspace, expected=None),
    )
