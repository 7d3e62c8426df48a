"""The commit log on the store: read it to its end, and place one entry behind it.

The log is the only truth, and the create-only PUT of its next number the only point where writers meet. The
end is the number that cleanly does not exist; numbers are dense; a listing only finds candidates. An entry
whose PUT got no certain answer keeps its number: the same bytes are sent again before this process writes
anything else.

Not here: what an entry says (`state.py`), when it may be believed (`verify.py`).

Source: storage.md 4.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from blake3 import blake3

from storage.errors import (
    ChainBroken,
    CommitContended,
    ObjectDamaged,
    ObjectNotFound,
    StorageError,
    StoreError,
)
from storage.format import names
from storage.format.encoding import decode, encode
from storage.format.entries import decode_entry
from storage.format.envelope import HEAD_START, head_end, open_head
from storage.format.header import ObjectType, open_header
from storage.format.limits import HEADER_BYTES, KIB, TRAILER_BYTES
from storage.format.pack import read_footer, read_trailer
from storage.format.table import Table
from storage.repository.cache import RecordFile
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create
from storage.repository.slots import RepositoryKeys
from storage.repository.state import (
    LogState,
    Row,
    StoredHead,
    pack_refs,
    stored_head_decoder,
)
from storage.repository.threads import Threads
from storage.repository.together import together

HEAD_READ_BYTES: Final = 64 * KIB
"""First read of an entry; longer heads cost one more."""
READ_AHEAD_ENTRIES: Final = 16
CONTENTION_MAX: Final = 16
"""Places lost to others before a plan is given up as contended."""

Plan: TypeAlias = Callable[[LogState], bytes]
"""Makes the bytes of the next entry for a state; may raise to give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An entry whose create was answered: the number holds these bytes."""

    row: Row
    raw: bytes


class CommitLog:
    """The log of one repository as this process knows it. One caller at a time (`ops` holds a lock)."""

    def __init__(
        self, place: Prefixed, keys: RepositoryKeys, threads: Threads, cache: RecordFile | None
    ) -> None:
        self._place = place
        self._keys = keys
        self._threads = threads
        self._cache = cache
        self._unsaved: list[StoredHead] = []
        self._anew = False
        self._last: StoredHead | None = None
        self._unsettled: tuple[str, bytes] | None = None
        self._loaded = False
        self.state = LogState(config_hash=keys.config_hash)

    async def refresh(self) -> LogState:
        """Read every entry behind the last known one; start over if that one is not there any more."""
        if not self._loaded:
            await self._load_cache()
        known = self.state.seq
        if known and not await self._still_there():
            self.forget()
        if self.state.seq == 0:
            await self._read_from_the_beginning()
        else:
            await self._read_on()
        return self.state

    @property
    def unsettled(self) -> bool:
        """Return whether an entry waits to be sent again."""
        return self._unsettled is not None

    def forget(self) -> None:
        """Drop what is known: the next refresh reads everything from the store."""
        self._unsaved = []
        self._anew = True
        self._last = None
        self.state = LogState(config_hash=self._keys.config_hash)
        self._loaded = True

    async def append(self, plan: Plan, *, tables: Sequence[Table] = ()) -> Placed:
        """Place one entry at the end of the log; `plan` is asked again whenever somebody else was faster.

        `tables` are those of the pack references that carry none.

        Raises:
            CommitUncertain: no certain answer; the next append sends the same bytes again first.
            CommitContended: others were faster too often.
        """
        await self._settle()
        for _ in range(CONTENTION_MAX):
            state = await self.refresh()
            if state.writers_stop is not None:
                raise state.writers_stop
            name = names.log_entry(state.seq + 1)
            raw = await self._threads.quick(plan, state)
            self._unsettled = (name, raw)
            try:
                ours = await settle_create(self._place, name, raw)
            except StoreError:
                self._unsettled = None  # nothing was written, so the number is free for other bytes
                raise
            self._unsettled = None
            if ours:
                return Placed(row=self._take_in(state.seq + 1, raw, tables), raw=raw)
        raise CommitContended(seq=self.state.seq)

    async def entry_bytes(self, seq: int) -> bytes:
        """Read a whole entry."""
        return await self._place.get(names.log_entry(seq))

    async def predecessor_stands(self, row: Row) -> bool:
        """Return whether what a row names as its predecessor is still there: the look of rule 6."""
        name = names.log_entry(row.seq - 1) if row.seq > 1 else names.CONFIG
        return await self._place.head(name) is not None

    async def _settle(self) -> None:
        if self._unsettled is not None:
            name, raw = self._unsettled
            await settle_create(self._place, name, raw)
            self._unsettled = None

    def _take_in(self, seq: int, raw: bytes, tables: Sequence[Table]) -> Row:
        opened = self._opened(seq, raw)
        head = StoredHead(seq, opened.hash, opened.kind, opened.area_start, opened.body, list(tables))
        row = self.state.apply(head)
        self._last = head
        self._unsaved.append(head)
        return row

    async def _still_there(self) -> bool:
        """Look whether the newest known entry is in the store, with the bytes we know."""
        last = self._last
        assert last is not None, "asked only where an entry is known"
        raw = await self._place.find(names.log_entry(last.seq), length=last.area_start)
        return raw is not None and blake3(raw).digest() == last.hash

    async def _read_from_the_beginning(self) -> None:
        highest = 0
        async for info in self._place.list(names.LOG_PREFIX):
            highest = max(highest, names.log_entry_seq(info.name))
        at = 1
        while at <= highest:
            count = min(READ_AHEAD_ENTRIES, highest + 1 - at)
            reads = [self._read_head(at + i) for i in range(count)]
            for i, head in enumerate(await together(reads, at_once=READ_AHEAD_ENTRIES)):
                if head is None:
                    raise ChainBroken(what="gap in the log", seq=at + i, listed=highest)
                await self._apply(head)
            at += count
        await self._read_on()

    async def _read_on(self) -> None:
        while True:
            head = await self._read_head(self.state.seq + 1)
            if head is None:
                return
            await self._apply(head)

    async def _apply(self, head: StoredHead) -> None:
        await self._threads.quick(self.state.apply, head)
        self._last = head
        self._unsaved.append(head)

    async def _read_head(self, seq: int) -> StoredHead | None:
        name = names.log_entry(seq)
        raw = await self._place.find(name, length=HEAD_READ_BYTES)
        if raw is None:
            return None
        if len(raw) >= HEAD_START and head_end(raw, name) > len(raw):
            raw = await self._place.get(name, length=head_end(raw, name))
        head = self._opened(seq, raw)
        missing = [ref for ref in pack_refs(decode_entry(head.kind, head.body)) if ref.table is None]
        if not missing:
            return head
        tables = [
            await self.read_pack_table(names.pack(ref.fence, ref.pack_id), ref.size, ref.footer_digest)
            for ref in missing
        ]
        return StoredHead(head.seq, head.hash, head.kind, head.area_start, head.body, tables)

    def _opened(self, seq: int, raw: bytes) -> StoredHead:
        name = names.log_entry(seq)
        head = open_head(self._keys.of_header(raw, name), ObjectType.LOG_ENTRY, name, raw)
        return StoredHead(seq, head.entry_hash, head.kind, head.area_start, head.body, [])

    async def read_pack_table(self, name: str, size: int, footer_digest: bytes) -> Table:
        """Read the table in a pack's footer, for a reference that carries none."""
        try:
            start = await self._place.get(name, length=HEADER_BYTES)
            trailer = await self._place.get(name, start=size - TRAILER_BYTES)
            footer_bytes, count = read_trailer(trailer, pack_bytes=size, name=name)
            at = size - TRAILER_BYTES - footer_bytes
            raw = await self._place.get(name, start=at, length=footer_bytes)
        except ObjectNotFound as exc:
            raise ObjectDamaged(object=name, what="missing") from exc
        header = open_header(self._keys.of_header(start, name), start, ObjectType.PACK, name)
        footer = read_footer(header, raw, count, pack_bytes=size, name=name)
        if footer.footer_digest != footer_digest:
            raise ObjectDamaged(object=name, what="another footer than the log names")
        return footer.table

    async def _load_cache(self) -> None:
        """Take in the heads of the local cache, if they fit; the first look at the store follows."""
        self._loaded = True
        if self._cache is None:
            return
        records = await self._threads.quick(self._cache.read)
        try:
            await self._threads.quick(self._take_cached, records)
        except StorageError:
            self.forget()
        self._unsaved = []

    def _take_cached(self, records: Sequence[bytes]) -> None:
        for raw in records:
            self._last = decode(stored_head_decoder, raw, what="log cache")
            self.state.apply(self._last)

    async def save_cache(self) -> None:
        """Add to the local cache what was read or placed since the last time."""
        if self._cache is None or not (self._unsaved or self._anew):
            return
        records = [encode(head) for head in self._unsaved]
        await self._threads.quick(self._cache.add, records, anew=self._anew)
        self._unsaved, self._anew = [], False
