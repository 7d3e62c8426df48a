"""A line between a browser and the service that can fall silent: nothing gets through, and nobody is told.

With root it is a network namespace of the browser's own, whose packets are dropped by nftables: the kernels
on both sides go on repeating and waiting as they would behind a dead radio link. Without root it is a proxy
that stops carrying: connections stay open, new ones are taken and stay unanswered, and what was sent
meanwhile arrives when the line speaks again, as it does when TCP repeats it.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from session_service.base.aio import Tasks
from tests.fakes.certificates import make_certificate
from tests.fakes.running_service import RunningService

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
_RULES = """
table inet line {{
  chain sent {{ type filter hook output priority 0; policy {policy}; }}
  chain heard {{ type filter hook input priority 0; policy {policy}; }}
}}
"""


class Line(Protocol):
    """One line; `address` is the service as the browser dials it, `browser` what starts the browser on it."""

    address: str
    browser: str
    inside: list[str]
    """What stands before a command that is to run at the silent end."""
    certificate: Path | None
    """The authority that its programs must trust; None where the line is not encrypted."""

    async def silence(self) -> None:
        """From now on nothing gets through."""

    async def speak(self) -> None:
        """Let everything through again."""


@contextlib.asynccontextmanager
async def silent_line(service: RunningService, folder: Path) -> AsyncIterator[Line]:
    """Make the best line that this user may make, and set the service (not started yet) up for it."""
    namespace = await asyncio.to_thread(_namespace)
    if namespace is None:
        async with _ProxyLine(service) as line:
            yield line
        return
    try:
        with tempfile.TemporaryDirectory(prefix="line-") as keys:  # not pytest's: the service reads it
            yield _NamespaceLine(namespace.pid, service, folder, Path(keys))
    finally:
        namespace.kill()
        namespace.wait()


def _namespace() -> subprocess.Popen[str] | None:
    """Return a process in a network namespace of its own; None where packets cannot be dropped.

    Not `ip netns add`: its names are mounts, which whoever changes mounts elsewhere can take away.
    """
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "nft", "unshare", "nsenter")):
        return None
    held = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo made; exec sleep infinity"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert held.stdout is not None
    made = held.stdout.readline()
    held.stdout.close()
    rules = [*_inside(held.pid), "nft", "-f", "-"]
    text = _RULES.format(policy="accept")
    if made and not subprocess.run(rules, input=text, text=True, capture_output=True, check=False).returncode:
        return held
    held.kill()
    held.wait()
    return None


def _inside(pid: int) -> list[str]:
    return ["nsenter", "--net", "--target", str(pid)]


class _NamespaceLine:
    def __init__(self, pid: int, service: RunningService, folder: Path, keys: Path) -> None:
        self.inside = _inside(pid)
        net = f"10.{secrets.randbelow(56) + 200}.{secrets.randbelow(256)}"
        near, far = (f"line{pid}{end}" for end in "ab")
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", str(pid))
        _run("ip", "address", "add", f"{net}.1/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run(*self.inside, "ip", "address", "add", f"{net}.2/30", "dev", far)
        _run(*self.inside, "ip", "link", "set", far, "up")
        _run(*self.inside, "ip", "link", "set", "lo", "up")
        self.address = f"https://{net}.1:{service.port}"
        certificate, key = make_certificate(keys, f"{net}.1")
        self.certificate: Path | None = certificate
        for path, mode in ((keys, 0o711), (certificate, 0o644), (key, 0o644)):
            path.chmod(mode)
        service.set("listen.host", f"{net}.1")
        service.set("listen.tls_certificate", str(certificate))
        service.set("listen.tls_key", str(key))
        known_as(service, self.address)
        script = folder / "browser"
        script.write_text(f'#!/bin/sh\nexec {" ".join(self.inside)} {CHROMIUM} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.browser = str(script)

    async def silence(self) -> None:
        await self._rule("drop")

    async def speak(self) -> None:
        await self._rule("accept")

    async def _rule(self, policy: str) -> None:
        text = "flush ruleset\n" + _RULES.format(policy=policy)
        await asyncio.to_thread(_run, *self.inside, "nft", "-f", "-", text=text)


class _ProxyLine:
    def __init__(self, service: RunningService) -> None:
        self._service = service
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps = Tasks(lambda name, error: self.errors.append(error))
        self.errors: list[BaseException] = []
        self.browser = CHROMIUM
        self.inside: list[str] = []
        self.certificate: Path | None = None

    async def __aenter__(self) -> "_ProxyLine":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        known_as(self._service, self.address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._speaks.set()
        await self._pumps.close()
        await self._server.wait_closed()
        assert not self.errors, self.errors

    async def silence(self) -> None:
        self._speaks.clear()

    async def speak(self) -> None:
        self._speaks.set()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        await self._speaks.wait()
        try:
            there, far = await asyncio.open_connection("127.0.0.1", self._service.port)
        except OSError:
            near.transport.abort()
            return
        self._writers += [near, far]
        self._pumps.spawn(self._pump(reader, far), name="up")
        self._pumps.spawn(self._pump(there, near), name="down")

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._speaks.wait()
                sink.write(data)
                await sink.drain()
            await self._speaks.wait()  # nobody hears of an end, either
            sink.close()
        except (OSError, RuntimeError):
            await self._speaks.wait()
            sink.transport.abort()


def known_as(service: RunningService, address: str) -> None:
    """Let a service that is not started yet know the address under which it is dialled."""
    service._environment["SESSION_SERVICE_LISTEN__PUBLIC_ORIGINS"] = json.dumps([address])
    service.address = address


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
