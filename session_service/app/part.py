"""One part of the service as a process: `python -m session_service.app.part NAME PARENT_PID`. Started by
the parent only.

Not a command for people. It reads the settings that the parent hands over, runs one of host, worker-N or
service until SIGTERM, and says
by its exit status whether starting it again could help.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from session_service.app import accounts, closed_memory, heap, store_line, watch_group
from session_service.app.parent import REFUSED_STATUS, gateway_processes, parse_settings
from session_service.app.refused import ConfigurationRefused
from session_service.base import log
from session_service.base.layout import Layout

if TYPE_CHECKING:
    from session_service.app.settings import Settings

Run = Callable[[asyncio.Event], Awaitable[None]]


def _worker(settings: "Settings", number: int, *, root: bool) -> Run:
    from session_service.app.keys import key_sources
    from session_service.checkpoints import worker

    layout = Layout(settings.state_folder)
    who = accounts.find_parts(root=root)
    told = worker.WorkerSettings(
        layout=layout,
        number=number,
        store_url=settings.store.url or layout.objects.resolve().as_uri(),
        own_store=not settings.store.url,
        credentials_file=settings.store.credentials_file,
        second_url=settings.store.second_url or None,
        second_credentials_file=settings.store.second_credentials_file,
        keys=key_sources(settings),
        service_uid=who.service_uid,
        service_gid=who.service_gid,
        watch_group=watch_group.inherited(os.environ),
        workers=settings.store.workers,
        upload_bytes_per_s=store_line.bytes_per_s(settings.store.upload_mib_per_s),
        download_bytes_per_s=store_line.bytes_per_s(settings.store.download_mib_per_s),
    )
    return lambda stop: worker.run(told, stop)


def _host(settings: "Settings", *, root: bool) -> Run:
    from session_service.host import main as host

    who = accounts.find_parts(root=root)
    told = host.HostSettings(
        layout=Layout(settings.state_folder),
        sandbox=settings.desktops.sandbox == "on",
        service_uid=who.service_uid,
        service_gid=who.service_gid,
    )
    return lambda stop: host.run(told, stop)


def _service(settings: "Settings") -> Run:
    from session_service.app import service

    return lambda stop: service.run(settings, stop)


def _gateway(settings: "Settings", shard: str) -> Run:
    from session_service.app.listening import gateway_limits, trusted_networks
    from session_service.app.system import SystemClock, SystemIds
    from session_service.core.shards import names
    from session_service.gateway import process

    layout = Layout(settings.state_folder)
    told = process.ProcessSettings(
        calls=layout.gateway_calls,
        sockets=layout.gateway_sockets,
        shard=shard,
        shards=names(gateway_processes(settings)),
        ids=SystemIds(SystemClock()),
        trusted=trusted_networks(settings),
        limits=gateway_limits(settings),
    )

    async def serve(stop: asyncio.Event) -> None:
        heap.settle()
        await process.run(told, stop)

    return serve


def _runner(name: str, settings: "Settings") -> Run:
    root = Path(settings.state_folder).stat().st_uid == 0  # the parent made it; we may have lost root since
    if name == "host":
        return _host(settings, root=root)
    if name == "service":
        return _service(settings)
    if name.startswith("gateway-"):
        return _gateway(settings, name.removeprefix("gateway-"))
    return _worker(settings, int(name.removeprefix("worker-")), root=root)


async def _until_told(run: Run) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(stop)


def use_json(settings: "Settings") -> bool:
    """Say whether log lines are JSON: as set, else for machines only."""
    chosen = settings.logs.format
    return chosen == "json" or (chosen == "auto" and not sys.stderr.isatty())


def main() -> int:
    """Run the part that the arguments name; returns the exit status."""
    name, parent = sys.argv[1], int(sys.argv[2])
    settings = parse_settings()
    log.configure(json=use_json(settings), level=settings.logs.level, part=name)
    if os.getppid() != parent:
        return 0  # the parent died before it could be told to end us
    os.umask(0o077)
    os.chdir(Path("/"))
    if name != "host":  # where it is not root it starts desktops, which are to be looked into by their user
        closed_memory.close()
    carries = name == "service" or name.startswith("gateway-")
    if carries:
        from session_service.app import descriptors

        descriptors.take_all()
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop if carries else None)
    except ImportError:
        runner = asyncio.Runner()
    try:
        with runner:
            runner.run(_until_told(_runner(name, settings)))
    except ConfigurationRefused as exc:
        log.get_logger().error("configuration.refused", detail=exc.detail, action=exc.action)
        return REFUSED_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
