"""restore(checkpoint(home)) = home (S17), for homes that hypothesis makes up, over several checkpoints."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from storage.objects.memory import MemoryBucket
from tests.fakes.home import picture
from tests.fakes.storage_rig import REF, Node, take

NAMES = st.binary(min_size=1, max_size=30).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
TIMES_NS = st.integers(min_value=-(2**40) * 1000, max_value=2**33 * 10**9)
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.integers(1, 90_000).map(lambda size: os.urandom(size)),
    st.tuples(st.binary(min_size=1, max_size=50), st.integers(1, 5_000)).map(lambda two: two[0] * two[1]),
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("file"), NAMES, CONTENTS, TIMES_NS),
        st.tuples(st.just("sparse"), NAMES, st.lists(st.integers(0, 40), max_size=4), TIMES_NS),
        st.tuples(st.just("folder"), NAMES, st.integers(0, 0o7777), TIMES_NS),
        st.tuples(st.just("symlink"), NAMES, NAMES, TIMES_NS),
        st.tuples(st.just("link"), NAMES, NAMES, TIMES_NS),
        st.tuples(st.just("fifo"), NAMES, st.none(), TIMES_NS),
        st.tuples(st.just("xattr"), NAMES, st.binary(max_size=100), TIMES_NS),
        st.tuples(st.just("mode"), NAMES, st.integers(0o400, 0o1777), TIMES_NS),
        st.tuples(st.just("remove"), NAMES, st.none(), TIMES_NS),
    ),
    max_size=14,
)


def act(home: bytes, action: tuple) -> None:
    """Do one thing to a home; what the file system refuses is not done."""
    what, name, value, at_ns = action
    path = home + b"/" + name
    there = sorted(os.listdir(home))
    writable = not os.path.lexists(path) or (os.path.isfile(path) and not os.path.islink(path))
    if what in ("file", "sparse") and not writable:
        return  # a fifo would wait for a reader
    some = home + b"/" + there[len(name) % len(there)] if there else path
    try:
        match what:
            case "file":
                Path(os.fsdecode(path)).write_bytes(value)
            case "sparse":
                with open(path, "wb") as file:
                    for block in value:
                        file.seek(block * 65_536)
                        file.write(b"data")
                    file.truncate(50 * 65_536)
            case "folder":
                os.mkdir(path)
                Path(os.fsdecode(path), "inner").write_bytes(name)
                os.chmod(path, value | 0o700)
            case "symlink":
                os.symlink(value, path)
            case "link":
                os.link(some, path)
            case "fifo":
                os.mkfifo(path)
            case "xattr":
                os.setxattr(some, b"user.t", value, follow_symlinks=False)
            case "mode":
                # A plain user's pictures need the owner's rights; locked files are test_home_read's subject.
                os.chmod(some, value if os.geteuid() == 0 else value | 0o700, follow_symlinks=True)
            case "remove":
                if os.path.isdir(some) and not os.path.islink(some):
                    shutil.rmtree(some)
                else:
                    os.unlink(some)
        os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)
    except OSError:
        return


@given(rounds=st.lists(ACTIONS, min_size=1, max_size=3))
def test_every_checkpoint_gives_back_the_home_it_was_made_of(rounds):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(Path(folder), rounds))


async def live(base: Path, rounds: list[list[tuple]]) -> None:
    """Change a home, save it, change it again; then restore every checkpoint on another machine."""
    bucket = MemoryBucket()
    home = base / "home"
    home.mkdir()
    opened = Node(bucket, base / "cache").open()
    await take(opened)
    wanted = {}
    for actions in rounds:
        for action in actions:
            act(os.fsencode(home), action)
        saved = await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
        wanted[saved.info.seq] = picture(home)
        same = await opened.same_as(REF, seq=saved.info.seq, hash=saved.info.hash, home=home)
        assert same, same.paths
    await opened.close()
    other = Node(bucket, base / "other cache").open()
    for seq, seen in wanted.items():
        target = base / f"back {seq}"
        report = await other.restore(REF, seq=seq, into=target)
        assert report.whole
        assert without_setuid(picture(target)) == without_setuid(seen)
    assert (await other.verify(REF, "full")).sound
    await other.close()


def without_setuid(seen: dict) -> dict:
    """setuid and setgid come back by policy only, and are reported."""
    return {path: (facts[0], facts[1] & 0o1777, *facts[2:]) for path, facts in seen.items()}
