"""The privileged process: answers the calls of `ports/desktops.py` on one private socket, and nothing else.

Not reachable from a network, and no policy: it launches, observes, freezes, thaws, asks, ends and wipes. Its
end ends no desktop; the next one finds them again. Peers are the service's user and root, by the socket's
credentials.
"""

import argparse
import asyncio
import os
import pwd
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from session_service.base import log
from session_service.base.layout import Layout
from session_service.base.rpc import Call, Handler, Server
from session_service.host import control_groups
from session_service.host.desktops import Desktops
from session_service.ports.desktops import Handle
from session_service.ports.host_calls import (
    AskCall,
    Exit,
    FreezeCall,
    HandleCall,
    LaunchCall,
    MarkCall,
    Owner,
    OwnerCall,
    ProofCall,
)

SEED_LOOK_S: Final = 60.0
EXITS_WAITING_MAX: Final = 10_000
"""Ends not yet told to one listener; a machine has fewer desktops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What the host is told at its start; everything else it sees by itself."""

    layout: Layout
    sandbox: bool = True
    """False: desktops run without a sandbox, which is an explicit choice."""
    service_uid: int | None = None
    """Who may call beside root and our own user."""
    service_gid: int | None = None
    """The group that may connect to our socket and to the RFB sockets; used where the host is root."""


class Calls:
    """The calls by name.

    Each takes one struct of `ports/host_calls.py` and answers with one of the port's.
    """

    def __init__(self, desktops: Desktops) -> None:
        self._desktops = desktops

    def handlers(self) -> dict[str, Handler]:
        """Return what the server needs."""
        return {
            "owner": self._owner,
            "templates": self._templates,
            "launch": self._launch,
            "census": self._census,
            "observe": self._observe,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "ask_close": self._ask_close,
            "end": self._end,
            "wipe": self._wipe,
            "discard": self._discard,
            "mark": self._mark,
            "last_words": self._last_words,
            "exits": self._exits,
        }

    async def _owner(self, call: Call) -> Any:
        wish = call.params(OwnerCall)
        return Owner(ids=self._desktops.owner(wish.workspace_id, wish.fence))

    async def _templates(self, _: Call) -> Any:
        return self._desktops.templates()

    async def _launch(self, call: Call) -> Any:
        return await self._desktops.launch(call.params(LaunchCall).spec)

    async def _census(self, _: Call) -> Any:
        return await self._desktops.census()

    async def _observe(self, call: Call) -> Any:
        return await self._desktops.observe(call.params(HandleCall).handle)

    async def _freeze(self, call: Call) -> Any:
        wish = call.params(FreezeCall)
        return await self._desktops.freeze(wish.handle, applications_only=wish.applications_only)

    async def _thaw(self, call: Call) -> Any:
        await self._desktops.thaw(call.params(HandleCall).handle)

    async def _ask_close(self, call: Call) -> Any:
        wish = call.params(AskCall)
        return await self._desktops.ask_close(wish.handle, hook=wish.hook)

    async def _end(self, call: Call) -> Any:
        wish = call.params(ProofCall)
        await self._desktops.end(wish.handle, wish.proof)

    async def _wipe(self, call: Call) -> Any:
        wish = call.params(ProofCall)
        await self._desktops.wipe(wish.handle, wish.proof)

    async def _discard(self, call: Call) -> Any:
        await self._desktops.discard(call.params(HandleCall).handle)

    async def _mark(self, call: Call) -> Any:
        wish = call.params(MarkCall)
        await self._desktops.mark(
            wish.handle,
            provisional_loss_epoch=wish.provisional_loss_epoch,
            revoked_grant=wish.revoked_grant,
        )

    async def _last_words(self, call: Call) -> Any:
        return self._desktops.last_words(call.params(HandleCall).handle)

    async def _exits(self, call: Call) -> Any:
        waiting: asyncio.Queue[Exit] = asyncio.Queue(EXITS_WAITING_MAX)
        stop = self._desktops.listen(_into(waiting))
        try:
            while True:
                await call.event(await waiting.get())
        finally:
            stop()


async def run(settings: HostSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set (or the task is cancelled); desktops are left as they are."""
    layout = settings.layout
    root = os.geteuid() == 0
    desktops = Desktops(
        layout,
        hierarchies=control_groups.find(),
        root=root,
        sandboxed=settings.sandbox,
        service_gid=settings.service_gid if root else None,
    )
    layout.host_socket.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    peers = {0, os.geteuid(), *(() if settings.service_uid is None else (settings.service_uid,))}
    server = Server(layout.host_socket, Calls(desktops).handlers(), peer_uids=frozenset(peers))
    adopted = desktops.adopt_all()
    try:
        if root and settings.service_gid is not None:
            await server.start(mode=0o660, gid=settings.service_gid)
        else:
            await server.start()
        log.get_logger().info("part.started", desktops=adopted)
        async with asyncio.TaskGroup() as work:
            cleaning = work.create_task(_delete_seeds(desktops), name="delete-seeds")
            await stop.wait()
            cleaning.cancel()
    finally:
        await server.close()
        await desktops.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the host by itself from a command line, as tests and operators do; `app` calls `run`."""
    parser = argparse.ArgumentParser(prog="session-service-host", description="The part that runs desktops.")
    parser.add_argument("--state-folder", type=Path, required=True)
    parser.add_argument("--service-user", help="the account that may call (only where the host is root)")
    parser.add_argument("--sandbox", choices=("on", "off"), default="on")
    parser.add_argument("--log-json", action="store_true")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    options = parser.parse_args(arguments)
    log.configure(json=options.log_json, level=options.log_level, part="host")
    account = pwd.getpwnam(options.service_user) if options.service_user else None
    settings = HostSettings(
        layout=Layout(options.state_folder),
        sandbox=options.sandbox == "on",
        service_uid=None if account is None else account.pw_uid,
        service_gid=None if account is None else account.pw_gid,
    )
    asyncio.run(_until_signalled(settings))
    return 0


def _into(waiting: "asyncio.Queue[Exit]") -> Callable[[Handle, str], None]:
    def heard(handle: Handle, words: str) -> None:
        waiting.put_nowait(Exit(handle=handle, last_words=words))

    return heard


async def _delete_seeds(desktops: Desktops) -> None:
    """Delete wiped homes, slowly and late."""
    while True:
        await asyncio.sleep(SEED_LOOK_S)
        await asyncio.to_thread(desktops.delete_old_seeds, now_s=time.time())


async def _until_signalled(settings: HostSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)
