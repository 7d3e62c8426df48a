"""Turns of the threads of a scan: one runs Python, whoever works natively or waits steps aside."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import HomeMoved
from storage.ops import gather
from storage.ops.content import IdsOnly
from storage.repository.threads import Stop, Threads
from storage.repository.turn import Turn
from storage.scan import walk

WAIT_S = 20.0


def test_whoever_steps_aside_lets_another_in_and_has_the_turn_again_afterwards():
    turn, others = Turn(), ThreadPoolExecutor(1)
    entered = threading.Event()

    def other() -> None:
        with turn:
            entered.set()

    with turn:
        waiting = others.submit(other)
        assert not entered.is_set()
        with turn.aside():
            waiting.result(WAIT_S)
        late = others.submit(other)
        assert not late.done()
    late.result(WAIT_S)
    others.shutdown()


def test_whoever_does_not_have_the_turn_steps_aside_from_nothing():
    turn, others = Turn(), ThreadPoolExecutor(1)

    def aside() -> bool:
        with turn.aside():
            return True

    with turn:
        assert others.submit(aside).result(WAIT_S), "another thread's turn is not given away"
        assert turn._lock.locked()
    with turn.aside():
        pass
    assert not turn._lock.locked()
    others.shutdown()


def test_whoever_waits_too_long_goes_on_without_and_gives_nobody_elses_turn_away(monkeypatch):
    monkeypatch.setattr("storage.repository.turn.WAIT_S", 0.001)
    turn, others = Turn(), ThreadPoolExecutor(1)

    def impatient() -> bool:
        with turn, turn.aside():
            pass
        return True

    with turn:
        assert others.submit(impatient).result(WAIT_S)
        assert turn._lock.locked(), "it is ours still"
    assert not turn._lock.locked()
    others.shutdown()


def test_a_walk_that_hangs_keeps_the_readers_from_nobody(tmp_path, monkeypatch):
    """Both readers have batches of a home whose walk waits for a disk; another home is saved meanwhile."""
    hanging, other = tmp_path / "hanging", tmp_path / "other"
    for folder in (hanging, other):
        folder.mkdir()
        for number in range(4):
            (folder / str(number)).write_bytes(b"%d" % number)
    monkeypatch.setattr(gather, "BATCH_FILES", 1)
    waits, answers, whole = threading.Event(), threading.Event(), walk.walk_folders

    def walking(root_fd, **rest):
        yield from whole(root_fd, **rest)
        if os.readlink(f"/proc/self/fd/{root_fd}").endswith("hanging"):
            waits.set()
            assert answers.wait(WAIT_S)

    monkeypatch.setattr(gather, "walk_folders", walking)
    threads, walks = Threads(), ThreadPoolExecutor(1)
    held = walks.submit(scan, hanging, Turn(), Stop(), threads)
    assert waits.wait(WAIT_S)
    assert scan(other, Turn(), Stop(), threads).read_files == 4
    assert not held.done()
    answers.set()
    assert held.result(WAIT_S).read_files == 4
    threads.close()
    walks.shutdown()


def test_a_failure_aside_takes_the_turn_back_before_it_is_told():
    turn = Turn()
    with pytest.raises(OSError), turn:
        with turn.aside():
            raise OSError(errno.EIO, "native work failed")
    assert not turn._lock.locked()


def scan(home, turn: Turn, stop: Stop, threads: Threads) -> gather.Gathered:
    root_fd = gather.open_home(home)
    try:
        return gather.Gather(
            taker=IdsOnly(lambda kind, content: bytes(16)),
            known=lambda kind, chunk_id: False,
            seed=1,
            owner=(os.getuid(), os.getgid()),
            cache=None,
            threads=threads,
            turn=turn,
            stop=stop,
            progress=gather.ignore_progress,
        ).run(root_fd)
    finally:
        os.close(root_fd)


def test_a_walk_that_fails_while_readers_wait_for_their_turn_ends(tmp_path, monkeypatch):
    for number in range(3_000):
        (tmp_path / f"{number:04d}").write_bytes(b"%d" % number)
    (tmp_path / "zz").mkdir()
    whole = walk.walk_folders

    def failing(*args, **kwargs):
        steps = whole(*args, **kwargs)
        yield next(steps)  # the home with all of its files, of which readers have some by now
        raise HomeMoved(path="home")

    monkeypatch.setattr(gather, "walk_folders", failing)
    turn, threads = Turn(), Threads()
    with pytest.raises(HomeMoved):
        scan(tmp_path, turn, Stop(), threads)
    threads.close()
    assert not turn._lock.locked()


def test_a_file_that_is_read_again_after_a_pause_holds_nobody_up_meanwhile(tmp_path, monkeypatch):
    """Its reader pauses until another file was read, which takes the turn."""
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b").write_bytes(b"b")
    monkeypatch.setattr(gather, "BATCH_FILES", 1)
    other_read, whole = threading.Event(), gather.read_stable

    def reading(folder_fd, name, facts, *, pause, **rest):
        if name == b"a":
            monkeypatch.setattr(stop, "wait", lambda seconds: not other_read.wait(WAIT_S))
            assert pause(1.0), "the other file was not read meanwhile"
        outcome = whole(folder_fd, name, facts, pause=pause, **rest)
        if name == b"b":
            other_read.set()
        return outcome

    monkeypatch.setattr(gather, "read_stable", reading)
    stop, threads = _Stop(), Threads()
    assert scan(tmp_path, Turn(), stop, threads).read_files == 2
    threads.close()


class _Stop(Stop):
    """One whose `wait` can be replaced."""


def test_a_file_from_a_slow_disk_lets_the_next_one_be_read_beside_it(tmp_path, monkeypatch):
    """Two readers are in a read of a small file at one time, once one took longer than memory does."""
    for number in range(4):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
    monkeypatch.setattr(gather, "BATCH_FILES", 1)
    monkeypatch.setattr(gather, "SLOW_READ_S", 0.0)
    together, whole = threading.Barrier(2, timeout=WAIT_S), gather.read_stable
    names: list[bytes] = []

    def reading(folder_fd, name, facts, **rest):
        names.append(name)
        if len(names) > 2:
            together.wait()
        return whole(folder_fd, name, facts, **rest)

    monkeypatch.setattr(gather, "read_stable", reading)
    threads = Threads()
    assert scan(tmp_path, Turn(), Stop(), threads).read_files == 4
    threads.close()
