"""What every watcher of folders promises, on the real kernel: the folder of each change is told, or all is
lost.

fanotify is in it where this process may open it; inotify always.
"""

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.watch import fanotify, kernel
from storage.watch.dirt import Atlas, HomeDirt, Why
from storage.watch.inotify import Inotify
from storage.watch.source import Source


def open_fanotify(folder: Path) -> Source:
    group = fanotify.open_group(folder)
    assert group is not None
    return fanotify.Fanotify(group, marked=folder)


def may_use_fanotify() -> bool:
    group = fanotify.open_group("/tmp")
    if group is not None:
        os.close(group)
    return group is not None


MODES = ("inotify", "fanotify") if may_use_fanotify() else ("inotify",)


class Watched:
    """A home whose folders are all known to an atlas."""

    def __init__(self, source: Source, home: Path) -> None:
        self.source, self.home = source, home
        self.atlas, self.dirt = Atlas(), HomeDirt()

    def enter_all(self) -> None:
        """Do what a full scan does."""
        self.dirt.lost = None
        for folder, _, _ in os.walk(os.fsencode(self.home)):
            self.enter(folder[len(os.fsencode(self.home)) + 1 :])
        self.source.read(self.atlas)
        self.dirt.dirty.clear()

    def enter(self, path: bytes) -> bool:
        fd = os.open(os.path.join(os.fsencode(self.home), path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            return self.atlas.enter(self.dirt, path, self.source.watch(fd))
        finally:
            os.close(fd)

    def dirty(self) -> set[bytes]:
        self.source.read(self.atlas)
        assert self.dirt.lost is None, self.dirt.lost
        return set(self.dirt.take())

    def lost(self) -> Why | None:
        self.source.read(self.atlas)
        return self.dirt.lost


@pytest.fixture(params=MODES)
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    home = tmp_path / "home"
    for folder in ("a", "b", "deep/er"):
        (home / folder).mkdir(parents=True)
    (home / "a" / "file").write_bytes(b"one")
    source: Source = Inotify(folders_max=1000) if request.param == "inotify" else open_fanotify(tmp_path)
    made = Watched(source, home)
    made.enter_all()
    yield made
    source.close()


def test_nothing_is_dirty_while_nothing_happens_but_reading(watched):
    os.listdir(watched.home / "a")
    (watched.home / "a" / "file").read_bytes()
    assert watched.dirty() == set()


@pytest.mark.parametrize(
    "what", ["append", "truncate", "chmod", "utime", "create", "remove", "symlink", "fifo", "rename", "xattr"]
)
def test_the_folder_of_a_change_is_told(watched, what):
    file = watched.home / "a" / "file"
    match what:
        case "append":
            with file.open("ab") as opened:
                opened.write(b"two")
        case "truncate":
            os.truncate(file, 1)
        case "chmod":
            file.chmod(0o640)
        case "utime":
            os.utime(file, ns=(1, 1))
        case "create":
            (watched.home / "a" / "new").touch()
        case "remove":
            file.unlink()
        case "symlink":
            (watched.home / "a" / "link").symlink_to("nowhere")
        case "fifo":
            os.mkfifo(watched.home / "a" / "fifo")
        case "rename":
            file.rename(watched.home / "a" / "other")
        case "xattr":
            os.setxattr(file, b"user.t", b"value")
    assert watched.dirty() == {b"a"}
    assert watched.dirty() == set()


def test_a_file_that_moves_makes_both_folders_dirty(watched):
    (watched.home / "a" / "file").rename(watched.home / "b" / "file")
    assert watched.dirty() == {b"a", b"b"}


def test_a_change_of_the_folder_itself_is_told(watched):
    (watched.home / "deep" / "er").chmod(0o711)
    assert b"deep/er" in watched.dirty()


def test_a_change_of_the_home_itself_is_told(watched):
    watched.home.chmod(0o711)
    assert b"" in watched.dirty()


def test_a_store_through_a_second_name_is_told_of_the_folder_of_that_name(watched):
    """Which is why folders that hold a file with several names are looked at always."""
    os.link(watched.home / "a" / "file", watched.home / "b" / "second")
    watched.dirty()
    (watched.home / "b" / "second").write_bytes(b"changed")
    assert watched.dirty() == {b"b"}


def test_a_store_through_proc_and_through_a_removed_name_is_told(watched):
    fd = os.open(watched.home / "a" / "file", os.O_RDONLY)
    with open(f"/proc/self/fd/{fd}", "ab") as again:
        again.write(b"two")
    assert watched.dirty() == {b"a"}
    (watched.home / "a" / "file").unlink()
    os.close(fd)
    assert watched.dirty() == {b"a"}


@pytest.mark.parametrize("name", [b"x" * 255, b"new\nline", b"\xff\xfe\xb1", b" ", b"-", "ä".encode()])
def test_no_name_confuses_it(watched, name):
    folder = os.path.join(os.fsencode(watched.home), b"a", name)
    os.mkdir(folder)
    assert watched.dirty() == {b"a"}
    watched.enter(b"a/" + name)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(b"x")
    assert watched.dirty() == {b"a/" + name}


def test_a_folder_that_is_entered_before_it_is_listed_misses_nothing(watched):
    (watched.home / "a" / "new").mkdir()
    assert watched.dirty() == {b"a"}
    assert not watched.enter(b"a/new"), "it was not known"
    (watched.home / "a" / "new" / "file").write_bytes(b"x")
    assert watched.dirty() == {b"a/new"}
    assert watched.enter(b"a/new"), "now it is"


def test_another_folder_of_the_same_name_is_not_the_known_one(watched):
    (watched.home / "deep" / "er").rmdir()
    (watched.home / "deep" / "er").mkdir()
    assert b"deep" in watched.dirty()
    assert not watched.enter(b"deep/er")


@pytest.mark.parametrize("where", ["within", "out", "in"])
def test_a_folder_that_moves_loses_the_home(watched, where, tmp_path):
    """What lies beneath it has other paths now, and says nothing of that itself."""
    outside = tmp_path / "outside"
    outside.mkdir()
    watched.dirty()
    match where:
        case "within":
            (watched.home / "deep").rename(watched.home / "a" / "deep")
        case "out":
            (watched.home / "deep").rename(tmp_path / "deep")
        case "in":
            outside.rename(watched.home / "inside")
    assert watched.lost() is Why.FOLDER_MOVED


def test_changes_through_a_memory_map_are_told_when_it_is_unmapped(watched):
    """And not before: a full scan finds them meanwhile."""
    with (watched.home / "a" / "file").open("r+b") as file, mmap.mmap(file.fileno(), 3) as mapped:
        mapped[:] = b"new"
        mapped.flush()
        assert watched.dirty() == set()
    assert watched.dirty() == {b"a"}


def test_an_inotify_queue_that_overflows_loses_every_home(tmp_path):
    """Truly: more happens than the kernel's queue has room for."""
    (tmp_path / "file").touch()
    watched = Watched(Inotify(folders_max=10), tmp_path)
    watched.enter_all()
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    fd = os.open(tmp_path / "file", os.O_WRONLY)
    for _ in range(most // 2 + 2):
        os.write(fd, b"x")
        os.fchmod(fd, 0o600)
    os.close(fd)
    assert watched.lost() is Why.OVERFLOW
    watched.source.close()


@pytest.mark.soak
def test_a_fanotify_queue_that_overflows_loses_every_home(tmp_path):
    """Its events are merged by folder, so it takes as many folders."""
    if "fanotify" not in MODES:
        return  # only root can open one
    watched = Watched(open_fanotify(tmp_path), tmp_path)
    watched.enter_all()
    most = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text())
    for number in range(most + 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number)).chmod(0o711)
    assert watched.lost() is Why.OVERFLOW
    watched.source.close()


def test_the_event_of_a_fanotify_queue_that_overflowed_loses_every_home(tmp_path):
    """As the kernel writes it, so that this is looked at without root and without as many folders."""
    queue, kernel_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    watched = Watched(fanotify.Fanotify(queue, marked=tmp_path), tmp_path)
    watched.enter_all()
    os.write(kernel_end, struct.pack("=IBBHQii", 24, 3, 0, 24, 0x4000, -1, 0))
    assert watched.lost() is Why.OVERFLOW
    watched.source.close()
    os.close(kernel_end)


def test_a_hundred_thousand_changes_are_survived_while_somebody_reads(watched):
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.02):
            watched.source.read(watched.atlas)

    reader = threading.Thread(target=read)
    reader.start()
    fd = os.open(watched.home / "a" / "file", os.O_WRONLY)
    other = os.open(watched.home / "b" / "file", os.O_WRONLY | os.O_CREAT)
    for _ in range(50_000):
        os.write(fd, b"x")
        os.pwrite(other, b"x", 0)
    os.close(fd)
    os.close(other)
    done.set()
    reader.join()
    assert watched.lost() in (None, Why.OVERFLOW)
    assert watched.dirt.lost or {b"a", b"b"} <= watched.dirt.dirty


def test_a_removed_folder_says_so_by_the_one_it_lay_in(watched):
    (watched.home / "deep" / "er").rmdir()
    assert b"deep" in watched.dirty()


def test_a_file_made_without_a_name_is_told_when_it_gets_one(watched):
    fd = os.open(watched.home / "a", os.O_TMPFILE | os.O_WRONLY)
    os.write(fd, b"x")
    watched.dirty()
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(watched.home / "b" / "named")
    linked = libc.linkat(kernel.AT_FDCWD, b"/proc/self/fd/%d" % fd, kernel.AT_FDCWD, target, 0x400)
    assert linked == 0, os.strerror(ctypes.get_errno())
    os.close(fd)
    assert b"b" in watched.dirty()


def test_what_happens_elsewhere_is_nobodys(watched, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"x")
    assert watched.dirty() == set()
