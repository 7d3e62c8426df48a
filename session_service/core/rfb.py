"""What a client says to its desktop (RFB 3.3 to 3.8): cut into whole messages, keys and buttons remembered,
viewers held back.

Not a codec: pictures are never looked at and a desktop's bytes are not parsed. It exists for three duties
of a gateway: an injected message must stand at a boundary, no key may stay down when a link is lost, and
who may only look must not touch.

Source: gateway.md 9.6 and desktops.md section 2 (both measured against TigerVNC); the RFB protocol,
rfbproto.rst.
"""

import re
from typing import Final

VERSION_BYTES: Final = 12
_VERSION_FORM: Final = re.compile(rb"RFB 003\.[0-9]{3}\n")
"""Figures only: what a server reads out of a sign or a space ("003.+08") may be another version than we do,
and from there on every message would be cut at another place than ours.
"""
MESSAGE_BYTES_MAX: Final = 1 << 20
"""The longest client message (a clipboard) that waits here until it is whole; gateway.md 9.6."""
KEYS_DOWN_MAX: Final = 64
"""Keys held at once that are remembered; beyond it the oldest is released, as nobody has that many
fingers.
"""

SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, KEY, POINTER, CUT_TEXT = 0, 2, 3, 4, 5, 6
CONTINUOUS_UPDATES, FENCE, XVP, SET_DESKTOP_SIZE, QEMU = 150, 248, 250, 251, 255
EXTENDED_BUTTONS: Final = -316
EXTENDED_CLIPBOARD: Final = -1063131698

_FIXED: Final = {SET_PIXEL_FORMAT: 20, UPDATE_REQUEST: 10, KEY: 8, CONTINUOUS_UPDATES: 10, XVP: 4}
_SECURITY_NONE: Final = b"\x01"
_SHARED: Final = b"\x01"
_TOUCHING: Final = frozenset({KEY, POINTER, CUT_TEXT, XVP, SET_DESKTOP_SIZE, QEMU})
# A viewer's clipboard: it says that it understands notifications and nothing of any size, so that no
# content is ever sent to it.
_CAPS_FLAGS: Final = 1 << 24 | 1 << 25 | 1 << 27 | 1
_NO_CLIPBOARD: Final = (
    bytes((CUT_TEXT, 0, 0, 0))
    + (-8).to_bytes(4, "big", signed=True)
    + _CAPS_FLAGS.to_bytes(4, "big")
    + bytes(4)
)
_VIEWER_START: Final = (
    bytes((SET_ENCODINGS, 0, 0, 2))
    + bytes(4)
    + EXTENDED_CLIPBOARD.to_bytes(4, "big", signed=True)
    + _NO_CLIPBOARD
)


