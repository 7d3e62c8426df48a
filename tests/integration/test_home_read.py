"""Reading one file while its owner writes, cuts, replaces, locks or removes it."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.errors import Cancelled
from storage.scan.attributes import attributes, attributes_at
from storage.scan.entry import PIECE_BYTES, Attributes, Found, Grade, Kind, ReadOutcome, StatFacts
from storage.scan.read import PAUSES_S, read_stable
from storage.scan.walk import facts_of, walk
from tests.fakes.home import MIB, Collected, acl
from tests.fakes.unprivileged import as_plain_user


class Meddling(Collected):
    """A sink during whose reads something happens to the file, a number of times."""

    def __init__(self, happen: Callable[[], None], times: int = 1_000) -> None:
        super().__init__()
        self._happen = happen
        self._times = times

    def data(self, count: int) -> None:
        super().data(count)
        if self._times > 0:
            self._times -= 1
            self._happen()


def expected(path: Path) -> StatFacts:
    return facts_of(path.lstat())


def read(
    path: Path, sink: Collected | None = None, *, facts: StatFacts | None = None, repair_rights: bool = False
) -> tuple[ReadOutcome, Collected, list[float]]:
    """Read without waiting; the third value is the pauses that were asked for."""
    sink = sink or Collected()
    pauses: list[float] = []
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        outcome = read_stable(
            folder,
            os.fsencode(path.name),
            facts or expected(path),
            sink=sink,
            repair_rights=repair_rights,
            pause=lambda seconds: pauses.append(seconds) is None,
        )
    finally:
        os.close(folder)
    return outcome, sink, pauses


def whole(sink: Collected) -> bytes:
    body = bytearray(sink.length)
    for offset, piece in sink.pieces:
        body[offset : offset + len(piece)] = piece
    return bytes(body)


def test_a_quiet_file_is_read_once_and_exactly(tmp_path: Path) -> None:
    path = tmp_path / "file"
    body = os.urandom(2 * PIECE_BYTES + 17)
    path.write_bytes(body)
    outcome, sink, pauses = read(path)
    assert (outcome.grade, outcome.gone, outcome.error, outcome.extents) == (None, False, None, None)
    assert whole(sink) == body
    assert sink.begun == 1
    assert pauses == []
    assert max(len(piece) for _, piece in sink.pieces) == PIECE_BYTES


def test_a_small_file_comes_as_one_piece_and_an_empty_one_as_none(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 100_000)
    (tmp_path / "empty").write_bytes(b"")
    assert len(read(tmp_path / "small")[1].pieces) == 1
    outcome, sink, _ = read(tmp_path / "empty")
    assert (outcome.grade, outcome.facts.size, sink.pieces, sink.begun) == (None, 0, [], 1)


def test_reading_leaves_the_time_of_the_last_access(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 5))
    read(path)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1, 5)


def test_only_the_data_of_a_sparse_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(400 * MIB)
        stream.write(b"d" * MIB)
    outcome, sink, _ = read(path)
    assert outcome.extents == ((400 * MIB, MIB),)
    assert sink.length == 1 << 30
    assert sum(len(piece) for _, piece in sink.pieces) == MIB
    assert sink.pieces[0][0] == 400 * MIB


def test_a_file_of_nothing_but_a_hole_has_no_data(tmp_path: Path) -> None:
    path = tmp_path / "hole"
    with open(path, "wb") as stream:
        stream.truncate(10 * MIB)
    outcome, sink, _ = read(path)
    assert (outcome.extents, sink.pieces, sink.length) == ((), [], 10 * MIB)


def test_a_file_that_changes_once_is_read_again_and_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old" * 1_000)
    outcome, sink, pauses = read(path, Meddling(lambda: path.write_bytes(b"new" * 900), times=1))
    assert outcome.grade is None
    assert whole(sink) == b"new" * 900
    assert outcome.facts.size == 2_700
    assert pauses == [PAUSES_S[0]]
    assert sink.begun == 2


def test_a_file_that_always_changes_is_kept_as_fuzzy_after_three_pauses(tmp_path: Path) -> None:
    """A log under constant append must not be left out."""
    path = tmp_path / "log"
    path.write_bytes(b"line\n")

    def append() -> None:
        with open(path, "ab") as stream:
            stream.write(b"line\n")

    outcome, sink, pauses = read(path, Meddling(append))
    assert outcome.grade is Grade.FUZZY
    assert pauses == list(PAUSES_S)
    assert sink.begun == 4
    assert whole(sink) == b"line\n" * 4
    assert outcome.facts.size == sink.length


def test_a_change_that_hides_its_mtime_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"aaaa")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)

    def change_in_secret() -> None:
        path.write_bytes(b"bbbb")
        os.utime(path, ns=times)

    outcome, _, _ = read(path, Meddling(change_in_secret))
    assert outcome.grade is Grade.FUZZY


def test_a_file_cut_while_it_is_read_has_the_size_of_what_was_given(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PIECE_BYTES * 2))

    def cut() -> None:
        os.truncate(path, PIECE_BYTES + 5 if path.stat().st_size > PIECE_BYTES + 5 else 3)

    outcome, sink, _ = read(path, Meddling(cut))
    assert outcome.facts.size == sink.length


def test_no_time_left_means_no_second_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    sink = Meddling(lambda: path.write_bytes(b"xy"))
    folder = os.open(tmp_path, os.O_RDONLY)
    outcome = read_stable(folder, b"file", expected(path), sink=sink, pause=lambda _: False)
    os.close(folder)
    assert outcome.grade is Grade.FUZZY
    assert sink.begun == 1


def test_a_file_replaced_by_another_is_read_as_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    facts = expected(path)
    (tmp_path / "next").write_bytes(b"newer")
    (tmp_path / "next").rename(path)
    outcome, sink, _ = read(path, facts=facts)
    assert (outcome.grade, whole(sink), outcome.facts.inode) == (None, b"newer", path.stat().st_ino)


@pytest.mark.parametrize("kind", ["nothing", "link", "fifo", "folder", "socket"])
def test_a_file_that_became_something_else_is_gone_and_nothing_waits(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    facts = expected(path)
    path.unlink()
    match kind:
        case "link":
            path.symlink_to("/etc/passwd")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            os.mknod(path, 0o140600)
    outcome, sink, _ = read(path, facts=facts)
    assert outcome.gone
    assert sink.begun == 0


def test_a_file_on_another_file_system_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    folder = os.open("/proc/self", os.O_RDONLY)
    sink = Collected()
    outcome = read_stable(folder, b"status", expected(path), sink=sink)
    os.close(folder)
    assert (outcome.grade, outcome.error, sink.begun) == (Grade.UNREADABLE, errno.EXDEV, 0)


def test_a_file_of_mode_000_is_unreadable_or_repaired_as_asked(tmp_path: Path) -> None:
    def look() -> list[object]:
        path = tmp_path / "file"
        path.write_bytes(b"secret")
        os.setxattr(path, b"user.note", b"too")
        os.utime(path, ns=(3, 4))
        path.chmod(0)
        refused, _, _ = read(path)
        repaired, sink, _ = read(path, repair_rights=True)
        now = path.stat()
        return [
            *(refused.grade, refused.error, repaired.grade, repaired.facts.mode, whole(sink).decode()),
            repaired.attributes.xattrs == ((b"user.note", b"too"),),
            *(now.st_mode & 0o777, now.st_mtime_ns, repaired.facts.ctime_ns == now.st_ctime_ns),
        ]

    assert as_plain_user(tmp_path, look) == [
        *(Grade.UNREADABLE, errno.EACCES, None, 0, "secret", True),
        *(0, 4, True),
    ]


def test_files_of_a_locked_folder_are_read_after_the_walk_has_left_it(tmp_path: Path) -> None:
    """By several threads at once; the folder and its files are locked again afterwards."""

    def look() -> list[object]:
        locked = tmp_path / "locked"
        locked.mkdir()
        for number in range(40):
            (locked / str(number)).write_bytes(b"%d" % number)
            if number % 2:
                (locked / str(number)).chmod(0)
        locked.chmod(0)
        root = os.open(tmp_path, os.O_RDONLY)
        later = [
            (os.dup(found.folder_fd), found)
            for found in walk(root, repair_rights=True)
            if found.kind is Kind.FILE
        ]

        def read_one(job: tuple[int, Found]) -> list[object]:
            sink = Collected()
            outcome = read_stable(job[0], job[1].name, job[1].facts, sink=sink, repair_rights=True)
            return [outcome.error, outcome.grade, whole(sink) == job[1].name]

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(read_one, later))
        mode = locked.stat().st_mode & 0o777
        locked.chmod(0o700)
        modes = [(locked / str(number)).stat().st_mode & 0o777 for number in (1, 3)]
        return [len(later), [answer for answer in answers if answer != [None, None, True]], mode, modes]

    assert as_plain_user(tmp_path, look) == [40, [], 0, [0, 0]]


def test_somebody_elses_locked_file_stays_locked(tmp_path: Path) -> None:
    """Root owns it; a plain user who may not read it is told so, and nothing is changed."""
    if os.geteuid() != 0:
        path = Path("/etc/shadow")
        assert read(path, repair_rights=True)[0].error == errno.EACCES
        return
    path = tmp_path / "theirs"
    path.write_bytes(b"x")

    def look() -> object:
        return read(path, repair_rights=True)[0].error

    tmp_path.chmod(0o755)
    (tmp_path / "mine").mkdir()
    path.chmod(0)
    assert as_plain_user(tmp_path / "mine", look) == errno.EACCES
    assert path.stat().st_mode & 0o777 == 0


def test_a_lease_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    """Its owner may make every open wait for 45 s; we come back after each pause, then tell."""
    path = tmp_path / "leased"
    path.write_bytes(b"x")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        outcome, _, pauses = read(path)
        assert (outcome.grade, outcome.error) == (Grade.UNREADABLE, errno.EAGAIN)
        assert pauses == list(PAUSES_S)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert read(path)[0].grade is None
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def test_attributes_come_raw_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.setxattr(path, b"user.z", b"\0\xff")
    os.setxattr(path, b"user.a", b"")
    outcome, _, _ = read(path)
    assert outcome.attributes == Attributes(xattrs=((b"user.a", b""), (b"user.z", b"\0\xff")))


def test_attributes_of_every_class_are_kept_and_those_of_a_link_are_its_own(tmp_path: Path) -> None:
    """ACLs for everybody; what only root may set, where that can be tried."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.setxattr(folder, b"system.posix_acl_default", acl(7, 5, 5, 1))
    os.setxattr(folder, b"user.note", b"1")
    wanted = [b"system.posix_acl_default", b"user.note"]
    link = tmp_path / "link"
    link.symlink_to("folder")
    of_link: list[bytes] = []
    if os.geteuid() == 0:
        for place in (folder, link):
            os.setxattr(place, b"trusted.note", b"2", follow_symlinks=False)
        os.setxattr(folder, b"security.note", b"3")
        wanted, of_link = sorted([*wanted, b"security.note", b"trusted.note"]), [b"trusted.note"]
    fd = os.open(folder, os.O_RDONLY)
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        kept = [name for name, _ in attributes(fd).xattrs if not name.startswith(b"security.selinux")]
        assert kept == wanted
        told = [name for name, _ in attributes_at(parent, b"link").xattrs]
        assert [name for name in told if not name.startswith(b"security.selinux")] == of_link
    finally:
        os.close(fd)
        os.close(parent)


