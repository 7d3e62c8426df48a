"""Walk a home folder that its user may change at any moment.

Every look-up is relative to an open folder and follows no link, so that nothing outside the home can be
reached, whatever is renamed, replaced or linked meanwhile. A folder is opened before it is reported, and
what is reported is what the descriptor says. What vanished is left out; what cannot be read is reported
with its errno, never left out in silence. Other file systems mounted inside are reported and not entered.

The walk keeps the names that are still to come, not stat results, of the folders it stands in, and few
descriptors: at great depth the upper ones are closed and reached again through `..`, whose identity is
checked. It reads no file contents.

Cost: about 5 us per entry, the kernel's price (storage.md 2.3).
"""

import errno
import os
import stat
from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import eq
from typing import Protocol

from storage.errors import Cancelled, DescriptorsExhausted, HomeMissing, HomeMoved, RouteLost
from storage.scan.descriptors import require_descriptors
from storage.scan.entry import Before, Earlier, Found, Kind, StatFacts
from storage.scan.rights import READ_FOLDER, open_folder

OPEN_LEVELS_MAX = 32
"""Folders held open at once on the way down."""

DEPTH_MAX = 4_096
"""Of the format. A deeper folder is reported with ENAMETOOLONG and not entered."""

PATH_BYTES_MAX = 16 * 1024
"""Four times what a program can open by path. The walk holds a path for each level it stands in, so without a
limit a hostile home could make it hold gigabytes. Treated like DEPTH_MAX."""

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
}
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_PERMISSIONS = 0o7777
NAMES_AT_ONCE = 1_024
"""Of a folder that nobody has seen before."""


class Unseen:
    """Implements `Earlier` for a folder that nobody has seen before. A name is held until its turn comes."""

    def over(self, names: list[bytes]) -> Iterator[tuple[list[bytes], Mapping[bytes, Before], list[bytes]]]:
        while names:
            some = names[: -NAMES_AT_ONCE - 1 : -1]
            del names[-len(some) :]
            yield some, {}, []


UNSEEN = Unseen()


def _never() -> bool:
    return False


class Route(Protocol):
    """Which parts of a home to walk, for whoever knows that the others are as they were."""

    @property
    def full(self) -> bool:
        """Return whether it passes nothing, and only wants to be told of folders."""
        ...

    def enter(self, path: bytes, folder_fd: int) -> list[bytes] | None:
        """Return the only subfolders to go to, or None to list the folder. Asked before it is listed."""
        ...

    def passes(self, path: bytes, facts: StatFacts) -> bool:
        """Return whether nothing is to be looked at in or beneath a subfolder of a listed folder."""
        ...


def walk(
    root_fd: int,
    *,
    repair_rights: bool = False,
    stop: Callable[[], bool] = _never,
    route: Route | None = None,
) -> Iterator[Found]:
    """Yield the root and everything beneath it: a folder, its other entries by name, then its subfolders.

    Args:
        root_fd: an open folder; stays the caller's.
        repair_rights: make folders of our own readable for the time of the walk.
        stop: asked at every entry.
        route: None walks everything. Folders that it passes are reported as `passed`.

    Raises:
        Cancelled: `stop` said so.
        HomeMoved: folders were moved about so that the way back up was lost.
        RouteLost: a folder that the route names is not there.
    """
    state = _Walk(root_fd=root_fd, repair_rights=repair_rights, stop=stop, route=route)
    try:
        for step in state.run():
            if isinstance(step, Found):
                yield step
                continue
            yield Found(step.path, step.name, Kind.FOLDER, step.facts, step.folder_fd, None, step.error)
            yield from step.others()
    finally:
        state.close()


def walk_folders(
    root_fd: int,
    *,
    repair_rights: bool = False,
    stop: Callable[[], bool] = _never,
    route: Route | None = None,
) -> "Iterator[FolderFound | Found]":
    """Yield each folder once, to be asked for its other entries at once; as `walk` in everything else.

    A folder that is not entered comes as a `Found`; so does what was put in its place meanwhile.
    """
    state = _Walk(root_fd=root_fd, repair_rights=repair_rights, stop=stop, route=route)
    try:
        yield from state.run()
    finally:
        state.close()


def facts_of(found: os.stat_result) -> StatFacts:
    """The part of a stat result that matters here."""
    mode = found.st_mode
    is_device = stat.S_IFMT(mode) in _DEVICES
    return StatFacts(
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
        mode & _PERMISSIONS,
        found.st_uid,
        found.st_gid,
        found.st_nlink,
        os.major(found.st_rdev) if is_device else 0,
        os.minor(found.st_rdev) if is_device else 0,
    )


@dataclass(slots=True, kw_only=True)
class _Level:
    """One folder on the way from the root to where the walk stands."""

    path: bytes
    name: bytes
    fd: int | None
    facts: StatFacts
    mode_before: int | None = None
    """To be put back: the folder was unlocked for the walk."""
    others: list[bytes] = field(default_factory=list)
    folders: list[bytes] = field(default_factory=list)
    """Both descend, so that the next one is taken from the end."""
    error: int | None = None
    listed: bool = True
    """False: the names to go to were given."""

    @property
    def identity(self) -> tuple[int, int]:
        return self.facts.device, self.facts.inode


