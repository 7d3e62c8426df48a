"""Object store in a folder of this machine (or of a mounted share).

An object is written to a nameless file, fsynced, and then given its name by `link()`, which fails if the
name is taken: that is the create-only write on which the commit log stands. It is never renamed into place,
because a rename overwrites. The folder is fsynced before success is reported.

The folder belongs to the service, not to a user, so names inside it are not hostile; they are checked all
the same. A marker file tells an object store from an empty mount point: without it "not found" would be
said of everything after a lost mount. It is not a queue and holds no index: the folder tree is all there
is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from storage.errors import (
    AmbiguousWrite,
    ObjectExists,
    ObjectNotFound,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from storage.objects.names import OBJECT_BYTES_MAX, check_name, check_prefix
from storage.objects.pieces import NEAR_PIECE_BYTES
from storage.objects.store import ObjectInfo
from storage.objects.versions import ObjectVersion

MARKER = ".object-store"
INCOMING = ".incoming"
"""Named temporary files, only where the file system knows no nameless ones (O_TMPFILE)."""

THREADS = 4
LIST_BATCH = 1_000
FOLDER_MODE = 0o700
OBJECT_MODE = 0o400

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_PERMANENT = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EINVAL,
        errno.EFBIG,
    }
)
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Disk:
    """The few calls that a failing disk answers badly. Tests hand in a disk that fails; nothing else
    replaces it.
    """

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def link(self, source: str, target: str, folder_fd: int) -> None:
        os.link(source, target, dst_dir_fd=folder_fd, follow_symlinks=True)


class FolderStore:
    """An `ObjectStore` in one folder. Open it with `FolderStore.open`, which also proves that the folder is
    one.
    """

    def __init__(self, *, root: Path, root_fd: int, disk: Disk) -> None:
        self._root = root
        self._root_fd = root_fd
        self._disk = disk
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="folder-store")
        self._doubtful: set[str] = set()
        """Folders whose fsync failed. The kernel forgets after telling once, so nothing is written there
        any more.
        """

    @classmethod
    async def open(cls, root: Path, *, create: bool = False, disk: Disk | None = None) -> FolderStore:
        """Open the store in `root`; with `create` make the folder and its marker if they are missing."""
        disk = disk or Disk()
        with _told(str(root)):
            root_fd = await asyncio.to_thread(_open_root, root, create, disk)
        return cls(root=root, root_fd=root_fd, disk=disk)

    @property
    def piece_bytes(self) -> int:
        """As `objects/pieces.py`."""
        return NEAR_PIECE_BYTES

    async def create(self, name: str, data: bytes | bytearray) -> None:
        check_name(name)
        assert len(data) <= OBJECT_BYTES_MAX, "the writer splits before this limit"
        await self._run(self._create, name, data)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        check_name(name)
        assert start >= 0
        assert length is None or length >= 0
        return await self._run(self._get, name, start, length)

    async def head(self, name: str) -> int | None:
        check_name(name)
        return await self._run(self._head, name)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        walk = self._walk(prefix)
        while True:
            batch = await self._run(_take, walk, LIST_BATCH)
            for info in batch:
                yield info
            if len(batch) < LIST_BATCH:
                return

    async def delete(self, name: str) -> None:
        check_name(name)
        await self._run(self._delete, name)

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...]:
        """None: a deleted file is gone (what snapshots of the file system keep, only its owner knows)."""
        check_prefix(prefix)
        return ()

    async def delete_version(self, name: str, version: str) -> None:
        raise AssertionError("it lists none")

    async def close(self) -> None:
        if self._root_fd < 0:
            return
        await asyncio.to_thread(self._pool.shutdown, wait=True)
        os.close(self._root_fd)
        self._root_fd = -1

    # -- below this line everything runs in a thread of the pool
    # ------------------------------------------------

    async def time_ms(self) -> int | None:
        """Return the time of a file that is made for it; as `objects/clock.py`."""
        return await self._run(self._time_ms)

    def _time_ms(self) -> int:
        with _told(str(self._root)):
            self._check_root()
            with _fresh_file(self._root_fd, self._root_fd) as (fd, _):
                return os.fstat(fd).st_mtime_ns // 1_000_000

    async def _run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if self._root_fd < 0:
            raise StoreRefused(reason="the object store was closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))

    def _create(self, name: str, data: bytes | bytearray) -> None:
        folder, _, leaf = name.rpartition("/")
        with _told(name):
            self._check_root()
            folder_fd = self._make_folders(folder)
            try:
                self._refuse_doubtful(folder)
                self._write_and_link(folder, folder_fd, leaf, name, data)
            finally:
                os.close(folder_fd)

    def _write_and_link(
        self, folder: str, folder_fd: int, leaf: str, name: str, data: bytes | bytearray
    ) -> None:
        with _fresh_file(self._root_fd, folder_fd) as (fd, source):
            rest = memoryview(data)
            while rest:
                rest = rest[self._disk.write(fd, rest) :]
            os.fchmod(fd, OBJECT_MODE)
            self._disk.fsync(fd)
            try:
                self._disk.link(source, leaf, folder_fd)
            except FileExistsError:
                # The winner's bytes were synced before it linked, its folder entry perhaps not yet. Whoever
                # is told "exists" may find its own bytes there and count them as durable.
                self._sync_folder(folder, folder_fd, name)
                raise ObjectExists(name=name) from None
        self._sync_folder(folder, folder_fd, name)

    def _sync_folder(self, folder: str, folder_fd: int, name: str) -> None:
        try:
            self._disk.fsync(folder_fd)
        except OSError as exc:
            self._doubtful.add(folder)
            raise AmbiguousWrite(name=name, reason="fsync of its folder failed", errno=exc.errno) from exc

    def _refuse_doubtful(self, folder: str) -> None:
        if folder in self._doubtful:
            raise StoreRefused(
                folder=str(self._root / folder),
                reason="an fsync failed here earlier",
                advice="check the disk (dmesg, smartctl), then restart the service",
            )

    def _make_folders(self, folder: str) -> int:
        """Return a descriptor of `folder`, made part by part, each new part durable in its parent."""
        fd = os.dup(self._root_fd)
        so_far = ""
        for part in folder.split("/") if folder else ():
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, FOLDER_MODE, dir_fd=fd)
                    self._sync_folder(so_far, fd, folder)
                below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
            so_far = f"{so_far}/{part}".lstrip("/")
        return fd

    def _get(self, name: str, start: int, length: int | None) -> bytes:
        with _told(name):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                raise ObjectNotFound(name=name) from None
            try:
                size = os.fstat(fd).st_size
                end = size if length is None else min(size, start + length)
                return _read(fd, start, max(0, end - start))
            finally:
                os.close(fd)

    def _head(self, name: str) -> int | None:
        with _told(name):
            try:
                return os.stat(name, dir_fd=self._root_fd, follow_symlinks=False).st_size
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return None

    def _delete(self, name: str) -> None:
        folder, _, leaf = name.rpartition("/")
        with _told(name):
            try:
                folder_fd = os.open(
                    folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root_fd
                )
            except FileNotFoundError:
                self._check_root()
                return
            try:
                self._refuse_doubtful(folder)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(leaf, dir_fd=folder_fd)
                try:
                    self._disk.fsync(folder_fd)
                except OSError:
                    self._doubtful.add(folder)
                    raise
            finally:
                os.close(folder_fd)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        with _told(prefix):
            self._check_root()
            folder = prefix.rpartition("/")[0]
            yield from self._walk_folder(folder, prefix)
            self._check_root()

    def _walk_folder(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        for name, is_folder in self._entries(folder):
            full = f"{folder}/{name}" if folder else name
            if is_folder:
                if full.startswith(prefix) or prefix.startswith(f"{full}/"):
                    yield from self._walk_folder(full, prefix)
            elif full.startswith(prefix):
                try:
                    size = os.stat(full, dir_fd=self._root_fd, follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue  # deleted while we listed
                yield ObjectInfo(name=full, size=size)

    def _entries(self, folder: str) -> Sequence[tuple[str, bool]]:
        """Names of one folder in the order a bucket lists them: a folder sorts as if its name ended with a
        slash.
        """
        try:
            fd = os.open(folder or ".", _FOLDER, dir_fd=self._root_fd)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return []
        try:
            with os.scandir(fd) as entries:
                found = [
                    (entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        finally:
            os.close(fd)
        return sorted(found, key=lambda item: item[0] + "/" if item[1] else item[0])

    def _check_root(self) -> None:
        """Only with the marker in sight does "not found" mean anything."""
        try:
            os.stat(MARKER, dir_fd=self._root_fd, follow_symlinks=False)
        except OSError as exc:
            raise StoreUnavailable(
                folder=str(self._root), reason="the folder is gone or lost its marker", errno=exc.errno
            ) from exc


def _open_root(root: Path, create: bool, disk: Disk) -> int:
    if create:
        root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    try:
        fd = os.open(root, _FOLDER)
    except FileNotFoundError:
        raise StoreRefused(
            folder=str(root),
            reason="no such folder",
            advice="is the disk mounted? To start a new store there, add ?create=true to its address",
        ) from None
    try:
        _check_marker(root, fd, create, disk)
        _sweep_incoming(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_marker(root: Path, fd: int, create: bool, disk: Disk) -> None:
    try:
        os.stat(MARKER, dir_fd=fd, follow_symlinks=False)
        return
    except FileNotFoundError:
        if not create:
            raise StoreRefused(
                folder=str(root),
                reason=f"not an object store: it has no {MARKER}",
                advice="is the disk mounted? To start a new store there, add ?create=true to its address",
            ) from None
    if any(not name.startswith(".") and name != "lost+found" for name in os.listdir(fd)):
        raise StoreRefused(
            folder=str(root),
            reason="other files lie in it",
            advice="give the object store a folder of its own",
        )
    with contextlib.suppress(FileExistsError):
        os.close(os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400, dir_fd=fd))
    disk.fsync(fd)


@contextlib.contextmanager
def _fresh_file(root_fd: int, folder_fd: int) -> Iterator[tuple[int, str]]:
    """A new file without an object name, and a path by which `link` finds it. Gone afterwards unless
    linked.
    """
    try:
        fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    except OSError as exc:
        if exc.errno not in _NO_TMPFILE:
            raise
        with _named_file(root_fd) as named:
            yield named
        return
    try:
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@contextlib.contextmanager
def _named_file(root_fd: int) -> Iterator[tuple[int, str]]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(INCOMING, FOLDER_MODE, dir_fd=root_fd)
    name = f"{INCOMING}/{os.getpid()}-{secrets.token_hex(8)}"
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # tells the sweep of another process that this one is in use
        yield fd, f"/proc/self/fd/{root_fd}/{name}"
    finally:
        os.unlink(name, dir_fd=root_fd)
        os.close(fd)


def _sweep_incoming(root_fd: int) -> None:
    """Remove temporary files of writers that died: those whose lock is free."""
    try:
        folder_fd = os.open(INCOMING, _FOLDER, dir_fd=root_fd)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(folder_fd):
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder_fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=folder_fd)
                finally:
                    os.close(fd)
    finally:
        os.close(folder_fd)


def _read(fd: int, start: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(fd, min(length, 1 << 24), start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _take(items: Iterator[ObjectInfo], count: int) -> list[ObjectInfo]:
    batch: list[ObjectInfo] = []
    for item in items:
        batch.append(item)
        if len(batch) == count:
            break
    return batch


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an error of the operating system into one of ours, which says whether trying again may help."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StoreFull(
                what=what, errno=exc.errno, advice="free space on the disk of the object store"
            ) from exc
        permanent = exc.errno in _PERMANENT
        raise (StoreRefused if permanent else StoreUnavailable)(
            what=what, errno=exc.errno, reason=exc.strerror or "unknown"
        ) from exc
