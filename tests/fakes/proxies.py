"""nginx, HAProxy and Caddy in front of a port, by the very files of deploy/examples.

Not configurations of the tests' own: names, ports, certificates and time-outs are put in place of what the
examples say, and an example that lost one of those lines is an error. Each runs in the foreground as the user
who tests.
"""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fakes.until import until

EXAMPLES: Final = Path(__file__).parents[2] / "deploy" / "examples"
SEARCHED: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
NGINX: Final = """daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/site.conf;
}}
"""
CADDY: Final = """{{
	admin off
	auto_https off
	storage file_system {folder}/caddy
	default_bind 127.0.0.1
}}

https://127.0.0.1:{port} {{
	tls {certificate} {key}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a proxy is to be started with."""

    folder: Path
    port: int
    upstream: int
    certificate: Path
    key: Path
    idle_s: int


def _filled(name: str, *replaced: tuple[str, str]) -> str:
    text = (EXAMPLES / name).read_text()
    for before, after in replaced:
        assert before in text, f"deploy/examples/{name} says {before!r} no more"
        text = text.replace(before, after)
    return text


def _nginx(program: str, told: Setting) -> tuple[str, ...]:
    (told.folder / "site.conf").write_text(
        _filled(
            "nginx.conf",
            ("listen 443 ssl", f"listen 127.0.0.1:{told.port} ssl"),
            ("127.0.0.1:8080", f"127.0.0.1:{told.upstream}"),
            ("/etc/ssl/desk.example/fullchain.pem", str(told.certificate)),
            ("/etc/ssl/desk.example/privkey.pem", str(told.key)),
            ("60s", f"{told.idle_s}s"),
        )
    )
    main = told.folder / "nginx.conf"
    main.write_text(NGINX.format(folder=told.folder))
    return (program, "-e", "stderr", "-p", str(told.folder), "-c", str(main))


def _haproxy(program: str, told: Setting) -> tuple[str, ...]:
    both = told.folder / "both.pem"
    both.write_bytes(told.certificate.read_bytes() + told.key.read_bytes())
    main = told.folder / "haproxy.cfg"
    main.write_text(
        _filled(
            "haproxy.cfg",
            ("maxconn 50000", "maxconn 500"),
            ("bind :443", f"bind 127.0.0.1:{told.port}"),
            ("127.0.0.1:8080", f"127.0.0.1:{told.upstream}"),
            ("/etc/ssl/desk.example/both.pem", str(both)),
            ("60s", f"{told.idle_s}s"),
        )
    )
    return (program, "-db", "-f", str(main))


def _caddy(program: str, told: Setting) -> tuple[str, ...]:
    main = told.folder / "Caddyfile"
    head = CADDY.format(folder=told.folder, port=told.port, certificate=told.certificate, key=told.key)
    main.write_text(
        _filled("Caddyfile", ("desk.example {\n", head), ("127.0.0.1:8080", f"127.0.0.1:{told.upstream}"))
    )
    return (program, "run", "--config", str(main), "--adapter", "caddyfile")


KINDS: Final[dict[str, Callable[[str, Setting], tuple[str, ...]]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "caddy": _caddy,
}


def present() -> list[str]:
    """Which of them this machine has."""
    return [name for name in KINDS if shutil.which(name, path=SEARCHED)]


@asynccontextmanager
async def proxy(name: str, told: Setting) -> AsyncIterator[None]:
    """Run one of them until the block ends."""
    program = shutil.which(name, path=SEARCHED)
    assert program is not None
    with (told.folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *KINDS[name](program, told),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(told.folder), "XDG_DATA_HOME": str(told.folder)},
        )
    try:
        await until(lambda: process.returncode is not None or _answers(told.port), 30)
        assert process.returncode is None, (told.folder / f"{name}.log").read_text()
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
