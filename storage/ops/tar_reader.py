"""Reads a tar as it comes, piece by piece: what `archive.py` writes, and nothing that it would not write.

Not a reader of all the tars there are. One that guesses takes a broken header for the end, and a header of
gigabytes into memory; here whatever is not understood is an error, a header has a bound, and a tar that does
not come to its end is none. Names stay bytes. What a name means is not decided here (`unpack.py`).
"""

import re
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from storage.errors import Malformed
from storage.format.limits import MIB
from storage.scan.entry import NO_ATTRIBUTES, Attributes, Kind

BLOCK_BYTES: Final = 512
RECORDS_BYTES_MAX: Final = 4 * MIB
"""Of what stands before one member: its attributes have a MiB at most, its names some KiB."""
XATTR_RECORD: Final = b"SCHILY.xattr."
"""What stands before an attribute's name; star began it, GNU tar and libarchive read it."""
HARD_LINK: Final = b"1"
KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"2": Kind.SYMLINK,
    b"5": Kind.FOLDER,
    b"6": Kind.FIFO,
}
_UNKNOWN: Final = (b"3", b"4", b"7")
"""Devices and a file that is to lie in one piece: they can be told and passed by."""
_RECORDS: Final = b"x"
_SECOND_NS: Final = 1_000_000_000
_SECONDS_MAX: Final = 1 << 63
_TIME: Final = re.compile(rb"(-?)(\d{1,20})(?:\.(\d{1,9})\d*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What stands in a tar before the bytes of one entry."""

    path: bytes
    kind: Kind | None
    """None for what this reader does not know."""
    link: bytes = b""
    """Where a symbolic link leads."""
    first: bytes | None = None
    """The path of a file that this is another name of; its `kind` is FILE."""
    mode: int = 0
    mtime_s: int = 0
    mtime_ns: int = 0
    size: int = 0
    attributes: Attributes = NO_ATTRIBUTES


class TarSink(Protocol):
    """Takes what is read."""

    def begin(self, member: Member) -> None: ...

    def content(self, part: memoryview) -> None:
        """Take the next bytes of the member that was begun last."""

    def end(self) -> None:
        """Know that all bytes of this member have come."""


class TarReader:
    """Reads one tar. After an error it is used no more."""

    def __init__(self, sink: TarSink) -> None:
        self._sink = sink
        self._block = bytearray()
        self._left = 0
        """Bytes to come of a member, or of what stands before one."""
        self._padding = 0
        self._coming: bytearray | None = None
        """What stands before a member, while it comes."""
        self._records: dict[bytes, bytes] | None = None
        self._zero_blocks = 0

    def feed(self, piece: bytes) -> None:
        """Read what came. Raises Malformed, and whatever the sink raises."""
        view = memoryview(piece)
        while view:
            if self._left:
                part = view[: self._left]
                self._left -= len(part)
                if self._coming is not None:
                    self._coming += part
                else:
                    self._sink.content(part)
                if not self._left:
                    self._body_has_come()
            elif self._padding:
                part = view[: self._padding]
                self._padding -= len(part)
            else:
                part = view[: BLOCK_BYTES - len(self._block)]
                self._block += part
                if len(self._block) == BLOCK_BYTES:
                    block = bytes(self._block)
                    self._block.clear()
                    self._head(block)
            view = view[len(part) :]

    def end(self) -> None:
        """Know that nothing more comes. Raises Malformed unless that is the end of a tar."""
        if self._zero_blocks < 2 or self._block:
            _refuse("it ends in its middle")

    def _head(self, block: bytes) -> None:
        if not any(block):
            if self._records is not None:
                _refuse("nothing follows what stands before a member")
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            _refuse("something behind its end")
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            _refuse("checksum of a header")
        size = _number(block[124:136])
        kind = block[156:157]
        if kind == _RECORDS:
            if self._records is not None or not 0 < size <= RECORDS_BYTES_MAX:
                _refuse("what stands before a member")
            self._coming = bytearray()
        else:
            member = self._member(block, kind, size)
            self._records = None
            size = member.size
            self._sink.begin(member)
        self._left, self._padding = size, -size % BLOCK_BYTES
        if not size:
            self._sink.end()

    def _body_has_come(self) -> None:
        if self._coming is None:
            self._sink.end()
            return
        self._records = _records(bytes(self._coming))
        self._coming = None

    def _member(self, block: bytes, kind: bytes, size: int) -> Member:
        records = self._records or {}
        name, prefix = _text(block[:100]), _text(block[345:500])
        path = records.get(b"path", prefix + b"/" + name if prefix else name)
        link = records.get(b"linkpath", _text(block[157:257]))
        if b"size" in records:
            size = _decimal(records[b"size"])
        if kind == b"5":
            path = path.removesuffix(b"/")
        if not path:
            _refuse("a member without a name")
        if kind not in KINDS and kind != HARD_LINK and kind not in _UNKNOWN:
            _refuse(f"type {kind!r} of a member")
        if size and kind not in (b"0", b"\0", b"7"):
            _refuse("a member that has no bytes comes with some")
        if any(one.startswith(b"GNU.sparse.") for one in records):
            _refuse("a file with its holes left out")
        seconds, fraction = _time(records[b"mtime"]) if b"mtime" in records else (_number(block[136:148]), 0)
        return Member(
            path=path,
            kind=Kind.FILE if kind == HARD_LINK else KINDS.get(kind),
            link=link,
            first=link if kind == HARD_LINK else None,
            mode=_number(block[100:108]) & 0o7777,
            mtime_s=seconds,
            mtime_ns=fraction,
            size=size,
            attributes=_attributes(records),
        )


def _records(raw: bytes) -> dict[bytes, bytes]:
    """Return the records `LENGTH KEY=VALUE\\n`; the length is that of the whole record."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(raw):
        digits = raw[at : at + 9].partition(b" ")[0]
        length = _decimal(digits)
        record = raw[at : at + length]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if len(record) != length or not key or not equals or not value.endswith(b"\n"):
            _refuse("record before a member")
        found[key] = value[:-1]
        at += length
    return found


def _attributes(records: dict[bytes, bytes]) -> Attributes:
    found = [
        # As GNU tar writes names that would not fit between a length and an equals sign.
        (key.removeprefix(XATTR_RECORD).replace(b"%3D", b"=").replace(b"%25", b"%"), value)
        for key, value in records.items()
        if key.startswith(XATTR_RECORD)
    ]
    if any(not name or b"\0" in name for name, _ in found):
        _refuse("name of an attribute")
    return Attributes(xattrs=tuple(sorted(found))) if found else NO_ATTRIBUTES


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Return a number of a header: octal, or from 8 GiB on with the first bit set and binary."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = field.strip(b"\0 ")
    if digits.strip(b"01234567"):
        _refuse("number in a header")
    return int(digits or b"0", 8)


def _decimal(digits: bytes) -> int:
    if not 1 <= len(digits) <= 19 or not digits.isdigit():
        _refuse("number before a member")
    return int(digits)


def _time(text: bytes) -> tuple[int, int]:
    """Return seconds and nanoseconds of a time as `-1.5`, which is half a second before -1."""
    found = _TIME.fullmatch(text)
    if found is None:
        _refuse("time of a member")
    sign, seconds, fraction = found.groups()
    total_ns = int(seconds) * _SECOND_NS + int((fraction or b"").ljust(9, b"0"))
    whole, rest = divmod(-total_ns if sign else total_ns, _SECOND_NS)
    if not -_SECONDS_MAX <= whole < _SECONDS_MAX:
        _refuse("time of a member")
    return whole, rest


def _refuse(rule: str) -> NoReturn:
    raise Malformed(object="archive", rule=rule)
