"""The directory of a zip that is kept aside: Python's own reader reads it beyond 16 and 32 bits."""

import zipfile
from pathlib import Path

import pytest

from storage.errors import TargetFull
from storage.ops.zip_directory import ZipDirectory

GIB = 1 << 30


class Kept:
    """What `zipfile` keeps of the members that it wrote."""

    def __init__(self, *members: zipfile.ZipInfo) -> None:
        self.filelist = list(members)
        self.NameToInfo = {member.filename: member for member in members}


def member(name: str, *, size: int = 0, at: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, (2026, 11, 26, 8, 1, 58))
    made.file_size = made.compress_size = size
    made.header_offset = at
    made.CRC = 0
    return made


def read_back(directory: ZipDirectory, path: Path, start: int) -> list[zipfile.ZipInfo]:
    """Put the directory behind `start` bytes that take no room, and let `zipfile` read it."""
    with path.open("wb") as file:
        file.seek(start)
        file.writelines(directory.pieces(start))
    with zipfile.ZipFile(path) as found:
        return found.infolist()


def test_sizes_and_places_beyond_32_bits_are_told(tmp_path: Path) -> None:
    with ZipDirectory(tmp_path) as directory:
        kept = Kept(member("small", size=3, at=0), member("größer", size=5 * GIB, at=100))
        directory.take(kept)
        directory.take(Kept(member("behind", size=7, at=6 * GIB)))
        found = read_back(directory, tmp_path / "large.zip", 7 * GIB)
    assert (kept.filelist, kept.NameToInfo) == ([], {})
    assert [(one.filename, one.file_size, one.header_offset) for one in found] == [
        ("small", 3, 0),
        ("größer", 5 * GIB, 100),
        ("behind", 7, 6 * GIB),
    ]
    assert {one.date_time for one in found} == {(2026, 11, 26, 8, 1, 58)}


@pytest.mark.parametrize("count", [0, 65_534, 65_535, 65_536])
def test_more_members_than_16_bits_count_are_told(tmp_path: Path, count: int) -> None:
    with ZipDirectory(tmp_path) as directory:
        directory.take(Kept(*(member(f"{number}") for number in range(count))))
        assert len(read_back(directory, tmp_path / "many.zip", 0)) == count


def test_a_full_disk_is_told_as_one_at_the_last_write_too(tmp_path: Path) -> None:
    """`/dev/full` takes what is buffered, and refuses it when it is written."""
    with pytest.raises(TargetFull), ZipDirectory(tmp_path) as directory:
        directory._records.close()
        directory._records = open("/dev/full", "r+b")  # noqa: SIM115  # the directory closes it
        directory.take(Kept(member("one")))
        list(directory.pieces(0))
