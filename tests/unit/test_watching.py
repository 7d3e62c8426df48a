"""Rounds of looks at homes: when all is looked at, when only what changed, and what a failure costs."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.watch.dirt import Atlas, Key, Why
from storage.watch.watching import FORGET_S, FULL_SCAN_EVERY_S, IDLE_S, Left, Round, Watching


@dataclass
class Told:
    """A source that is told what to tell; its keys are inode numbers."""

    folders_max: int | None = None
    mode: str = "inotify"
    events: list[Key] = field(default_factory=list)
    overflow: bool = False
    forgotten: list[Key] = field(default_factory=list)

    def fileno(self) -> int:
        raise AssertionError("no thread reads it")

    def watch(self, folder_fd: int) -> Key:
        return os.fstat(folder_fd).st_ino

    def forget(self, key: Key) -> None:
        self.forgotten.append(key)

    def read(self, atlas: Atlas) -> int:
        events, self.events = self.events, []
        if self.overflow:
            self.overflow = False
            atlas.all_lost(Why.OVERFLOW)
        for key in events:
            atlas.touched(key)
        return len(events)

    def close(self) -> None: ...


class World:
    def __init__(self, base: Path, *, folders_max: int | None = None) -> None:
        self.source = Told(folders_max=folders_max)
        self.now_s = 1000.0
        self.mounts = base / "mountinfo"
        self.mounts.touch()
        self.local = True
        self.watching = Watching(
            self.source, watchable=lambda device: self.local, clock_s=lambda: self.now_s, mounts=self.mounts
        )

    def home(self, base: Path, name: str) -> Path:
        (base / name / "a").mkdir(parents=True)
        return base / name

    def look(self, home: Path, *, base: tuple | None = ("base",), exact: bool = False) -> Round:
        return self.watching.begin(str(home), base=base, exact=exact)

    def enter(self, look: Round, home: Path) -> None:
        for path in (b"", b"a"):
            fd = os.open(os.path.join(os.fsencode(home), path), os.O_RDONLY)
            look.entered(path, fd)
            os.close(fd)

    def full(self, home: Path, **left) -> Round:
        look = self.look(home)
        assert look.full
        self.enter(look, home)
        look.keep(Left(base=("base",), **left))
        return look

    def touch(self, home: Path, path: str) -> None:
        self.source.events.append((home / path).stat().st_ino)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def home(world: World, tmp_path: Path) -> Path:
    return world.home(tmp_path, "home")


def test_the_first_look_is_at_everything_and_the_next_at_what_changed(world, home):
    assert world.full(home).why is Why.START
    world.touch(home, "a")
    look = world.look(home)
    assert (look.why, look.dirty) == (Why.NOTIFIED, {b"a"})


def test_what_is_not_settled_is_looked_at_whatever_is_told(world, home):
    world.full(home, again=frozenset([b"a"]))
    assert world.look(home).dirty == {b"a"}


def test_a_look_that_came_to_nothing_gives_back_what_it_took(world, home):
    world.full(home)
    world.touch(home, "a")
    world.look(home).undo()
    assert world.look(home).dirty == {b"a"}


def test_a_full_look_that_came_to_nothing_is_made_again(world, home):
    look = world.look(home)
    world.enter(look, home)
    look.undo()
    assert world.look(home).full


@pytest.mark.parametrize("reason", ["other base", "overflow", "due", "exact", "mount", "stale", "route"])
def test_all_is_looked_at_again_when_events_may_not_tell_all(world, home, reason):
    world.full(home, full_next=reason == "stale")
    base: tuple | None = ("base",)
    match reason:
        case "other base":
            base = ("another",)
        case "overflow":
            world.source.overflow = True
        case "due":
            world.now_s += FULL_SCAN_EVERY_S
        case "mount":
            world.mounts.write_text(f"36 35 98:0 / {home}/a rw - ext4 /dev/sda rw\n")
        case "route":
            look = world.look(home)
            look.lose()
            look.undo()
    assert world.look(home, base=base, exact=reason == "exact").full


def test_a_file_system_that_others_write_to_is_not_watched(world, home):
    """A network file system tells nothing of what is written elsewhere."""
    world.local = False
    look = world.look(home)
    world.enter(look, home)
    look.keep(Left(base=("base",)))
    assert world.look(home).why is Why.OFF
    assert not world.watching.clean_since(str(home))


def test_changes_during_a_look_are_for_the_next_one(world, home):
    world.full(home)
    look = world.look(home)
    world.touch(home, "a")
    look.keep(Left(base=("base",)))
    assert world.look(home).dirty == {b"a"}


def test_what_changed_silently_is_looked_at_always_from_then_on(world, home):
    world.full(home)
    world.now_s += FULL_SCAN_EVERY_S
    look = world.look(home)
    assert look.suspect == frozenset()
    world.enter(look, home)
    look.keep(Left(base=("base",), silent=frozenset([b"a"])))
    assert world.look(home).dirty == {b"a"}
    assert world.watching.tally().silent == 1


def test_what_is_told_while_it_is_looked_at_is_not_silent(world, home):
    world.full(home)
    world.now_s += FULL_SCAN_EVERY_S
    look = world.look(home)
    world.enter(look, home)
    world.touch(home, "a")
    look.keep(Left(base=("base",), silent=frozenset([b"a"])))
    assert world.watching.tally().silent == 0


def test_a_home_is_clean_only_while_nothing_is_to_be_looked_at(world, home):
    assert not world.watching.clean_since(str(home))
    world.full(home)
    assert world.watching.clean_since(str(home))
    world.touch(home, "a")
    assert not world.watching.clean_since(str(home))


@pytest.mark.parametrize("left", [{"complete": False}, {"again": frozenset([b"a"])}, {"full_next": True}])
def test_a_home_of_which_something_is_open_is_never_clean(world, home, left):
    world.full(home, **left)
    assert not world.watching.clean_since(str(home))


def test_a_clean_home_is_scanned_when_the_full_scan_is_due(world, home):
    world.full(home)
    world.now_s += FULL_SCAN_EVERY_S
    assert not world.watching.clean_since(str(home))


def test_without_watches_left_a_home_is_scanned_and_says_so(tmp_path):
    world = World(tmp_path, folders_max=3)
    first, second = world.home(tmp_path, "first"), world.home(tmp_path, "second")
    world.full(first)
    look = world.look(second)
    world.enter(look, second)
    look.keep(Left(base=("base",)))
    assert world.look(second).why is Why.BUDGET
    assert world.look(first).why is Why.NOTIFIED
    assert world.watching.tally().homes_unwatched == 1
    assert world.watching.tally().folders == 2


def test_the_home_that_nobody_saves_any_more_gives_its_watches(tmp_path):
    world = World(tmp_path, folders_max=3)
    first, second = world.home(tmp_path, "first"), world.home(tmp_path, "second")
    world.full(first)
    world.now_s += IDLE_S
    world.full(second)
    assert world.look(second).why is Why.NOTIFIED
    assert {first.stat().st_ino, (first / "a").stat().st_ino} <= set(world.source.forgotten)
    assert world.look(first).why is Why.BUDGET


def test_a_home_without_watches_asks_for_some_again_after_ten_minutes(tmp_path):
    world = World(tmp_path, folders_max=3)
    first, second = world.home(tmp_path, "first"), world.home(tmp_path, "second")
    world.full(first)
    look = world.look(second)
    world.enter(look, second)
    look.keep(Left(base=("base",)))
    world.now_s += FULL_SCAN_EVERY_S
    world.full(second)
    assert world.look(second).why is Why.NOTIFIED


def test_a_home_that_ended_is_forgotten(world, home, tmp_path):
    world.full(home)
    world.now_s += FORGET_S
    world.full(world.home(tmp_path, "other"))
    assert world.watching.tally().homes == 1


def test_folders_that_are_gone_after_a_full_look_are_not_watched_any_more(world, home):
    world.full(home)
    gone = (home / "a").stat().st_ino
    (home / "a").rmdir()
    world.now_s += FULL_SCAN_EVERY_S
    look = world.look(home)
    fd = os.open(home, os.O_RDONLY)
    look.entered(b"", fd)
    os.close(fd)
    look.keep(Left(base=("base",)))
    assert world.source.forgotten == [gone]


def test_folders_that_are_gone_are_let_go_after_a_full_look_that_came_to_nothing_too(world, home):
    world.full(home)
    gone = (home / "a").stat().st_ino
    world.now_s += FULL_SCAN_EVERY_S
    look = world.look(home)
    fd = os.open(home, os.O_RDONLY)
    look.entered(b"", fd)
    os.close(fd)
    look.undo()
    assert world.source.forgotten == [gone]


def test_what_a_look_took_that_nobody_ended_is_not_lost(world, home):
    """A save is cancelled while its look begins in a thread: nobody gets the round, so nobody undoes it."""
    world.full(home)
    world.touch(home, "a")
    assert not world.look(home).full  # and its caller is gone
    assert not world.watching.clean_since(str(home))
    again = world.look(home)
    assert again.why is Why.NOT_KEPT
    world.enter(again, home)
    again.keep(Left(base=("base",)))
    assert world.watching.clean_since(str(home))


def test_a_home_is_not_forgotten_while_it_is_looked_at(world, home, tmp_path):
    """A first checkpoint may take longer than that; its folders would be nobody's, and stay watched."""
    long = world.look(home)
    world.enter(long, home)
    world.now_s += FORGET_S
    world.full(world.home(tmp_path, "other"))
    long.keep(Left(base=("base",)))
    assert world.look(home).why is Why.DUE
