"""One folder with very many files: what is kept for each while it is saved, what one more file costs, and
that looking into it costs the way to what is wanted.

A million in the soak lane, where the disk is one in memory if there is one. Every act runs in a child.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.format.limits import KIB, MIB
from storage.ops.lanes import RESTORE_BYTES_MAX
from storage.ops.uploads import SAVE_BYTES_MAX
from tests.fakes.child import child_environment
from tests.integration import large_folder_acts as acts

ENTRY_BYTES_MAX = {"first": 300, "again": 150, "one more": 150, "restore": 800}
"""Memory for each entry while a home is saved or restored: what was measured, and a tenth or two."""
SPARE_BYTES = 24 * MIB
"""Modules that are loaded late, pools of the allocator."""
LOOK_BYTES_MAX = 96 * MIB
"""What a look may take, however large the folder is: segments that are kept, some nodes, and the index."""
READS_MAX = 8
"""Store reads of a page by whoever has read nothing yet: headers of some objects, a way of three nodes after
two folders, and a page over two segments. With a million entries 7 were counted, with 20,000 it was 6.
"""
ONE_FILE_BYTES_MAX = 64 * KIB
MEMORY_DISK = Path("/dev/shm")


@pytest.fixture
def place(tmp_path: Path, count: int) -> Iterator[Path]:
    """A folder with room for the home, its copy and some more; in memory for the large one."""
    if count < 100_000 or not os.access(MEMORY_DISK, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="large-folder-", dir=MEMORY_DISK))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def act(name: str, place: Path, count: int) -> dict[str, Any]:
    """Run one act in a child and return its answer."""
    module = [sys.executable, "-P", "-m", "tests.integration.large_folder_acts"]
    done = subprocess.run(
        [*module, name, str(place), str(count)], env=child_environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    answer: dict[str, Any] = json.loads(done.stdout)
    sys.stderr.write(f"{name}: {done.stdout.decode()[:500]}\n")  # shown with -s: the figures of a soak
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_folder_of_very_many_files_is_saved_looked_into_and_brought_back(place: Path, count: int) -> None:
    """First save, no change, one more file, full verify, pages, differences, archives, restore."""
    acts.fill(place, count)

    def within(answer: dict[str, Any], what: str, buffers: int) -> None:
        most = buffers + SPARE_BYTES + ENTRY_BYTES_MAX[what] * count
        assert answer["peak_bytes"] <= most, f"{what}: {answer['peak_bytes'] / count:.0f} bytes an entry"

    first = act("save", place, count)
    assert (first["entries"], first["complete"], first["unchanged"]) == (count + 1, True, False)
    within(first, "first", SAVE_BYTES_MAX)
    again = act("save", place, count)
    assert again["unchanged"]
    within(again, "again", SAVE_BYTES_MAX)
    added = place / "home" / os.fsdecode(acts.FOLDER) / (acts.name_of(count // 2 + 500) + " one more")
    added.write_bytes(b"new")
    one_more = act("save", place, count)
    assert one_more["entries"] == count + 2
    assert one_more["stored_bytes"] <= ONE_FILE_BYTES_MAX
    within(one_more, "one more", SAVE_BYTES_MAX)
    _look(place, count, added)
    back = act("restore", place, count)
    assert (back["entries"], back["whole"]) == (count + 2, True)
    within(back, "restore", RESTORE_BYTES_MAX)
    assert _names(place / "back") == _names(place / "home")


def _look(place: Path, count: int, added: Path) -> None:
    """Look at what was saved in every way there is; the memory for it does not know the folder."""
    verified = act("verify", place, count)
    assert verified["faults"] == []
    pages = act("pages", place, count)
    assert pages["wrong"] == []
    assert max(pages["reads"]) <= READS_MAX
    assert pages["found"] == [acts.name_of(count - 1)]
    assert (pages["content"], pages["file_reads"] <= READS_MAX) == ("1000", True)
    assert act("all_pages", place, count)["seen"] == count + 1
    compared = act("compare", place, count)
    assert ["added", str(added.relative_to(place / "home"))] in compared["changes"]
    assert compared["reads"] <= 2 * READS_MAX
    archived = act("archive", place, count)
    with zipfile.ZipFile(place / "all.zip") as found:
        assert len(found.infolist()) == count + 2
    for answer in (pages, compared, archived):
        assert answer["peak_bytes"] <= LOOK_BYTES_MAX


def _names(root: Path) -> list[str]:
    return sorted(os.listdir(root / os.fsdecode(acts.FOLDER)))
