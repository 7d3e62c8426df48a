"""Real file systems that are really full, and one that is mounted inside a home."""

import errno
from pathlib import Path

import pytest

from tests.fakes.small_disk import on_small_disk

ACTS = "tests.integration.small_disk_acts"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "home" / "disk"
    folder.mkdir(parents=True)
    return folder


def test_a_full_disk_hurts_no_object_and_heals_when_space_is_freed(disk: Path) -> None:
    answer = on_small_disk(disk, ACTS, "fill_a_store", options="size=4m")
    assert answer == [["store_full", True, errno.ENOSPC], ["c/1"], "good", 5]


def test_a_lack_of_inodes_is_a_full_disk_too(disk: Path) -> None:
    assert on_small_disk(disk, ACTS, "fill_a_store_with_names", options="nr_inodes=60") == [
        ["store_full", errno.ENOSPC],
        True,
    ]


def test_a_restore_that_does_not_fit_is_told_first_and_harms_only_its_own_folder(disk: Path) -> None:
    assert on_small_disk(disk, ACTS, "fill_a_restore", options="size=4m") == [
        ["bytes", errno.ENOSPC],
        ["fresh", "last good state"],
        "kept",
    ]


def test_another_file_system_in_a_home_is_told_and_not_entered(disk: Path) -> None:
    (disk.parent / "mine").write_bytes(b"x")
    assert on_small_disk(disk, ACTS, "walk_over_a_mount", options="size=1m") == [
        ["", None],
        ["mine", None],
        ["disk", "EXDEV"],
    ]
