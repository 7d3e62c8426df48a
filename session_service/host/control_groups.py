"""The control groups of a desktop: version 2, version 1, both side by side, or none; whatever we may write.

Not a scheduler. One group per desktop with sub-groups `x` (sandbox and X server), `app` (everything of the
user) and `aid` (our network and log helpers), because applications alone are frozen while viewers still see
the picture (desktops.md 1). Limits are set on the whole. What cannot be set is named, never silently left
out.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FOLDER: Final = "session-service"
PARTS: Final = ("x", "app", "aid")
CPU_PERIOD_US: Final = 100_000
_CONTROLLERS: Final = ("memory", "cpu", "pids")
_OWN_PARTS: Final = "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one desktop."""

    memory_bytes_max: int
    cpus_max: float
    processes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """Where groups can be made on this machine; found by trying, not by guessing."""

    unified: Path | None
    """Folder of version 2 in which groups can be made."""
    controllers: frozenset[str] = frozenset()
    """Controllers that work there: memory, cpu, pids."""
    legacy: dict[str, Path] = field(default_factory=dict)
    """Version 1: controller name (also freezer) to the folder in which groups can be made."""

    @property
    def mode(self) -> str:
        """Return v2, hybrid, v1 or none."""
        if self.unified is not None:
            return "hybrid" if self.legacy else "v2"
        return "v1" if self.legacy else "none"

    @property
    def limits(self) -> frozenset[str]:
        """Return which of memory, cpu, processes can be limited."""
        found = set(self.controllers) | (self.legacy.keys() & set(_CONTROLLERS))
        return frozenset("processes" if name == "pids" else name for name in found)

    @property
    def freezer(self) -> str:
        """Return the way to freeze: cgroup2, cgroup1 or sigstop."""
        if self.unified is not None:
            return "cgroup2"
        return "cgroup1" if "freezer" in self.legacy else "sigstop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mounted hierarchy."""

    kind: str
    root: str
    point: Path
    options: frozenset[str]


def find(*, mountinfo: str | None = None, membership: str | None = None) -> Hierarchies:
    """Look for writable hierarchies, making our folder in each; the two texts are given by tests only."""
    mounts = _mounts(mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text())
    own = _own(membership if membership is not None else Path("/proc/self/cgroup").read_text())
    unified, controllers = None, frozenset[str]()
    legacy: dict[str, Path] = {}
    for mount in mounts:
        if mount.kind == "cgroup2" and unified is None:
            unified = _unified(mount, own)
            controllers = _enable(unified) if unified is not None else frozenset()
        elif mount.kind == "cgroup":
            for name in (*_CONTROLLERS, "freezer"):
                if name in mount.options and (folder := _made(mount.point / FOLDER)) is not None:
                    legacy[name] = folder
    if unified is not None:
        legacy = {name: place for name, place in legacy.items() if name not in {"freezer", *controllers}}
    return Hierarchies(unified=unified, controllers=controllers, legacy=legacy)


