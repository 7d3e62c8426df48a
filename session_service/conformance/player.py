"""The desktop of the kit: enough of an RFB server for any viewer, and a strict reader of what it says.

Not a screen: squares of one colour, sent when they are asked for. It exists so that a client under test has
to say and hear something all the time: a viewer goes on asking only while each byte of its picture came
once and in order, and a byte of input that is lost, doubled or torn is a message that no viewer sends.
"""

import struct
from collections.abc import Callable
from typing import Final

WIDTH, HEIGHT = 64, 48
GREETINGS: Final = (b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n")
HELLO: Final = b"RFB 003.008\n"
SQUARE: Final = 16
COLOUR: Final = 0xEE
"""Read as a message, it is one that no server sends: a viewer that lost its place stops at once."""
CUT_TEXT_BYTES_MAX: Final = 1 << 20
_FIXED: Final = {0: 20, 3: 10, 4: 8, 150: 10, 250: 4}


class Torn(Exception):
    """The client's bytes are not what a viewer says at this place."""


class Player:
    """One stream's desktop.

    Args:
        say: sends bytes to the client.
        ask: called when an update was asked for; the owner answers with `paint` when it wants.
    """

    def __init__(self, say: Callable[[bytes], None], ask: Callable[[], None]) -> None:
        self._say = say
        self._ask = ask
        self._pending = b""
        self._stage = 0
        self._pixel_bytes = 4
        self.is_greeted = False
        self.updates = 0
        """Answered requests."""
        self.is_asked = False
        self.keys: list[tuple[int, bool]] = []
        say(HELLO)

    def take(self, data: bytes) -> None:
        """Take bytes of the client. Raises Torn."""
        self._pending += data
        while self._pending:
            length = self._length()
            if length is None or len(self._pending) < length:
                return
            message, self._pending = self._pending[:length], self._pending[length:]
            if self._stage < 3:
                self._greet(message)
            else:
                self._message(message)

    def paint(self, squares: int = 1) -> None:
        """Answer the request that waits with this many squares (1 KiB each at 32 bits)."""
        self.is_asked = False
        out = bytearray(struct.pack(">BxH", 0, squares))
        body = bytes((COLOUR,)) * (SQUARE * SQUARE * self._pixel_bytes)
        for number in range(squares):
            place = (self.updates + number) % (WIDTH // SQUARE * (HEIGHT // SQUARE))
            x, y = place % (WIDTH // SQUARE) * SQUARE, place // (WIDTH // SQUARE) * SQUARE
            out += struct.pack(">HHHHi", x, y, SQUARE, SQUARE, 0) + body
        self.updates += 1
        self._say(bytes(out))

    def _greet(self, message: bytes) -> None:
        if self._stage == 0:
            if message not in GREETINGS:
                raise Torn("a stream that does not begin with RFB's ProtocolVersion")
            self._say(b"\x01\x01" if message != GREETINGS[0] else bytes((0, 0, 0, 1)))
            self._stage = 1 if message != GREETINGS[0] else 2
            self._result = bytes(4) if message == GREETINGS[2] else b""
        elif self._stage == 1:
            self._say(self._result)
            self._stage = 2
        else:
            colours = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
            self._say(struct.pack(">HH", WIDTH, HEIGHT) + colours + (11).to_bytes(4, "big") + b"conformance")
            self._stage = 3
            self.is_greeted = True

    def _length(self) -> int | None:
        if self._stage < 3:
            return 12 if self._stage == 0 else 1
        data, kind = self._pending, self._pending[0]
        if kind in _FIXED:
            return _FIXED[kind]
        if kind == 2:
            return None if len(data) < 4 else 4 + 4 * int.from_bytes(data[2:4], "big")
        if kind == 5:
            return 6
        if kind == 6:
            return None if len(data) < 8 else self._cut_text(data)
        if kind == 248:
            return None if len(data) < 9 else 9 + data[8]
        if kind == 251:
            return None if len(data) < 7 else 8 + 16 * data[6]
        if kind == 255:
            return None if len(data) < 2 else 12
        raise Torn(f"input that is no message of RFB (type {kind}): bytes were lost, doubled or torn")

    def _cut_text(self, data: bytes) -> int:
        length = 8 + abs(int.from_bytes(data[4:8], "big", signed=True))
        if length > CUT_TEXT_BYTES_MAX:
            raise Torn("a clipboard of more than 1 MiB: bytes were lost, doubled or torn")
        return length

    def _message(self, message: bytes) -> None:
        if message[0] == 0:
            if message[4] not in {8, 16, 32}:
                raise Torn(f"pixels of {message[4]} bits: bytes were lost, doubled or torn")
            self._pixel_bytes = message[4] // 8
        elif message[0] == 4:
            self.keys.append((int.from_bytes(message[4:8], "big"), message[1] != 0))
        elif message[0] == 3:
            if message[1] > 1:
                raise Torn("an update request that is none: bytes were lost, doubled or torn")
            self.is_asked = True
            self._ask()
