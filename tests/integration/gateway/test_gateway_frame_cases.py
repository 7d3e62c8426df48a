"""The cases of the Autobahn suite that apply to us, by its numbers, on the live endpoint with frames by hand.

Not the suite itself: what PyPI has of it (25.10.1) still is Python 2 and does not start on any Python that we
run on, and its fuzzing client wants an echo server without limits. Here the echo is what the desktop got: a
message of RFB is the payload, and a key behind it tells that all of it was taken. Text is control and small.
The codes of 7.7 and 7.9 and the reserved bits and types of 3 and 4 are in test_gateway_frames.py; 12 and 13
(compression) are the one case that we answer: none is agreed on.
"""

import asyncio
import json
from dataclasses import dataclass

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from session_service.core.close_codes import Close
from tests.fakes.gateway_world import World, everything, masked, request
from tests.fakes.rfb_desktop import FakeDesktop
from tests.integration.gateway.test_gateway_hostile import KEY_A, last_close, stock


def rfb(length: int) -> bytes:
    """A message of RFB of this many bytes (8 at least): a text for the clipboard that means nothing."""
    return b"\x06\0\0\0" + (length - 8).to_bytes(4, "big") + bytes(n % 251 for n in range(length - 8))


def cut(payload: bytes, size: int, between: bytes = b"") -> bytes:
    """One binary message in fragments of a size, with frames between them."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    frames = [
        masked(0 if number else 2, piece, fin=number == len(pieces) - 1)
        for number, piece in enumerate(pieces)
    ]
    return between.join(frames)


PING, PONG = masked(9, b"in between"), masked(10, b"nobody asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Frames that are taken: what the desktop gets of them, and what comes back."""

    frames: bytes
    got: tuple[bytes, ...] = ()
    said: bytes = b""
    chop: int = 0
    """Bytes of each write; zero sends all at once."""