class DesktopGroups:
    """The groups of one desktop."""

    def __init__(self, hierarchies: Hierarchies, session_id: str) -> None:
        self._hierarchies = hierarchies
        self._name = session_id

    @property
    def main(self) -> Path | None:
        """Return the group that freezes and counts the whole desktop, or None where there are no groups."""
        base = self._hierarchies.unified or self._hierarchies.legacy.get("freezer")
        return base / self._name if base is not None else None

    @property
    def others(self) -> tuple[Path, ...]:
        """Return the version 1 groups that only limit."""
        main = self.main
        found = dict.fromkeys(base / self._name for base in self._hierarchies.legacy.values())
        return tuple(group for group in found if group != main)

    def make(self, limits: Limits) -> tuple[str, ...]:
        """Make the groups, empty, and set the limits.

        Returns the names of limits that could not be set here.
        """
        if self.main is not None:
            for part in PARTS:
                (self.main / part).mkdir(parents=True, exist_ok=True)
        for group in self.others:
            group.mkdir(exist_ok=True)
        quota = max(1000, int(limits.cpus_max * CPU_PERIOD_US))
        wishes = {
            "memory": (
                ("memory.max", str(limits.memory_bytes_max)),
                ("memory.limit_in_bytes", str(limits.memory_bytes_max)),
            ),
            "cpu": (("cpu.max", f"{quota} {CPU_PERIOD_US}"), ("cpu.cfs_quota_us", str(quota))),
            "processes": (("pids.max", str(limits.processes_max)),) * 2,
        }
        return tuple(name for name, (new, old) in wishes.items() if not self._limit(name, new, old))

    def entry(self, part: str) -> tuple[Path, ...]:
        """Return the groups that a process of this part must join."""
        assert part in PARTS, part
        return (*(() if self.main is None else (self.main / part,)), *self.others)

    def move(self, pid: int, part: str) -> None:
        """Move one process; a process that has gone is no concern of ours."""
        if self.main is not None:
            with contextlib.suppress(ProcessLookupError):
                (self.main / part / "cgroup.procs").write_text(str(pid))

    def members(self, part: str | None = None) -> frozenset[int]:
        """Return the pids in one part, or in all of them."""
        found: set[int] = set()
        if self.main is not None:
            for name in PARTS if part is None else (part,):
                with contextlib.suppress(FileNotFoundError, OSError):
                    found |= {int(pid) for pid in (self.main / name / "cgroup.procs").read_text().split()}
        return frozenset(found)

    def memory_bytes(self) -> int | None:
        """Return what the desktop uses now, or None where nobody counts."""
        for group in (self.main, *self.others):
            for name in ("memory.current", "memory.usage_in_bytes"):
                if group is not None:
                    with contextlib.suppress(OSError, ValueError):
                        return int((group / name).read_text())
        return None

    def remove(self) -> bool:
        """Remove the empty groups; False while a process is left in one."""
        gone = True
        for group in (
            *(() if self.main is None else [self.main / part for part in PARTS]),
            self.main,
            *self.others,
        ):
            if group is not None:
                try:
                    group.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    gone = False
        return gone

    def _limit(self, name: str, new: tuple[str, str], old: tuple[str, str]) -> bool:
        controller = "pids" if name == "processes" else name
        if controller in self._hierarchies.controllers and self._hierarchies.unified is not None:
            return _wrote(self._hierarchies.unified / self._name / new[0], new[1])
        if (base := self._hierarchies.legacy.get(controller)) is not None:
            return _wrote(base / self._name / old[0], old[1])
        return False


def _wrote(file: Path, text: str) -> bool:
    try:
        file.write_text(text)
    except OSError:
        return False
    return True


def _mounts(mountinfo: str) -> Iterable[Mount]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if kind[0] in ("cgroup", "cgroup2"):
            point = Path(fields[4].encode().decode("unicode_escape"))
            yield Mount(kind=kind[0], root=fields[3], point=point, options=frozenset(kind[2].split(",")))


def _own(membership: str) -> str:
    """Return our own group in version 2, as /proc/self/cgroup says it."""
    for line in membership.splitlines():
        if line.startswith("0::"):
            own = line[3:]
            return own.removesuffix(f"/{_OWN_PARTS}") or "/"
    return "/"


def _made(folder: Path) -> Path | None:
    """Make a group and say where it is, or None where that is not allowed."""
    try:
        folder.mkdir(exist_ok=True)
        probe = folder / f"probe-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return None
    return folder


def _unified(mount: Mount, own: str) -> Path | None:
    """Prefer the group that was delegated to us (systemd), then the top of the hierarchy (root)."""
    places = [mount.point]
    inside = own if mount.root == "/" else own.removeprefix(mount.root)
    delegated = mount.point / inside.lstrip("/")
    if inside != "/" and delegated.is_dir() and _delegated(delegated):
        places.insert(0, delegated)
    for place in places:
        if (folder := _made(place / FOLDER)) is not None:
            return folder
    return None


def _delegated(group: Path) -> bool:
    """Say whether a manager gave this group to us: by its mark, or by its owner."""
    for mark in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, mark) == b"1":
                return True
    return os.geteuid() != 0 and os.access(group / "cgroup.procs", os.W_OK) and os.access(group, os.W_OK)


def _enable(folder: Path) -> frozenset[str]:
    """Switch the controllers on for the desktops' groups, and say which work."""
    for group in (folder.parent, folder):
        for name in _CONTROLLERS:
            try:
                (group / "cgroup.subtree_control").write_text(f"+{name}")
            except OSError as exc:
                if exc.errno == errno.EBUSY and group == folder.parent and _step_aside(group):
                    with contextlib.suppress(OSError):
                        (group / "cgroup.subtree_control").write_text(f"+{name}")
    try:
        return frozenset((folder / "cgroup.subtree_control").read_text().split()) & frozenset(_CONTROLLERS)
    except OSError:
        return frozenset()


def _step_aside(group: Path) -> bool:
    """Move our own program into a group beside the desktops: version 2 wants no process in an inner group."""
    try:
        parts = group / _OWN_PARTS
        parts.mkdir(exist_ok=True)
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (parts / "cgroup.procs").write_text(pid)
    except OSError:
        return False
    return True
