"""Websocket framing of the server's side (RFC 6455 section 5): bytes in, messages out; lengths in, frame
heads out.

Not a connection: no socket, no handshake, no timer. Not a general library either: no extensions, no client
side. It is written here because message APIs cost three times as much in bulk and 1.4 KiB more for each
idle link (gateway.md sections 2 and 3).

Binary fragments are handed on one by one, because message limits carry no meaning in a stream of bytes;
text is handed on whole, because only a whole text can be judged as UTF-8. Nothing larger than one frame is
ever kept.
"""

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from session_service.core.close_codes import REASON_BYTES_MAX, Close, may_be_received

Unmask = Callable[[bytes | bytearray, bytes | bytearray], bytes]
"""Returns the data XOR the repeated four bytes of the mask, e.g. the compiled `apply_mask` of websockets."""


class Opcode(IntEnum):
    """Frame types (RFC 6455 section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = (int(opcode) for opcode in Opcode)
CONTROL_BYTES_MAX: Final = 125
_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_WHOLE: Final = frozenset(_FIN | opcode for opcode in (TEXT, BINARY, CLOSE, PING, PONG))
_SMALL_HEAD_BYTES: Final = 6
"""Of a client's frame with up to 125 bytes: two, and the mask."""
_MEDIUM: Final = struct.Struct(">BBH")
_LARGE: Final = struct.Struct(">BBQ")


