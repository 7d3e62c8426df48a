"""What the gateway benchmark measures, as processes: the gateway of a service and its gateway processes, with
a control that lets everybody in who has a ticket or a true proof.

    python _gateway_site.py --listen FD --target UNIX_SOCKET --folder FOLDER [--processes N]
    python _gateway_site.py --shard N ...            one of the further processes, started by the first

Not the product's control: sessions are made up from tickets, so that the next process knows them without a
registry. Sockets, shards, rings, proofs and the passing of connections are the product's own.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from session_service.app import heap
from session_service.app.system import SystemClock, SystemIds
from session_service.core.continuity.attempts import NOT_FOUND, is_proved
from session_service.core.continuity.proof import grant_key, session_secret
from session_service.core.shards import names
from session_service.gateway.gateway import Gateway
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.process import ProcessSettings
from session_service.gateway.process import run as run_process
from session_service.gateway.shards import Shards
from session_service.ports.streams import Attachment, LinkEnd, LinkOffer, LinkRefusal, ResumeOffer

SECRET = bytes(range(32))
"""Of no session that exists; the same in each process, as the service's file is."""
STALL_LOOK_S = 0.005
"""Between two looks at how late the loop is."""
BARE_S = 3600.0
"""For a first message, where links without one are what is measured."""


class OpenDoor:
    """Attaches everybody to one desktop."""

    def __init__(self, target: str) -> None:
        self._target = target

    async def attach(self, offer: LinkOffer) -> Attachment:
        session_id = offer.ticket[:26]
        return self._attachment(session_id, grant_key(session_secret(SECRET, session_id), session_id, 1))

    async def resume(self, offer: ResumeOffer) -> Attachment | LinkRefusal:
        if not is_proved(SECRET, offer.attempt, offer.challenge):
            return LinkRefusal(code=int(NOT_FOUND.code), why=NOT_FOUND.why, next=str(NOT_FOUND.next))
        return self._attachment(offer.attempt.session_id, None)

    def _attachment(self, session_id: str, key: bytes | None) -> Attachment:
        return Attachment(
            session_id=session_id,
            generation=1,
            mode="control",
            socket=self._target,
            uid=None,
            hold_s=1800.0,
            device_label="bench",
            grant=1,
            key=key,
        )

    async def wait_starting(self, offer: LinkOffer) -> str:
        return ""

    def leave(self, session_id: str, link_id: str) -> None:
        pass

    def ended(self, end: LinkEnd) -> None:
        pass

    def leg_lost(self, session_id: str, link_id: str) -> None:
        pass


class Stalls:
    """How long the loop stands still between two signals: by the clock, where other work on the machine
    counts, and by our own processor time. It looks only meanwhile, so that it costs no other figure.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._timer: asyncio.TimerHandle | None = None

    def toggle(self) -> None:
        """Begin, or write down what was found."""
        if self._timer is None:
            self._late = self._used = 0.0
            self._arm()
            return
        self._timer.cancel()
        self._timer = None
        made = self._out.with_suffix(".new")
        made.write_text(json.dumps({"late_ms": self._late * 1000, "cpu_ms": self._used * 1000}))
        made.rename(self._out)

    def _arm(self) -> None:
        self._due, self._cpu = time.monotonic() + STALL_LOOK_S, time.thread_time()
        self._timer = asyncio.get_running_loop().call_later(STALL_LOOK_S, self._look)

    def _look(self) -> None:
        self._late = max(self._late, time.monotonic() - self._due)
        self._used = max(self._used, time.thread_time() - self._cpu)
        self._arm()


async def serve(chosen: argparse.Namespace, stop: asyncio.Event) -> None:
    """Be the service: accept, carry shard 0, and pass the others on."""
    listening = socket.socket(fileno=chosen.listen)
    listening.setblocking(False)
    origins = frozenset({f"http://127.0.0.1:{listening.getsockname()[1]}"})
    shards = Shards(
        OpenDoor(chosen.target),
        calls=chosen.folder / "calls",
        sockets=chosen.folder / "sockets",
        peer_uids=frozenset({os.geteuid()}),
        origins=lambda: origins,
    )
    gateway = Gateway(
        attachments=shards,
        http=asyncio.Protocol,
        origins=lambda: origins,
        ids=SystemIds(SystemClock()),
        shards=names(chosen.processes),
        elsewhere=shards.owner,
        limits=GatewayLimits(first_message_s=BARE_S) if chosen.bare else None,
    )
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGUSR1, Stalls(chosen.folder / "stalls.json").toggle
    )
    await shards.open(gateway)
    started = [
        await asyncio.create_subprocess_exec(*sys.orig_argv, "--shard", shard)
        for shard in names(chosen.processes)[1:]
    ]
    while len(shards.joined()) < len(started):  # noqa: ASYNC110 - processes come without an event of ours
        await asyncio.sleep(0.01)
    heap.settle()
    await gateway.listen_on([listening])
    (chosen.folder / "ready").touch()
    await stop.wait()
    await asyncio.gather(gateway.close(), shards.close())
    for process in started:
        process.terminate()
        await process.wait()


async def carry(chosen: argparse.Namespace, stop: asyncio.Event) -> None:
    """Be one of the further processes."""
    heap.settle()
    told = ProcessSettings(
        calls=chosen.folder / "calls",
        sockets=chosen.folder / "sockets",
        shard=chosen.shard,
        shards=names(chosen.processes),
        ids=SystemIds(SystemClock()),
    )
    await run_process(told, stop)


async def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--listen", type=int, required=True)
    made.add_argument("--target", required=True)
    made.add_argument("--folder", type=Path, required=True)
    made.add_argument("--processes", type=int, default=1)
    made.add_argument("--shard")
    made.add_argument("--bare", action="store_true", help="wait long for the first message")
    chosen = made.parse_args()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await (carry if chosen.shard else serve)(chosen, stop)


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    uvloop.run(main())
