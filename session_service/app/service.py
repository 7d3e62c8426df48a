"""The service part: registry, control, gateway and HTTP, built top to bottom and ended in order.

The only place that names adapters. It has no privilege: desktops and files are asked of host and workers.
Start: the registry is
opened, control settles what it finds, then the port opens. End: links are told, control ends its work,
the heartbeat is last.
"""

import asyncio
import contextlib
import os
import platform
import signal
import socket
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from session_service.app import accounts, heap, listening, room
from session_service.app.certificate import Certificate
from session_service.app.figures import GatewayFigures, SecondStoreFigures, StoreLineFigures, UpkeepFigures
from session_service.app.greeting import Greeting
from session_service.app.listening import gateway_limits, trusted_networks
from session_service.app.notices import Notices
from session_service.app.parent import gateway_processes
from session_service.app.probe import PortProbe
from session_service.app.resume_secret import resume_secret
from session_service.app.store_line import bytes_per_s
from session_service.app.system import SystemClock, SystemIds
from session_service.base import errors, log
from session_service.base.layout import Layout
from session_service.checkpoints.workers import Workers
from session_service.control.control import Control
from session_service.control.parts import Admission, NodeFacts, Parts, StreamsPlace
from session_service.control.upkeep import keep_rule
from session_service.core.policy import Policy
from session_service.core.shards import names
from session_service.gateway.gateway import Gateway
from session_service.gateway.pictures import DesktopPictures
from session_service.gateway.shards import Shards
from session_service.http import setup
from session_service.http.limits import KEEP_ALIVE_S, SETUP_CODE_S
from session_service.http.server import create_app
from session_service.http.settings import HttpSettings
from session_service.providers.local import LocalDesktops
from session_service.registry.sqlite import SqliteRegistry

if TYPE_CHECKING:
    from session_service.app.settings import Settings

