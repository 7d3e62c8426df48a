"""Look at all processes of the machine and say which belong to a desktop, by five independent marks.

Not the state file's word: a process belongs by descent from the sandbox, by control group, by uid (where we
are root), by the session id in its environment, or by having the desktop's home mounted. One mark is enough
(S22): what we fail to see we would neither freeze nor end.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_service.host.identity import ProcessFacts, facts, is_alive
from session_service.host.state_file import DesktopState

MARK: Final = "SESSION_SERVICE_SESSION"
"""The name of the environment variable that every process of a desktop is born with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as seen in one look."""

    facts: ProcessFacts
    uid: int
    groups: str

    @property
    def identity(self) -> tuple[int, int]:
        """Return what names this process and no other."""
        return self.facts.pid, self.facts.start_time


def look() -> dict[int, Process]:
    """Return all living processes; those that come or go meanwhile may or may not be there."""
    found: dict[int, Process] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _process(int(name))) is not None:
            found[process.facts.pid] = process
    return found


def members(
    state: DesktopState, table: Mapping[int, Process], *, thorough: bool = False
) -> dict[int, Process]:
    """Return the processes of one desktop, our helpers beside it left out.

    Args:
        thorough: read environments and mounts, too; needed where "nothing is left" is to be said.
    """
    children = _children(table)
    helpers = _descent(state.helpers, table, children)
    roots = ((state.handle.pid, state.handle.start_time), (state.init_pid, state.init_start_time))
    found = set(_descent(roots, table, children))
    mark = f"/{state.handle.session_id}"
    own_uid = state.handle.uid if state.handle.uid != os.geteuid() else None
    for pid, process in table.items():
        if pid in found or pid in helpers:
            continue
        if (
            process.uid == own_uid
            or any(line.endswith(mark) or f"{mark}/" in line for line in process.groups.splitlines())
            or (thorough and _bears_mark(state, pid))
        ):
            found.add(pid)
    return {pid: table[pid] for pid in sorted(found - helpers)}


def helpers(state: DesktopState, table: Mapping[int, Process]) -> dict[int, Process]:
    """Return our own processes beside a desktop: router and log keeper, with their children."""
    return {pid: table[pid] for pid in _descent(state.helpers, table, _children(table))}


def _process(pid: int) -> Process | None:
    try:
        found = facts(pid)
        if found is None or not is_alive(found):
            return None
        status = Path(f"/proc/{pid}/status").read_bytes()
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    _, _, after = status.partition(b"\nUid:")
    return Process(facts=found, uid=int(after.split(None, 2)[1]), groups=groups)


def _children(table: Mapping[int, Process]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.facts.parent, []).append(pid)
    return children


def _descent(
    roots: tuple[tuple[int, int], ...], table: Mapping[int, Process], children: Mapping[int, list[int]]
) -> set[int]:
    """Return the proven ones among `roots` with everything born of them."""
    waiting = [pid for pid, start in roots if pid in table and table[pid].facts.start_time == start]
    found: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def _bears_mark(state: DesktopState, pid: int) -> bool:
    """Say whether a process carries the session in its environment or has the desktop's home mounted."""
    if pid == os.getpid():
        return False
    with contextlib.suppress(OSError):
        entry = f"{MARK}={state.handle.session_id}".encode("ascii")
        if entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
    if not state.sandboxed:
        return False
    home = "/".join(Path(state.handle.home).parts[-2:]) + " /home/user "
    with contextlib.suppress(OSError):
        return home.encode() in Path(f"/proc/{pid}/mountinfo").read_bytes()
    return False
