"""A tar of saved files becomes a folder: exactly what was saved, and nothing that its names would like."""

import os
import random
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import storage
from storage.errors import Malformed
from storage.format.limits import MIB
from storage.ops import tar_reader

SECOND_NS = 1_000_000_000


def member(name: bytes, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(os.fsdecode(name))
    made.type, made.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in more.items():
        setattr(made, key, value)
    return made


def tar(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive; files may come with their bytes."""
    raw = b""
    for one in members:
        info, data = one if isinstance(one, tuple) else (one, b"")
        info.size = len(data)
        raw += info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)
    return raw + bytes(1024)


def unpack(raw: bytes, into: Path, *, piece: int = 65_536) -> storage.Unpacked:
    with storage.unpacking(into) as unpacker:
        for at in range(0, len(raw), piece):
            unpacker.feed(raw[at : at + piece])
        return unpacker.finish()


def folder(name: bytes) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE)


def link(name: bytes, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, linkname=target)


def another_name(name: bytes, first: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, linkname=first)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that no archive may touch."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "kept").write_bytes(b"kept")
    return made


HOSTILE: dict[str, Callable[[str], bytes]] = {
    "absolute name": lambda out: tar((member(os.fsencode(out) + b"/new"), b"x")),
    "name that goes up": lambda out: tar((member(b"../outside/new"), b"x")),
    "name that goes up later": lambda out: tar(folder(b"a"), (member(b"a/../../outside/new"), b"x")),
    "name of the folder itself": lambda out: tar(folder(b".")),
    "no name": lambda out: tar(folder(b"/")),
    "empty name in between": lambda out: tar(folder(b"a"), (member(b"a//b"), b"x")),
    "file through a link": lambda out: tar(link(b"to", out), (member(b"to/new"), b"x")),
    "folder through a link": lambda out: tar(link(b"to", out), folder(b"to/new")),
    "link through a link": lambda out: tar(link(b"to", out), link(b"to/new", "x")),
    "file below a file": lambda out: tar((member(b"a"), b"x"), (member(b"a/b"), b"x")),
    "hard link to outside": lambda out: tar(another_name(b"new", f"{out}/kept")),
    "hard link that goes up": lambda out: tar(another_name(b"new", "../outside/kept")),
    "hard link through a link": lambda out: tar(link(b"to", out), another_name(b"new", "to/kept")),
    "hard link to a link": lambda out: tar(link(b"to", f"{out}/kept"), another_name(b"new", "to")),
    "hard link to nothing": lambda out: tar(another_name(b"new", "none")),
    "hard link to a folder": lambda out: tar(folder(b"a"), another_name(b"new", "a")),
    "folder twice": lambda out: tar(folder(b"a"), folder(b"a")),
    "empty link": lambda out: tar(link(b"a", "")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_reaches_nothing_outside(outside: Path, tmp_path: Path, what: str):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((storage.HostileTree, Malformed)):
        unpack(HOSTILE[what](str(outside)), tmp_path / "into")
    assert len(os.listdir("/proc/self/fd")) == before
    assert [one.name for one in outside.iterdir()] == ["kept"]
    assert (outside / "kept").stat().st_nlink == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["into", "outside"]


def test_devices_are_told_and_not_made(tmp_path: Path):
    devices = (member(b"null", tarfile.CHRTYPE, devmajor=1, devminor=3), member(b"disk", tarfile.BLKTYPE))
    made = unpack(tar(*devices, (member(b"file"), b"x")), tmp_path / "into")
    assert [one.path for one in made.not_made] == [b"null", b"disk"]
    assert [one.name for one in (tmp_path / "into").iterdir()] == ["file"]


def test_a_name_that_comes_twice_replaces_nothing_and_is_told(tmp_path: Path):
    made = unpack(tar((member(b"a"), b"first"), (member(b"a"), b"second")), tmp_path / "into")
    assert (tmp_path / "into" / "a").read_bytes() == b"first"
    assert [one.path for one in made.differences] == [b"a"]
    assert sorted(one.read_bytes() for one in (tmp_path / "into").iterdir()) == [b"first", b"second"]


USUAL = (
    folder(b"docs"),
    (member(b"docs/letter"), b"Dear Sir"),
    (member(b"docs/" + b"n" * 200 + b"\xff"), b"long"),
    (member(b"docs/large"), bytes(range(256)) * 40),
    link(b"docs/link", "letter"),
    member(b"docs/empty"),
    member(b"fifo", tarfile.FIFOTYPE),
)


@pytest.mark.parametrize("piece", [1, 7, 511, 513, 1 << 20])
def test_pieces_of_any_size_make_the_same(tmp_path: Path, piece: int):
    into = tmp_path / "into"
    made = unpack(tar(*USUAL), into, piece=piece)
    assert (made.entries, made.differences, made.not_made) == (7, (), ())
    assert made.bytes == 8 + 4 + 256 * 40
    assert (into / "docs/letter").read_bytes() == b"Dear Sir"
    assert (into / "docs/large").read_bytes() == bytes(range(256)) * 40
    assert (into / "docs" / os.fsdecode(b"n" * 200 + b"\xff")).read_bytes() == b"long"
    assert os.readlink(into / "docs/link") == "letter"
    assert stat.S_ISFIFO((into / "fifo").stat().st_mode)


def test_modes_and_times_come_back_to_the_nanosecond_also_from_before_1970(tmp_path: Path):
    times = {
        "1.5": 1_500_000_000,
        "-0.000000001": -1,
        "-12.000000007": -12 * SECOND_NS - 7,
        "-5": -5 * SECOND_NS,
    }
    members = [
        (member(b"file" + text.encode(), pax_headers={"mtime": text}, mode=0o640), b"x") for text in times
    ]
    above = member(b"above", tarfile.DIRTYPE, pax_headers={"mtime": "7.000000007"}, mode=0o2750)
    led = member(b"above/link", tarfile.SYMTYPE, linkname="x", pax_headers={"mtime": "3.25"})
    unpack(tar(*members, above, led), tmp_path / "into")
    for text, at_ns in times.items():
        found = (tmp_path / "into" / f"file{text}").stat()
        assert (found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (at_ns, 0o640)
    found = (tmp_path / "into" / "above").stat()
    assert (found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (7 * SECOND_NS + 7, 0o2750)
    assert os.lstat(tmp_path / "into" / "above/link").st_mtime_ns == 3_250_000_000


def test_whoever_unpacks_owns_all_and_no_program_gets_rights(tmp_path: Path):
    made = unpack(tar((member(b"tool", mode=0o6755, uid=12, gid=34), b"x")), tmp_path / "into")
    found = (tmp_path / "into" / "tool").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), 0o755)
    assert [(one.path, one.grade) for one in made.differences] == [(b"tool", "setuid, setgid")]


def test_attributes_come_back_and_what_gives_rights_does_not(tmp_path: Path):
    headers = {
        "SCHILY.xattr.user.note": "\0\udcff=\n",
        "SCHILY.xattr.user.empty": "",
        "SCHILY.xattr.user.odd%3D%25": "x",
        "SCHILY.xattr.security.capability": "x",
    }
    made = unpack(tar((member(b"file", pax_headers=headers), b"x")), tmp_path / "into")
    file = tmp_path / "into" / "file"
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == {
        "user.note": b"\0\xff=\n",
        "user.empty": b"",
        "user.odd=%": b"x",
    }
    assert [one.grade for one in made.differences] == ["attribute security.capability"]


def test_hard_links_are_names_of_one_file(tmp_path: Path):
    unpack(
        tar(folder(b"a"), (member(b"a/first"), b"x"), another_name(b"second", "a/first")), tmp_path / "into"
    )
    first, second = (tmp_path / "into" / name for name in ("a/first", "second"))
    assert first.samefile(second)
    assert second.stat().st_nlink == 2


@pytest.mark.parametrize("piece", [10_000, 65_536])
def test_blocks_of_zeros_become_holes_and_every_byte_is_right(tmp_path: Path, piece: int):
    data = bytearray(3 * MIB + 100)
    data[MIB + 10 : MIB + 20] = b"in between"
    for at in range(2 * MIB, 2 * MIB + 50_000, 4_096):
        data[at] = 1
    unpack(
        tar((member(b"sparse"), bytes(data)), (member(b"hole"), bytes(MIB))), tmp_path / "into", piece=piece
    )
    sparse, hole = tmp_path / "into" / "sparse", tmp_path / "into" / "hole"
    assert sparse.read_bytes() == data
    assert hole.read_bytes() == bytes(MIB)
    assert sparse.stat().st_blocks * 512 < 150_000
    assert hole.stat().st_blocks * 512 < 50_000


def test_a_path_longer_than_the_kernel_takes_is_made(tmp_path: Path):
    """PATH_MAX is 4,096; the system's tar fails there."""
    names = [b"%02d" % number + b"d" * 200 for number in range(40)]
    paths = [b"/".join(names[: depth + 1]) for depth in range(len(names))]
    assert len(paths[-1]) > 8_000
    unpack(tar(*map(folder, paths), (member(paths[-1] + b"/leaf"), b"x")), tmp_path / "into")
    at = os.open(tmp_path / "into", os.O_RDONLY)
    for name in names:
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    assert os.listdir(at) == ["leaf"]
    os.close(at)


def test_what_a_folder_held_is_made_below_it_though_the_archive_begins_inside(tmp_path: Path):
    """So began an archive of `a/b` from an earlier version."""
    unpack(tar((member(b"a/b/file"), b"x"), folder(b"a/b/c")), tmp_path / "into")
    assert (tmp_path / "into/a/b/file").read_bytes() == b"x"
    with pytest.raises(storage.HostileTree):
        unpack(tar((member(b"a/file"), b"x"), (member(b"b/file"), b"x")), tmp_path / "other")


def test_an_archive_that_ends_too_early_is_none(tmp_path: Path):
    raw = tar(*USUAL)
    for number, length in enumerate((0, 1, 512, 700, 1_024, 1_030, len(raw) - 1_024, len(raw) - 1)):
        with pytest.raises(Malformed):
            unpack(raw[:length], tmp_path / f"into{number}")
    assert (tmp_path / "into3" / "docs").is_dir()


@pytest.mark.parametrize("kind", [b"g", b"L", b"K", b"S", b"V", b"M", b"?"])
def test_a_member_that_this_service_does_not_write_is_refused(tmp_path: Path, kind: bytes):
    with pytest.raises(Malformed):
        unpack(tar(member(b"a", kind)), tmp_path / "into")


def test_what_stands_before_a_member_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tar_reader, "RECORDS_BYTES_MAX", 1_000)
    with pytest.raises(Malformed):
        unpack(tar(member(b"a", pax_headers={"comment": "x" * 2_000})), tmp_path / "into")
    twice = tar(member(b"a", pax_headers={"comment": "x"}))
    with pytest.raises(Malformed):
        unpack(twice[:1_024] + twice, tmp_path / "other")


@pytest.mark.parametrize(
    "record",
    [
        b"9 mtime=1",
        b"0 a=b\n",
        b"7 a=bc\n" * 2 + b"8 a=b\n",
        b"x a=b\n",
        b"5 ab\n",
        b"13 mtime=1e5\n",
        b"5 =b\n",
    ],
)
def test_records_that_are_none_are_refused(tmp_path: Path, record: bytes):
    before = member(b"pax", b"x")
    before.size = len(record)
    head = before.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    with pytest.raises(Malformed):
        unpack(head + tar(member(b"a")), tmp_path / "into")


def test_a_file_that_is_said_to_have_holes_is_refused_and_not_made_of_its_list(tmp_path: Path):
    with pytest.raises(Malformed):
        unpack(tar(member(b"a", pax_headers={"GNU.sparse.major": "1"})), tmp_path / "into")


def test_no_change_of_a_byte_does_anything_but_give_a_declared_error(outside: Path, tmp_path: Path):
    raw = tar(*USUAL, another_name(b"docs/other", "docs/letter"))
    choose = random.Random(7)
    outcomes = set()
    for number in range(150):
        changed = bytearray(raw)
        for _ in range(choose.choice((1, 1, 3))):
            changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
        try:
            unpack(bytes(changed), tmp_path / f"into{number}")
            outcomes.add("whole")
        except storage.StorageError as exc:
            outcomes.add(exc.code)
    assert {"whole", "malformed"} <= outcomes
    assert [one.name for one in outside.iterdir()] == ["kept"]


def test_a_folder_that_holds_something_is_not_taken(tmp_path: Path):
    with pytest.raises(storage.TargetNotEmpty):
        unpack(tar(), tmp_path.parent)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(storage.TargetNotEmpty):
        unpack(tar(), tmp_path / "link")


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path):
    with pytest.raises(storage.HostileTree):
        unpack(tar((member(b"n" * 256), b"x")), tmp_path / "into")


def test_nothing_is_made_after_it_was_closed(tmp_path: Path):
    """A thread may have been on its way when its caller gave up."""
    with storage.unpacking(tmp_path / "into") as unpacker:
        unpacker.feed(file_begun := tar((member(b"a"), b"x"))[:512])
    for act in (lambda: unpacker.feed(file_begun), unpacker.finish):
        with pytest.raises(storage.Cancelled):
            act()