class FrameError(Exception):
    """The peer broke the framing or a limit; `code` is the close code to answer, after which nothing more
    is read.

    `messages` are those that were complete before the mistake: without them the result would depend on how
    bytes were cut.
    """

    def __init__(self, code: Close, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.messages: list[tuple[int, bytes]] = []


def frame_head(opcode: int, length: int) -> bytes:
    """Return the head of one whole, unmasked frame of `length` payload bytes (0 to 2**63 - 1)."""
    if length < 126:
        return bytes((_FIN | opcode, length))
    if length < 65536:
        return _MEDIUM.pack(_FIN | opcode, 126, length)
    return _LARGE.pack(_FIN | opcode, 127, length)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; a reason longer than 123 bytes is cut at a character."""
    if code == Close.NO_STATUS:
        return frame_head(CLOSE, 0)
    text = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()
    return frame_head(CLOSE, 2 + len(text)) + code.to_bytes(2, "big") + text


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a received close frame; 1005 when it has none. Raises FrameError (1002,
    1007).
    """
    if not payload:
        return int(Close.NO_STATUS), ""
    if len(payload) == 1:
        raise FrameError(Close.PROTOCOL, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not may_be_received(code):
        raise FrameError(Close.PROTOCOL, "close code that must not be sent")
    return code, decode_text(payload[2:])


def decode_text(payload: bytes) -> str:
    """Return a whole text message. Raises FrameError (1007)."""
    try:
        return payload.decode()
    except UnicodeDecodeError as exc:
        raise FrameError(Close.NOT_UTF8, "text that is not UTF-8") from exc


def unmask_slowly(data: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """Undo a mask without compiled help; the twin that tests compare with, and the default where there is
    none.
    """
    length = len(data)
    if not length:
        return b""
    repeated = (bytes(mask) * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")


def _long_length(buffer: bytes | bytearray, position: int, form: int) -> int:
    """Return a length of the two longer forms; the shortest form must be used (RFC 6455 section 5.2)."""
    width = 2 if form == 126 else 8
    length = int.from_bytes(buffer[position + 2 : position + 2 + width], "big")
    if length < (126 if form == 126 else 65536):
        raise FrameError(Close.PROTOCOL, "length in a longer form than it needs")
    return length


class Decoder:
    """Reads a client's frames. `feed` may be called with any cut of the bytes; its answers do not depend on
    the cut.

    Args:
        unmask: see `Unmask`.
        message_bytes_max: bytes of one binary message over all its fragments, else 4413 (gateway.md 9.1: 64
        KiB). text_bytes_max: bytes of one text message over all its fragments, else 1009 (gateway.md 9.1: 4
        KiB).

    After a FrameError the caller must not call `feed` again.
    """

    __slots__ = (
        "_buffer",
        "_message_bytes_max",
        "_need",
        "_opcode",
        "_received",
        "_small_bytes_max",
        "_text",
        "_text_bytes_max",
        "_unmask",
        "is_partial",
    )

    def __init__(self, *, unmask: Unmask, message_bytes_max: int, text_bytes_max: int) -> None:
        self._unmask = unmask
        self._message_bytes_max = message_bytes_max
        self._text_bytes_max = text_bytes_max
        self._small_bytes_max = min(message_bytes_max, text_bytes_max, CONTROL_BYTES_MAX)
        self._buffer: bytearray | None = None
        self._need = 0
        self._opcode = 0
        self._received = 0
        self._text: bytearray | None = None
        self.is_partial = False
        """True while a frame, or the head of one, has begun and is not complete."""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return what became complete, in order: (BINARY, piece), (TEXT, whole), (CLOSE, payload), (PING,
        ..), (PONG, ..).

        Raises:
            FrameError: 1002 for broken framing, 1009 and 4413 for too much; it holds the messages that came
                before.
        """
        buffer: bytes | bytearray = data
        if self._buffer is None:
            # Nearly every read is one whole, small frame: a key, a pointer, a request for an update, an
            # acknowledgement, a pong.
            if (
                not self._opcode
                and len(data) >= 6
                and data[0] in _WHOLE
                and len(data) - 6 == data[1] - _MASKED <= self._small_bytes_max
            ):
                payload = self._unmask(data[6:], data[2:6]) if len(data) > 6 else b""
                return [(data[0] & _OPCODE, payload)]
        else:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            buffer, self._buffer, self.is_partial = self._buffer, None, False
        found: list[tuple[int, bytes]] = []
        try:
            rest, need = self._read(buffer, found)
        except FrameError as error:
            error.messages = found
            raise
        if rest < len(buffer):
            self._buffer = bytearray(memoryview(buffer)[rest:])
            self._need, self.is_partial = need, True
        return found

    def _read(self, buffer: bytes | bytearray, found: list[tuple[int, bytes]]) -> tuple[int, int]:
        """Read every complete frame; return where the rest begins and how many bytes of it are worth
        another look.
        """
        position, end, need = 0, len(buffer), 0
        while position < end:
            if end - position >= _SMALL_HEAD_BYTES and not self._opcode:
                # Whole and small, as in `feed`: a request for an update and the acknowledgement behind it, or
                # the acknowledgements of one large read.
                first, start = buffer[position], position + _SMALL_HEAD_BYTES
                length = buffer[position + 1] - _MASKED
                if first in _WHOLE and 0 <= length <= self._small_bytes_max and start + length <= end:
                    payload = self._unmask(buffer[start : start + length], buffer[position + 2 : start])
                    found.append((first & _OPCODE, payload))
                    position = start + length
                    continue
            # A frame of a client is at least two bytes, then up to eight of length, four of mask, and the
            # payload.
            need = 2
            if end - position >= 2:
                first, second = buffer[position], buffer[position + 1]
                if first & _RESERVED or not second & _MASKED:
                    raise FrameError(Close.PROTOCOL, "reserved bits, or a frame that is not masked")
                length = second & _LENGTH
                head = 6 if length < 126 else 8 if length == 126 else 14
                need = head
                if end - position >= head:
                    if length > 125:
                        length = _long_length(buffer, position, length)
                    self._check(first, length)
                    need = head + length
                    if end - position >= need:
                        start = position + head
                        payload = self._unmask(buffer[start : start + length], buffer[start - 4 : start])
                        if first == _FIN | BINARY:
                            found.append((BINARY, payload))
                        else:
                            self._accept(first, payload, found)
                        position += need
                        continue
            break
        return position, need

    def _check(self, first: int, length: int) -> None:
        """Judge a head before its payload is waited for, so that nobody can make us keep what we would
        refuse.
        """
        opcode = first & _OPCODE
        if opcode >= CLOSE:
            if length > CONTROL_BYTES_MAX or not first & _FIN or opcode > PONG:
                raise FrameError(Close.PROTOCOL, "control frame that is fragmented, too long or unknown")
            return
        if length >> 63:
            raise FrameError(Close.PROTOCOL, "length with its highest bit set")
        if opcode == CONTINUATION:
            if not self._opcode:
                raise FrameError(Close.PROTOCOL, "continuation of nothing")
            opcode = self._opcode
        elif self._opcode or opcode > BINARY:
            raise FrameError(Close.PROTOCOL, "new message inside of another, or an unknown type")
        if opcode == TEXT:
            if self._received + length > self._text_bytes_max:
                raise FrameError(Close.TOO_BIG, "text message over the limit")
        elif self._received + length > self._message_bytes_max:
            raise FrameError(Close.MESSAGE_TOO_BIG, "binary message over the limit")

    def _accept(self, first: int, payload: bytes, found: list[tuple[int, bytes]]) -> None:
        """Take a complete frame that is not the common one (a whole binary message)."""
        opcode, last = first & _OPCODE, first & _FIN
        if opcode >= CLOSE:
            found.append((opcode, payload))
            return
        kind = opcode or self._opcode
        if kind == BINARY:
            found.append((BINARY, payload))
        else:
            if self._text is None:
                self._text = bytearray()
            self._text += payload
            if last:
                found.append((TEXT, bytes(self._text)))
                self._text = None
        self._opcode = 0 if last else kind
        self._received = 0 if last else self._received + len(payload)