@pytest.mark.parametrize("size", [0, 100, 2 * PIECE_BYTES], ids=["empty", "small", "large"])
@pytest.mark.parametrize("call", ["preadv", "fstat after"])
def test_a_file_that_a_bad_disk_does_not_give_is_unreadable_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, call: str
) -> None:
    """Whatever fails of it, at whatever size: nothing is raised, or no other file of the home would be saved
    either.
    """
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    facts, whole, looks = expected(path), os.fstat, dict[int, int]()

    def failing(*args: object) -> int:
        raise OSError(errno.EIO, "bad sector")

    def looking(fd: int) -> os.stat_result:
        looks[fd] = looks.get(fd, 0) + 1
        if looks[fd] % 2 == 0:
            raise OSError(errno.EIO, "bad sector")
        return whole(fd)

    if call == "preadv":
        monkeypatch.setattr(os, "preadv", failing)
    else:
        monkeypatch.setattr(os, "fstat", looking)
    outcome, _, _ = read(path, facts=facts)
    if size or call != "preadv":
        assert (outcome.grade, outcome.error) == (Grade.UNREADABLE, errno.EIO)


def test_reading_stops_when_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * PIECE_BYTES))
    sink = Collected()
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(Cancelled):
        read_stable(folder, b"file", expected(path), sink=sink, stop=lambda: len(sink.pieces) == 2)
    os.close(folder)
    assert len(sink.pieces) == 2
