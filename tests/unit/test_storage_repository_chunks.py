"""Where files are cut, how new chunks become segments and packs, and what small edits cost."""

import itertools
import os
import random
import sqlite3
import threading

import pytest

from storage.errors import Malformed, ObjectDamaged
from storage.format.frame import make_frame, open_frame
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import KIB, MIB
from storage.format.pack import check_pack, read_pack
from storage.format.table import Segment
from storage.repository import packer
from storage.repository.chunker import (
    SUPER_BLOCK_BYTES,
    USUAL,
    WHOLE_FILE_BYTES_MAX,
    Chunker,
    is_sqlite,
    is_text,
    require_compiled,
)
from storage.repository.packer import SEGMENT_CHUNKS_MAX, NewChunks, SealedPack, seal_pack

KEYS = EpochKeys.from_secrets(bytes(16), b"k" * 32, b"s" * 32)


def cut(data: bytes, *, piece: int = 4 * MIB, seed: int = KEYS.chunker_seed) -> list[bytes]:
    """Cut data that comes piece by piece, as a reader does."""
    chunker = Chunker(file_bytes=len(data), seed=seed)
    chunks: list[bytes] = []
    held = b""
    for at in range(0, len(data), piece):
        held += data[at : at + piece]
        for length in chunker.cut(memoryview(held), last=at + piece >= len(data)):
            chunks.append(held[:length])
            held = held[length:]
    assert held == b""
    return chunks


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, WHOLE_FILE_BYTES_MAX, WHOLE_FILE_BYTES_MAX + 1, 700_001, 40 * MIB])
def test_chunks_put_together_are_the_file(size):
    data = noise(size)
    chunks = cut(data)
    assert b"".join(chunks) == data
    assert all(0 < len(chunk) <= USUAL.largest for chunk in chunks)
    if 0 < size <= WHOLE_FILE_BYTES_MAX:
        assert len(chunks) == 1


def test_cuts_do_not_depend_on_how_the_file_was_read():
    data = noise(3 * MIB)
    assert cut(data, piece=64 * KIB + 13) == cut(data, piece=MIB) == cut(data)


def test_every_32_mib_a_chunk_ends():
    ends = set(itertools.accumulate(map(len, cut(noise(70 * MIB), piece=5 * MIB))))
    assert {SUPER_BLOCK_BYTES, 2 * SUPER_BLOCK_BYTES} <= ends


def test_an_insert_at_the_front_changes_few_chunks():
    data = noise(8 * MIB)
    known = set(cut(data))
    assert sum(chunk not in known for chunk in cut(b"inserted" + data)) <= 3


