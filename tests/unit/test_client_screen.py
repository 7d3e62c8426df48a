"""The RFB of programs: the handshake, rectangles in each encoding, clipboard and sizes, in any cut."""

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from session_service.client.framebuffer import NotRfb
from session_service.client.screen import (
    CLIPBOARD,
    LAYOUT,
    Answer,
    Copied,
    Greeted,
    Painted,
    Resized,
    Screen,
    ScreenEvent,
)
from session_service.client.zrle import Zrle
from session_service.core.rfb_looking import GREETING

WIDTH, HEIGHT = 70, 3
HELLO = GREETING + b"\x01\x01" + bytes(4) + struct.pack(">HH16xI", WIDTH, HEIGHT, 4) + b"desk"
RED, BLUE = b"\0\0\xff", b"\xff\0\0"
TEXT, REQUEST, NOTIFY, PROVIDE, CAPS = 1, 1 << 25, 1 << 27, 1 << 28, 1 << 24


def rectangle(encoding: int, data: bytes, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return b"\0\0\0\x01" + struct.pack(">HHHHi", 0, 0, width, height, encoding) + data


def extended(flags: int, data: bytes = b"") -> bytes:
    return struct.pack(">BxxxiI", 3, -4 - len(data), flags) + data


def answers(events: list[ScreenEvent]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Answer)]


def greeted() -> Screen:
    screen = Screen()
    screen.feed(HELLO)
    return screen


def packed(*tiles: bytes) -> bytes:
    data = zlib.compressobj()
    whole = data.compress(b"".join(tiles)) + data.flush(zlib.Z_SYNC_FLUSH)
    return struct.pack(">I", len(whole)) + whole


def test_the_handshake_is_the_same_in_any_cut() -> None:
    whole = Screen().feed(HELLO)
    screen, single = Screen(), []
    for byte in HELLO:
        single += screen.feed(bytes((byte,)))
    assert whole == single
    assert [event for event in whole if isinstance(event, Greeted)] == [
        Greeted(width=WIDTH, height=HEIGHT, name="desk")
    ]
    assert answers(whole)[:3] == [GREETING, b"\x01", b"\x01"]
    assert answers(whole)[-1][:2] == b"\x03\0", "the first request is for everything"


def test_a_picture_becomes_a_png_with_its_own_colours() -> None:
    screen = greeted()
    screen.feed(rectangle(0, (RED + b"\x07") * WIDTH * HEIGHT))
    image = Image.open(io.BytesIO(screen.picture().png()))
    assert (image.size, image.mode) == ((WIDTH, HEIGHT), "RGB")
    assert image.getpixel((69, 2)) == (255, 0, 0)


TILES = [
    pytest.param([b"\0" + RED * 192, b"\0" + RED * 18], [RED] * 210, id="raw"),
    pytest.param([b"\x01" + RED, b"\x01" + BLUE], None, id="one colour"),
    pytest.param([b"\x80" + RED + b"\xbf", b"\x80" + BLUE + b"\x11"], None, id="runs"),
    pytest.param(
        [b"\x82" + RED + BLUE + b"\x80\xbf", b"\x82" + RED + BLUE + b"\x81\x11"], None, id="runs of a palette"
    ),
    pytest.param([b"\x02" + RED + BLUE + bytes(24), b"\x02" + RED + BLUE + b"\xfc" * 3], None, id="packed"),
]


@pytest.mark.parametrize(("tiles", "colours"), TILES)
def test_each_kind_of_tile_gives_its_pixels(tiles: list[bytes], colours: list[bytes] | None) -> None:
    expected = colours or [RED if column < 64 else BLUE for _ in range(HEIGHT) for column in range(WIDTH)]
    screen = greeted()
    events = screen.feed(rectangle(16, packed(*tiles)))
    assert Painted(pixels=WIDTH * HEIGHT) in events
    assert screen.picture().pixels == b"".join(colour + b"\0" for colour in expected)


def test_junk_in_place_of_a_rectangle_is_refused_and_nothing_else() -> None:
    chance = random.Random(7)
    good = b"\x82" + RED + BLUE + b"\x80\xbf" + b"\x02" + RED + BLUE + b"\xfc" * 3
    for number in range(3000):
        data = bytearray(good if number % 2 else chance.randbytes(chance.randrange(1, 60)))
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            rows = Zrle().decode(packed(bytes(data))[4:], WIDTH, HEIGHT)
        except NotRfb:
            continue
        except IndexError as exc:
            raise AssertionError(data.hex()) from exc
        assert len(rows) == WIDTH * HEIGHT * 4


def test_after_a_layout_everything_is_never_asked_for_again() -> None:
    """TigerVNC answers a second full request with the layout alone, and so on for ever."""
    screen = greeted()
    events = screen.feed(rectangle(LAYOUT, b"\x01\0\0\0" + bytes(16), 100, 50))
    assert Resized(width=100, height=50) in events
    assert answers(events)[-1][:2] == b"\x03\x01"


def test_a_desktop_that_tells_no_layout_cannot_be_resized() -> None:
    screen = greeted()
    assert screen.resize(800, 600) is None
    screen.feed(rectangle(LAYOUT, b"\x01\0\0\0" + b"\0\0\0\x09" + bytes(12), WIDTH, HEIGHT))
    asked = screen.resize(800, 600)
    assert asked is not None
    assert asked[8:12] == b"\0\0\0\x09", "the screen keeps its id"
    assert len(asked) == 24


def test_the_clipboard_is_utf8_both_ways() -> None:
    screen = greeted()
    assert CLIPBOARD.to_bytes(4, "big", signed=True) in b"".join(answers(Screen().feed(HELLO)))
    assert answers(screen.feed(extended(CAPS | NOTIFY | PROVIDE | REQUEST | TEXT, bytes(4))))
    assert answers(screen.feed(extended(NOTIFY | TEXT)))[0][8:12] == (REQUEST | TEXT).to_bytes(4, "big")
    plain = "Grüße\r\n✓\0".encode()
    sent = extended(PROVIDE | TEXT, zlib.compress(struct.pack(">I", len(plain)) + plain))
    assert screen.feed(sent) == [Copied(text="Grüße\n✓")]
    assert screen.copy("zurück ✓")[8:12] == (NOTIFY | TEXT).to_bytes(4, "big")
    (provided,) = answers(screen.feed(extended(REQUEST | TEXT)))
    assert zlib.decompress(provided[12:])[4:] == "zurück ✓\0".encode()


def test_without_the_extension_the_clipboard_is_latin() -> None:
    assert greeted().copy("ä✓")[8:] == "ä?".encode("latin-1")
