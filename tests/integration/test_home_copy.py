"""Walk, read and extract together: restore(checkpoint(home)) = home (S17), as far as these three carry it."""

import os
import stat
from pathlib import Path

import pytest

from storage.errors import TargetNotEmpty
from storage.scan.entry import Kind, RestorePolicy
from storage.scan.extract import Extractor
from tests.fakes.home import MIB, Picture, copy_home, make_odd_home, picture
from tests.fakes.unprivileged import as_plain_user

OPEN_MODES = ("locked", "locked/inner", "mode000")


def without(seen: Picture, *names: bytes) -> Picture:
    return {path: facts for path, facts in seen.items() if path not in names}


def unlock(root: Path) -> None:
    """So that the picture can be taken by a plain user; both sides alike."""
    for name in OPEN_MODES:
        os.chmod(root / name, 0o700)


def copy_and_compare(base: Path) -> list[str]:
    """In one function, so that a plain user can run it in a child process. Returns what differs."""
    old = os.umask(0o077)
    try:
        return _copied_and_compared(base)
    finally:
        os.umask(old)


def _copied_and_compared(base: Path) -> list[str]:
    home, copy = base / "home", base / "copy"
    home.mkdir()
    copy.mkdir()
    make_odd_home(home)
    before = os.stat(home / "mode000").st_mode
    report, left_out = copy_home(home, copy, RestorePolicy(setuid=True), repair_rights=True)
    problems = [repr(found) for found in left_out if found.kind is not Kind.SOCKET]
    problems += [repr(difference) for difference in report.differences]
    for root in (home, copy):
        for name, mode in (("locked", 0o100), ("mode000", 0)):
            if stat.S_IMODE(os.stat(root / name).st_mode) != mode:
                problems.append(f"{root / name} has another mode")
    if os.stat(home / "mode000").st_mode != before:
        problems.append("the mode was not put back")
    unlock(home)
    unlock(copy)
    wanted = without(picture(home), b"socket")
    found = picture(copy)
    problems += [
        f"{path!r}: {wanted.get(path)} became {found.get(path)}"
        for path in sorted({*wanted, *found})
        if wanted.get(path) != found.get(path)
    ]
    if os.stat(copy / "sparse").st_blocks * 512 > 3 * MIB or os.stat(copy / "all-hole").st_blocks > 16:
        problems.append("holes were filled")
    return problems


def test_a_home_of_hostile_entries_comes_back_the_same(tmp_path: Path) -> None:
    assert copy_and_compare(tmp_path) == []


def test_a_home_comes_back_the_same_for_a_plain_user_too(tmp_path: Path) -> None:
    """Mode 000 and locked folders are opened by their owner and locked again."""
    assert as_plain_user(tmp_path, lambda: copy_and_compare(tmp_path)) == []


def test_only_sockets_are_left_out_and_said_so(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    copy.mkdir()
    make_odd_home(home)
    _, left_out = copy_home(home, copy, repair_rights=True)
    assert [found.path for found in left_out] == [b"socket"]


def test_a_restore_needs_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "something").write_bytes(b"")
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(TargetNotEmpty):
        Extractor(fd, RestorePolicy())
    os.close(fd)
