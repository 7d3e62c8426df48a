"""What a checkpoint and a restore keep in memory: buffers of a fixed number, whatever the size of a home.

Counted by the interpreter (tracemalloc), not by a clock or the machine. The home is a few large files, so
that what is kept per entry does not count; it is several times larger than the bound.
"""

import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import storage
from storage.format.limits import MIB
from storage.ops.lanes import RESTORE_BYTES_MAX
from storage.ops.uploads import SAVE_BYTES_MAX
from tests.fakes.storage_rig import MASTER_KEY, REF, take

FILES = 5
FILE_BYTES = 44 * MIB
OTHER_BYTES = 6 * MIB
"""Modules that are imported late, tables of chunks, the log."""


@contextmanager
def peak_below(most: int) -> Iterator[None]:
    """Fail if more than that was allocated at any one time."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak / MIB:.1f} MiB at once, {most / MIB:.1f} allowed"


@pytest.mark.slow
async def test_memory_is_bounded_by_buffers_and_not_by_the_home(tmp_path: Path) -> None:
    """First checkpoint, one without a change, restore and full verify."""
    home = tmp_path / "home"
    home.mkdir()
    for number in range(FILES):
        (home / f"file{number}").write_bytes(os.urandom(FILE_BYTES))
    assert FILES * FILE_BYTES > 2 * SAVE_BYTES_MAX
    spec = storage.StoreSpec(url=f"file://{tmp_path}/objects?create=true")
    opened = await storage.Storage.open(
        spec,
        master_key=MASTER_KEY,
        cache_folder=tmp_path / "cache",
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )
    async with opened:
        fence = await take(opened)
        with peak_below(SAVE_BYTES_MAX + OTHER_BYTES):
            saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
        with peak_below(SAVE_BYTES_MAX + OTHER_BYTES):
            await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
        with peak_below(RESTORE_BYTES_MAX + OTHER_BYTES):
            await opened.restore(REF, seq=saved.info.seq, into=tmp_path / "back")
        with peak_below(RESTORE_BYTES_MAX + OTHER_BYTES):
            assert (await opened.verify(REF, "full")).faults == ()


def test_the_bounds_leave_room_for_the_interpreter_below_150_mb() -> None:
    """Forty for interpreter and libraries; a usual home's entries need some ten."""
    assert max(SAVE_BYTES_MAX, RESTORE_BYTES_MAX) + 50_000_000 <= 150_000_000