KEY_LOOK_S: Final = 60.0
"""For the first answer of a worker about the store: it probes it before."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def policy_of(settings: "Settings") -> Policy:
    """Return the policy that the settings describe."""
    hold, desktops, retention = settings.hold, settings.desktops, settings.retention
    return Policy(
        hold_s=hold.hold_s,
        checkpoint_target_s=hold.checkpoint_target_s,
        reauthenticate_after_s=hold.reauthenticate_after_s,
        ticket_in_path=hold.tickets_in_path,
        template=desktops.template,
        memory_mb_max=desktops.memory_mb_max,
        cpus_max=desktops.cpus_max,
        processes_max=desktops.processes_max,
        network=desktops.network,
        keep_last=retention.keep_last,
        keep_hourly=retention.keep_hourly,
        keep_daily=retention.keep_daily,
        keep_weekly=retention.keep_weekly,
        keep_monthly=retention.keep_monthly,
        keep_within_s=retention.keep_within_s,
    )


def _node_id(layout: Layout, ids: SystemIds) -> str:
    path = layout.registry / "node.id"
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        path.write_text(ids.ulid() + "\n")
        return path.read_text("ascii").strip()


def _certificate(settings: "Settings") -> Certificate | None:
    certificate, key = settings.listen.tls_certificate, settings.listen.tls_key
    return None if certificate is None or key is None else Certificate(certificate, key)


class _Origins:
    """Our own origins: those of the settings, or the loopback addresses once the port is known."""

    def __init__(self, settings: "Settings") -> None:
        self._given = frozenset(settings.listen.public_origins)
        self._scheme = "https" if settings.listen.tls_certificate else "http"
        self.port = settings.listen.port

    def __call__(self) -> frozenset[str]:
        if self._given:
            return self._given
        hosts = ("127.0.0.1", "localhost", "[::1]")
        return frozenset(f"{self._scheme}://{host}:{self.port}" for host in hosts)

    @property
    def first(self) -> str:
        """The address to show to people."""
        return min(self._given) if self._given else f"{self._scheme}://127.0.0.1:{self.port}"


class _Service:
    """Everything of one run, built in `open` and closed in reverse."""

    def __init__(self, settings: "Settings", registry: SqliteRegistry) -> None:
        self.settings = settings
        self.layout = Layout(settings.state_folder)
        self.registry = registry
        self.clock = SystemClock()
        self.ids = SystemIds(self.clock)
        self.origins = _Origins(settings)
        self.notices = Notices(settings.alarms)
        self.probe = PortProbe(tls=settings.listen.tls_certificate is not None)
        self.desktops = LocalDesktops(self.layout.host_socket)
        sockets = [self.layout.worker_socket(number) for number in range(settings.store.workers)]
        self.checkpoints = Workers(sockets)
        self.streams = StreamsPlace()
        self.certificate = _certificate(settings)
        self.listening = listening.for_part(os.environ)
        self.processes = gateway_processes(settings)
        self.who = accounts.find_parts(root=settings.state_folder.stat().st_uid == 0)
        self.control = self._control()
        self.shards = Shards(
            self.control.attachments,
            calls=self.layout.gateway_calls,
            sockets=self.layout.gateway_sockets,
            peer_uids=frozenset({os.geteuid(), *map(self.who.gateway_uid, names(self.processes))}),
            origins=self.origins,
            shards=names(self.processes),
            uid_of=self.who.gateway_uid,
            gid=self.who.gateway_gid if self.who.root else None,
            limits=gateway_limits(settings),
        )
        self.figures = CollectorRegistry()
        self.runner = web.AppRunner(
            self._http(),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=5.0,
            keepalive_timeout=KEEP_ALIVE_S,
            auto_decompress=False,  # no route takes a packed body
        )

    def _control(self) -> Control:
        parts = Parts(
            clock=self.clock,
            ids=self.ids,
            registry=self.registry,
            desktops=self.desktops,
            checkpoints=self.checkpoints,
            streams=self.streams,
            policy=policy_of(self.settings),
            workers=self.settings.store.workers,
            upload_bytes_per_s=bytes_per_s(self.settings.store.upload_mib_per_s),
            second=self.checkpoints if self.settings.store.second_url else None,
            second_required=self.settings.store.second_required == "close",
            upkeep=self.settings.store.upkeep == "on",
            admission=Admission(
                room=lambda: room.check(self.settings.room, self.layout.root),
                accepting=self.probe.accepting,
                disk=lambda: (room.disk_free_mb(self.layout.root), self.settings.room.disk_free_mb_min),
            ),
            pictures=DesktopPictures(gateway_limits(self.settings)),
            resume_secret=resume_secret(self.layout.registry),
        )
        node = NodeFacts(
            id=_node_id(self.layout, self.ids),
            boot_id=BOOT_ID.read_text().strip(),
            address=self.origins.first,
            cores=os.cpu_count() or 1,
        )
        control = Control(parts=parts, node=node)
        control.alarm_book.listen(self.notices.changed)
        return control

    def _http(self) -> web.Application:
        told = HttpSettings(
            keep=keep_rule(policy_of(self.settings)),
            uploads=self.layout.uploads,
            public_origins=frozenset(self.settings.listen.public_origins),
            secure=self.settings.listen.tls_certificate is not None or self.settings.listen.behind_proxy,
            behind_proxy=self.settings.listen.behind_proxy,
            trusted_proxies=trusted_networks(self.settings),
            gateway_processes=self.processes,
            node_id=_node_id(self.layout, self.ids),
            node_name=self.settings.node_name or platform.node(),
            version=metadata.version("session-service"),
            socket_uids=frozenset({os.geteuid()}),
        )
        return create_app(
            control=self.control,
            registry=self.registry,
            checkpoints=self.checkpoints,
            clock=self.clock,
            ids=self.ids,
            settings=told,
            owner_of=self.desktops.owner,
            origins=self.origins,
            figures=self.figures,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as outer:
            control = outer.create_task(self.control.run(ending), name="control")
            try:
                await self._serve(stop)
            finally:
                ending.set()
                await control
        await self.runner.cleanup()
        await self.notices.close()
        await self.desktops.close()
        await self.checkpoints.close()
        await self.registry.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        await self.runner.setup()
        assert self.runner.server is not None
        gateway = Gateway(
            attachments=self.shards,
            http=self.runner.server,
            origins=self.origins,
            ids=self.ids,
            trusted=trusted_networks(self.settings),
            limits=gateway_limits(self.settings),
            shards=names(self.processes),
            elsewhere=self.shards.owner,
        )
        self.figures.register(GatewayFigures(self.shards))
        line = self.settings.store
        up, down = bytes_per_s(line.upload_mib_per_s), bytes_per_s(line.download_mib_per_s)
        self.figures.register(StoreLineFigures(up=up, down=down))
        if (replication := self.control.second()) is not None:
            self.figures.register(SecondStoreFigures(replication))
        if (upkept := self.control.upkeep) is not None:
            self.figures.register(UpkeepFigures(upkept))
        self.streams.put(self.shards)
        await self._listen(gateway)
        await self.shards.open(gateway)
        await self._listen_for_cli()
        heap.settle()
        try:
            async with asyncio.TaskGroup() as beside:
                running = [beside.create_task(self.probe.run(), name="port-probe")]
                if self.certificate is not None:
                    running.append(beside.create_task(self.certificate.watch(), name="certificate"))
                await self._greet(stop)
                running.append(beside.create_task(self._offer_again(), name="offer-setup"))
                running.append(beside.create_task(self._remind_of_keys(), name="remind-of-keys"))
                await stop.wait()
                log.get_logger().info("service.stopping")
                for task in running:
                    task.cancel()
        finally:
            async with asyncio.TaskGroup() as ending:
                ending.create_task(gateway.close(), name="close-gateway")
                ending.create_task(self.shards.close(), name="close-shards")

    async def _listen(self, gateway: Gateway) -> None:
        """Take the connections of the sockets that the parent keeps."""
        context = None
        if self.certificate is not None:
            context = self.certificate.context
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.certificate.look_now)
        host, port = self.listening[0].getsockname()[:2]
        self.origins.port = port
        self.probe.listen(host, port)
        await gateway.listen_on(self.listening, tls=context)

    async def _listen_for_cli(self) -> None:
        path = self.layout.api_socket
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self.layout.address.write_text(self.origins.first + "\n")
        await web.UnixSite(self.runner, str(path)).start()
        path.chmod(0o600)

    async def _greet(self, stop: asyncio.Event) -> None:
        """Say where to open it, once control is settled."""
        while not await self.control.ready():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.02)
                return
        code = await setup.offer_setup(self.registry, self.clock, self.ids)
        sessions = len(await self.control.views())
        log.get_logger().info("service.ready", address=self.origins.first, sessions=sessions)
        Greeting(self.layout).show(
            address=self.origins.first, setup_code=code, hold_s=self.settings.hold.hold_s
        )
        _notify_systemd("READY=1")

    async def _remind_of_keys(self) -> None:
        """Say on the terminal that losing this machine would lose every key, as long as it is so."""
        try:
            async with asyncio.timeout(KEY_LOOK_S):
                found = await self.checkpoints.status()
        except (errors.SessionError, TimeoutError):
            return  # the store is away; doctor and the page of operators say it, too
        if found.key_id and not found.key_backed_up:
            Greeting(self.layout).show_keys()

    async def _offer_again(self) -> None:
        """Print a fresh setup code each time the last one has ended, until there is an administrator."""
        while True:
            await asyncio.sleep(SETUP_CODE_S)
            code = await setup.offer_setup(self.registry, self.clock, self.ids)
            if code is None:
                return
            Greeting(self.layout).show_code(code)


def _notify_systemd(words: str) -> None:
    """Tell systemd (Type=notify) that we are ready; no library is needed for one datagram."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, contextlib.suppress(OSError):
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.sendall(words.encode())


async def run(settings: "Settings", stop: asyncio.Event) -> None:
    """Run the service part until `stop`. Raises ConfigurationRefused when starting again cannot help."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    layout = Layout(settings.state_folder)
    log.get_logger().info("service.started", version=metadata.version("session-service"))
    registry = await _open_registry(layout.registry / "registry.sqlite")
    await _Service(settings, registry).run(stop)
    log.get_logger().info("service.stopped")


async def _open_registry(path: Path) -> SqliteRegistry:
    try:
        return await SqliteRegistry.open(path)
    except errors.RegistryUnavailable as exc:
        log.get_logger().error("registry.failed", detail=exc.detail, action=exc.action)
        raise
