"""The extractor against hostile checkpoints, missing rights, full disks and users who meddle."""

import errno
import os
import resource
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from storage.errors import DescriptorsExhausted, HostileTree, TargetFailed, TargetFull
from storage.scan.entry import Attributes, RestoreFacts, RestorePolicy
from storage.scan.extract import Extractor, require_space
from storage.scan.open_folders import FOLDERS_OPEN_MAX
from tests.fakes.descriptors import open_below
from tests.fakes.unprivileged import NOBODY, as_plain_user

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
IMMUTABLE_AND_APPEND = 0x30
AS_ROOT = os.geteuid() == 0


def facts(mode: int = 0o644, **changes: Any) -> RestoreFacts:
    return RestoreFacts(
        **{"mode": mode, "uid": None, "gid": None, "mtime_s": 1_600_000_000, "mtime_ns": 5, **changes}
    )


def acl(*rows: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


@contextmanager
def beneath(root: Path, policy: RestorePolicy | None = None, *, resumed: bool = False) -> Iterator[Extractor]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    extractor = Extractor(fd, policy or RestorePolicy(), resumed=resumed)
    try:
        yield extractor
    finally:
        extractor.close()
        os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def extractor(root: Path) -> Iterator[Extractor]:
    with beneath(root) as extractor:
        yield extractor


def put(extractor: Extractor, path: bytes, body: bytes = b"", **changes: Any) -> None:
    writer = extractor.file(path, facts(**{"size": len(body), **changes}))
    writer.write(0, body)
    writer.close()


BAD_PATHS = [b"/etc/passwd", b"..", b"../x", b"a/../b", b".", b"a//b", b"a/", b"\0", b"x\0y", b"n" * 256]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leads_elsewhere_is_refused(extractor: Extractor, root: Path, path: bytes) -> None:
    extractor.folder(b"a", facts())
    before = sorted(root.parent.rglob("*"))
    for make in (
        lambda: extractor.folder(path, facts()),
        lambda: extractor.file(path, facts()),
        lambda: extractor.symlink(path, b"t", facts()),
        lambda: extractor.fifo(path, facts()),
    ):
        with pytest.raises(HostileTree):
            make()
    assert sorted(root.parent.rglob("*")) == before


def test_nothing_is_written_through_a_link_of_the_same_checkpoint(extractor: Extractor, root: Path) -> None:
    """The classic: a link named like a folder, and then a file inside."""
    outside = root.parent / "outside"
    outside.mkdir()
    extractor.symlink(b"trap", os.fsencode(outside), facts())
    with pytest.raises(HostileTree):
        extractor.file(b"trap/file", facts())
    put(extractor, b"real")
    extractor.symlink(b"link-to-file", b"real", facts())
    with pytest.raises(HostileTree):
        extractor.hardlink(b"other", b"link-to-file")
    assert list(outside.iterdir()) == []


def test_nothing_is_written_through_a_link_planted_meanwhile(extractor: Extractor, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    extractor.folder(b"a", facts())
    for number in range(FOLDERS_OPEN_MAX + 1):  # so that "a" is opened anew
        extractor.folder(b"%d" % number, facts())
    (root / "a").rename(root / "moved")
    (root / "a").symlink_to(outside)
    with pytest.raises(TargetFailed):
        extractor.file(b"a/kept", facts())
    with pytest.raises(TargetFailed):
        extractor.finish()
    assert (outside / "kept").read_bytes() == b"kept"


def test_a_name_that_exists_is_kept_and_ours_gets_another(extractor: Extractor, root: Path) -> None:
    """A target that takes two names for one, or a user who was faster."""
    (root / "file").write_bytes(b"first")
    (root / "folder").mkdir()
    put(extractor, b"file", b"second")
    extractor.folder(b"folder", facts(0o755))
    put(extractor, b"folder/inside", b"third")
    report = extractor.finish()
    assert (root / "file").read_bytes() == b"first"
    assert list((root / "folder").iterdir()) == []
    made = {path.name.split("~")[0]: path for path in root.iterdir() if "~" in path.name}
    assert made["file"].read_bytes() == b"second"
    assert (made["folder"] / "inside").read_bytes() == b"third"
    assert [path for path, _ in report.differences] == [b"file", b"folder"]


def test_hard_links_lead_only_to_files_of_this_restore(extractor: Extractor, root: Path) -> None:
    put(extractor, b"one", b"x")
    extractor.hardlink(b"two", b"one")
    (root / "planted").write_bytes(b"y")
    with pytest.raises(HostileTree):
        extractor.hardlink(b"three", b"planted")
    with pytest.raises(TargetFailed):
        extractor.hardlink(b"three", b"missing")
    assert (root / "one").stat().st_nlink == 2
    assert not (root / "three").exists()


BAD_EXTENTS: list[tuple[tuple[int, int], ...]] = [
    *(((0, 11),), ((5, 5), (4, 1)), ((0, 5), (4, 2)), ((10, 1),), ((-1, 2),), ((3, 0),)),
]


@pytest.mark.parametrize("extents", BAD_EXTENTS)
def test_extents_are_ascending_disjoint_and_inside(
    extractor: Extractor, root: Path, extents: tuple[tuple[int, int], ...]
) -> None:
    with pytest.raises(HostileTree):
        extractor.file(b"file", facts(size=10, extents=extents))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("size", [-1, 1 << 63])
def test_an_impossible_size_is_refused(extractor: Extractor, size: int) -> None:
    with pytest.raises(HostileTree):
        extractor.file(b"file", facts(size=size))


@pytest.mark.parametrize(("offset", "data"), [(-1, b"x"), (10, b"x"), (0, b"x" * 11), (5, b"x" * 6)])
def test_bytes_outside_the_file_are_refused(extractor: Extractor, offset: int, data: bytes) -> None:
    writer = extractor.file(b"file", facts(size=10))
    with pytest.raises(HostileTree):
        writer.write(offset, data)


def test_more_than_was_announced_is_refused(root: Path) -> None:
    with beneath(root, RestorePolicy(entries_max=3, bytes_max=100)) as extractor:
        put(extractor, b"a", b"x" * 60)
        with pytest.raises(HostileTree):
            extractor.file(b"b", facts(size=41))
        extractor.folder(b"c", facts())
        extractor.folder(b"c/d", facts())
        with pytest.raises(HostileTree):
            extractor.fifo(b"f", facts())


def test_a_path_deeper_than_is_allowed_is_refused(root: Path) -> None:
    with beneath(root, RestorePolicy(entries_max=100, bytes_max=100, depth_max=2)) as extractor:
        extractor.folder(b"c", facts())
        extractor.folder(b"c/d", facts())
        for make in (extractor.folder, extractor.fifo, extractor.file):
            with pytest.raises(HostileTree):
                make(b"c/d/e", facts())


@pytest.mark.parametrize("target", [b"", b"x" * 4_096, b"a\0b"])
def test_an_impossible_target_of_a_link_is_refused(extractor: Extractor, target: bytes) -> None:
    with pytest.raises(HostileTree):
        extractor.symlink(b"link", target, facts())


def test_holes_stay_holes_and_sizes_are_exact(extractor: Extractor, root: Path) -> None:
    size = 1 << 30
    writer = extractor.file(b"sparse", facts(size=size, extents=((400, 3), (size // 2, 2))))
    writer.write(size // 2, b"yz")
    writer.write(400, b"abc")
    writer.close()
    found = (root / "sparse").stat()
    assert found.st_size == size
    assert found.st_blocks * 512 < 1 << 20
    with open(root / "sparse", "rb") as stream:
        assert stream.read(403)[398:] == b"\0\0abc"


TIMES = [0, -1, -62_135_596_800, 9_223_372_037, 15_000_000_000, 1_700_000_000]


@pytest.mark.parametrize("seconds", TIMES)
def test_times_before_1970_and_after_2262_come_back(extractor: Extractor, root: Path, seconds: int) -> None:
    """ext4 keeps 1901 to 2446; what a file system cannot keep is told."""
    put(extractor, b"file", mtime_s=seconds, mtime_ns=999_999_999)
    extractor.folder(b"folder", facts(0o755, mtime_s=seconds, mtime_ns=1))
    extractor.symlink(b"link", b"t", facts(mtime_s=seconds, mtime_ns=7))
    told = {path for path, what in extractor.finish().differences if what == "time"}
    for name, ns in (("file", 999_999_999), ("folder", 1), ("link", 7)):
        exact = (root / name).lstat().st_mtime_ns == seconds * 10**9 + ns
        assert exact == (name.encode() not in told)
    assert not told or abs(seconds) >= 1 << 31


def test_a_folder_gets_its_mode_and_time_after_all_that_is_in_it(extractor: Extractor, root: Path) -> None:
    extractor.folder(b"", facts(0o711))
    extractor.folder(b"read-only", facts(0o555))
    extractor.folder(b"read-only/inner", facts(0o500))
    put(extractor, b"read-only/inner/file", b"x")
    extractor.finish()
    for name, mode in (("read-only", 0o555), ("read-only/inner", 0o500)):
        found = (root / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (mode, 1_600_000_000 * 10**9 + 5)
    assert stat.S_IMODE(root.stat().st_mode) == 0o711


def test_setuid_comes_back_only_by_policy_and_for_the_owner_himself(tmp_path: Path) -> None:
    cases = [(False, None, 0o755), (True, None, 0o6755), (True, 12345, 0o755)]
    for number, (allowed, uid, mode) in enumerate(cases):
        root = tmp_path / str(number)
        root.mkdir()
        with beneath(root, RestorePolicy(setuid=allowed)) as extractor:
            put(extractor, b"file", mode=0o6755, uid=uid)
            extractor.folder(b"shared", facts(0o2770))
            report = extractor.finish()
        assert stat.S_IMODE((root / "file").stat().st_mode) == mode
        assert stat.S_IMODE((root / "shared").stat().st_mode) == 0o2770
        assert bool(report.differences) == (mode == 0o755)


def test_owners_by_number_come_back_only_to_root_and_by_policy(tmp_path: Path) -> None:
    for number, wanted in enumerate([False, True]):
        root = tmp_path / str(number)
        root.mkdir()
        with beneath(root, RestorePolicy(numbered_owners=wanted)) as extractor:
            put(extractor, b"file", uid=12345, gid=23456)
            report = extractor.finish()
        found = (root / "file").stat()
        kept = wanted and AS_ROOT
        assert (found.st_uid, found.st_gid) == ((12345, 23456) if kept else (os.geteuid(), os.getegid()))
        assert bool(report.differences) == (not kept)


def test_everything_belongs_to_the_target_user(root: Path) -> None:
    owner = (NOBODY, NOBODY) if AS_ROOT else (os.geteuid(), os.getegid())
    with beneath(root, RestorePolicy(owner=owner)) as extractor:
        extractor.folder(b"", facts(0o700))
        extractor.folder(b"folder", facts(0o700))
        put(extractor, b"folder/file", b"x")
        extractor.symlink(b"link", b"/etc/passwd", facts())
        extractor.fifo(b"fifo", facts(0o640))
        extractor.finish()
    for path in (root, root / "folder", root / "folder" / "file", root / "link", root / "fifo"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == owner
    assert stat.S_IMODE((root / "fifo").stat().st_mode) == 0o640
    assert Path("/etc/passwd").stat().st_uid == 0


def test_privileged_attributes_come_back_only_by_policy(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    attributes = Attributes(
        xattrs=((b"security.capability", capability), (b"trusted.note", b"t"), (b"user.note", b"u"))
    )
    for number, allowed in enumerate([False, True]):
        root = tmp_path / str(number)
        root.mkdir()
        with beneath(root, RestorePolicy(privileged_xattrs=allowed)) as extractor:
            put(extractor, b"file", b"x", attributes=attributes)
            report = extractor.finish()
        names = set(os.listxattr(root / "file"))
        assert "user.note" in names
        assert ("security.capability" in names) == (allowed and AS_ROOT)
        assert bool(report.differences) == (not (allowed and AS_ROOT))


def test_an_acl_is_rewritten_for_its_new_owner(root: Path) -> None:
    """The saved owner's number becomes the target's; somebody else's number is dropped and told."""
    all_users = 0xFFFFFFFF
    end = ((16, 7, all_users), (32, 0, all_users))
    saved = acl((1, 6, all_users), (2, 7, 4711), (2, 6, 31337), (4, 4, all_users), (8, 5, 4712), *end)
    owner = (os.geteuid(), os.getegid())
    with beneath(root, RestorePolicy(owner=owner, captured=(4711, 4712))) as extractor:
        put(extractor, b"file", b"x", mode=0o670, attributes=Attributes(xattrs=((ACCESS, saved),)))
        extractor.folder(b"folder", facts(0o700, attributes=Attributes(xattrs=((DEFAULT, saved),))))
        put(extractor, b"folder/file", b"x")
        report = extractor.finish()
    wanted = acl((1, 6, all_users), (2, 7, owner[0]), (4, 4, all_users), (8, 5, owner[1]), *end)
    assert os.getxattr(root / "file", ACCESS) == wanted
    assert os.getxattr(root / "folder", DEFAULT) == wanted
    assert os.listxattr(root / "folder" / "file") == []
    assert [path for path, _ in report.differences] == [b"file", b"folder"]


@pytest.mark.parametrize(
    "raw", [b"", b"\x02\0\0\0x", b"\x03\0\0\0", acl((99, 7, 0)), acl((1, 8, 0)), b"x" * 4_000]
)
def test_bytes_that_are_no_acl_are_left_off_and_told(extractor: Extractor, root: Path, raw: bytes) -> None:
    put(extractor, b"file", b"x", attributes=Attributes(xattrs=((ACCESS, raw),)))
    assert extractor.finish().differences
    assert (root / "file").read_bytes() == b"x"


def test_attributes_and_flags_that_cannot_be_set_are_told_and_do_no_harm(
    extractor: Extractor, root: Path
) -> None:
    attributes = Attributes(
        xattrs=(
            (b"system.odd", b"x"),
            (b"unknown.space", b"x"),
            (b"user." + b"n" * 300, b"x"),
            (b"user.ok", b"x"),
        ),
        inode_flags=IMMUTABLE_AND_APPEND,
    )
    put(extractor, b"file", b"body", attributes=attributes)
    ((path, words),) = extractor.finish().differences
    assert path == b"file"
    assert words.count("attribute") == 3
    assert "immutable" in words
    assert os.listxattr(root / "file") == ["user.ok"]
    (root / "file").write_bytes(b"still changeable")


def test_a_lack_of_space_is_told_before_anything_is_made(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    require_space(fd, bytes_needed=1, entries_needed=1)
    with pytest.raises(TargetFull) as told:
        require_space(fd, bytes_needed=1 << 60, entries_needed=1)
    assert told.value.facts["what"] == "bytes"
    os.close(fd)


def test_a_disk_that_fills_up_is_told_and_leaves_only_the_fresh_folder(tmp_path: Path) -> None:
    """As a plain user, under the kernel's own limit of file size; a full disk takes the same way (ENOSPC)."""

    def restore() -> list[Any]:
        root = tmp_path / "root"
        root.mkdir()
        before = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
        told: dict[str, Any] = {}
        with beneath(root) as extractor:
            put(extractor, b"fits", b"x" * 1_000)
            try:
                put(extractor, b"file", b"x" * 5_000)
            except TargetFailed as exc:
                told = exc.facts
        return [told["errno"], sorted(os.listdir(tmp_path)), len(os.listdir("/proc/self/fd")) - before]

    assert as_plain_user(tmp_path, restore) == [errno.EFBIG, ["root"], 0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_and_no_quota_are_the_same_declared_error(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    writer = extractor.file(b"file", facts(size=3))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(TargetFull):
        writer.write(0, b"abc")


def test_a_lack_of_descriptors_is_told_as_such(extractor: Extractor) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, before[1]))
    try:
        with pytest.raises(DescriptorsExhausted) as told:
            for number in range(200):
                extractor.file(b"%d" % number, facts())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert told.value.retryable


def test_closing_after_an_error_leaves_no_descriptor_open(root: Path) -> None:
    with beneath(root) as extractor:
        extractor.folder(b"a", facts())
        extractor.file(b"a/open", facts(size=5)).write(0, b"half")
        with pytest.raises(HostileTree):
            extractor.file(b"b/c", facts())
    assert open_below(root) == 0


def test_a_plain_user_writes_a_read_only_file_anew_that_a_cut_off_restore_left(tmp_path: Path) -> None:
    """It has its mode and not its times yet; only root may open it as it is."""

    def restore() -> str:
        root = tmp_path / "root"
        root.mkdir()
        (root / "file").write_bytes(b"hal")
        (root / "file").chmod(0o444)
        with beneath(root, resumed=True) as extractor:
            assert not extractor.is_whole(b"file", facts(0o444, size=5))
            put(extractor, b"file", b"whole", mode=0o444)
        return f"{(root / 'file').read_text()} {(root / 'file').stat().st_mode & 0o777:o}"

    assert as_plain_user(tmp_path, restore) == "whole 444"
