"""Folders of several parts: what stands of them from save to save is what a look at everything would make."""

import os
import random
import shutil
from pathlib import Path

import pytest

from storage.format import tree
from storage.objects.memory import MemoryBucket
from tests.fakes.storage_rig import REF, Node, take

ROUNDS = 12
FILES = 700


@pytest.fixture(autouse=True)
def small_nodes(monkeypatch):
    """Cut after some six entries and at twelve, so that a folder of hundreds has parts of every kind."""
    monkeypatch.setattr(tree, "CUT_ITEMS_MIN", 4)
    monkeypatch.setattr(tree, "CUT_ITEMS_MAX", 12)
    monkeypatch.setattr(tree, "CUT_NODE_BYTES", 400)
    monkeypatch.setattr(tree, "_cuts", lambda name, *, level: name[-1] % 3 == 0)
    monkeypatch.setattr("storage.ops.stat_cache.RACY_NS", -3_600_000_000_000)


def change(folder: Path, chance: random.Random) -> None:
    """One edit anywhere in the folder: its first and last names, too."""
    names = sorted(os.listdir(folder))
    name = chance.choice([names[0], names[-1], *chance.sample(names, 5)])
    path = folder / name
    what = chance.randrange(8)
    if what < 3 or not names:
        new = folder / f"{chance.choice(['0', name, 'zz'])}{chance.randrange(1_000)}"
        if not new.exists():
            new.write_bytes(b"new")
    elif what == 3 and path.is_file():
        path.write_bytes(b"x" * chance.randrange(1, 90))
    elif what == 4 and path.is_dir() and not path.is_symlink():
        (path / f"inner {chance.randrange(99)}").write_bytes(b"")
    elif what == 5 and path.is_file() and not path.is_symlink():
        path.unlink()
        path.mkdir()
    elif what == 6 and path.is_file():
        link = folder / f"{name} link"
        if not link.exists():
            os.link(path, link)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        if chance.random() < 0.5:
            path.write_bytes(b"was a folder")
    else:
        path.unlink()


@pytest.mark.parametrize("seed", [1, 2])
async def test_any_edits_of_a_folder_of_many_parts_leave_the_same_tree(tmp_path: Path, seed: int) -> None:
    """After each save another node, which remembers nothing, finds nothing that has changed."""
    chance = random.Random(seed)
    home = tmp_path / "home"
    many = home / "many"
    many.mkdir(parents=True)
    for number in range(FILES):
        (many / f"{chance.randrange(10**6):06d}").write_bytes(b"%d" % number)
    for _ in range(20):
        (many / f"{chance.randrange(10**6):06d} folder").mkdir()
    bucket = MemoryBucket()
    warm = Node(bucket, tmp_path / "warm").open()
    fence = await take(warm)
    for number in range(ROUNDS):
        saved = await warm.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
        looked = (
            await Node(bucket, tmp_path / f"cold {number}")
            .open()
            .checkpoint(REF, home=home, fence=fence, session="s", reason="test")
        )
        assert looked.unchanged, f"seed {seed}, round {number}"
        assert (looked.info.entries, looked.info.folders) == (saved.info.entries, saved.info.folders)
        counted = [1 for path in home.rglob("*")]
        assert saved.info.entries == len(counted)
        for _ in range(chance.choice([0, 1, 1, 2, 9])):
            change(many, chance)


async def test_one_more_file_costs_the_part_that_it_comes_into(tmp_path: Path, monkeypatch) -> None:
    """The other nodes of the folder are neither encoded nor hashed."""
    many = tmp_path / "home" / "many"
    many.mkdir(parents=True)
    for number in range(FILES):
        (many / f"{number:06d}").touch()
    opened = Node(MemoryBucket(), tmp_path / "node").open()
    fence = await take(opened)
    await opened.checkpoint(REF, home=many.parent, fence=fence, session="s", reason="test")
    encoded = list[int]()
    encode = tree.encode_leaf
    monkeypatch.setattr(tree, "encode_leaf", lambda raws: encoded.append(len(raws)) or encode(raws))
    (many / f"{FILES // 2:06d} more").touch()
    saved = await opened.checkpoint(REF, home=many.parent, fence=fence, session="s", reason="test")
    assert not saved.unchanged
    assert sum(encoded) < 60
