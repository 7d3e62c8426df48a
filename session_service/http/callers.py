"""Who makes a request and what they may do: by cookie, by token, or by the unix socket's credentials.

Not sign-in itself (`people.py`). A cookie is an authority that browsers add by themselves, so an unsafe
request with one must also show that a page of ours made it: an own header and our Origin. Tokens and the
socket need neither.
"""

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from session_service.base import errors
from session_service.base.ids import DeviceId, TenantId, UserId
from session_service.core.actor import Actor
from session_service.core.changes import PutSignIn, Unit
from session_service.core.records import ApiToken, SignIn, User
from session_service.http import addresses, limits, secrets
from session_service.http.settings import HttpSettings
from session_service.ports.clock import Clock
from session_service.ports.registry import Registry

OWN_HEADER: Final = "X-Session-Service"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
SCOPES: Final = ("read", "sessions", "files", "operate", "admin")
ROLES: Final = ("user", "operator", "administrator")
SCOPES_OF_ROLE: Final = {
    "user": frozenset({"read", "sessions", "files"}),
    "operator": frozenset({"read", "sessions", "files", "operate"}),
    "administrator": frozenset(SCOPES),
}
NOBODY_YET: Final = UserId("00000000000000000000000000")
"""Stands for the administrator on the unix socket while no account exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, how that is known, and what it allows."""

    user: User
    via: str
    """cookie, token or socket."""
    scopes: frozenset[str]
    device_id: DeviceId
    device_label: str
    address: str
    expires_at_ms: int | None = None
    sign_in: SignIn | None = None
    token: ApiToken | None = None

    @property
    def may_operate(self) -> bool:
        """Whether the sessions of others may be seen and acted on."""
        return has_role(self.user.role, "operator") and "operate" in self.scopes

    @property
    def may_administer(self) -> bool:
        """Whether accounts may be changed and, audited, others' files be read."""
        return self.user.role == "administrator" and "admin" in self.scopes

    def actor(self, *, owner: UserId | None = None) -> Actor:
        """Return the actor of an act on something of `owner`: oneself, or an operator for another."""
        if owner is None or owner == self.user.id:
            return Actor(kind="user", user_id=self.user.id, name=self.user.name)
        return Actor(kind="operator", user_id=self.user.id, name=self.user.name)


