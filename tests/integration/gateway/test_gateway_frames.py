"""The classes of an RFC 6455 conformance suite on the live endpoint, by frames made by hand: reserved bits,
reserved types one by one, every kind of close code, and text whose characters are cut between fragments.
"""

import asyncio
import json

import pytest

from session_service.core.close_codes import Close
from tests.fakes.gateway_world import World, everything, masked, request
from tests.fakes.rfb_desktop import FakeDesktop
from tests.integration.gateway.test_gateway_hostile import last_close

RESERVED_TYPES = (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
SENT_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
FORBIDDEN_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)


async def answer(world: World, frames: bytes) -> bytes:
    """What a page's address says to these frames until its end."""
    reader, writer = await world.raw(request(f"/s/{world.shard}/ws"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frames)
    return await everything(reader)


async def codes(world: World, many: list[bytes]) -> list[int]:
    """The code that ends each of these, side by side: each waits a moment for its client to close."""
    return [last_close(found) for found in await asyncio.gather(*(answer(world, one) for one in many))]


async def test_a_reserved_type_is_refused_with_and_without_a_payload(world: World) -> None:
    many = [masked(kind, payload) for kind in RESERVED_TYPES for payload in (b"", b"x", b"x" * 126)]
    assert set(await codes(world, many)) == {Close.PROTOCOL}


async def test_a_reserved_bit_is_refused_on_every_type(world: World) -> None:
    many = [masked(kind, b"", reserved=bits) for kind in (0, 1, 2, 8, 9, 10) for bits in range(16, 128, 16)]
    assert set(await codes(world, many)) == {Close.PROTOCOL}


async def test_a_code_that_may_be_sent_is_given_back_and_another_is_a_mistake(world: World) -> None:
    sent = [masked(8, code.to_bytes(2, "big") + b"bye") for code in SENT_CODES]
    assert await codes(world, sent) == list(SENT_CODES)
    forbidden = [masked(8, code.to_bytes(2, "big")) for code in FORBIDDEN_CODES]
    assert set(await codes(world, forbidden)) == {Close.PROTOCOL}


async def test_a_character_may_be_cut_between_fragments_with_a_ping_in_its_middle(
    world: World, desktop: FakeDesktop
) -> None:
    world.control.add_session("s", str(desktop.path))
    text = world.first(world.control.ticket("s"))
    whole = json.dumps({**json.loads(text), "x": "Grüße 🙂"}, ensure_ascii=False).encode()
    at = whole.index("🙂".encode()) + 2
    reader, writer = await world.raw(request(f"/s/{world.shard}/ws"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(masked(1, whole[:at], fin=False) + masked(9, b"in") + masked(0, whole[at:]))
    assert b'"t":"opened"' in await reader.readuntil(b"RFB 003.008\n")


@pytest.mark.parametrize(
    "text", [b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xce\xba\xe1", b"\x80"]
)
async def test_text_that_is_no_utf8_is_refused_also_over_fragments(world: World, text: bytes) -> None:
    cut = masked(1, text[:1], fin=False) + masked(0, b"", fin=False) + masked(0, text[1:])
    assert await codes(world, [masked(1, text), cut]) == [Close.NOT_UTF8] * 2