SIZES = (8, 125, 126, 127, 128, 65535, 65536)
TAKEN = {
    "1.2.1 empty messages": Case(frames=masked(2, b"") * 3),
    **{f"1.2 {size} bytes": Case(frames=masked(2, rfb(size)), got=(rfb(size),)) for size in SIZES},
    "1.2.8 in pieces of 997": Case(frames=masked(2, rfb(65536)), got=(rfb(65536),), chop=997),
    "2.1 an empty ping": Case(frames=masked(9, b""), said=b"\x8a\x00"),
    "2.2 a ping with text": Case(frames=masked(9, b"hello"), said=b"\x8a\x05hello"),
    "2.3 a ping that is no text": Case(
        frames=masked(9, b"\0\xff\xfe\xfd\xfc\xfb\0\xff"), said=b"\x8a\x08\0\xff\xfe"
    ),
    "2.4 the largest ping": Case(frames=masked(9, b"\xfe" * 125), said=b"\x8a\x7d" + b"\xfe" * 125),
    "2.6 a ping byte by byte": Case(
        frames=masked(9, b"\xfe" * 125), said=b"\x8a\x7d" + b"\xfe" * 125, chop=1
    ),
    "2.7 an empty pong unasked": Case(frames=masked(10, b"")),
    "2.9 a pong, then a ping": Case(frames=PONG + masked(9, b"p"), said=b"\x8a\x01p"),
    "2.10 ten pings": Case(frames=b"".join(masked(9, b"%d" % n) for n in range(10)), said=b"\x8a\x019"),
    "5.3 two fragments": Case(frames=cut(rfb(40), 20), got=(rfb(40),)),
    "5.5 two fragments byte by byte": Case(frames=cut(rfb(40), 20), got=(rfb(40),), chop=1),
    "5.6 a ping between": Case(frames=cut(rfb(40), 20, PING), got=(rfb(40),), said=b"in between"),
    "5.8 a ping between, byte by byte": Case(frames=cut(rfb(40), 20, PING), got=(rfb(40),), chop=1),
    "5.19 many, with pings and pongs": Case(
        frames=cut(rfb(40), 8, PING + PONG), got=(rfb(40),), said=b"in between"
    ),
    "5.20 empty fragments": Case(frames=cut(rfb(40), 8, masked(0, b"", fin=False)), got=(rfb(40),)),
    **{
        f"9.4 64 KiB in fragments of {size}": Case(frames=cut(rfb(65536), size), got=(rfb(65536),))
        for size in (64, 256, 1024, 4096, 16384)
    },
    "9.6 64 KiB in pieces of 64": Case(frames=masked(2, rfb(65536)), got=(rfb(65536),), chop=64),
    "9.8 thousand small ones": Case(frames=masked(2, rfb(16)) * 1000, got=(rfb(16),) * 1000),
    "10.1 65536 in fragments of 1300": Case(frames=cut(rfb(65536), 1300), got=(rfb(65536),)),
}
REFUSED = {
    "2.5 a ping of 126": (masked(9, b"\xfe" * 126), Close.PROTOCOL),
    "5.1 a ping in two fragments": (masked(9, b"a", fin=False) + masked(0, b"b"), Close.PROTOCOL),
    "5.2 a pong in two fragments": (masked(10, b"a", fin=False) + masked(0, b"b"), Close.PROTOCOL),
    "5.9 a continuation of nothing": (masked(0, b"x"), Close.PROTOCOL),
    "5.10 one that is not the last": (masked(0, b"x", fin=False), Close.PROTOCOL),
    "5.12 one behind a whole message": (masked(2, rfb(20)) + masked(0, b"x"), Close.PROTOCOL),
    "5.15 one behind a fragmented one": (cut(rfb(20), 10) + masked(0, b"x", fin=False), Close.PROTOCOL),
    "5.18 text inside of a message": (masked(2, rfb(20)[:9], fin=False) + masked(1, b"x"), Close.PROTOCOL),
    "7.3.2 a close of one byte": (masked(8, b"\x03"), Close.PROTOCOL),
    "7.3.6 a close of 126 bytes": (masked(8, b"\x03\xe8" + b"x" * 124), Close.PROTOCOL),
    "7.5.1 a reason that is no text": (
        masked(8, b"\x03\xe8\xce\xba\xe1\xbd\xb9\xed\xa0\x80"),
        Close.NOT_UTF8,
    ),
    "9.1 a message over the limit": (masked(2, rfb(65537)), Close.MESSAGE_TOO_BIG),
    "9.4 fragments over the limit": (cut(rfb(65537), 4096), Close.MESSAGE_TOO_BIG),
}
CLOSED = {
    "7.1.2 two closes": masked(8, b"\x03\xe8") * 2,
    "7.1.3 a ping behind it": masked(8, b"\x03\xe8") + PING,
    "7.1.4 a message behind it": masked(8, b"\x03\xe8") + masked(2, KEY_A),
    "7.3.1 without a code": masked(8, b""),
    "7.3.3 with a code": masked(8, b"\x03\xe8"),
    "7.3.4 with a reason": masked(8, b"\x03\xe8bye"),
    "7.3.5 with the longest reason": masked(8, b"\x03\xe8" + b"x" * 123),
}
TEXTS = {
    "6.2.1": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "6.5": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
    "6.7": b"\xc2\x80",
    "6.9": b"\xf0\x90\x80\x80",
    "6.11": b"\xef\xbf\xbf",
    "6.22": b"\xef\xbf\xbe\xf4\x8f\xbf\xbf",
}
NO_TEXTS = {
    "6.3": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    "6.6": b"\xce\xba\xe1\xbd",
    "6.8": b"\xf8\x88\x80\x80\x80",
    "6.10": b"\xf7\xbf\xbf\xbf",
    "6.12": b"\x80\xbf\x80",
    "6.14": b"\xc0\x20\xc1\x20",
    "6.16": b"\xe0\x80",
    "6.18": b"\xc0\xaf\xe0\x80\xaf",
    "6.20": b"\xed\xaf\xbf\xed\xbf\xbf",
    "6.21 halves of a pair": b"\xed\xa0\x80\xed\xb0\x80",
    "6.23 beyond the last": b"\xf4\x90\x80\x80",
}


