"""The privileged process: answers the calls of `ports/desktops.py` on one private socket, and nothing else.

Not reachable from a network, and no policy: it launches, observes, freezes, thaws, asks, ends and wipes. Its end ends no desktop;
the next one finds them again. Peers are the service's user and root, by the socket's credentials.
"""

import argparse
import asyncio
import contextlib
import os
import pwd
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from session_service.base import errors, log
from session_service.base.layout import Layout
from session_service.base.rpc import Call, Handler, Server
from session_service.host import control_groups
from session_service.host.desktops import Desktops
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
from session_service.ports.desktops import Handle

SEED_LOOK_S: Final = 60.0
EXITS_WAITING_MAX: Final = 10_000
"""Ends not yet told to one listener; a machine has fewer desktops."""


def handlers(desktops: Desktops) -> dict[str, Handler]:
    """Return the calls by name; each takes one struct of `ports/host_calls.py` and answers with one of the port's."""

    async def owner(call: Call) -> Any:
        wish = call.params(OwnerCall)
        return Owner(ids=desktops.owner(wish.workspace_id, wish.fence))

    async def launch(call: Call) -> Any:
        return await desktops.launch(call.params(LaunchCall).spec)

    async def census(_: Call) -> Any:
        return await desktops.census()

    async def observe(call: Call) -> Any:
        return await desktops.observe(call.params(HandleCall).handle)

    async def freeze(call: Call) -> Any:
        wish = call.params(FreezeCall)
        return await desktops.freeze(wish.handle, applications_only=wish.applications_only)

    async def thaw(call: Call) -> Any:
        await desktops.thaw(call.params(HandleCall).handle)

    async def ask_close(call: Call) -> Any:
        wish = call.params(AskCall)
        return await desktops.ask_close(wish.handle, hook=wish.hook)

    async def end(call: Call) -> Any:
        wish = call.params(ProofCall)
        await desktops.end(wish.handle, wish.proof)

    async def wipe(call: Call) -> Any:
        wish = call.params(ProofCall)
        await desktops.wipe(wish.handle, wish.proof)

    async def discard(call: Call) -> Any:
        await desktops.discard(call.params(HandleCall).handle)

    async def mark(call: Call) -> Any:
        wish = call.params(MarkCall)
        await desktops.mark(wish.handle, provisional_loss_epoch=wish.provisional_loss_epoch)

    async def last_words(call: Call) -> Any:
        return desktops.last_words(call.params(HandleCall).handle)

    async def exits(call: Call) -> Any:
        waiting: asyncio.Queue[Exit] = asyncio.Queue(EXITS_WAITING_MAX)

        def heard(handle: Handle, words: str) -> None:
            waiting.put_nowait(Exit(handle=handle, last_words=words))

        stop = desktops.listen(heard)
        try:
            while True:
                await call.event(await waiting.get())
        finally:
            stop()

    calls = (
        owner,
        launch,
        census,
        observe,
        freeze,
        thaw,
        ask_close,
        end,
        wipe,
        discard,
        mark,
        last_words,
        exits,
    )
    return {call.__name__: call for call in calls}


async def run(
    state_folder: Path,
    *,
    service_user: str | None = None,
    sandboxed: bool = True,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set (or the task is cancelled); desktops are left as they are."""
    layout = Layout(state_folder)
    root = os.geteuid() == 0
    account = pwd.getpwnam(service_user) if service_user is not None and root else None
    desktops = Desktops(
        layout,
        hierarchies=control_groups.find(),
        root=root,
        sandboxed=sandboxed,
        service_gid=account.pw_gid if account is not None else None,
    )
    layout.run.mkdir(mode=0o711, exist_ok=True)
    peers = frozenset({0, os.geteuid(), *(() if account is None else (account.pw_uid,))})
    server = Server(layout.host_socket, handlers(desktops), peer_uids=peers)
    logger = log.get_logger()
    adopted = desktops.adopt_all()
    try:
        if account is None:
            await server.start()
        else:
            await server.start(mode=0o660, gid=account.pw_gid)
        logger.info("part.started", desktops=adopted)
        async with asyncio.TaskGroup() as work:
            cleaning = work.create_task(_delete_seeds(desktops), name="delete-seeds")
            await (stop or asyncio.Event()).wait()
            cleaning.cancel()
    finally:
        await server.close()
        await desktops.close()


async def _delete_seeds(desktops: Desktops) -> None:
    """Delete wiped homes, slowly and late."""
    while True:
        await asyncio.sleep(SEED_LOOK_S)
        await asyncio.to_thread(desktops.delete_old_seeds, now_s=time.time())


async def _until_signalled(state_folder: Path, *, service_user: str | None, sandboxed: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(state_folder, service_user=service_user, sandboxed=sandboxed, stop=stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the host from a command line."""
    parser = argparse.ArgumentParser(prog="session-service-host", description="The part that runs desktops.")
    parser.add_argument("--state-folder", type=Path, required=True)
    parser.add_argument("--service-user", help="the account that may call (only where the host is root)")
    parser.add_argument("--sandbox", choices=("on", "off"), default="on")
    parser.add_argument("--log-json", action="store_true")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    options = parser.parse_args(arguments)
    log.configure(json=options.log_json, level=options.log_level, part="host")
    os.umask(0o022)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(
                _until_signalled(
                    options.state_folder, service_user=options.service_user, sandboxed=options.sandbox == "on"
                )
            )
    except (errors.SessionError, OSError, KeyError) as exc:
        log.get_logger().error("part.refused", error=str(exc))
        return 1
    return 0
