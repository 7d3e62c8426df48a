"""A user's quota is used up, or a process has few descriptors: told, nothing lost, the next try works.

A quota is no full disk: the disk says that there is room, so it is met in the middle. Kernels of test
machines rarely have quotas, so EDQUOT comes from `tests/fakes/quota.py`; the same acts passed on btrfs with
a limited qgroup (docs/design/0018-proof-of-the-storage.md).
"""

import asyncio
import errno
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import storage
from storage.objects.folder import FolderStore
from storage.repository.chunker import require_compiled
from tests.fakes.home import picture
from tests.fakes.quota import Quota
from tests.fakes.storage_rig import REF, take
from tests.fakes.unprivileged import as_plain_user
from tests.integration.quota_acts import open_in, restore_into, save_into

Act = Callable[[Path, Path, Callable[[], None]], Awaitable[dict[str, Any]]]


@pytest.fixture(autouse=True, scope="module")
def parts_loaded() -> None:
    """A plain user may not be able to read where the tests' own Python lies."""
    require_compiled()


def under_quota(tmp_path: Path, act: Act, **limits: int) -> dict[str, Any]:
    """Play an act as a plain user, in a process of its own."""

    def play() -> dict[str, Any]:
        limited, outside = tmp_path / "limited", tmp_path / "outside"
        limited.mkdir()
        outside.mkdir()
        with Quota(limited, **limits) as quota:
            answer = asyncio.run(act(limited, outside, quota.lift))
        return {**answer, "refused": quota.refused > 0}

    return as_plain_user(tmp_path, play)


SAVED = {
    "told": ["store_full", True],
    "listed": True,
    "first": "before",
    "sound while full": True,
    "after": True,
    "sound after": True,
    "refused": True,
}


def test_a_save_beyond_a_quota_of_bytes_is_told_and_the_next_one_after_it_was_raised_succeeds(tmp_path):
    assert under_quota(tmp_path, save_into, bytes_max=1_000_000) == SAVED


def test_a_save_beyond_a_quota_of_names_is_told_as_well(tmp_path):
    """19 objects and folders are there after the first one."""
    assert under_quota(tmp_path, save_into, bytes_max=1 << 40, names_max=20) == SAVED


@pytest.mark.parametrize("limits", [{"bytes_max": 1_000_000}, {"bytes_max": 1 << 40, "names_max": 20}])
def test_a_restore_beyond_a_quota_is_told_and_is_taken_up(tmp_path, limits):
    assert under_quota(tmp_path, restore_into, **limits) == {
        "told": ["target_full", errno.EDQUOT],
        "partly": True,
        "others": "kept",
        "whole": True,
        "refused": True,
    }


@pytest.mark.parametrize("spare", [0, 1, 3, 7, 20, 60])
def test_a_save_with_few_descriptors_is_whole_or_is_told_and_loses_nothing(tmp_path, spare):
    """Never a checkpoint that calls a home unreadable, nor a home that is "missing", because of it."""
    told = as_plain_user(tmp_path, lambda: asyncio.run(save_with(tmp_path, spare)))
    assert told["complete"] or told["code"] in {"store_unavailable", "descriptors_exhausted"}, told
    assert told["retryable"]
    assert told["after"]


def lowest_free() -> int:
    """Return the number that the next open file would have: with it as the limit there is none."""
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    return fd


async def save_with(base: Path, spare: int) -> dict[str, Any]:
    home = base / "home"
    for number in range(20):
        (home / f"folder{number}" / "deep" / "deeper").mkdir(parents=True)
        (home / f"folder{number}" / "deep" / "deeper" / "file").write_bytes(os.urandom(60_000))
    opened = await open_in(base / "store", cache=base / "cache")
    fence = await take(opened)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    answer: dict[str, Any] = {"code": "", "retryable": True, "complete": False}
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free() + spare, before[1]))
    try:
        saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
        answer["complete"] = saved.info.complete
    except storage.StorageError as exc:
        answer.update(code=exc.code, retryable=exc.retryable, facts=str(exc))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    await opened.close()
    cold = await open_in(base / "store", cache=base / "cold cache")
    await cold.restore(REF, seq=saved.info.seq, into=base / "back")
    answer["after"] = (
        saved.info.complete
        and picture(base / "back") == picture(home)
        and (await cold.verify(REF, "full")).faults == ()
    )
    await cold.close()
    return answer


async def names(store: FolderStore) -> list[str]:
    return [info.name async for info in store.list("")]


async def test_a_folder_store_tells_that_descriptors_are_missing_and_works_again(tmp_path):
    store = await FolderStore.open(tmp_path / "store", create=True)
    await store.create("c/1", b"x")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free(), before[1]))
    try:
        for call in (lambda: store.create("c/2", b"y"), lambda: store.get("c/1"), lambda: names(store)):
            with pytest.raises(storage.StoreUnavailable):
                await call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert await names(store) == ["c/1"]
    await store.create("c/2", b"y")
    await store.close()