class RfbError(Exception):
    """The client said something that cannot be passed on; `too_big` tells a limit from a refusal."""

    def __init__(self, detail: str, *, too_big: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.too_big = too_big


class ClientTracker:
    """Follows one client towards one desktop leg. `feed` takes any cut of the bytes and returns what the
    desktop may have now.

    A controlling client that says something unknown becomes *opaque*: passed on unread from there, because
    a newer client must not be broken by an older gateway; its keys are then released by closing the leg. A
    viewer that does so is refused.
    """

    __slots__ = (
        "_buttons",
        "_extended_buttons",
        "_keys",
        "_need",
        "_pending",
        "_place",
        "_pointed",
        "_stage",
        "_view_only",
        "is_opaque",
        "update_requested",
    )

    def __init__(self, *, view_only: bool) -> None:
        self._view_only = view_only
        self._stage = 0
        self._pending: bytearray | None = None
        self._need = 0
        self._keys: dict[bytes, bytes] = {}
        self._buttons = 0
        self._pointed = False
        self._place = b"\x00\x00\x00\x00"
        self._extended_buttons = False
        self.is_opaque = False
        self.update_requested = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes of a cut message that wait here; at most `MESSAGE_BYTES_MAX` and one piece more."""
        return 0 if self._pending is None else len(self._pending)

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to pass on, whole messages only; b"" when there are none yet.

        Raises:
            RfbError: a message over the limit; of a viewer also an unknown message. Nothing more may be fed.
        """
        if self.is_opaque:
            return data
        if self._pending is not None:
            self._pending += data
            if len(self._pending) < self._need:
                return b""
            data, self._pending = bytes(self._pending), None
        if self._stage < _RUNNING:
            return self._greet(data)
        if len(data) == 10 and data[0] == UPDATE_REQUEST:
            self.update_requested = True
            return data
        return self._messages(data)

    def release(self) -> bytes:
        """Return what lets go of everything that is down; the caller writes it at the end of what `feed`
        returned.

        Keys are released in the order they went down; buttons at the pointer's last place. A second call
        returns b"".
        """
        if self.is_opaque or self._stage < _RUNNING:
            return b""
        out = bytearray()
        for message in self._keys.values():
            out += _key_up(message)
        if self._buttons:
            out += bytes((POINTER, 0)) + self._place
        self._keys.clear()
        self._buttons = 0
        return bytes(out)

    def _greet(self, data: bytes) -> bytes:
        """Pass the handshake on: version, security type (not in 3.3), ClientInit with the shared flag set."""
        position, out = 0, bytearray()
        while self._stage < _RUNNING and position < len(data):
            if self._stage == _VERSION:
                if len(data) < VERSION_BYTES:
                    break
                version = data[:VERSION_BYTES]
                if not _VERSION_FORM.fullmatch(version):
                    return self._unknown("not an RFB version", bytes(out) + data)
                out += version
                position = VERSION_BYTES
                self._stage = _INIT if version <= b"RFB 003.006\n" else _SECURITY
            elif self._stage == _SECURITY:
                if data[position : position + 1] != _SECURITY_NONE:
                    return self._unknown("a security type that is not offered", bytes(out) + data[position:])
                out += _SECURITY_NONE
                position += 1
                self._stage = _INIT
            else:
                # A client that is not sharing would throw every other one out, the user's own new link
                # included.
                out += _SHARED
                position += 1
                self._stage = _RUNNING
                if self._view_only:
                    out += _VIEWER_START
        rest = data[position:]
        if self._stage < _RUNNING:
            self._wait(rest, VERSION_BYTES if self._stage == _VERSION else 1)
            return bytes(out)
        return bytes(out) + self._messages(rest)

    def _wait(self, rest: bytes, need: int) -> None:
        """Keep a cut message until `need` bytes are there: it is copied once, however small the pieces
        are.
        """
        self._pending = bytearray(rest) if rest else None
        self._need = need

    def _messages(self, data: bytes) -> bytes:
        """Pass whole messages on. The bytes themselves are returned uncopied where nothing is held back or
        changed.
        """
        out: bytearray | None = None
        position, end, length = 0, len(data), 0
        while position < end:
            length = self._length(data, position, end)
            if length < 0:
                passed = data[:position] if out is None else bytes(out)
                return self._unknown("unknown message", passed + data[position:])
            if length > MESSAGE_BYTES_MAX:
                raise RfbError("message over the limit", too_big=True)
            if not length or end - position < length:
                break
            instead = self._note(data, position, length)
            if instead is not None and out is None:
                out = bytearray(data[:position])
            if out is not None:
                out += data[position : position + length] if instead is None else instead
            position += length
        if position < end:
            self._wait(data[position:], length or end - position + 1)
            return data[:position] if out is None else bytes(out)
        return data if out is None else bytes(out)

    def _length(self, data: bytes, position: int, end: int) -> int:
        """Return the whole length of the message that begins here, 0 when that cannot be known yet, -1 when
        unknown.
        """
        kind, left = data[position], end - position
        fixed = _FIXED.get(kind)
        if fixed is not None:
            return fixed
        if kind == POINTER:
            if left < 2:
                return 0
            return 7 if self._extended_buttons and data[position + 1] & 0x80 else 6
        if kind == SET_ENCODINGS:
            return 0 if left < 4 else 4 + 4 * int.from_bytes(data[position + 2 : position + 4], "big")
        if kind == CUT_TEXT:
            return (
                0
                if left < 8
                else 8 + abs(int.from_bytes(data[position + 4 : position + 8], "big", signed=True))
            )
        if kind == FENCE:
            return 0 if left < 9 else 9 + data[position + 8]
        if kind == SET_DESKTOP_SIZE:
            return 0 if left < 7 else 8 + 16 * data[position + 6]
        if kind == QEMU:
            return _qemu_length(data, position, left)
        return -1

    def _note(self, data: bytes, position: int, length: int) -> bytes | None:
        """Remember what a whole message does; return None to pass it on as it is, else what the desktop
        gets instead.
        """
        kind = data[position]
        if kind == UPDATE_REQUEST:
            self.update_requested = True
            return None
        if kind == SET_ENCODINGS:
            return self._note_encodings(data[position : position + length])
        if self._view_only:
            return b"" if kind in _TOUCHING else None
        if kind == POINTER:
            return self._note_pointer(data[position : position + length])
        if kind == KEY:
            return self._note_key(data[position : position + 8], data[position + 1] != 0)
        if kind == QEMU and length == 12:
            message = data[position : position + 12]
            return self._note_key(message, message[2:4] != b"\x00\x00")
        return None

    def _note_pointer(self, message: bytes) -> bytes | None:
        """Remember buttons and place. What an earlier leg may have left down is let go of before this one's
        first press.
        """
        first, self._pointed = not self._pointed, True
        self._buttons = message[1] & 0x7F | message[6] << 7 if len(message) == 7 else message[1]
        self._place = message[2:6]
        return bytes((POINTER, 0)) + self._place + message if first and self._buttons else None

    def _note_key(self, message: bytes, down: bool) -> bytes | None:
        name = _key_name(message)
        if not down:
            self._keys.pop(name, None)
            return None
        oldest = b""
        if name not in self._keys and len(self._keys) == KEYS_DOWN_MAX:
            oldest = _key_up(self._keys.pop(next(iter(self._keys))))
        self._keys[name] = message
        return oldest + message if oldest else None

    def _note_encodings(self, message: bytes) -> bytes | None:
        listed = {
            int.from_bytes(message[at : at + 4], "big", signed=True) for at in range(4, len(message), 4)
        }
        self._extended_buttons = EXTENDED_BUTTONS in listed
        if not self._view_only:
            return None
        if EXTENDED_CLIPBOARD not in listed:
            # It would be sent the user's clipboard as plain text, and could not read the form that carries
            # no content.
            raise RfbError("a viewer must know the extended clipboard")
        return message + _NO_CLIPBOARD

    def _unknown(self, detail: str, passed: bytes) -> bytes:
        if self._view_only:
            raise RfbError(detail)
        self.is_opaque = True
        self._pending = None
        return passed


_VERSION, _SECURITY, _INIT, _RUNNING = 0, 1, 2, 3


def _qemu_length(data: bytes, position: int, left: int) -> int:
    if left < 2:
        return 0
    kind = data[position + 1]
    if kind == 0:
        return 12
    if kind != 1:
        return -1
    if left < 4:
        return 0
    operation = int.from_bytes(data[position + 2 : position + 4], "big")
    return {0: 4, 1: 4, 2: 10}.get(operation, -1)


def _key_name(message: bytes) -> bytes:
    """Return what is equal for the press and the release of one key.

    A key of the QEMU kind is known by its key code alone (where it has one): its symbol may change with
    Shift in between.
    """
    if message[0] == KEY:
        return message[4:8]
    return b"code" + message[8:12] if any(message[8:12]) else b"symbol" + message[4:8]


def _key_up(message: bytes) -> bytes:
    """Return the release that belongs to a press."""
    return bytes((KEY, 0)) + message[2:] if message[0] == KEY else message[:2] + b"\x00\x00" + message[4:]
