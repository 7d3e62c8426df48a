"""A pack is read back to its last byte before anybody may name it, in pieces that its store prefers."""

import asyncio
import random
from pathlib import Path

import pytest

from storage.errors import ObjectDamaged
from storage.format.frame import make_frame
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import KIB
from storage.format.table import PlannedSegment
from storage.objects.counted import CountedStore
from storage.objects.folder import FolderStore
from storage.objects.memory import MemoryStore
from storage.objects.pieces import FAR_PIECE_BYTES, NEAR_PIECE_BYTES, piece_bytes
from storage.objects.retry import RetryingStore
from storage.ops.uploads import PackUploads
from storage.repository.packer import SealedPack, seal_pack
from storage.repository.prefixed import Prefixed
from storage.repository.threads import Stop

KEYS = EpochKeys.from_secrets(bytes(16), bytes(32), bytes(32))
SEED = 20
SEGMENTS = 5
SEGMENT_BYTES = 600 * KIB


class NearStore(MemoryStore):
    """A store that is read in near pieces; it may give one byte otherwise than it was written."""

    def __init__(self, bent_at: int = -1) -> None:
        super().__init__()
        self.bent_at = bent_at
        self.pieces: list[int] = []

    @property
    def piece_bytes(self) -> int:
        return NEAR_PIECE_BYTES

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        found = bytearray(await super().get(name, start=start, length=length))
        self.pieces.append(len(found))
        if start <= self.bent_at < start + len(found):
            found[self.bent_at - start] ^= 1
        return bytes(found)


def a_pack() -> SealedPack:
    drawn = random.Random(SEED)
    segments = [
        PlannedSegment(
            kind=BoxKind.DATA,
            frame=make_frame(raw),
            raw_bytes=len(raw),
            chunks=((KEYS.chunk_id(BoxKind.DATA, raw), len(raw)),),
        )
        for raw in (drawn.randbytes(SEGMENT_BYTES) for _ in range(SEGMENTS))
    ]
    return seal_pack(KEYS, segments, fence=1, fresh=drawn.randbytes)


async def upload(store: MemoryStore, sealed: SealedPack) -> PackUploads:
    place = Prefixed(RetryingStore(CountedStore(store)), "x/")
    uploads = PackUploads(place, KEYS, fresh=random.Random(SEED).randbytes, stop=Stop(), progress=print)
    uploads.emit(sealed)
    await asyncio.sleep(0)  # it is handed over as from a thread
    uploads.end()
    await uploads.upload()
    return uploads


async def test_a_folder_is_read_in_smaller_pieces_than_a_store_afar_also_behind_wrappers(
    tmp_path: Path,
) -> None:
    folder = await FolderStore.open(tmp_path / "objects", create=True)
    try:
        assert piece_bytes(RetryingStore(CountedStore(folder))) == NEAR_PIECE_BYTES
    finally:
        await folder.close()
    assert piece_bytes(RetryingStore(CountedStore(MemoryStore()))) == FAR_PIECE_BYTES


async def test_a_pack_is_read_back_whole_in_the_pieces_that_its_store_prefers() -> None:
    sealed = a_pack()
    size = len(sealed.pack.raw)
    store = NearStore()
    uploads = await upload(store, sealed)
    assert uploads.refs == [sealed.ref]
    assert store.pieces == [NEAR_PIECE_BYTES] * (size // NEAR_PIECE_BYTES) + [size % NEAR_PIECE_BYTES]


@pytest.mark.parametrize("place", ["first", "last of a piece", "first of the next", "last"])
async def test_one_byte_that_reads_back_otherwise_stops_the_pack(place: str) -> None:
    sealed = a_pack()
    bent_at = {
        "first": 0,
        "last of a piece": NEAR_PIECE_BYTES - 1,
        "first of the next": NEAR_PIECE_BYTES,
        "last": len(sealed.pack.raw) - 1,
    }[place]
    with pytest.raises(ObjectDamaged):
        await upload(NearStore(bent_at), sealed)
