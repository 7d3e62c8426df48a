"""Stop a desktop's processes where they stand, prove it, and let them go on.

Not an end: a frozen desktop goes on exactly where it was. By the kernel's freezer where there is one, else by
SIGSTOP to each process until two looks at the machine agree; the receipt names the method. Nothing is
believed that the kernel does not report.
"""

import asyncio
import errno
import signal
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.host import census, identity
from session_service.host.control_groups import DesktopGroups, Hierarchies
from session_service.host.state_file import DesktopState
from session_service.ports.desktops import FreezeReceipt

FREEZE_S: Final = 10.0
LOOK_AGAIN_S: Final = 0.002
STOPPED: Final = "Tt"
"""By a signal, or by a debugger, which is stopped itself: that one never becomes T."""


class Freezer:
    """Freezes one desktop at a time; the caller holds the desktop's lock."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._hierarchies = hierarchies

    @property
    def method(self) -> str:
        """Return cgroup2, cgroup1 or sigstop."""
        return self._hierarchies.freezer

    async def freeze(self, state: DesktopState, *, applications_only: bool) -> FreezeReceipt:
        """Return when nothing of it runs. Raises FreezeFailed after 10 seconds.

        What is frozen then stays frozen.
        """
        try:
            async with asyncio.timeout(FREEZE_S):
                if (main := self._group(state)) is None:
                    count = await self._stop_all(state, applications_only=applications_only)
                else:
                    count = await self._freeze_group(state, main, applications_only=applications_only)
        except TimeoutError as exc:
            raise errors.FreezeFailed("not everything could be frozen in time", limit_s=FREEZE_S) from exc
        return FreezeReceipt(method=self.method, processes=count, display_running=applications_only)

    async def thaw(self, state: DesktopState) -> None:
        """Let everything run again; what is gone or runs already is no concern."""
        if (main := self._group(state)) is not None:
            for group in (main, main / "app"):
                try:
                    self._switch(group, frozen=False)
                except OSError as exc:
                    if exc.errno not in (errno.ENOENT, errno.ENODEV):  # gone is no concern
                        raise
        for process in census.members(state, census.look()).values():
            if process.facts.state == "T":
                identity.send(*process.identity, signal.SIGCONT)

    def is_frozen(self, state: DesktopState, members: dict[int, census.Process]) -> bool:
        """Say whether the applications are frozen (the display may be, too)."""
        if (main := self._group(state)) is not None:
            return any(self._reports_frozen(group) for group in (main, main / "app"))
        applications = [process for process in members.values() if process.identity not in state.display_side]
        return bool(applications) and all(process.facts.state in STOPPED for process in applications)

    def _group(self, state: DesktopState) -> Path | None:
        return DesktopGroups(self._hierarchies, state.handle.session_id).main

    async def _freeze_group(self, state: DesktopState, main: Path, *, applications_only: bool) -> int:
        group = main / "app" if applications_only else main
        if not group.is_dir():
            raise errors.DesktopGone("its control group is not there")
        self._switch(group, frozen=True)
        while not self._reports_frozen(group):  # noqa: ASYNC110 - the kernel reports it in a file
            await asyncio.sleep(LOOK_AGAIN_S)
        inside = DesktopGroups(self._hierarchies, state.handle.session_id).members()
        outside = [p for pid, p in census.members(state, census.look()).items() if pid not in inside]
        if outside:
            raise errors.FreezeFailed("a process has left its control group", pid=outside[0].facts.pid)
        parts = ("app",) if applications_only else ("x", "app")
        groups = DesktopGroups(self._hierarchies, state.handle.session_id)
        return sum(len(groups.members(part)) for part in parts)

    def _switch(self, group: Path, *, frozen: bool) -> None:
        if self.method == "cgroup2":
            (group / "cgroup.freeze").write_text("1" if frozen else "0")
        else:
            (group / "freezer.state").write_text("FROZEN" if frozen else "THAWED")

    def _reports_frozen(self, group: Path) -> bool:
        try:
            if self.method == "cgroup2":
                return "frozen 1" in (group / "cgroup.events").read_text()
            return (group / "freezer.state").read_text().strip() == "FROZEN"
        except FileNotFoundError:
            return False

    async def _stop_all(self, state: DesktopState, *, applications_only: bool) -> int:
        """Send SIGSTOP until two looks see the same processes, all of them stopped."""
        before: set[tuple[int, int]] | None = None
        while True:
            found = {
                process.identity: process.facts.state
                for process in census.members(state, census.look(), thorough=True).values()
                if not (applications_only and process.identity in state.display_side)
            }
            running = [who for who, how in found.items() if how not in STOPPED]
            if not running and before == found.keys():
                return len(found)
            before = set(found)
            for who in running:
                identity.send(*who, signal.SIGSTOP)
            await asyncio.sleep(LOOK_AGAIN_S)
