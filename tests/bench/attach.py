"""`./deploy/bench attach`: from a fresh ticket to the first whole picture, through the gateway, of a real
Xvnc.

Everything a page does is in it: connection, upgrade, first message, RFB handshake, 1280x800 pixels. A
browser's own time to draw them is not. Two encodings: Raw (4 MB, what a fast line sees at worst) and ZRLE
(what a slow line sees).
"""

import statistics
import struct
import tempfile
import time
from pathlib import Path

import uvloop

from session_service.base import log
from tests.bench import report
from tests.fakes.gateway_world import World, greet, running, xvnc

WIDTH, HEIGHT = 1280, 800
GOAL_MS = 150.0
RAW, ZRLE = 0, 16


async def picture_ms(world: World, encoding: int) -> float:
    """Open a link and take one whole picture; return how long that took, in milliseconds."""
    began = time.perf_counter()
    async with world.opened("s") as client:
        init = await greet(client)
        assert struct.unpack(">HH", init[:4]) == (WIDTH, HEIGHT)
        await client.send(
            struct.pack(">BBHi", 2, 0, 1, encoding) + struct.pack(">BBHHHH", 3, 0, 0, 0, WIDTH, HEIGHT)
        )
        stream = b""
        while not is_whole(stream):
            message = await client.recv()
            assert isinstance(message, bytes)
            stream += message
        return (time.perf_counter() - began) * 1000


def is_whole(stream: bytes) -> bool:
    """Say whether a FramebufferUpdate has come with every rectangle of the picture in it."""
    if len(stream) < 4:
        return False
    count, at = struct.unpack(">H", stream[2:4])[0], 4
    for _ in range(count):
        if len(stream) < at + 12:
            return False
        _x, _y, width, height, encoding = struct.unpack(">HHHHi", stream[at : at + 12])
        at += 12
        if encoding == RAW:
            at += width * height * 4
        else:
            if len(stream) < at + 4:
                return False
            at += 4 + struct.unpack(">I", stream[at : at + 4])[0]
    return len(stream) >= at


async def measure(rounds: int) -> dict[str, list[float]]:
    """Take pictures in turns."""
    found: dict[str, list[float]] = {"Raw, 4 MB": [], "ZRLE": []}
    with tempfile.TemporaryDirectory(prefix="attach-") as folder:
        async with xvnc(Path(folder), geometry=f"{WIDTH}x{HEIGHT}") as desktop, running() as world:
            world.control.add_session("s", str(desktop))
            for number in range(rounds + 1):
                for name, encoding in (("Raw, 4 MB", RAW), ("ZRLE", ZRLE)):
                    took = await picture_ms(world, encoding)
                    if number:  # the first round fills caches
                        found[name].append(took)
    return found


def main() -> int:
    log.configure(json=False, level="warning")
    made = report.parser("Fresh attach to the first whole picture.")
    made.add_argument("--rounds", type=int, default=15)
    chosen = made.parse_args()
    report.progress(f"{chosen.rounds} attachments in each of two encodings")
    found = uvloop.run(measure(chosen.rounds))
    rows = [
        report.Row(
            row=f"fresh attach to first full frame, {name}, ms (median)",
            ours=round(statistics.median(times), 1),
            goal=GOAL_MS,
            less_is_better=True,
        )
        for name, times in found.items()
    ]
    notes = (
        f"{WIDTH}x{HEIGHT}, loopback, no TLS; slowest {max(max(times) for times in found.values()):.0f} ms",
    )
    return report.report("attach", rows, as_json=chosen.json, notes=notes)


if __name__ == "__main__":
    raise SystemExit(main())
