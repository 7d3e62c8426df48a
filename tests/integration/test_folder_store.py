"""The folder store on a disk that is full, fails, goes away, or was left by a writer that died."""

import errno
import fcntl
import os
import resource
from pathlib import Path

import pytest

from storage.errors import (
    AmbiguousWrite,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from storage.objects.folder import INCOMING, MARKER, Disk, FolderStore
from storage.objects.open import open_store


class FailingDisk(Disk):
    """Fails each call named in `fails`, as often as it says, with its errno."""

    def __init__(self) -> None:
        self.fails: dict[str, list[int]] = {}
        self.done: list[str] = []

    def write(self, fd: int, data: memoryview) -> int:
        self._maybe("write")
        return super().write(fd, data[: max(1, len(data) // 2)])

    def fsync(self, fd: int) -> None:
        self._maybe("fsync folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "fsync file")
        super().fsync(fd)

    def link(self, source: str, target: str, folder_fd: int) -> None:
        self._maybe("link")
        super().link(source, target, folder_fd)

    def _maybe(self, what: str) -> None:
        self.done.append(what)
        if self.fails.get(what):
            code = self.fails[what].pop(0)
            raise OSError(code, os.strerror(code))


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MARKER
    )


async def test_bytes_and_folder_are_synced_before_success_is_told(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = await FolderStore.open(tmp_path / "s", create=True, disk=disk)
    await store.create("c/1", b"x")
    disk.done.clear()
    await store.create("c/2", b"abcdef")
    assert [what for what in disk.done if what != "write"] == ["fsync file", "link", "fsync folder"]
    assert disk.done.index("fsync file") > disk.done.index("write")
    await store.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "fsync file", "link"])
async def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    tmp_path: Path, where: str, code: int
) -> None:
    disk = FailingDisk()
    store = await FolderStore.open(tmp_path / "s", create=True, disk=disk)
    await store.create("c/1", b"good")
    disk.fails[where] = [code]
    with pytest.raises(StoreFull) as told:
        await store.create("c/2", b"lost")
    assert told.value.retryable
    assert told.value.facts["advice"]
    assert files(tmp_path / "s") == ["c/1"]
    await store.create("c/2", b"after space was freed")
    assert await store.get("c/1") == b"good"
    await store.close()


async def test_a_plain_limit_of_file_size_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, the full disk of a plain user: the kernel itself refuses in the middle of the write."""
    store = await FolderStore.open(tmp_path / "s", create=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreError):
            await store.create("p/1", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert await store.head("p/1") is None
    assert files(tmp_path / "s") == []
    await store.create("p/1", bytes(1_000_000))
    await store.close()


async def test_a_failed_sync_of_the_bytes_is_a_failure_and_its_file_is_thrown_away(tmp_path: Path) -> None:
    """The kernel tells once and forgets: the next try writes the bytes again, to another file."""
    disk = FailingDisk()
    store = await FolderStore.open(tmp_path / "s", create=True, disk=disk)
    disk.fails["fsync file"] = [errno.EIO]
    with pytest.raises(StoreUnavailable):
        await store.create("c/1", b"x")
    assert await store.head("c/1") is None
    await store.create("c/1", b"x")
    assert disk.done.count("fsync file") == 2
    await store.close()


async def test_a_failed_sync_of_the_folder_is_ambiguous_and_ends_writing_there(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = await FolderStore.open(tmp_path / "s", create=True, disk=disk)
    await store.create("p/1", b"x")
    await store.create("c/1", b"x")
    disk.fails["fsync folder"] = [errno.EIO]
    with pytest.raises(AmbiguousWrite):
        await store.create("c/2", b"x")
    for name in ("c/2", "c/3"):
        with pytest.raises(StoreRefused) as told:
            await store.create(name, b"x")
        assert told.value.facts["advice"]
    await store.create("p/2", b"x")
    await store.close()


async def test_a_delete_that_may_not_last_is_no_success(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = await FolderStore.open(tmp_path / "s", create=True, disk=disk)
    await store.create("c/1", b"x")
    disk.fails["fsync folder"] = [errno.EIO]
    with pytest.raises(StoreUnavailable):
        await store.delete("c/1")
    with pytest.raises(StoreRefused):
        await store.delete("c/1")
    await store.close()


async def test_exists_is_told_only_after_the_winners_name_is_durable(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = await FolderStore.open(tmp_path / "s", create=True, disk=disk)
    await store.create("c/1", b"x")
    disk.fails["fsync folder"] = [errno.EIO]
    with pytest.raises(AmbiguousWrite):
        await store.create("c/1", b"x")
    await store.close()


async def test_a_file_system_without_nameless_files_is_served_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def without_tmpfile(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
        return really_open(path, flags, *rest, **named)

    store = await FolderStore.open(tmp_path / "s", create=True)
    monkeypatch.setattr(os, "open", without_tmpfile)
    await store.create("c/1", b"one")
    with pytest.raises(ObjectExists):
        await store.create("c/1", b"two")
    assert await store.get("c/1") == b"one"
    assert [info.name async for info in store.list("")] == ["c/1"]
    assert os.listdir(tmp_path / "s" / INCOMING) == []
    await store.close()


async def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    await (await FolderStore.open(tmp_path / "s", create=True)).close()
    incoming = tmp_path / "s" / INCOMING
    incoming.mkdir()
    (incoming / "dead").write_bytes(b"half")
    living = os.open(incoming / "living", os.O_WRONLY | os.O_CREAT)
    fcntl.flock(living, fcntl.LOCK_EX)
    await (await FolderStore.open(tmp_path / "s")).close()
    assert os.listdir(incoming) == ["living"]
    os.close(living)


async def test_a_folder_that_is_no_store_is_refused_with_advice(tmp_path: Path) -> None:
    """An unmounted disk looks like this: everything would be "not found"."""
    with pytest.raises(StoreRefused) as told:
        await FolderStore.open(tmp_path)
    assert "create=true" in str(told.value.facts["advice"])
    (tmp_path / "somebody's").write_bytes(b"")
    with pytest.raises(StoreRefused):
        await FolderStore.open(tmp_path, create=True)
    with pytest.raises(StoreRefused) as told:
        await FolderStore.open(tmp_path / "missing")
    assert "create=true" in str(told.value.facts["advice"])


async def test_a_store_that_lost_its_marker_finds_nothing_missing(tmp_path: Path) -> None:
    store = await FolderStore.open(tmp_path / "s", create=True)
    await store.create("c/1", b"x")
    (tmp_path / "s" / MARKER).unlink()
    for ask in (store.get("c/2"), store.head("c/2"), store.create("c/2", b"")):
        with pytest.raises(StoreUnavailable):
            await ask
    with pytest.raises(StoreUnavailable):
        [info async for info in store.list("c/")]
    (tmp_path / "s" / MARKER).touch()
    with pytest.raises(ObjectNotFound):
        await store.get("c/2")
    await store.close()


async def test_the_store_follows_its_folder_when_that_is_moved(tmp_path: Path) -> None:
    """And never continues in a new folder of the old name."""
    store = await FolderStore.open(tmp_path / "s", create=True)
    await store.create("c/1", b"x")
    (tmp_path / "s").rename(tmp_path / "moved")
    (tmp_path / "s").mkdir()
    await store.create("c/2", b"y")
    assert files(tmp_path / "moved") == ["c/1", "c/2"]
    assert files(tmp_path / "s") == []
    await store.close()


async def test_nobody_else_may_read_the_folder(tmp_path: Path) -> None:
    store = await FolderStore.open(tmp_path / "s", create=True)
    await store.create("c/1", b"x")
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0
    assert (tmp_path / "s" / "c" / "1").stat().st_mode & 0o377 == 0
    await store.close()


BAD_ADDRESSES = ["", "/plain/path", "ftp://host/x", "file:relative", "file://host/x", "file:///x?creat=true"]
BAD_ADDRESSES += [
    "file:///x?create=yes",
    "file:///x#y",
    "s3:///prefix",
    "s3://bucket",
    "s3://key:secret@bucket/x",
]
BAD_ADDRESSES += [
    "s3://bucket/x?endpoint=host:9000",
    "s3://bucket/x?endpont=http://h",
    "s3://b?region=a&region=b",
]


@pytest.mark.parametrize("url", BAD_ADDRESSES)
async def test_a_wrong_address_is_refused_with_advice(url: str) -> None:
    with pytest.raises(StoreRefused) as told:
        await open_store(url, environment={})
    assert told.value.facts.get("advice")
    assert "secret@" not in str(told.value)


async def test_keys_in_a_file_that_others_may_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    file.chmod(0o644)
    with pytest.raises(StoreRefused) as told:
        await open_store("s3://bucket?endpoint=http://127.0.0.1:1", credentials_file=file)
    assert "chmod 600" in str(told.value.facts["advice"])
    file.chmod(0o600)
    with pytest.raises(StoreUnavailable):
        await open_store("s3://bucket?endpoint=http://127.0.0.1:1", credentials_file=file)
