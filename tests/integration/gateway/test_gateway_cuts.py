"""A thousand cuts between the program's client and a real Xvnc: every key once and in order, none stuck, and
every byte of the picture the same.

Beside the cuts of test_gateway_resume, whose desktop is a pattern: here an X client in the desktop notes what
arrives, and whoever reads the picture would lose its place by one byte more or less.
"""

import asyncio
import random
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from session_service.client.resumable_stream import ResumableStream
from session_service.core.continuity.client import Began
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.gateway_world import GREETING, running, xvnc
from tests.fakes.until import until
from tests.integration.gateway.test_gateway_desktop import display, key, keys_down, until_async
from tests.integration.gateway.test_gateway_resume import SID, stream

SIDE = 64
"""Pixels of the square that is asked for again and again."""
ASK = struct.pack(">BBHHHH", 3, 0, 0, 0, SIDE, SIDE)
RECORDER = """
import ctypes, sys
x = ctypes.CDLL("libX11.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
x.XDefaultRootWindow.restype = ctypes.c_ulong
x.XLookupKeysym.restype = ctypes.c_ulong
d = ctypes.c_void_p(x.XOpenDisplay(None))
x.XAutoRepeatOff(d)
assert x.XGrabKeyboard(d, ctypes.c_ulong(x.XDefaultRootWindow(d)), 0, 1, 1, ctypes.c_ulong(0)) == 0
x.XSync(d, 0)
print("ready", flush=True)
event = ctypes.create_string_buffer(192)
while True:
    x.XNextEvent(d, event)
    if int.from_bytes(event.raw[:4], sys.byteorder) == 2:
        print(x.XLookupKeysym(event, 0), flush=True)
"""
"""Grabs the keyboard of its display and prints the symbol of every press, in order."""


class Recorder:
    """What an application of the desktop saw."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.presses: list[int] = []

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.presses.append(int(line))


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[Recorder]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RECORDER, env=display(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    made = Recorder(process)
    reading = asyncio.ensure_future(made.read())
    try:
        yield made
    finally:
        process.terminate()
        await process.wait()
        await reading


class Picture:
    """Reads updates of one rectangle in Raw encoding, and compares each with the first."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._head = 0
        self.first = b""
        self.updates = 0

    def take(self, data: bytes) -> bool:
        """Take bytes of the stream; say whether an update became complete."""
        self._data += data
        if not self._head:
            if len(self._data) < 42:
                return False
            assert self._data[:12] == GREETING
            self._head = 42 + int.from_bytes(self._data[38:42], "big")
        if self._head > 0:
            if len(self._data) < self._head:
                return False
            del self._data[: self._head]
            self._head = -1
        size = 4 + 12 + SIDE * SIDE * 4
        if len(self._data) < size:
            return False
        update = bytes(self._data[:size])
        del self._data[:size]
        assert update[:16] == struct.pack(">BxHHHHHi", 0, 1, 0, 0, SIDE, SIDE, 0), update[:16]
        self.first = self.first or update
        assert update == self.first, "a byte of the picture differs"
        self.updates += 1
        return True


async def _typed_through_cuts(tmp_path: Path, cuts: int, seed: int) -> None:
    """Cut at random moments while a user types and looks."""
    chance = random.Random(seed)
    typed: list[int] = []
    async with xvnc(tmp_path) as desktop, recording(tmp_path) as seen, running() as world:
        world.control.add_session(SID, str(desktop))
        async with CuttingProxy(world.port, seed=seed) as proxy, stream(world, proxy) as client:
            picture = Picture()
            writing = asyncio.Lock()

            async def write(data: bytes) -> None:
                async with writing:
                    await client.write(data)

            async def look() -> None:
                async for event in client.events():
                    assert not isinstance(event, Began) or not event.resync, f"seed {seed}"
                    if isinstance(event, bytes) and picture.take(event):
                        due.set()

            async def ask() -> None:
                while True:
                    await due.wait()
                    due.clear()
                    await write(ASK)

            due = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(look())
                await write(GREETING + b"\x01\x01" + ASK)
                asking = group.create_task(ask())
                cutting = group.create_task(_cut(proxy, client, cuts, chance))
                while not cutting.done():
                    letter = chance.randrange(ord("a"), ord("z") + 1)
                    typed.append(letter)
                    await write(key(letter, True))
                    if chance.random() < 0.5:
                        await asyncio.sleep(0.004 * chance.random())
                    await write(key(letter, False))
                    await asyncio.sleep(0.004 * chance.random())
                await until(lambda: len(seen.presses) >= len(typed), 60)
                looking.cancel()
                asking.cancel()
            assert seen.presses == typed, f"seed {seed}"
            await until_async(lambda: keys_down(tmp_path), lambda down: not down)
            assert (client.resyncs, proxy.cuts >= cuts) == (0, True)
            assert client.replays > cuts // 4
            assert picture.updates > cuts // 10


async def _cut(proxy: CuttingProxy, client: ResumableStream, cuts: int, chance: random.Random) -> None:
    await until(lambda: client.number == 1)
    while proxy.cuts < cuts:
        await asyncio.sleep(0.03 * chance.random())
        proxy.cut_all()
        client.hurry()


@pytest.mark.slow
async def test_a_thousand_cuts_lose_double_and_stick_no_key_of_a_real_desktop(tmp_path: Path) -> None:
    await _typed_through_cuts(tmp_path, 1000, 21)


@pytest.mark.soak
async def test_ten_thousand_cuts_lose_double_and_stick_no_key_of_a_real_desktop(tmp_path: Path) -> None:
    await _typed_through_cuts(tmp_path, 10_000, 22)
