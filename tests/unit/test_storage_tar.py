"""What a tar of a checkpoint carries: all that a home has and a tar has a word for, there and back."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket
from storage.ops import archive
from tests.fakes.home import make_odd_home, picture
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, take, write

ROOT, SOCKET, SETUID = b"", b"socket", b"setuid"


class Saved:
    """A home, saved once."""

    def __init__(self, folder: Path) -> None:
        self.bucket, self.folder, self.home = MemoryBucket(), folder, folder / "home"
        self.home.mkdir()
        self.seq = 0

    async def save(self) -> None:
        opened = Node(self.bucket, self.folder / "node").open()
        fence = await take(opened)
        done = await opened.checkpoint(REF, home=self.home, fence=fence, session="s", reason="t")
        self.seq = done.info.seq

    async def tar(self, path: bytes = b"") -> bytes:
        opened = Node(self.bucket, self.folder / "node").open()
        return b"".join([piece async for piece in opened.archive(REF, seq=self.seq, path=path, kind="tar")])


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


def unpack(raw: bytes, into: Path) -> storage.Unpacked:
    with storage.unpacking(into) as unpacker:
        for at in range(0, len(raw), 1 << 20):
            unpacker.feed(raw[at : at + (1 << 20)])
        return unpacker.finish()


def members(raw: bytes) -> dict[bytes, tarfile.TarInfo]:
    """Return what somebody else's code finds in it."""
    with tarfile.open(fileobj=io.BytesIO(raw), encoding="utf-8", errors="surrogateescape") as found:
        return {os.fsencode(one.name): one for one in found}


async def test_an_odd_home_comes_back_from_its_tar_as_it_was(saved: Saved, tmp_path: Path):
    make_odd_home(saved.home)
    await saved.save()
    made = unpack(await saved.tar(), tmp_path / "back")
    was, now = picture(saved.home), picture(tmp_path / "back")
    for odd in (ROOT, SOCKET):
        was.pop(odd, None)
        now.pop(odd, None)
    kind, mode, *others = was[SETUID]
    was[SETUID] = (kind, stat.S_IMODE(mode) & 0o777, *others)
    assert {path for path in was.keys() | now.keys() if was.get(path) != now.get(path)} == set()
    assert [(one.path, one.grade) for one in made.differences] == [(SETUID, "setuid, setgid")]
    assert (tmp_path / "back" / "sparse").stat().st_blocks * 512 < 2 << 20


async def test_a_folder_comes_with_itself(saved: Saved, tmp_path: Path):
    write(saved.home, docs__letter=b"x")
    (saved.home / "docs").chmod(0o750)
    os.utime(saved.home / "docs", ns=(7, -7))
    await saved.save()
    unpack(await saved.tar(b"docs"), tmp_path / "back")
    found = (tmp_path / "back" / "docs").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o750, -7)


async def test_a_name_of_a_file_that_has_others_is_a_link_to_the_first_that_was_given(saved: Saved):
    write(saved.home, a__first=b"x" * 5_000, b__second=b"")
    (saved.home / "b" / "second").unlink()
    for name in ("b/second", "b/third"):
        os.link(saved.home / "a" / "first", saved.home / name)
    await saved.save()
    found = members(await saved.tar())
    assert (found[b"a/first"].type, found[b"a/first"].size) == (tarfile.REGTYPE, 5_000)
    for name in (b"b/second", b"b/third"):
        assert (found[name].type, found[name].linkname, found[name].size) == (tarfile.LNKTYPE, "a/first", 0)
    found = members(await saved.tar(b"b"))
    assert found[b"b/second"].type == tarfile.REGTYPE, "the first name lies outside"
    assert found[b"b/third"].linkname == "b/second"


async def test_no_name_leads_to_a_file_that_was_left_out(saved: Saved, tmp_path: Path):
    """And what is left out is left out under all its names."""
    (saved.home / "first").write_bytes(os.urandom(3_000_000))
    os.link(saved.home / "first", saved.home / "second")
    write(saved.home, kept=b"x")
    await saved.save()
    pack = max(objects(saved.bucket, "p/"), key=lambda name: len(saved.bucket.objects[PREFIX + name]))
    raw = saved.bucket.objects[PREFIX + pack]
    saved.bucket.objects[PREFIX + pack] = raw[:500_000] + bytes([raw[500_000] ^ 1]) + raw[500_001:]
    unpack(await saved.tar(), tmp_path / "back")
    text = (tmp_path / "back" / "INCOMPLETE.txt").read_text()
    assert {line.split("\t")[0] for line in text.splitlines() if "\t" in line} == {"first", "second"}
    assert {one.name for one in (tmp_path / "back").iterdir()} == {"kept", "INCOMPLETE.txt"}


async def test_more_files_with_names_than_are_remembered_are_sent_as_files(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archive, "LINK_GROUPS_MAX", 1)
    for name in ("a", "b"):
        write(saved.home, **{name: name.encode() * 50})
        os.link(saved.home / name, saved.home / f"{name}2")
    await saved.save()
    found = members(await saved.tar())
    assert [found[name].type for name in (b"a2", b"b2")] == [tarfile.LNKTYPE, tarfile.REGTYPE]
    unpack(await saved.tar(), tmp_path / "back")
    assert (tmp_path / "back" / "b2").read_bytes() == b"b" * 50


async def test_attributes_stand_in_a_tar_as_others_read_them(saved: Saved, tmp_path: Path):
    write(saved.home, file=b"x")
    names = {b"user.note": b"\0\xff\n=", b"user.a=b%3D": b"odd", b"user.large": b"v" * 3_000}
    for name, value in names.items():
        os.setxattr(saved.home / "file", name, value)
    os.setxattr(saved.home / "file", b"user.\xff", b"no word for this name")
    await saved.save()
    raw = await saved.tar()
    headers = members(raw)[b"file"].pax_headers
    assert headers["SCHILY.xattr.user.note"].encode("utf-8", "surrogateescape") == names[b"user.note"]
    unpack(raw, tmp_path / "back")
    back = tmp_path / "back" / "file"
    assert {os.fsencode(name): os.getxattr(back, name) for name in os.listxattr(back)} == names
