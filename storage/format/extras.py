"""What an entry may carry besides the usual: extents, attributes, link groups, grades.

`extra` is nil or `[[tag, value]]`, tags ascending. An unknown tag below 128 is reported as not restored; one
above may be ignored. Values are decoded by tag, so an unknown one costs nothing.

Source: storage.md 4.1, row "extra".
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, TypeVar

import msgspec

from storage.errors import Malformed
from storage.format.encoding import decode, encode
from storage.format.limits import (
    EXTENTS_INLINE_MAX,
    FILE_BYTES_LIMIT,
    NAME_BYTES_MAX,
    XATTR_ENTRY_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)

Extent: TypeAlias = tuple[int, int]
"""(offset, length) of data; bytes."""
RawExtras: TypeAlias = list[tuple[int, msgspec.Raw]]


class Tag(IntEnum):
    """Known tags."""

    EXTENTS = 1
    XATTRS = 2
    LINK_GROUP = 3
    GRADE = 4
    INODE_FLAGS = 5
    XATTR_ERRORS = 6
    BIRTH_TIME = 7


class GradeTag(IntEnum):
    """Values of the tag GRADE."""

    FUZZY = 1
    STALE = 2
    UNREADABLE = 3


IGNORABLE_TAGS_FROM: Final = 128
EXTENT_PAIR: Final = struct.Struct("<QQ")
"""One extent in a content of extents."""
LINK_GROUP_BYTES: Final = 8
_KNOWN: Final = frozenset(int(tag) for tag in Tag)
_GRADES: Final = frozenset(int(grade) for grade in GradeTag)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Checked extras.

    `extents` is None for a file without holes; `extents_content` stands for many extents.
    """

    extents: tuple[Extent, ...] | None = None
    extents_content: "bytes | tuple[bytes, int] | None" = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    link_group: bytes | None = None
    grade: int | None = None
    inode_flags: int | None = None
    xattr_errors: tuple[tuple[bytes, int], ...] = ()
    birth_time: tuple[int, int] | None = None
    unknown_tags: tuple[int, ...] = ()

    @property
    def unreadable(self) -> bool:
        """Return whether the entry has no content on purpose."""
        return self.grade == GradeTag.UNREADABLE

    def data_bytes(self, size: int) -> int | None:
        """Return how many bytes the content must have; None where the extents have to be read first."""
        if self.extents_content is not None:
            return None
        if self.extents is None:
            return size
        return sum(length for _, length in self.extents)


NONE: Final = Extras()
_extents: Final = msgspec.msgpack.Decoder(list[tuple[int, int] | bytes | int] | bytes)
_xattrs: Final = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])
_bytes: Final = msgspec.msgpack.Decoder(bytes)
_int: Final = msgspec.msgpack.Decoder(int)
_errors: Final = msgspec.msgpack.Decoder(list[tuple[bytes, int]])
_time: Final = msgspec.msgpack.Decoder(tuple[int, int])


def make_extras(extras: Extras) -> RawExtras | None:
    """Return the `extra` field of an entry; nil where there is nothing to say."""
    extents: object = extras.extents
    if extras.extents_content is not None:
        extents = extras.extents_content
    values: tuple[tuple[Tag, object], ...] = (
        (Tag.EXTENTS, extents),
        (Tag.XATTRS, extras.xattrs or None),
        (Tag.LINK_GROUP, extras.link_group),
        (Tag.GRADE, extras.grade),
        (Tag.INODE_FLAGS, extras.inode_flags),
        (Tag.XATTR_ERRORS, extras.xattr_errors or None),
        (Tag.BIRTH_TIME, extras.birth_time),
    )
    told = [(int(tag), msgspec.Raw(encode(value))) for tag, value in values if value is not None]
    return told or None


