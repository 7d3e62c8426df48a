"""The pages and what they load: files of `pages/` and `assets/`, with entity tags, and who is sent where.

Not templates: the files are sent as they are, and everything that differs between people comes from the
API. Only names found under the two folders are served, looked up in a list made once at start, never by
joining a path from outside.
"""

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from aiohttp import web

from session_service.base import errors
from session_service.http import callers, limits, setup
from session_service.http.routes import Services

PAGES: Final = {
    "/setup": "setup.html",
    "/sign-in": "sign-in.html",
    "/desktop": "desktop.html",
    "/desktop/{session_id}": "screen.html",
    "/files": "files.html",
    "/receipts": "receipts.html",
    "/receipts/{session_id}": "receipt.html",
    "/operator": "operator.html",
    "/people": "people.html",
}
ROLES: Final = {"/operator": "operator", "/people": "administrator"}
"""Pages that need more than a sign-in."""
OPEN_PAGES: Final = frozenset({"/setup", "/sign-in"})
"""Pages for people who are not signed in."""
ERROR_PAGE: Final = "problem.html"
FOR_OTHERS: Final = frozenset(
    {
        "channel.js",
        "channel.d.ts",
        "attempt.js",
        "attempt.d.ts",
        "wire.js",
        "wire.d.ts",
        "reach.js",
        "reach.d.ts",
    }
)
"""What pages of others may load from us, under a version of its own: code, with nothing of anybody in it."""
_ANY_ORIGIN: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}
_SQUEEZED: Final = frozenset({".js", ".mjs", ".ts", ".css", ".html", ".json", ".svg", ".txt"})
_KEPT_S: Final = {".woff2": 604_800, ".png": 86_400}
"""How long a browser may keep a file without asking; the others are asked for by their tag each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    body: bytes
    squeezed: bytes | None
    tag: str
    media: str
    keep_s: int
    stamp: tuple[int, int]


class Files:
    """The files of one folder, kept in memory; a file that changed on disk is read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, _Sent] = {}

    async def find(self, name: str) -> _Sent | None:
        """Return a file of the folder, None when there is none of this name."""
        return await asyncio.to_thread(self._find, name)

    def _find(self, name: str) -> _Sent | None:
        parts = name.split("/")
        if "\\" in name or "\0" in name or any(part.startswith(".") or not part for part in parts):
            return None
        path = self._folder.joinpath(*parts)
        suffix = path.suffix.lower()
        try:
            real = path.resolve(strict=True)
            status = real.stat()
            inside = real.is_relative_to(self._folder.resolve())
            if suffix not in _TYPES or not inside or not real.is_file():
                return None
            if status.st_size > limits.STATIC_FILE_BYTES_MAX:
                return None
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._known.get(name)
            if known is not None and known.stamp == stamp:
                return known
            self._known[name] = sent = _made(real.read_bytes(), suffix, stamp)
        except (OSError, ValueError):
            return None
        return sent


def _made(body: bytes, suffix: str, stamp: tuple[int, int]) -> _Sent:
    squeezed = gzip.compress(body, 6, mtime=0) if suffix in _SQUEEZED and len(body) > 1024 else None
    return _Sent(
        body=body,
        squeezed=squeezed,
        tag='"' + hashlib.sha256(body).hexdigest()[:32] + '"',
        media=_TYPES[suffix],
        keep_s=_KEPT_S.get(suffix, 0),
        stamp=stamp,
    )


class Pages:
    """Answers for pages and for what they load."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pages = Files(services.settings.pages)
        self._assets = Files(services.settings.assets)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the pages' addresses."""
        router.add_get("/", self._root, name="page_root")
        for path in PAGES:
            name = "page" + path.replace("/{session_id}", "_one").translate(str.maketrans("/-", "__"))
            router.add_get(path, self._page, name=name)
        router.add_get("/pages/{name:.+}", self._of_pages, name="page_file")
        router.add_get("/channel/v1/{name}", self._of_channel, name="channel_file")
        router.add_get("/assets/{name:.+}", self._of_assets, name="asset_file")

    async def error_page(self, request: web.Request, status: int) -> web.Response | None:
        """Return the page for a failure where a person looks at it, None where a program asks or there is
        none.
        """
        wants_page = "text/html" in request.headers.get("Accept", "") and request.method in {"GET", "HEAD"}
        if not wants_page or request.path.startswith(("/api/", "/assets/", "/pages/")):
            return None
        found = await self._pages.find(ERROR_PAGE)
        return None if found is None else _answer(request, found, status=status)

    async def _root(self, request: web.Request) -> web.StreamResponse:
        if await setup.is_needed(self._services.registry):
            raise web.HTTPSeeOther("/setup")
        caller = await self._services.identification.caller(request)
        raise web.HTTPSeeOther("/desktop" if caller is not None else "/sign-in")

    async def _page(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info.route.resource
        assert resource is not None
        place = resource.canonical
        if place not in OPEN_PAGES:
            caller = await self._services.identification.caller(request)
            if caller is None:
                raise web.HTTPSeeOther("/sign-in?next=" + quote(request.path, safe="/"))
            least = ROLES.get(place, "user")
            if not callers.has_role(caller.user.role, least):
                raise errors.NotAllowed(role_needed=least)
        return await self._sent(request, self._pages, PAGES[place])

    async def _of_pages(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name.endswith(".html"):
            raise errors.NotFound()  # pages have addresses of their own, behind the sign-in
        return await self._sent(request, self._pages, name)

    async def _of_channel(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in FOR_OTHERS:
            raise errors.NotFound()
        answer = await self._sent(request, self._pages, name)
        answer.headers.update(_ANY_ORIGIN)
        return answer

    async def _of_assets(self, request: web.Request) -> web.StreamResponse:
        return await self._sent(request, self._assets, request.match_info["name"])

    async def _sent(self, request: web.Request, files: Files, name: str) -> web.Response:
        found = await files.find(name)
        if found is None:
            raise errors.NotFound()
        return _answer(request, found)


def _answer(request: web.Request, found: _Sent, *, status: int = 200) -> web.Response:
    keep = f"max-age={found.keep_s}" if found.keep_s and status == 200 else "no-cache"
    headers = {"ETag": found.tag, "Cache-Control": keep, "Vary": "Accept-Encoding"}
    asked = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if status == 200 and found.tag in asked:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = found.media
    if found.squeezed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return web.Response(status=status, body=found.squeezed, headers=headers)
    return web.Response(status=status, body=found.body, headers=headers)
