"""Look at all processes of the machine and say which belong to a desktop, by five independent marks.

Not the state file's word: a process belongs by descent from the sandbox, by control group, by uid (where we
are root, and the number is not one that a container borrowed), by the session id in its environment, or by
having the desktop's home mounted. One mark is enough (S22): what we fail to see we would neither freeze nor
end.
"""

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_service.host import user_namespace
from session_service.host.identity import ProcessFacts, boot_id, facts, is_alive, read
from session_service.host.state_file import DesktopState

MARK: Final = "SESSION_SERVICE_SESSION"
"""The name of the environment variable that every process of a desktop is born with."""
_SESSION: Final = re.compile(rb"/([0-7][0-9A-HJKMNP-TV-Z]{25})(?=[/\n])")
_KERNEL: Final = 2
"""The parent of the kernel's own threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as seen in one look."""

    facts: ProcessFacts
    uid: int
    sessions: frozenset[str]
    """The ids that are names of control groups it is in."""

    @property
    def identity(self) -> tuple[int, int]:
        """Return what names this process and no other."""
        return self.facts.pid, self.facts.start_time


class Table:
    """All living processes of one look, with the ways to find those of a desktop."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self.by_pid = {process.facts.pid: process for process in processes}
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        self._by_uid: defaultdict[int, list[int]] = defaultdict(list)
        self._by_session: defaultdict[str, list[int]] = defaultdict(list)
        for pid, process in self.by_pid.items():
            self._children[process.facts.parent].append(pid)
            self._by_uid[process.uid].append(pid)
            for session_id in process.sessions:
                self._by_session[session_id].append(pid)

    def descent(self, *roots: tuple[int, int]) -> set[int]:
        """Return the proven ones among `roots`, (pid, start time) each, with everything born of them."""
        waiting = [pid for pid, start in roots if self._is(pid, start)]
        found: set[int] = set()
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found.add(pid)
                waiting += self._children.get(pid, ())
        return found

    def of_uid(self, uid: int) -> list[int]:
        """Return the processes of a user."""
        return self._by_uid.get(uid, [])

    def of_groups(self, session_id: str) -> list[int]:
        """Return the processes in control groups of a session."""
        return self._by_session.get(session_id, [])

    def _is(self, pid: int, start_time: int) -> bool:
        return pid in self.by_pid and self.by_pid[pid].facts.start_time == start_time


def look() -> Table:
    """Return all living processes; those that come or go meanwhile may or may not be there."""
    return Table(look_at(int(name) for name in os.listdir("/proc") if name.isdigit()))


def look_at(pids: Iterable[int]) -> Iterator[Process]:
    """Yield those that live."""
    return (process for process in map(_process, pids) if process is not None)


def members(state: DesktopState, table: Table, *, thorough: bool = False) -> dict[int, Process]:
    """Return the processes of one desktop, our helpers beside it left out.

    Args:
        thorough: read environments and mounts, too; needed where "nothing is left" is to be said.
    """
    handle = state.handle
    ours = table.descent(*state.helpers)
    found: set[int] = set()
    if handle.boot_id == boot_id():
        found = table.descent((handle.pid, handle.start_time), (state.init_pid, state.init_start_time))
    found.update(table.of_groups(handle.session_id))
    if handle.uid != os.geteuid():
        others = set(table.of_uid(handle.uid)) - found - ours
        found.update(pid for pid in others if _is_ours_by_uid(state, table.by_pid[pid]))
    if thorough:
        others = table.by_pid.keys() - found - ours
        found.update(pid for pid in others if _bears_mark(state, pid))
    return {pid: table.by_pid[pid] for pid in sorted(found - ours)}


def helpers(state: DesktopState, table: Table) -> dict[int, Process]:
    """Return our own processes beside a desktop: router and log keeper, with their children."""
    return {pid: table.by_pid[pid] for pid in table.descent(*state.helpers)}


def _process(pid: int) -> Process | None:
    try:
        found = facts(pid)
        if found is None or not is_alive(found) or _KERNEL in (pid, found.parent):
            return None
        uid = os.stat(f"/proc/{pid}").st_uid
        if uid == 0:  # root's own, or one that hides its memory: only its status tells
            uid = int(read(f"/proc/{pid}/status").partition(b"\nUid:")[2].split(None, 2)[1])
        groups = read(f"/proc/{pid}/cgroup")
    except OSError:
        return None
    sessions = frozenset(name.decode() for name in _SESSION.findall(groups))
    return Process(facts=found, uid=uid, sessions=sessions)


def _is_ours_by_uid(state: DesktopState, process: Process) -> bool:
    """Say whether a process of the desktop's uid belongs to it, though neither born in it nor in its groups.

    Another service on this machine may draw from the same numbers, and a container of somebody may have
    borrowed this one: what bears another session's mark is not ours to end, and in a user namespace that
    another user made the uid alone says nothing (S23).
    """
    if process.sessions:
        return state.handle.session_id in process.sessions
    with contextlib.suppress(OSError):
        for entry in read(f"/proc/{process.facts.pid}/environ").split(b"\0"):
            if entry.startswith(f"{MARK}=".encode("ascii")):
                return entry == f"{MARK}={state.handle.session_id}".encode("ascii")
    return user_namespace.made_by(process.facts.pid, state.handle.uid)


def _bears_mark(state: DesktopState, pid: int) -> bool:
    """Say whether a process carries the session in its environment or has the desktop's home mounted."""
    if pid == os.getpid():
        return False
    with contextlib.suppress(OSError):
        entry = f"{MARK}={state.handle.session_id}".encode("ascii")
        if entry in read(f"/proc/{pid}/environ").split(b"\0"):
            return True
    if not state.sandboxed:
        return False
    home = "/".join(Path(state.handle.home).parts[-2:]) + " /home/user "
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
            return home.encode() in read(f"/proc/{pid}/mountinfo")
    return False