def read_extras(raw: RawExtras | None, *, size: int) -> Extras:
    """Return the checked extras of an entry of `size` bytes.

    Raises:
        Malformed: tags that do not ascend, a value of the wrong shape, extents that overlap or leave the
        file.
    """
    if raw is None:
        return NONE
    last = 0
    unknown: list[int] = []
    values: dict[int, bytes] = {}
    for tag, value in raw:
        if tag <= last:
            raise Malformed(rule="extra tags ascend")
        last = tag
        if tag in _KNOWN:
            values[tag] = bytes(value)
        elif tag < IGNORABLE_TAGS_FROM:
            unknown.append(tag)
    return _read_known(values, size=size, unknown=tuple(unknown))


def _read_known(values: dict[int, bytes], *, size: int, unknown: tuple[int, ...]) -> Extras:
    def take(tag: Tag, decoder: "msgspec.msgpack.Decoder[T]") -> "T | None":
        value = values.get(tag)
        return None if value is None else decode(decoder, value, what=f"extra {tag.name.lower()}")

    extents, extents_content = _read_extents(take(Tag.EXTENTS, _extents), size=size)
    pairs = take(Tag.XATTRS, _xattrs)
    errors = take(Tag.XATTR_ERRORS, _errors)
    xattrs = tuple(pairs or ())
    last = b""
    for name, value in xattrs:
        if name <= last or len(name) > NAME_BYTES_MAX or b"\0" in name or len(value) > XATTR_VALUE_BYTES_MAX:
            raise Malformed(rule="extended attribute")
        last = name
    if sum(len(name) + len(value) for name, value in xattrs) > XATTR_ENTRY_BYTES_MAX:
        raise Malformed(rule="extended attributes of one entry")
    group, grade, flags = take(Tag.LINK_GROUP, _bytes), take(Tag.GRADE, _int), take(Tag.INODE_FLAGS, _int)
    if group is not None and len(group) != LINK_GROUP_BYTES:
        raise Malformed(rule="link group")
    if grade is not None and grade not in _GRADES:
        raise Malformed(rule="grade")
    if flags is not None and not 0 <= flags < 1 << 32:
        raise Malformed(rule="inode flags")
    return Extras(
        extents=extents,
        extents_content=extents_content,
        xattrs=xattrs,
        link_group=group,
        grade=grade,
        inode_flags=flags,
        xattr_errors=tuple(errors or ()),
        birth_time=take(Tag.BIRTH_TIME, _time),
        unknown_tags=unknown,
    )


def _read_extents(
    value: "list[tuple[int, int] | bytes | int] | bytes | None", *, size: int
) -> "tuple[tuple[Extent, ...] | None, bytes | tuple[bytes, int] | None]":
    if value is None:
        return None, None
    if isinstance(value, bytes):
        return None, value
    if len(value) == 2 and isinstance(value[0], bytes) and isinstance(value[1], int):
        return None, (value[0], value[1])
    pairs = [pair for pair in value if isinstance(pair, tuple)]
    if len(pairs) != len(value) or len(pairs) > EXTENTS_INLINE_MAX:
        raise Malformed(rule="extents")
    return check_extents(pairs, size=size), None


def check_extents(pairs: "Iterable[Extent]", *, size: int) -> tuple[Extent, ...]:
    """Return extents that ascend, are disjoint and lie inside the file."""
    end = 0
    checked = tuple(pairs)
    for offset, length in checked:
        if offset < end or length <= 0 or offset + length > size or size >= FILE_BYTES_LIMIT:
            raise Malformed(rule="extents ascend, disjoint, inside the file")
        end = offset + length
    return checked


def unpack_extents(raw: bytes, *, size: int) -> tuple[Extent, ...]:
    """Return the extents in a content of u64 pairs."""
    if len(raw) % EXTENT_PAIR.size:
        raise Malformed(rule="content of extents")
    return check_extents(EXTENT_PAIR.iter_unpack(raw), size=size)


def pack_extents(extents: "Iterable[Extent]") -> bytes:
    """Return the u64 pairs of extents that are too many to lie in their entry."""
    return b"".join(EXTENT_PAIR.pack(offset, length) for offset, length in extents)
