"""A whole HTTP side on a real port: the real application over the registry's twin, and browsers that speak
to it.

Time stands still unless a test moves it; hashing is real argon2id with its smallest parameters.
"""

import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from argon2 import PasswordHasher

from session_service.base.ids import TenantId, UserId, new_ulid
from session_service.core.changes import PutApiToken, Unit
from session_service.core.records import ApiToken, User
from session_service.http import secrets, setup
from session_service.http.callers import OWN_HEADER
from session_service.http.passwords import Passwords
from session_service.http.server import create_app
from session_service.http.settings import HttpSettings
from session_service.registry.memory import MemoryRegistry
from tests.fakes.http_control import HttpControl
from tests.fakes.http_files import HttpFiles

TENANT = TenantId("0" * 26)
START_MS = 1_795_000_000_123
PASSWORD = "correct horse battery"
_HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
_PASSWORD_HASH = _HASHER.hash(PASSWORD)


@dataclass(slots=True)
class HandClock:
    """A clock that a test moves."""

    now_ms: int = START_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def boot_ms(self) -> int:
        return self.now_ms - START_MS

    def monotonic_ms(self) -> int:
        return self.now_ms - START_MS


class SeededIds:
    """Ids and secrets that a test can repeat."""

    def __init__(self, clock: HandClock, seed: int = 1) -> None:
        self._clock = clock
        self._random = random.Random(seed)
        self._last = 0

    def ulid(self) -> str:
        self._last += 1  # so that ids sort as they were made
        return new_ulid(self._clock.wall_ms(), self._last.to_bytes(4, "big") + self._random.randbytes(6))

    def secret(self) -> bytes:
        return self._random.randbytes(32)

    def jitter(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer as a test looks at it."""

    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None

    @property
    def code(self) -> str:
        return str(self.body["code"])


@dataclass
class Browser:
    """Something that sends requests: with cookies and our pages' headers, or with a token and neither."""

    world: "HttpWorld"
    client: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)
    user: User | None = None

    @property
    def user_id(self) -> UserId:
        """The account that is signed in here."""
        assert self.user is not None
        return self.user.id

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Seen:
        headers = self.headers | more.pop("headers", {})
        if body is not None:
            more["json"] = body
        request = self.client.request(
            method, self.world.url(path), headers=headers, allow_redirects=False, **more
        )
        async with request as answer:
            return Seen(answer.status, answer.headers.copy(), await answer.read())

    async def get(self, path: str, **more: Any) -> Seen:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Seen:
        return await self.ask("POST", path, {} if body is None else body, **more)


@dataclass
class HttpWorld:
    """The application, what it stands on, and whoever speaks to it."""

    clock: HandClock
    ids: SeededIds
    registry: MemoryRegistry
    control: HttpControl
    files: HttpFiles
    settings: HttpSettings
    app: web.Application
    server: TestServer
    stack: contextlib.AsyncExitStack
    places: list[str]
    """Our own origins."""
    front: str = ""
    """Where browsers go instead, if something stands in front."""

    def url(self, path: str) -> str:
        return self.origin + path

    @property
    def origin(self) -> str:
        return self.front or str(self.server.make_url("/")).rstrip("/")

    async def browser(self, **headers: str) -> Browser:
        """A browser on one of our pages, not signed in."""
        client = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        await self.stack.enter_async_context(client)
        return Browser(self, client, {OWN_HEADER: "1", "Origin": self.origin} | headers)

    async def account(self, name: str, role: str = "user", **fields: Any) -> User:
        """An account in the registry, with its default workspace."""
        user, writes = setup.new_account(
            self.ids,
            tenant_id=TENANT,
            name=name,
            role=role,
            password_hash=_PASSWORD_HASH,
            now_ms=self.clock.wall_ms(),
        )
        user = replace(user, **fields)
        writes = (replace(writes[0], user=user), writes[1])
        await self.registry.commit(Unit(writes=writes))
        return user

    async def signed_in(self, name: str, role: str = "user") -> Browser:
        """A browser in which an account (made if need be) is signed in."""
        user = await self.registry.user_by_name(name) or await self.account(name, role)
        browser = await self.browser()
        seen = await browser.post("/api/v1/sign-in", {"name": name, "password": PASSWORD})
        assert seen.status == 200, seen.raw
        browser.user = user
        return browser

    async def program(self, name: str, role: str = "user", scopes: tuple[str, ...] = ("read",)) -> Browser:
        """A program with a token of an account."""
        user = await self.registry.user_by_name(name) or await self.account(name, role)
        text = secrets.TOKEN_PREFIX + secrets.text_of(self.ids.secret())
        token = ApiToken(
            id=self.ids.ulid(),
            user_id=user.id,
            name="a program",
            scopes=scopes,
            hash=secrets.hash_of("token", text),
            created_at_ms=self.clock.wall_ms(),
        )
        await self.registry.commit(Unit(writes=(PutApiToken(token=token),)))
        client = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        await self.stack.enter_async_context(client)
        return Browser(self, client, {"Authorization": f"Bearer {text}"}, user)

    async def session_of(self, browser: Browser) -> str:
        """Start a session for whoever is signed in; returns its id."""
        seen = await browser.post("/api/v1/sessions")
        assert seen.status in {200, 201}, seen.raw
        return str(seen.body["id"])


@contextlib.asynccontextmanager
async def http_world(
    folder: Path,
    *,
    control_of: Callable[[MemoryRegistry, Any, Any], tuple[Any, Any]] | None = None,
    clock: Any = None,
    **changes: Any,
) -> AsyncIterator[HttpWorld]:
    """Run the application on a free port of the loopback; `control_of` makes another control and its
    store.
    """
    uploads = folder / "uploads"
    uploads.mkdir(exist_ok=True)
    clock = clock or HandClock()
    ids = SeededIds(clock)
    registry = MemoryRegistry()
    control: Any = HttpControl(registry=registry, clock=clock, ids=ids)
    files: Any = HttpFiles()
    if control_of is not None:
        control, files = control_of(registry, clock, ids)
    settings = HttpSettings(uploads=uploads, version="9.9", node_id="0" * 26, node_name="here", **changes)
    places: list[str] = []

    async def owner_of(*, workspace_id: str, fence: int) -> tuple[int, int] | None:
        return (1234, 1235)

    async with contextlib.AsyncExitStack() as stack:
        app = create_app(
            control=control,
            registry=registry,
            checkpoints=files,
            clock=clock,
            ids=ids,
            settings=settings,
            owner_of=owner_of,
            origins=lambda: settings.public_origins | frozenset(places),
            passwords=Passwords(_HASHER),
        )
        server = TestServer(app)
        await server.start_server(auto_decompress=False)  # as the service has it
        stack.push_async_callback(server.close)
        places.append(str(server.make_url("/")).rstrip("/"))
        yield HttpWorld(clock, ids, registry, control, files, settings, app, server, stack, places)