class FolderFound:
    """A folder in which the walk stands, until its next step."""

    __slots__ = ("_level", "_walk", "folder_fd")

    def __init__(self, walk: "_Walk", level: _Level, *, folder_fd: int) -> None:
        self._walk = walk
        self._level = level
        self.folder_fd = folder_fd
        """Of the folder it lies in; for the root its own."""

    @property
    def path(self) -> bytes:
        return self._level.path

    @property
    def name(self) -> bytes:
        return self._level.name

    @property
    def facts(self) -> StatFacts:
        return self._level.facts

    @property
    def error(self) -> int | None:
        """errno: it could not be listed, and nothing below it follows."""
        return self._level.error

    @property
    def fd(self) -> int:
        """The folder itself, open."""
        assert self._level.fd is not None, "the walk stands in it"
        return self._level.fd

    def others(self, earlier: Earlier = UNSEEN, settled_ns: int = 0) -> Iterator[Found]:
        """Look at each entry that is no folder; to be used up before the walk's next step, and once.

        Args:
            earlier: what need not be yielded if it is as it was then.
            settled_ns: how much older than that look their times must be.
        """
        return self._walk.others(self._level, earlier, settled_ns)


class _Walk:
    def __init__(
        self, *, root_fd: int, repair_rights: bool, stop: Callable[[], bool], route: Route | None
    ) -> None:
        self._route = route
        self._root_fd = root_fd
        self._repair_rights = repair_rights
        self._stop = stop
        self._levels: list[_Level] = []
        self._device = os.fstat(root_fd).st_dev

    def run(self) -> "Iterator[FolderFound | Found]":
        try:
            fd, mode_before = open_folder(b".", self._root_fd, repair=self._repair_rights)
        except OSError as exc:
            require_descriptors(exc)
            raise HomeMissing(errno=exc.errno) from exc
        root = self._stand_in(b"", b"", fd, mode_before)
        yield FolderFound(self, root, folder_fd=fd)
        while self._levels:
            level = self._levels[-1]
            if level.folders:
                yield from self._enter(level, level.folders.pop())
            else:
                self._leave()

    def close(self) -> None:
        """Put modes back and close, deepest first; also after an error or when the caller lost interest."""
        while self._levels:
            try:
                self._leave()
            except (HomeMoved, DescriptorsExhausted, OSError):
                continue  # the way up is lost; levels still open are handled, the others hold nothing

    def others(self, level: _Level, earlier: Earlier, settled_ns: int) -> Iterator[Found]:
        """Everything in this folder that is no folder and not as it was before, in order."""
        names, level.others = level.others, []
        fd, stop, look = level.fd, self._stop, os.stat
        assert fd is not None
        for some, before, same in earlier.over(names):
            for name in some:
                if stop():
                    raise Cancelled(what="walk")
                try:
                    seen = look(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    yield _unknown(level, name, Kind.FILE, exc)
                    continue
                known = before.get(name)
                if known is not None and known[1] == seen[:7]:
                    modified, changed = seen.st_mtime_ns, seen.st_ctime_ns
                    newest = max(changed, modified)
                    if (modified, changed) == known[2:4] and newest + settled_ns < known[4]:
                        same.append(name)
                        continue
                if stat.S_ISDIR(seen.st_mode):
                    insort(level.folders, name, key=_descending)  # became a folder since it was listed
                else:
                    yield self._other(level, name, seen)

    def _other(self, level: _Level, name: bytes, seen: os.stat_result) -> Found:
        assert level.fd is not None
        kind = _KINDS.get(stat.S_IFMT(seen.st_mode), Kind.SOCKET)
        target, error = None, None
        if seen.st_dev != self._device:
            error = errno.EXDEV
        elif kind is Kind.SYMLINK:
            try:
                target = os.readlink(name, dir_fd=level.fd)
            except OSError as exc:
                error = exc.errno
        return Found(
            path=_join(level.path, name),
            name=name,
            kind=kind,
            facts=facts_of(seen),
            folder_fd=level.fd,
            target=target,
            error=error,
        )

    def _enter(self, parent: _Level, name: bytes) -> "Iterator[FolderFound | Found]":
        """Open one subfolder, list it, report it, and stand in it; or report why not."""
        if self._stop():
            raise Cancelled(what="walk")
        assert parent.fd is not None
        if self._route is not None and parent.listed and not self._route.full:
            passed = self._passed(self._route, parent, name)
            if passed is not None:
                yield passed
                return
        try:
            fd, mode_before = open_folder(name, parent.fd, repair=self._repair_rights)
        except OSError as exc:
            require_descriptors(exc)
            if not parent.listed:
                raise RouteLost(path=_join(parent.path, name), errno=exc.errno) from exc
            yield from self._not_entered(parent, name, exc)
            return
        level = self._stand_in(_join(parent.path, name), name, fd, mode_before)
        yield FolderFound(self, level, folder_fd=parent.fd)
        self._close_upper()

    def _passed(self, route: Route, parent: _Level, name: bytes) -> Found | None:
        """Return a subfolder as it is if the route passes it; whatever is odd about it is not passed."""
        assert parent.fd is not None
        try:
            seen = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except OSError:
            return None
        path, facts = _join(parent.path, name), facts_of(seen)
        if not stat.S_ISDIR(seen.st_mode) or seen.st_dev != self._device or not route.passes(path, facts):
            return None
        return Found(path=path, name=name, kind=Kind.FOLDER, facts=facts, folder_fd=parent.fd, passed=True)

    def _not_entered(self, parent: _Level, name: bytes, exc: OSError) -> Iterator[Found]:
        assert parent.fd is not None
        try:
            seen = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError:
            yield _unknown(parent, name, Kind.FOLDER, exc)
            return
        if not stat.S_ISDIR(seen.st_mode):
            yield self._other(parent, name, seen)  # a link or a file was put in its place
            return
        yield Found(
            path=_join(parent.path, name),
            name=name,
            kind=Kind.FOLDER,
            facts=facts_of(seen),
            folder_fd=parent.fd,
            error=exc.errno,
        )

    def _stand_in(self, path: bytes, name: bytes, fd: int, mode_before: int | None) -> _Level:
        """Take over an open folder: from here on `close` looks after it and its mode."""
        facts = facts_of(os.fstat(fd))
        level = _Level(path=path, name=name, fd=fd, facts=facts, mode_before=mode_before)
        self._levels.append(level)
        if mode_before is not None:
            level.facts = facts._replace(mode=mode_before)
        if facts.device != self._device:
            level.error = errno.EXDEV
        elif len(self._levels) > DEPTH_MAX or len(path) > PATH_BYTES_MAX:
            level.error = errno.ENAMETOOLONG
        else:
            given = self._route.enter(path, fd) if self._route is not None else None
            if given is None:
                _list_names(level, fd)
            else:
                level.listed, level.folders = False, sorted(given, reverse=True)
        return level

    def _leave(self) -> None:
        """Go up one level."""
        level = self._levels.pop()
        try:
            if self._levels and self._levels[-1].fd is None and level.fd is not None:
                self._levels[-1].fd = self._open_upper(level.fd, self._levels[-1])
        finally:
            if level.fd is not None:
                try:
                    if level.mode_before is not None:
                        os.fchmod(level.fd, level.mode_before)
                finally:
                    os.close(level.fd)

    def _close_upper(self) -> None:
        """Keep the number of descriptors small: the level that just got too far up is closed."""
        at = len(self._levels) - 1 - OPEN_LEVELS_MAX
        if at >= 0:
            upper = self._levels[at]
            if upper.fd is not None:
                os.close(upper.fd)
                upper.fd = None

    def _open_upper(self, below_fd: int, upper: _Level) -> int:
        """Reach a closed level again: through `..`, or by its names from the root; it must be the same
        folder.
        """
        for way in (self._through_parent, self._through_names):
            try:
                fd = way(below_fd, upper)
            except OSError as exc:
                require_descriptors(exc)
                continue
            seen = os.fstat(fd)
            if (seen.st_dev, seen.st_ino) == upper.identity:
                return fd
            os.close(fd)
        raise HomeMoved(path=upper.path)

    def _through_parent(self, below_fd: int, upper: _Level) -> int:
        return os.open(b"..", READ_FOLDER, dir_fd=below_fd)

    def _through_names(self, below_fd: int, upper: _Level) -> int:
        fd = os.open(b".", READ_FOLDER, dir_fd=self._root_fd)
        for name in upper.path.split(b"/") if upper.path else ():
            try:
                below = os.open(name, READ_FOLDER, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd


def _list_names(level: _Level, fd: int) -> None:
    others: list[bytes] = []
    folders: list[bytes] = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                try:
                    is_folder = entry.is_dir(follow_symlinks=False)
                except OSError:
                    is_folder = False  # its lstat will say what is wrong
                (folders if is_folder else others).append(name)
    except OSError as exc:
        require_descriptors(exc)
        level.error = exc.errno
        return
    level.folders = _descending_once(folders)
    twice = set(folders).intersection(others) if folders else ()
    level.others = _descending_once([name for name in others if name not in twice] if twice else others)


def _descending_once(names: list[bytes]) -> list[bytes]:
    """Return names in the order of `_Level`. A name that was replaced while its folder was listed may have
    been told twice, and two entries of one name would be a tree that nobody reads.
    """
    names.sort(reverse=True)
    if any(map(eq, names, islice(names, 1, None))):
        return list(dict.fromkeys(names))
    return names


def _descending(name: bytes) -> bytes:
    return bytes(255 - byte for byte in name) + b"\xff"


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _unknown(level: _Level, name: bytes, kind: Kind, exc: OSError) -> Found:
    """An entry of which only the name is known."""
    assert level.fd is not None
    nothing = StatFacts(size=0, mtime_ns=0, ctime_ns=0, inode=0, device=0, mode=0, uid=0, gid=0, links=1)
    return Found(
        path=_join(level.path, name), name=name, kind=kind, facts=nothing, folder_fd=level.fd, error=exc.errno
    )
