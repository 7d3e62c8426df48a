"""The files of keys on one machine: exchanged without a moment in which none opens, and remembered."""

import errno
import os
from pathlib import Path

import pytest

from session_service.base import errors
from session_service.checkpoints import key_opening, keyring
from session_service.checkpoints.key_sources import KeySources


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture
def sources(tmp_path: Path) -> KeySources:
    keyring.make(tmp_path / "master.key")
    return KeySources(file=tmp_path / "master.key")


async def test_a_new_master_key_lies_beside_the_old_one_until_the_next(sources: KeySources) -> None:
    first = keyring.read(sources.file)
    assert key_opening.exchange(sources)[0] == keyring.name_of(first)
    second = keyring.read(sources.file)
    ways = await sources.required_ways()
    assert (ways.master, ways.previous) == (second, (first,))
    assert sources.file.stat().st_mode & 0o777 == 0o600
    key_opening.exchange(sources)
    ways = await sources.required_ways()
    assert ways.previous == (second,)
    former = sources.aside.with_name(f"{sources.aside.name}-{keyring.name_of(first)}")
    assert keyring.read(former) == first, "copies of the store from its time can be opened"


@pytest.mark.parametrize("step", ["link", "replace"])
async def test_an_exchange_that_is_cut_off_loses_no_key(
    sources: KeySources, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Die before the old key is put aside, and before the new one is in its place."""
    first = keyring.read(sources.file)

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(os, step, crash)
        with pytest.raises(Crash):
            key_opening.exchange(sources)
    ways = await sources.required_ways()
    assert (ways.master, ways.previous) == (first, ())
    key_opening.exchange(sources)
    assert (await sources.required_ways()).previous == (first,)


async def test_only_a_first_start_without_key_makes_one(sources: KeySources) -> None:
    assert not sources.is_first_start()
    sources.file.unlink()
    assert sources.is_first_start()
    assert await sources.ways() is None
    sources.remember_signers({b"8 bytes.": bytes(32)})
    assert not sources.is_first_start(), "a store was opened from here"
    with pytest.raises(errors.StorageRefused):
        await sources.required_ways()


def test_signers_add_up(sources: KeySources) -> None:
    sources.remember_signers({b"first...": bytes(32)})
    sources.remember_signers({b"second..": bytes(range(32))})
    assert sources.signers() == {b"first...": bytes(32), b"second..": bytes(range(32))}


def test_a_key_is_safe_when_it_was_copied_or_a_code_opens_the_store(sources: KeySources) -> None:
    key = keyring.read(sources.file)
    assert not sources.is_safe(key)
    keyring.note_backup(sources.file, key, "today")
    assert sources.is_safe(key)
    assert not sources.is_safe(bytes(32)), "the copy is of another key"
    sources.put_recovery_public(bytes(range(32)), at="today")
    assert sources.is_safe(bytes(32))
    with pytest.raises(errors.BadInput):
        sources.put_recovery_public(b"short", at="today")


def test_a_key_from_a_command_is_not_exchanged_here(tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="master_key_command"):
        key_opening.exchange(KeySources(file=tmp_path / "master.key", command=("cat", "x")))


async def test_a_named_older_key_must_be_there(sources: KeySources) -> None:
    named = KeySources(file=sources.file, previous_file=sources.file.with_name("gone"))
    with pytest.raises(errors.StorageRefused, match="gone"):
        await named.ways()


def test_a_full_disk_leaves_neither_a_part_of_a_key_nor_drafts_of_one(tmp_path, monkeypatch):
    """A worker that starts again and again would leave one each time."""
    plain = os.write

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(os, "fsync", full)
        keyring.put(tmp_path / "master.key", bytes(32))
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patched, pytest.raises(OSError, match="in part"):
        patched.setattr(os, "write", lambda descriptor, data: plain(descriptor, data[:10]))
        keyring.put(tmp_path / "master.key", bytes(32))
    assert list(tmp_path.iterdir()) == []