def has_role(role: str, least: str) -> bool:
    """Say whether a role is at least another."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(least)


def cookie_name(settings: HttpSettings) -> str:
    """Return the name of the sign-in cookie: only a TLS one may have the prefix that browsers enforce."""
    return "__Host-session" if settings.secure else "session"


class Identification:
    """Finds out who makes a request."""

    def __init__(self, *, registry: Registry, clock: Clock, settings: HttpSettings) -> None:
        self._registry = registry
        self._clock = clock
        self._settings = settings

    async def caller(self, request: web.Request) -> Caller | None:
        """Return who asks, None for nobody. A wrong or revoked secret is nobody, never another."""
        address = addresses.client_address(request, self._settings)
        uid = addresses.socket_uid(request)
        authorization = request.headers.get("Authorization", "")
        if authorization:
            scheme, _, text = authorization.partition(" ")
            return await self._by_token(text.strip(), address) if scheme.lower() == "bearer" else None
        if uid is not None:
            return await self._by_socket(uid)
        cookie = request.cookies.get(cookie_name(self._settings))
        return await self._by_cookie(cookie, address) if cookie else None

    async def is_still(self, caller: Caller) -> bool:
        """Say whether a caller found earlier would be found now: not signed out, revoked, disabled or
        changed.
        """
        if caller.via == "socket":
            return True
        now = self._clock.wall_ms()
        user = await self._registry.user(caller.user.id)
        if user is None or user.disabled or user.role != caller.user.role:
            return False
        if caller.sign_in is not None:
            return _is_valid(await self._registry.sign_in(caller.sign_in.hash), now)
        assert caller.token is not None
        token = await self._registry.api_token(caller.token.hash)
        return token is not None and _is_live(token, now)

    async def _by_cookie(self, cookie: str, address: str) -> Caller | None:
        sign_in = await self._registry.sign_in(secrets.hash_of("sign-in", cookie))
        now = self._clock.wall_ms()
        if sign_in is None or not _is_valid(sign_in, now):
            return None
        user = await self._registry.user(sign_in.user_id)
        if user is None or user.disabled:
            return None
        if now - sign_in.last_seen_ms > limits.SIGN_IN_SEEN_S * 1000:
            await self._saw(sign_in, now)
        return Caller(
            user=user,
            via="cookie",
            scopes=SCOPES_OF_ROLE.get(user.role, frozenset()),
            device_id=sign_in.device_id,
            device_label=sign_in.device_label,
            address=address,
            expires_at_ms=sign_in.expires_at_ms,
            sign_in=sign_in,
        )

    async def _by_token(self, text: str, address: str) -> Caller | None:
        token = await self._registry.api_token(secrets.hash_of("token", text))
        if token is None or not _is_live(token, self._clock.wall_ms()):
            return None
        user = await self._registry.user(token.user_id)
        if user is None or user.disabled:
            return None
        return Caller(
            user=user,
            via="token",
            scopes=frozenset(token.scopes) & SCOPES_OF_ROLE.get(user.role, frozenset()),
            device_id=DeviceId(token.id),
            device_label=token.name,
            address=address,
            expires_at_ms=token.expires_at_ms,
            token=token,
        )

    async def _by_socket(self, uid: int) -> Caller | None:
        if uid != 0 and uid not in self._settings.socket_uids:
            return None
        users = await self._registry.users()
        first = next((user for user in users if user.role == "administrator" and not user.disabled), None)
        user = first or User(
            id=NOBODY_YET,
            tenant_id=TenantId(NOBODY_YET),
            name=f"uid {uid}",
            role="administrator",
            password_hash="",
            created_at_ms=0,
        )
        return Caller(
            user=user,
            via="socket",
            scopes=frozenset(SCOPES),
            device_id=DeviceId(user.id),
            device_label="command line",
            address=f"uid {uid}",
        )

    async def _saw(self, sign_in: SignIn, now: int) -> None:
        """Note that the browser was here; a full disk must not keep its user out."""
        seen = SignIn(
            hash=sign_in.hash,
            user_id=sign_in.user_id,
            device_id=sign_in.device_id,
            device_label=sign_in.device_label,
            created_at_ms=sign_in.created_at_ms,
            last_seen_ms=now,
            expires_at_ms=sign_in.expires_at_ms,
        )
        try:
            await self._registry.commit(Unit(writes=(PutSignIn(sign_in=seen),)))
        except errors.RegistryUnavailable:
            pass  # the display of "last seen" is all that is lost


def check_origin(request: web.Request, *, via: str, origins: frozenset[str]) -> None:
    """Refuse an unsafe request that a foreign page could have made a browser send.

    Raises:
        OriginRefused: the own header is missing, or the Origin is missing or not one of ours.
    """
    if request.method in SAFE_METHODS or via in {"token", "socket"}:
        return
    if request.headers.get(OWN_HEADER) != "1":
        raise errors.OriginRefused(f"The header {OWN_HEADER}: 1 is missing.")
    if request.headers.get("Origin") not in origins:
        raise errors.OriginRefused("The Origin is not an address of this service.")


def _is_valid(sign_in: SignIn | None, now_ms: int) -> bool:
    return (
        sign_in is not None
        and now_ms < sign_in.expires_at_ms
        and now_ms - sign_in.last_seen_ms < limits.SIGN_IN_IDLE_S * 1000
    )


def _is_live(token: ApiToken, now_ms: int) -> bool:
    return token.revoked_at_ms is None and (token.expires_at_ms is None or now_ms < token.expires_at_ms)