async def side_by_side(world: World, desktop: FakeDesktop, many: list[bytes]) -> list[bytes]:
    """What ends a link each, on which these frames were said; no key of theirs reached the desktop."""

    async def end(number: int, frames: bytes) -> bytes:
        session = f"s{number}"
        world.control.add_session(session, str(desktop.path))
        reader, writer = await world.raw(request(f"/s/{world.shard}/t/{world.control.ticket(session)}"))
        await reader.readuntil(b"RFB 003.008\n")
        writer.write(masked(2, b"RFB 003.008\n\x01\x01") + frames)
        return await everything(reader)

    found = await asyncio.gather(*(end(number, frames) for number, frames in enumerate(many)))
    for viewer in desktop.viewers:
        await viewer.closed.wait()
        assert KEY_A not in viewer.messages
    return found


async def test_frames_that_are_legal_reach_the_desktop_whole(world: World, desktop: FakeDesktop) -> None:
    """Each on a link of its own; the key behind it arrives, so nothing is missing or left over."""
    world.control.add_session("s", str(desktop.path))
    for name, case in TAKEN.items():
        reader, writer = await stock(world)
        step = case.chop or len(case.frames)
        for at in range(0, len(case.frames), step):
            writer.write(case.frames[at : at + step])
            if case.chop:
                await writer.drain()
                await asyncio.sleep(0)
        writer.write(masked(2, KEY_A))
        if case.said:
            await asyncio.wait_for(reader.readuntil(case.said), 20)
        viewer = desktop.viewers[-1]
        assert await viewer.wait_messages(len(case.got) + 1) == [*case.got, KEY_A], name
        writer.transport.abort()
        await viewer.closed.wait()


async def test_frames_that_are_not_legal_end_the_link_and_what_follows_is_not_obeyed(
    world: World, desktop: FakeDesktop
) -> None:
    ends = await side_by_side(world, desktop, [frames + masked(2, KEY_A) for frames, _ in REFUSED.values()])
    codes = dict(zip(REFUSED, map(last_close, ends), strict=True))
    assert codes == {name: code for name, (_, code) in REFUSED.items()}


async def test_a_close_is_answered_once_and_nothing_behind_it_is(world: World, desktop: FakeDesktop) -> None:
    ends = await side_by_side(world, desktop, list(CLOSED.values()))
    for name, found in zip(CLOSED, ends, strict=True):
        at = found.rindex(b"\x88")
        assert found[at:] in (b"\x88\x02\x03\xe8", b"\x88\x00"), (name, found[at:])
        assert b"in between" not in found, name


@pytest.mark.parametrize("chop", [0, 1], ids=["at once", "byte by byte"])
async def test_text_is_taken_where_it_is_utf8_however_it_is_cut(world: World, chop: int) -> None:
    """Judged when a message is whole (the suite calls it not strict): good text that is no JSON is 4400."""

    async def code_of(text: bytes) -> int:
        size = chop or len(text)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        frames = [
            masked(0 if number else 1, piece, fin=number == len(pieces) - 1)
            for number, piece in enumerate(pieces)
        ]
        reader, writer = await world.raw(request(f"/s/{world.shard}/ws"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"".join(frames))
        return last_close(await everything(reader))

    every = {**TEXTS, **NO_TEXTS}
    codes = dict(zip(every, await asyncio.gather(*map(code_of, every.values())), strict=True))
    assert codes == {name: Close.BAD_MESSAGE if name in TEXTS else Close.NOT_UTF8 for name in every}


async def test_no_compression_is_agreed_on(world: World, desktop: FakeDesktop) -> None:
    """Category 12 and 13: offered by the peer, and not taken."""
    world.control.add_session("s", str(desktop.path))
    async with world.connect(extensions=[ClientPerMessageDeflateFactory()]) as client:
        assert client.protocol.extensions == []
        await client.send(world.first(world.control.ticket("s")))
        assert json.loads(await client.recv())["t"] == "opened"
