"""What the product writes is read by a decoder that shares no code with it, from objects and key alone."""

import os
import sqlite3
from pathlib import Path

import pytest

from storage.objects.memory import MemoryBucket
from tests.fakes.format_second_reader import SecondReader
from tests.fakes.home import make_odd_home, picture
from tests.fakes.storage_rig import LOCKED, MASTER_KEY, REF, Node, take, unlocked

S_IFREG, S_IFLNK = 0o100000, 0o120000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    make_odd_home(folder)
    with sqlite3.connect(folder / "base.db") as base:
        base.execute("create table t (a)")
        base.executemany("insert into t values (?)", [(os.urandom(700),) for _ in range(900)])
    base.close()
    with open(folder / "sieve", "wb") as file:
        for number in range(1_200):
            file.seek(number * 131_072)
            file.write(b"x%d" % number)
    return folder


async def test_the_second_reader_finds_every_entry_and_every_byte(home, tmp_path):
    bucket = MemoryBucket()
    opened = Node(bucket, tmp_path / "cache").open()
    await take(opened)
    for reason in ("first", "second"):
        (home / "changing").write_bytes(reason.encode())
        saved = await opened.checkpoint(REF, home=home, fence=1, session="s", reason=reason)
    reader = SecondReader(bucket.objects, REF.tenant, REF.workspace, MASTER_KEY)
    assert [(seq, entry_hash) for seq, entry_hash, _ in reader.checkpoints] == [
        (info.seq, info.hash) for info in await opened.list(REF)
    ]
    seq, entry_hash, fields = reader.checkpoints[-1]
    assert (seq, entry_hash, reader.fence) == (saved.info.seq, saved.info.hash, 1)
    wanted = picture(unlocked(home))
    found = dict(reader.tree(fields[4]))
    assert set(found) == set(wanted)
    for path, facts in wanted.items():
        entry = found[path]
        extra = dict(map(tuple, entry[9] or []))
        assert entry[2] == facts[1] or os.fsdecode(path) in LOCKED, path
        assert entry[5] * 10**9 + entry[6] == facts[2], path
        told = tuple((os.fsdecode(name), value) for name, value in extra.get(2, []))
        assert told == facts[4] or facts[0] == S_IFLNK, path
        if facts[0] == S_IFREG:
            assert entry[7] == facts[3][0], path
            assert len(reader.data(entry)) == entry[7]
            assert (3 in extra) == (len(facts) > 5), path
        if facts[0] == S_IFLNK:
            assert entry[8] == facts[3]
    for name in (b"base.db", b"sieve", b"large", b"sparse", b"changing"):
        assert reader.data(found[name]) == (home / os.fsdecode(name)).read_bytes(), name


async def test_totals_say_what_is_there(home, tmp_path):
    bucket = MemoryBucket()
    opened = Node(bucket, tmp_path / "cache").open()
    await take(opened)
    saved = await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
    reader = SecondReader(bucket.objects, REF.tenant, REF.workspace, MASTER_KEY)
    fields = reader.checkpoints[-1][2]
    entries = list(reader.tree(fields[4]))
    folders = sum(entry[1] == 2 for _, entry in entries)
    assert fields[8][:2] == [len(entries) - 1, folders]
    assert saved.info.skipped == 1, "the socket"
    assert fields[9][0] == 1
