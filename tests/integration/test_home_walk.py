"""The walk over a home whose user moves, swaps and locks things while we stand in it."""

import errno
import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import Cancelled, HomeMoved
from storage.scan.entry import Found, Kind
from storage.scan.walk import OPEN_LEVELS_MAX, PATH_BYTES_MAX, walk
from tests.fakes.descriptors import open_below
from tests.fakes.unprivileged import as_plain_user


@contextmanager
def opened(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def walked(root: Path, *, repair_rights: bool = False) -> list[Found]:
    with opened(root) as fd:
        return list(walk(fd, repair_rights=repair_rights))


@pytest.fixture
def abyss(tmp_path: Path) -> Iterator[Path]:
    """A folder that may become too deep for Python's own way of removing it."""
    folder = tmp_path / "abyss"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


def make_deep(root: Path, depth: int, name: bytes = b"d") -> None:
    """A chain of folders deeper than any path could say."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open(b"leaf", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.close(fd)


def test_a_folder_comes_before_what_is_in_it_and_its_files_before_its_folders(tmp_path: Path) -> None:
    for name in ("b/y/z", "a", "c/x"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b/file", "z", "B", "b/y/1", "b/y/z/2", "a-file", "c/x/3"):
        (tmp_path / name).touch()
    assert [found.path.decode() for found in walked(tmp_path)] == [
        *(
            "",
            "B",
            "a-file",
            "z",
            "a",
            "b",
            "b/file",
            "b/y",
            "b/y/1",
            "b/y/z",
            "b/y/z/2",
            "c",
            "c/x",
            "c/x/3",
        ),
    ]


def test_facts_are_those_of_the_entry_and_not_of_what_it_links_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder-link").symlink_to("/etc")
    os.mkfifo(tmp_path / "fifo")
    by_name = {found.name: found for found in walked(tmp_path)}
    assert by_name[b"link"].kind is Kind.SYMLINK
    assert by_name[b"link"].target == b"/etc/passwd"
    assert by_name[b"folder-link"].kind is Kind.SYMLINK
    assert by_name[b"fifo"].kind is Kind.FIFO
    assert len(by_name) == 4


def test_the_folder_descriptor_is_good_until_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x")
    with opened(tmp_path) as fd:
        for found in walk(fd):
            seen = os.stat(found.name or b".", dir_fd=found.folder_fd, follow_symlinks=False)
            assert seen.st_ino == found.facts.inode


def test_a_folder_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    """The user waits until the names were read, then points a folder elsewhere."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "inner").mkdir(parents=True)
    (home / "first").touch()
    (outside / "secret").mkdir(parents=True)
    with opened(home) as fd:
        walking = walk(fd)
        assert [next(walking).name, next(walking).name] == [b"", b"first"]
        (home / "inner").rename(home / "moved")
        (home / "inner").symlink_to(outside)
        rest = list(walking)
    assert [(found.path, found.kind) for found in rest] == [(b"inner", Kind.SYMLINK)]


def test_swapping_all_the_time_never_leads_outside(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "target" / "sub").mkdir(parents=True)
    (home / "target" / "sub" / "mine").touch()
    (outside / "sub").mkdir(parents=True)
    (outside / "sub" / "secret").touch()
    (home / "link").symlink_to(outside)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (home / "target").rename(home / "aside")
            (home / "link").rename(home / "target")
            (home / "target").rename(home / "link")
            (home / "aside").rename(home / "target")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(300):
            assert not [found for found in walked(home) if found.name == b"secret"]
    finally:
        done.set()
        swapper.join()


def test_what_vanishes_is_left_out_and_what_appears_as_another_kind_is_told_as_it_is(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    (tmp_path / "d").mkdir()
    with opened(tmp_path) as fd:
        walking = walk(fd)
        assert next(walking).name == b""
        (tmp_path / "a").unlink()
        (tmp_path / "b").unlink()
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "new").touch()
        (tmp_path / "d").rmdir()
        assert [found.path for found in walking] == [b"c", b"b", b"b/new"]


def test_great_depth_needs_few_descriptors_and_every_level_is_seen(abyss: Path) -> None:
    depth = 1_500
    make_deep(abyss, depth)
    (abyss / "d" / "z").mkdir()
    most = 0
    with opened(abyss) as fd:
        seen = 0
        for found in walk(fd):
            assert found.error is None
            seen += 1
            most = max(most, open_below(abyss)) if seen % 100 == 0 else most
    assert seen == 1 + depth + 1 + 1
    assert 0 < most < OPEN_LEVELS_MAX + 8
    assert open_below(abyss) == 0


def test_a_path_too_long_for_any_program_is_told_and_not_entered(abyss: Path) -> None:
    make_deep(abyss, PATH_BYTES_MAX // 200 + 5, b"n" * 199)
    found = walked(abyss)
    assert found[-1].error == errno.ENAMETOOLONG
    assert len(found[-1].path) > PATH_BYTES_MAX


def test_folders_moved_about_below_us_end_the_walk_with_a_clear_error(abyss: Path) -> None:
    """The way back up is checked; wherever a moved folder leads, it is not walked as if it were ours."""
    home, outside = abyss / "home", abyss / "outside"
    home.mkdir()
    outside.mkdir()
    make_deep(home, 2 * OPEN_LEVELS_MAX)
    (home / "d" / "z").mkdir()
    with opened(home) as fd, pytest.raises(HomeMoved):
        for found in walk(fd):
            if found.path.count(b"/") == 2 * OPEN_LEVELS_MAX - 1 and found.name == b"leaf":
                raise AssertionError("the leaf is deeper")
            if found.name == b"leaf":
                upper = home / "d" / "d" / "d"
                (upper / "d").rename(outside / "stolen")
                upper.rename(outside / "upper")


def test_a_locked_folder_is_reported_to_a_plain_user_and_opened_only_when_asked(tmp_path: Path) -> None:
    def look() -> list[list[object]]:
        locked = tmp_path / "locked"
        (locked / "inner").mkdir(parents=True)
        (locked / "inner" / "file").touch()
        locked.chmod(0o400)
        unseen = tmp_path / "unseen"
        unseen.mkdir()
        (unseen / "file").touch()
        unseen.chmod(0)
        answers: list[list[object]] = []
        for repair in (False, True):
            found = walked(tmp_path, repair_rights=repair)
            answers.append([[item.path.decode(), item.error, item.facts.mode & 0o777] for item in found[1:]])
        answers.append([locked.stat().st_mode & 0o777, unseen.stat().st_mode & 0o777])
        return answers

    plain, repaired, modes = as_plain_user(tmp_path, look)
    assert ["unseen", errno.EACCES, 0] in plain
    assert ["locked/inner", errno.EACCES, 0] in plain
    assert [item[0] for item in repaired] == [
        *("locked", "locked/inner", "locked/inner/file", "unseen", "unseen/file"),
    ]
    assert all(item[1] is None for item in repaired)
    assert [item[2] for item in repaired if item[0] in {"locked", "unseen"}] == [0o400, 0]
    assert modes == [0o400, 0]


def test_modes_are_put_back_when_the_caller_loses_interest(tmp_path: Path) -> None:
    def look() -> list[int]:
        inner = tmp_path / "locked" / "inner"
        inner.mkdir(parents=True)
        inner.chmod(0)
        (tmp_path / "locked").chmod(0)
        with opened(tmp_path) as fd:
            walking = walk(fd, repair_rights=True)
            assert [found.name for found in itertools.islice(walking, 3)] == [b"", b"locked", b"inner"]
            walking.close()
        outer = (tmp_path / "locked").stat().st_mode & 0o777
        (tmp_path / "locked").chmod(0o700)
        return [outer, inner.stat().st_mode & 0o777]

    assert as_plain_user(tmp_path, look) == [0, 0]


def test_the_walk_stops_when_told(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02d}").touch()
    seen: list[bytes] = []
    with opened(tmp_path) as fd, pytest.raises(Cancelled):
        seen.extend(found.name for found in walk(fd, stop=lambda: len(seen) >= 5))
    assert len(seen) == 5
    assert open_below(tmp_path) == 0


@pytest.mark.slow
def test_a_folder_of_many_names_is_walked_in_order(tmp_path: Path) -> None:
    for number in range(20_000):
        os.close(os.open(tmp_path / f"f{number:06d}", os.O_CREAT | os.O_WRONLY, 0o600))
    names = [found.name for found in walked(tmp_path)[1:]]
    assert names == sorted(names)
    assert len(names) == 20_000
