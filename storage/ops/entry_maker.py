"""Makes the entries of the format from what the scanner found: owners, times, attributes, grades.

Pure but for what it offers to the taker. An owner who is the workspace's own becomes nil (`self`), so that a
home can be restored for another user id.
"""

import errno
from dataclasses import replace
from typing import Final

from storage.format import extras as extras_format
from storage.format.extras import Extent, Extras, GradeTag, RawExtras, make_extras
from storage.format.keys import BoxKind
from storage.format.limits import EXTENTS_INLINE_MAX, KIB
from storage.format.tree import Content, Entry, entry_extras
from storage.repository.packer import ChunkTaker
from storage.repository.tree_writer import write_content
from storage.scan.entry import NO_ATTRIBUTES, Attributes, Grade, Kind, StatFacts

XATTRS_KEPT_BYTES_MAX: Final = 96 * KIB
"""Of one entry: an entry has to fit into a node of 128 KiB. What is beyond is named as an error, E2BIG."""
EXTENTS_CHUNK_BYTES: Final = 64 * KIB
NONE: Final = NO_ATTRIBUTES


class EntryMaker:
    """Makes entries of one home."""

    def __init__(self, taker: ChunkTaker, owner: tuple[int, int]) -> None:
        self._taker = taker
        self._owner = owner

    def make(
        self,
        name: bytes,
        kind: Kind,
        facts: StatFacts,
        content: Content,
        *,
        attributes: Attributes = NONE,
        extents: tuple[Extent, ...] | None = None,
        grade: GradeTag | Grade | None = None,
    ) -> Entry:
        """Return an entry. `size` is that of files; everything else has none."""
        seconds, nanoseconds = divmod(facts.mtime_ns, 1_000_000_000)
        plain = extents is None and grade is None and (attributes is NONE or attributes == NONE)
        extra = None if plain else self._extra(attributes, extents, grade)
        uid, gid = self._owners(facts)
        size = facts.size if kind is Kind.FILE else 0
        return Entry(
            name,
            int(kind),
            facts.mode,
            uid,
            gid,
            seconds,
            nanoseconds,
            size,
            content,
            extra,
        )

    def _extra(
        self,
        attributes: Attributes,
        extents: tuple[Extent, ...] | None,
        grade: GradeTag | Grade | None,
    ) -> RawExtras | None:
        kept, errors = _fitting(attributes)
        inline, stored = self._extents(extents)
        told = Extras(
            extents=inline,
            extents_content=stored,
            xattrs=kept,
            grade=None if grade is None else int(grade),
            inode_flags=attributes.inode_flags or None,
            xattr_errors=errors,
        )
        return make_extras(told)

    def again(self, entry: Entry, facts: StatFacts) -> Entry:
        """Return a remembered entry, its owner told for whoever owns the workspace now."""
        uid, gid = self._owners(facts)
        if (entry.uid, entry.gid) == (uid, gid):
            return entry
        return _changed(entry, uid=uid, gid=gid)

    def with_content(self, entry: Entry, content: Content) -> Entry:
        """Return the same entry with another content."""
        return Entry(
            entry.name,
            entry.type,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_s,
            entry.mtime_ns,
            entry.size,
            content,
            entry.extra,
        )

    def stale(self, entry: Entry) -> Entry:
        """Return the last good entry, marked as such."""
        return with_extras(entry, replace(entry_extras(entry), grade=int(GradeTag.STALE)))

    def _owners(self, facts: StatFacts) -> tuple[int | None, int | None]:
        uid = None if facts.uid == self._owner[0] else facts.uid
        return uid, None if facts.gid == self._owner[1] else facts.gid

    def _extents(
        self, extents: tuple[Extent, ...] | None
    ) -> tuple[tuple[Extent, ...] | None, bytes | tuple[bytes, int] | None]:
        if extents is None or len(extents) <= EXTENTS_INLINE_MAX:
            return extents, None
        raw = extras_format.pack_extents(extents)
        content = write_content(self._taker, offer_meta(self._taker, raw))
        assert isinstance(content, bytes | tuple), "many extents are never empty"
        return None, content  # type: ignore[return-value]  # a list reference begins with its id


def offer_meta(taker: ChunkTaker, raw: bytes) -> list[tuple[bytes, int]]:
    """Store bytes as chunks of the meta class and return their references."""
    refs: list[tuple[bytes, int]] = []
    for at in range(0, len(raw), EXTENTS_CHUNK_BYTES):
        piece = raw[at : at + EXTENTS_CHUNK_BYTES]
        refs.append((taker.offer(BoxKind.META, piece), len(piece)))
    return refs


def with_link_group(entry: Entry, group: bytes | None) -> Entry:
    """Return an entry with that link group, or with none."""
    extras = entry_extras(entry)
    if extras.link_group == group:
        return entry
    return with_extras(entry, replace(extras, link_group=group))


def with_extras(entry: Entry, extras: Extras) -> Entry:
    """Return an entry with other extras."""
    return Entry(
        entry.name,
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_s,
        entry.mtime_ns,
        entry.size,
        entry.content,
        make_extras(extras),
    )


def renamed(entry: Entry, name: bytes) -> Entry:
    """Return the same inode under another name."""
    return _changed(entry, uid=entry.uid, gid=entry.gid, name=name)


def _changed(entry: Entry, *, uid: int | None, gid: int | None, name: bytes | None = None) -> Entry:
    return Entry(
        entry.name if name is None else name,
        entry.type,
        entry.mode,
        uid,
        gid,
        entry.mtime_s,
        entry.mtime_ns,
        entry.size,
        entry.content,
        entry.extra,
    )


def _fitting(
    attributes: Attributes,
) -> tuple[tuple[tuple[bytes, bytes], ...], tuple[tuple[bytes, int], ...]]:
    """Return the attributes that fit into an entry, and the errors with those that do not."""
    kept: list[tuple[bytes, bytes]] = []
    errors = list(attributes.xattr_errors)
    size = 0
    for name, value in sorted(attributes.xattrs):
        size += len(name) + len(value)
        if size > XATTRS_KEPT_BYTES_MAX:
            errors.append((name, errno.E2BIG))
            size -= len(name) + len(value)
        else:
            kept.append((name, value))
    return tuple(kept), tuple(errors)
