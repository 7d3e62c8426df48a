"""What the commands about saved files say of a checkpoint, and what they leave on the disk."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import storage
from session_service.base import errors
from session_service.checkpoints import translate
from session_service.cli import console
from session_service.cli.checkpoints import get, state_words
from session_service.client import models


def checkpoint(**more: object) -> models.Checkpoint:
    usual: dict[str, object] = {
        "seq": 12, "hash": "", "session_id": "", "saved_as_of": "2026-11-26T12:00:00.000Z", "reason": "",
        "complete": True, "final": False, "frozen": False, "entries": 3, "bytes": 5, "new_stored_bytes": 0,
        "skipped": 0, "fuzzy": 0, "unreadable": 0, "bad_paths": [],
    }  # fmt: skip
    return models.Checkpoint(**{**usual, **more})  # type: ignore[arg-type]  # named one by one above


def test_a_checkpoint_says_what_it_lacks_what_it_skipped_and_that_it_is_pinned():
    assert state_words(checkpoint()) == "complete"
    assert state_words(checkpoint(complete=False, unreadable=2)) == "2 unreadable"
    assert state_words(checkpoint(fuzzy=1, skipped=3, pinned=True)) == "complete, 1 fuzzy, 3 skipped, pinned"


def test_a_file_with_an_older_content_counts_as_one_that_could_not_be_read():
    """Else a checkpoint that is not complete for its sake alone would say "0 unreadable"."""
    told = storage.CheckpointInfo(
        seq=1, hash=b"", fence=1, session="0" * 32, parent=0, tree_hash=b"", scan_ms=0, time_ms=0,
        reason="", complete=False, final=False, first_of_close=False, frozen=False, owner=(0, 0), entries=1,
        folders=1, bytes=0, new_stored_bytes=0, stale=1, unreadable=1, pinned=True,
    )  # fmt: skip
    assert translate.info(told).unreadable == 2
    assert translate.info(told).pinned


class Api:
    """Gives some pieces, then fails if it is to."""

    def __init__(self, *pieces: bytes, failure: errors.SessionError | None = None) -> None:
        self._pieces, self._failure = pieces, failure

    async def content(self, workspace: str, seq: int, *, path: str) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._failure is not None:
            raise self._failure


def fetch(monkeypatch: pytest.MonkeyPatch, api: Api, to: Path) -> None:
    monkeypatch.setattr(console, "run", lambda act, _folder: asyncio.run(act(api)))
    get("w", 12, "notes.txt", to)


def test_a_file_gets_its_name_when_all_of_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fetch(monkeypatch, Api(b"one", b"two"), tmp_path / "notes")
    fetch(monkeypatch, Api(), tmp_path / "empty")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"notes": b"onetwo", "empty": b""}


def test_what_is_not_there_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(errors.NotFound):
        fetch(monkeypatch, Api(failure=errors.NotFound("no such path")), tmp_path / "notes")
    assert not list(tmp_path.iterdir())


def test_half_a_file_never_has_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(errors.PartUnavailable):
        fetch(monkeypatch, Api(b"one", failure=errors.PartUnavailable("gone")), tmp_path / "notes")
    assert [one.name for one in tmp_path.iterdir()] == ["notes.part"]
