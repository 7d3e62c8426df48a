"""The form of a route: one entry of the table says all that the server, the documentation and the tests
know of it.

Not the table itself (`table.py`) and no handler. A route cannot be added without access, models and summary.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel

from session_service.base import errors
from session_service.base.ids import SessionId, WorkspaceId
from session_service.http.callers import Caller, Identification
from session_service.http.facade import ControlFacade
from session_service.http.figures import Figures
from session_service.http.passwords import Passwords
from session_service.http.settings import HttpSettings
from session_service.http.store_look import StoreLook
from session_service.http.throttle import Throttle
from session_service.http.turns import DownloadTurns, StreamTurns, UploadTurns
from session_service.ports.checkpoints import Checkpoints
from session_service.ports.clock import Clock, Ids
from session_service.ports.registry import Registry

API: Final = "/api/v1"
Model = TypeVar("Model", bound=BaseModel)


class OwnerOf(Protocol):
    """Tells the uid and gid of a desktop; None = our own user (`DesktopProvider.owner`)."""

    def __call__(self, *, workspace_id: str, fence: int) -> Awaitable[tuple[int, int] | None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What handlers work with; built once by `server.create_app`."""

    control: ControlFacade
    registry: Registry
    checkpoints: Checkpoints
    clock: Clock
    ids: Ids
    settings: HttpSettings
    identification: Identification
    passwords: Passwords
    pair_tries: Throttle
    """By account and address."""
    account_tries: Throttle
    address_tries: Throttle
    setup_tries: Throttle
    upload_turns: UploadTurns
    download_turns: DownloadTurns
    origins: Callable[[], frozenset[str]]
    owner_of: OwnerOf
    store_look: StoreLook
    streams: StreamTurns
    figures: Figures
    accounts: asyncio.Lock
    """Held while accounts change, so that the last administrator cannot be lost to two changes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request with everything its handler may know, checked."""

    request: web.Request
    services: Services
    reference: str
    route: "Route"
    caller_or_none: Caller | None
    body_or_none: BaseModel | None = None
    query_or_none: BaseModel | None = None

    @property
    def caller(self) -> Caller:
        """Who asks; only for routes that require somebody."""
        assert self.caller_or_none is not None, self.route.name
        return self.caller_or_none

    def body(self, kind: type[Model]) -> Model:
        """Return the checked body; `kind` is what the route declares."""
        assert isinstance(self.body_or_none, kind), self.route.name
        return self.body_or_none

    def query(self, kind: type[Model]) -> Model:
        """Return the checked query; `kind` is what the route declares."""
        assert isinstance(self.query_or_none, kind), self.route.name
        return self.query_or_none


Handler = Callable[["Exchange"], Awaitable["Result"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer with more than a model: its status, headers and cookies are set on the response."""

    body: BaseModel | None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cookie: tuple[str, str, int] | None = None
    """The sign-in cookie's name, new value and seconds; an empty value removes it."""


Result = BaseModel | Reply | web.StreamResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may use a route. A token needs the scope, too."""

    role: str | None
    """None = nobody needs to be signed in."""
    scope: str = "read"
    words: str = ""
    """What is looked at besides, for the documentation."""


PUBLIC: Final = Access(role=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One entry of the table."""

    method: str
    path: str
    name: str
    summary: str
    tag: str
    handler: Handler
    access: Access
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    media: str = "application/json"
    raw_body: str = ""
    """Media type of a body that the handler reads itself, such as application/octet-stream."""
    idempotent: bool = False
    """Takes an Idempotency-Key: the repeat of a request gets the answer of the first."""
    if_match: bool = False
    """Takes If-Match with the generation that was read."""
    may_fail_with: tuple[type[errors.SessionError], ...] = ()


def session_id(exchange: Exchange) -> SessionId:
    """Return the session that the path names; its form was checked."""
    return SessionId(exchange.request.match_info["session_id"])


def workspace_id(exchange: Exchange) -> WorkspaceId:
    """Return the workspace that the path names; its form was checked."""
    return WorkspaceId(exchange.request.match_info["workspace_id"])
