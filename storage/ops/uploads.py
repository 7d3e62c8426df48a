"""Packs on their way into the store: a few buffers, used again and again, and two uploaders.

Who fills packs waits here for a buffer, so memory is bounded by their number, whatever the size of a home.
Every pack is read back before anybody may name it: what the store holds is compared with bytes that were
decoded, piece by piece.

A buffer is used again only after its pack was read back. Its name then holds these bytes for ever, so a late
first copy of the same PUT (a connection that was given up) can no longer write what lies there next.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from storage.errors import CommitContended, ObjectDamaged, ObjectNotFound, StoreUnavailable
from storage.format.entries import PackRef
from storage.format.keys import EpochKeys
from storage.format.limits import INLINE_NEW_BYTES_MAX
from storage.objects.pieces import FAR_PIECE_BYTES
from storage.ops.content import READ_BUFFER_BYTES
from storage.ops.values import Progress
from storage.repository.packer import (
    META_HELD_BYTES_MAX,
    PACK_BYTES,
    SEGMENT_BUFFER_BYTES,
    SEGMENT_BYTES,
    Fresh,
    SealedPack,
    rename_pack,
)
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create
from storage.repository.threads import READ_THREADS, Stop

UPLOADERS: Final = 2
PACK_BUFFERS: Final = 3
"""One is filled while two are on their way; 16 MiB each."""
NAME_TRIES_MAX: Final = 8
SAVE_BYTES_MAX: Final = (
    PACK_BUFFERS * PACK_BYTES
    + UPLOADERS * FAR_PIECE_BYTES
    + READ_THREADS * (READ_BUFFER_BYTES + 2 * SEGMENT_BUFFER_BYTES + 2 * SEGMENT_BYTES)
    + INLINE_NEW_BYTES_MAX
    + META_HELD_BYTES_MAX
)
"""What a checkpoint holds at once, whatever the size of a home, besides some 0.3 KB for each of its entries:
packs, a piece of each that is read back, and for each reading thread its buffer, the segment that it fills
and the one that it compresses and checks, and then what waits for the entry or for the end. A test holds it
to this."""


class PackUploads:
    """Takes packs from scanning threads and gets them into the store, read back."""

    def __init__(
        self,
        place: Prefixed,
        keys: EpochKeys,
        *,
        fresh: Fresh,
        stop: Stop,
        progress: Callable[[Progress], None],
    ) -> None:
        self._place = place
        self._keys = keys
        self._fresh = fresh
        self._stop = stop
        self._progress = progress
        self._moved_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[SealedPack | None] = asyncio.Queue()
        self._free = threading.Semaphore(PACK_BUFFERS)
        self._idle: list[bytearray] = []
        self.refs: list[PackRef] = []

    def buffer(self) -> bytearray:
        """Return a buffer for a pack; wait in the calling thread while all are in use."""
        while not self._free.acquire(timeout=0.1):
            self._stop.check()
        self._stop.check()
        return self._idle.pop() if self._idle else bytearray(PACK_BYTES)

    def emit(self, sealed: SealedPack) -> None:
        """Take a finished pack from any thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, sealed)

    async def upload(self) -> None:
        """Upload what comes until the end is told."""
        while True:
            sealed = await self._queue.get()
            if sealed is None:
                return
            self.refs.append(await self._store(sealed))
            buffer = sealed.pack.raw
            del sealed
            if len(buffer) <= PACK_BYTES:
                buffer += bytes(PACK_BYTES - len(buffer))
            else:
                del buffer[PACK_BYTES:]
            self._idle.append(buffer)
            self._free.release()

    def end(self) -> None:
        """Tell the uploaders that nothing more comes."""
        for _ in range(UPLOADERS):
            self._queue.put_nowait(None)

    async def _store(self, sealed: SealedPack) -> PackRef:
        for _ in range(NAME_TRIES_MAX):
            if await settle_create(self._place, sealed.name, sealed.pack.raw):
                self._moved(len(sealed.pack.raw))
                await self._read_back(sealed)
                return sealed.ref
            sealed = rename_pack(self._keys, sealed, fresh=self._fresh)
        raise StoreUnavailable(what="every drawn pack name is taken", name=sealed.name)

    def _moved(self, count: int) -> None:
        self._moved_bytes += count
        self._progress(Progress(stage="upload", done=self._moved_bytes, unit="bytes"))

    async def _read_back(self, sealed: SealedPack) -> None:
        """Fetch a pack and compare it; one byte more than it has is asked for, so that none is left over."""
        raw = sealed.pack.raw
        at, length = 0, self._place.piece_bytes
        while at <= len(raw):
            try:
                piece = await self._place.get(sealed.name, start=at, length=length)
            except ObjectNotFound as exc:
                raise CommitContended(what="a pack was given up early", object=sealed.name) from exc
            whole = len(piece) == min(length, len(raw) - at)
            if not whole or not raw.startswith(piece, at):
                raise ObjectDamaged(object=sealed.name, what="pack reads back otherwise")
            self._moved(len(piece))
            if len(piece) < length:
                return
            at += len(piece)
