"""`checkpoints restore --to`: what stands on the disk and what is said, however the download goes."""

import asyncio
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session_service.base import errors
from session_service.cli import console, unpacking
from session_service.cli.checkpoints import restore
from session_service.cli.incomplete import INCOMPLETE, MARK
from tests.fakes.descriptors import open_below
from tests.fakes.until import until
from tests.unit.cli.test_cli_checkpoints import checkpoint

BLOCK = 512


def file(name: str, data: bytes = b"x", **more: object) -> bytes:
    made = tarfile.TarInfo(name)
    made.size = len(data)
    for key, value in more.items():
        setattr(made, key, value)
    return made.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


class Api:
    """Gives an archive in pieces, and may fail behind them, the first time or always."""

    def __init__(self, *pieces: bytes, failures: int = 0) -> None:
        self._pieces, self._failures = pieces, failures
        self.asked: list[bool] = []

    async def checkpoints(self, workspace: str) -> list[object]:
        return [checkpoint()]

    async def archive(
        self, workspace: str, seq: int, *, path: str, kind: str, checked: bool
    ) -> AsyncIterator[bytes]:
        self.asked.append(checked)
        failing = len(self.asked) <= self._failures
        for piece in self._pieces[: 1 if failing else None]:
            yield piece
        if failing:
            raise errors.PartUnavailable("it went away")


def bring_back(monkeypatch: pytest.MonkeyPatch, api: Api, to: Path, *, as_json: bool = False) -> None:
    monkeypatch.setattr(console, "run", lambda act, _folder: asyncio.run(act(api)))
    restore("w", 12, "", to, "", None, as_json)


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_folder_gets_its_name_when_all_of_it_is_there(monkeypatch, tmp_path, capsys):
    bring_back(monkeypatch, Api(file("a", b"one"), file("b", b"two") + END), tmp_path / "back", as_json=True)
    assert {one.name: one.read_bytes() for one in (tmp_path / "back").iterdir()} == {"a": b"one", "b": b"two"}
    assert names(tmp_path) == ["back"]
    told = json.loads(capsys.readouterr().out)
    assert (told["bytes"], told["complete"]) == (4 * BLOCK + len(END), True)
    assert (told["left_out"], told["not_made"], told["differs"]) == ([], [], [])


def test_what_is_not_quite_as_it_was_is_told(monkeypatch, tmp_path, capsys):
    odd = file("tool\x1b", mode=0o4755) + file("null", b"", type=tarfile.CHRTYPE)
    bring_back(monkeypatch, Api(odd + END), tmp_path / "back")
    told = capsys.readouterr().out
    assert "differs: tool\\x1b (setuid)\n" in told
    assert "not made again: null\n" in told


def test_a_download_that_breaks_is_begun_anew_and_checked(monkeypatch, tmp_path):
    api = Api(file("a"), file("b") + END, failures=1)
    bring_back(monkeypatch, api, tmp_path / "back")
    assert api.asked == [False, True]
    assert names(tmp_path / "back") == ["a", "b"]
    assert open_below(tmp_path) == 0


def test_a_download_that_breaks_twice_leaves_a_part_and_no_descriptor(monkeypatch, tmp_path):
    large = file("a") + file("large", bytes(5_000))[:3_000]
    with pytest.raises(errors.PartUnavailable):
        bring_back(monkeypatch, Api(large, failures=2), tmp_path / "back")
    assert names(tmp_path) == ["back.part"]
    assert open_below(tmp_path) == 0


def test_a_download_that_ends_too_early_is_no_folder(monkeypatch, tmp_path):
    with pytest.raises(unpacking.ArchiveRefused, match="ends in its middle"):
        bring_back(monkeypatch, Api(file("a"), file("b")), tmp_path / "back")
    assert names(tmp_path) == ["back.part"]


def test_an_archive_that_leads_out_is_refused_by_name(monkeypatch, tmp_path):
    with pytest.raises(unpacking.ArchiveRefused, match=r"name, at /out\."):
        bring_back(monkeypatch, Api(file("/out") + END), tmp_path / "back")
    assert names(tmp_path) == ["back.part"]


def test_the_list_of_what_is_missing_is_told_and_is_a_file(monkeypatch, tmp_path, capsys):
    text = b"Path, object and reason:\n\nlarge\tp/1\tmissing\n"
    listed = file("INCOMPLETE.txt", text, uname=MARK.decode())
    with pytest.raises(SystemExit) as ended:
        bring_back(monkeypatch, Api(file("a"), listed + END), tmp_path / "back")
    assert ended.value.code == INCOMPLETE
    assert "left out: large (needs p/1: missing)" in capsys.readouterr().out
    assert (tmp_path / "back" / "INCOMPLETE.txt").read_bytes() == text


async def test_who_gives_up_leaves_no_thread_and_no_descriptor(tmp_path):
    """Also while a piece is being written."""
    given = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield file("a") + file("large", os.urandom(8 << 20))[: 4 << 20]
        given.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(unpacking.unpacked(pieces(), tmp_path / "back", lambda piece: None))
    await given.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = asyncio.ensure_future(unpacking.unpacked(pieces(), tmp_path / "again", lambda piece: None))
    await until((tmp_path / "again" / "large").exists)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    assert open_below(tmp_path) == 0


def test_a_folder_that_may_not_be_made_is_named(monkeypatch, tmp_path):
    async def none() -> AsyncIterator[bytes]:
        yield END

    with pytest.raises(unpacking.FolderRefused, match="none/back"):
        asyncio.run(unpacking.unpacked(none(), tmp_path / "none" / "back", lambda piece: None))


def test_a_half_made_folder_that_cannot_be_removed_is_named(monkeypatch, tmp_path):
    """Python's own way of removing has too few frames and descriptors for some."""

    def too_deep(path: Path) -> None:
        raise RecursionError

    monkeypatch.setattr("session_service.cli.checkpoints.shutil.rmtree", too_deep)
    with pytest.raises(unpacking.FolderRefused, match=r"back\.part is half made"):
        bring_back(monkeypatch, Api(file("a"), file("b") + END, failures=1), tmp_path / "back")
    assert (tmp_path / "back.part" / "a").exists()
