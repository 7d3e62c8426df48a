"""A scan that fails, or is told a name twice: nothing stays open, and nothing is stored twice."""

import errno
import os
from pathlib import Path

import pytest

from storage.objects.memory import MemoryBucket
from storage.ops import gather
from tests.fakes.descriptors import open_below
from tests.fakes.home import picture
from tests.fakes.storage_rig import REF, Node, take, write


async def test_a_scan_that_fails_while_readers_are_behind_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also those of the batch that waited for a reader when the failure was met."""
    home = tmp_path / "home"
    home.mkdir()
    write(home, **{f"folder{number}__file": b"content" for number in range(20)})
    monkeypatch.setattr(gather, "BATCH_FOLDERS", 2)
    monkeypatch.setattr(gather, "BATCHES_WAITING_MAX", 1)
    opened = Node(MemoryBucket(), tmp_path / "node").open()
    fence = await take(opened)

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EMFILE, "as if")

    with monkeypatch.context() as broken_reading:
        broken_reading.setattr(gather, "read_stable", broken)
        for _ in range(3):
            with pytest.raises(OSError, match="as if"):
                await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
        assert open_below(home) == 0


async def test_a_name_that_is_listed_twice_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whether a name that is replaced while its folder is listed is told twice, POSIX leaves open."""
    home = tmp_path / "home"
    home.mkdir()
    write(home, file=b"content", folder__file=b"content", other=b"content")
    scandir = os.scandir

    class Twice:
        def __init__(self, where: int) -> None:
            with scandir(where) as entries:
                self.found = list(entries)

        def __enter__(self):
            return iter(self.found * 2)

        def __exit__(self, *exc: object) -> None:
            return None

    opened = Node(MemoryBucket(), tmp_path / "node").open()
    fence = await take(opened)
    with monkeypatch.context() as twice:
        twice.setattr("storage.scan.walk.os.scandir", Twice)
        done = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    assert done.info.entries == 4
    back = tmp_path / "back"
    report = await opened.restore(REF, seq=done.info.seq, into=back)
    assert report.complete
    assert picture(back) == picture(home)