@pytest.mark.parametrize("seed", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_every_seed_that_a_repository_can_have_works(seed):
    """pyfastcdc overflows for seeds with the highest bit set: half of all repositories."""
    assert b"".join(cut(noise(MIB), seed=seed)) == noise(MIB)


def test_cuts_differ_between_repositories():
    assert list(map(len, cut(noise(MIB), seed=1))) != list(map(len, cut(noise(MIB), seed=2)))


def test_the_cutter_is_the_compiled_one():
    assert require_compiled().__module__ == "pyfastcdc.cy.fastcdc"


def test_a_database_is_cut_at_its_pages(tmp_path):
    path = tmp_path / "base.db"
    base = sqlite3.connect(path)
    base.execute("create table t (a)")
    base.executemany("insert into t values (?)", [(noise(800, at),) for at in range(500)])
    base.commit()
    before = path.read_bytes()
    base.execute("update t set a = ? where rowid = 250", (noise(800, 9_999),))
    base.commit()
    base.close()
    after = path.read_bytes()
    assert is_sqlite(before)
    known = set(cut(before))
    assert sum(len(chunk) for chunk in cut(after) if chunk not in known) <= 4 * 4096


@pytest.mark.parametrize(
    ("page", "database"), [(512, True), (4096, True), (32_768, True), (1, True), (0, False), (3_000, False)]
)
def test_page_sizes_are_taken_from_the_header_and_not_believed_blindly(page, database):
    assert is_sqlite(b"SQLite format 3\0" + page.to_bytes(2, "big")) is database
    assert not is_sqlite(b"SQLite format 3\0")


def test_a_row_of_a_large_page_does_not_store_the_page(tmp_path):
    path = tmp_path / "base.db"
    base = sqlite3.connect(path)
    base.execute("pragma page_size=32768")
    base.execute("create table t (a)")
    base.executemany("insert into t values (?)", [(noise(800, at),) for at in range(500)])
    base.commit()
    known = set(cut(path.read_bytes()))
    base.execute("update t set a = ? where rowid = 250", (noise(800, 9_999),))
    base.commit()
    base.close()
    assert sum(len(chunk) for chunk in cut(path.read_bytes()) if chunk not in known) <= 4 * 4096


def test_a_log_that_grows_stores_little_more_than_what_it_got():
    lines = [b"%d host app[%d]: something happened\n" % (at, at * 7919 % 1000) for at in range(60_000)]
    log = b"".join(lines)
    assert is_text(log)
    again = 0
    for grown in range(len(log) - 500_000, len(log), 10_000):
        known = set(cut(log[:grown]))
        again += sum(len(chunk) for chunk in cut(log[: grown + 10_000]) if chunk not in known)
    assert again <= 50 * 10_000 * 2.5


class Collected:
    """Packs that nobody uploads; their buffers are never given back."""

    def __init__(self, pack_bytes: int) -> None:
        self._pack_bytes = pack_bytes
        self.made: list[SealedPack] = []

    def buffer(self) -> bytearray:
        return bytearray(self._pack_bytes)

    def emit(self, sealed: SealedPack) -> None:
        self.made.append(sealed)

    @property
    def segments(self) -> list[list[Segment]]:
        """The segments of each pack, in the order they lie."""
        return [list(check_pack(KEYS, one.name, one.pack.raw).segments) for one in self.made]


def collect(*, pack_bytes: int = 16 * MIB, stored: bytes = b"", **more) -> tuple[NewChunks, Collected]:
    packs = Collected(pack_bytes)
    taker = NewChunks(
        KEYS,
        fence=3,
        fresh=os.urandom,
        stored=lambda kind, chunk_id: chunk_id == stored,
        packs=packs,
        **more,
    )
    return taker, packs


def test_little_stays_for_the_entry_and_much_goes_into_packs():
    taker, packs = collect()
    for number in range(10):
        taker.offer(BoxKind.DATA, noise(50_000, number))
    taker.offer(BoxKind.META, b"node")
    inline = taker.finish()
    assert [segment.kind for segment in inline] == [BoxKind.DATA, BoxKind.META]
    assert packs.made == []
    taker, packs = collect(pack_bytes=2 * MIB)
    for number in range(80):
        taker.offer(BoxKind.DATA, noise(100_000, number))
    taker.offer(BoxKind.META, b"node")
    assert taker.finish() == []
    kinds = [[segment.kind for segment in one] for one in packs.segments]
    assert len(kinds) >= 3
    assert BoxKind.META in kinds[-1]
    assert all(BoxKind.META not in one for one in kinds[:-1])


def test_a_pack_is_never_larger_than_its_buffer_and_a_footer():
    taker, packs = collect(pack_bytes=2 * MIB)
    for number in range(80):
        taker.offer(BoxKind.DATA, noise(100_000, number))
    taker.finish()
    assert max(len(one.pack.raw) for one in packs.made) <= 2 * MIB + 64 * KIB


def test_very_short_files_make_segments_of_limited_tables():
    taker, packs = collect(inline_bytes_max=0)
    for number in range(3 * SEGMENT_CHUNKS_MAX):
        taker.offer(BoxKind.DATA, number.to_bytes(3))
    taker.finish()
    assert [len(segment.chunks) for one in packs.segments for segment in one] == [SEGMENT_CHUNKS_MAX] * 3


def test_a_buffer_that_is_used_again_leaves_nothing_of_what_was_in_it():
    """Chunks are views into a buffer that the next file overwrites."""
    taker, packs = collect(inline_bytes_max=0)
    buffer = bytearray(100_000)
    for number in range(30):
        buffer[:] = noise(100_000, number)
        taker.offer(BoxKind.DATA, memoryview(buffer))
    taker.finish()
    found = [
        chunk for one in packs.made for part in read_pack(KEYS, one.name, one.pack.raw)[1] for chunk in part
    ]
    assert found == [noise(100_000, number) for number in range(30)]


@pytest.mark.parametrize("kind", [BoxKind.DATA, BoxKind.META], ids=["at once", "held to the end"])
@pytest.mark.parametrize("content", [noise(300_000), b"words and words " * 40_000], ids=["stored", "zstd"])
def test_what_opens_otherwise_than_it_was_made_is_never_handed_over(monkeypatch, content, kind):
    """A compressor that loses a bit, once the first segment has gone by: the boxes are sealed and sound."""
    real = packer.frame_in_place

    def lossy(room, compressor):
        frame = bytes(real(room, compressor))
        raw = bytearray(open_frame(frame, raw_bytes_max=4 * MIB).raw)
        raw[-1] ^= 1
        return make_frame(bytes(raw))

    taker, packs = collect(inline_bytes_max=0)
    taker.offer(BoxKind.DATA, noise(600_000, 7))
    monkeypatch.setattr(packer, "frame_in_place", lossy)
    with pytest.raises((ObjectDamaged, Malformed)):
        for at in range(0, len(content), 100_000):
            taker.offer(kind, content[at : at + 100_000])
        taker.finish()
    assert packs.made == []


def test_a_chunk_is_kept_once_and_a_stored_one_not_at_all():
    taker, _ = collect(stored=KEYS.chunk_id(BoxKind.DATA, b"old"))
    for content in (b"old", b"new", b"new", b"old"):
        taker.offer(BoxKind.DATA, content)
    [segment] = taker.finish()
    assert open_frame(segment.frame, raw_bytes_max=MIB).raw == b"new"


def test_a_file_with_the_bytes_of_a_tree_node_does_not_get_its_id():
    taker, _ = collect()
    assert taker.offer(BoxKind.DATA, b"node") != taker.offer(BoxKind.META, b"node")
    assert len(taker.finish()) == 2


def test_several_threads_offer_at_once_and_nothing_is_lost():
    taker, packs = collect(pack_bytes=MIB)
    contents = [noise(9_000, number) for number in range(400)]

    def offer() -> None:
        for content in contents:
            taker.offer(BoxKind.DATA, content)

    workers = [threading.Thread(target=offer) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    taker.finish()
    ids = [chunk_id for one in packs.segments for segment in one for chunk_id, _ in segment.chunks]
    assert len(ids) == len(set(ids)) == len(contents)


def test_a_sealed_pack_has_a_name_of_its_own_each_time():
    taker, _ = collect()
    taker.offer(BoxKind.DATA, b"x")
    inline = taker.finish()
    one, two = (seal_pack(KEYS, inline, fence=3, fresh=os.urandom) for _ in range(2))
    assert one.name != two.name
    assert one.name.startswith("p/3-")
    assert one.ref.size == len(one.pack.raw)
