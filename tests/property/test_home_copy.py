"""restore(checkpoint(home)) = home, for homes that nobody thought of (S17, the part of walk, read and
extract).
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from storage.scan.entry import RestorePolicy
from tests.fakes.home import copy_home, picture

NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: name not in {b".", b".."} and b"/" not in name and b"\0" not in name
)
# 1901 to 2446, what ext4 keeps; tmpfs keeps more.
TIMES_NS = st.integers(-(1 << 31) * 10**9, 15_000_000_000 * 10**9)
MODES = st.integers(0, 0o7777)
SEGMENTS = st.lists(st.tuples(st.integers(0, 200_000), st.binary(min_size=1, max_size=5_000)), max_size=4)
FILES = st.fixed_dictionaries(
    {
        "segments": SEGMENTS,
        "hole_at_end": st.integers(0, 100_000),
        "mode": MODES,
        "time": TIMES_NS,
        "note": st.none() | st.binary(max_size=200),
        "more_names": st.integers(0, 2),
    }
)
LINKS = st.fixed_dictionaries(
    {
        "target": st.binary(min_size=1, max_size=200).filter(lambda target: b"\0" not in target),
        "time": TIMES_NS,
    }
)
HOMES = st.recursive(
    FILES | LINKS,
    lambda inner: st.fixed_dictionaries(
        {"inner": st.dictionaries(NAMES, inner, max_size=5), "mode": MODES, "time": TIMES_NS}
    ),
    max_leaves=12,
)


@given(home=st.dictionaries(NAMES, HOMES, max_size=6))
def test_any_home_comes_back_the_same(home: dict[bytes, dict[str, Any]]) -> None:
    base = Path(tempfile.mkdtemp(prefix="home-"))
    try:
        source, target = base / "source", base / "target"
        source.mkdir()
        target.mkdir()
        fill(os.fsencode(source), home)
        report, left_out = copy_home(source, target, RestorePolicy(setuid=True), repair_rights=True)
        assert report.differences == ()
        assert left_out == []
        unlock(source)
        unlock(target)
        assert picture(target) == picture(source)
    finally:
        shutil.rmtree(base)


def fill(folder: bytes, home: dict[bytes, dict[str, Any]]) -> None:
    for name, entry in home.items():
        path = folder + b"/" + name
        if "inner" in entry:
            os.mkdir(path)
            fill(path, entry["inner"])
            os.chmod(path, entry["mode"])
        elif "target" in entry:
            os.symlink(entry["target"], path)
        else:
            put(path, entry)
            for number in range(entry["more_names"]):
                other = folder + b"/~%d" % number + name[:30]
                if not os.path.lexists(other) and other[len(folder) + 1 :] not in home:
                    os.link(path, other)
        os.utime(path, ns=(entry["time"], entry["time"]), follow_symlinks=False)


def put(path: bytes, entry: dict[str, Any]) -> None:
    with open(path, "wb") as stream:
        for gap, data in entry["segments"]:
            stream.seek(gap, os.SEEK_CUR)
            stream.write(data)
        stream.truncate(stream.tell() + entry["hole_at_end"])
    if entry["note"] is not None:
        os.setxattr(path, b"user.note", entry["note"])
    os.chmod(path, entry["mode"])


def unlock(root: Path) -> None:
    """So that a plain user can look at everything: the same bits on both sides, so a lost mode still
    shows.
    """
    pending = [os.fsencode(root)]
    while pending:
        folder = pending.pop()
        for name in os.listdir(folder):
            path = folder + b"/" + name
            if os.path.islink(path):
                continue
            os.chmod(path, os.stat(path).st_mode & 0o7777 | 0o700)
            if os.path.isdir(path):
                pending.append(path)
