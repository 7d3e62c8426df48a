"""The desktops of this machine: the calls of `ports/desktops.py`, each safe to repeat, one at a time each.

Not the lifecycle: it knows no hold and no user, keeps no timer, and believes nobody about a desktop but the
machine itself. What a caller's handle says is compared with our own state file; what the state file says is
compared with the processes.
"""

import asyncio
import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from session_service.base import aio, errors, log
from session_service.base.ids import hex_to_ulid, is_ulid
from session_service.base.layout import Layout
from session_service.host import ask, census, environment, identity, log_keeper, look, state_file
from session_service.host.census import Table
from session_service.host.control_groups import DesktopGroups, Hierarchies
from session_service.host.destroy import Destroyer
from session_service.host.freezer import Freezer
from session_service.host.launch import Launch, Place, is_there
from session_service.host.owners import Owners
from session_service.host.state_file import DesktopState
from session_service.ports.desktops import (
    AskReport,
    DesktopSpec,
    EndProof,
    FreezeReceipt,
    Handle,
    LaunchResult,
    ObservedDesktop,
    Presence,
    no_template,
)

LAUNCHES_AT_ONCE_MAX: Final = 8
"""More at once make none of them faster: a start is bound by the processor."""

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FENCE: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)

ExitListener = Callable[[Handle, str], None]


class Desktops:
    """Everything that the host does, without its socket."""

    def __init__(
        self,
        layout: Layout,
        *,
        hierarchies: Hierarchies,
        root: bool,
        sandboxed: bool = True,
        service_gid: int | None = None,
    ) -> None:
        self._layout = layout
        self._hierarchies = hierarchies
        layout.desktops.mkdir(mode=0o711, parents=True, exist_ok=True)
        layout.desktops.chmod(0o711)
        self._place = Place(
            layout=layout,
            hierarchies=hierarchies,
            look=look.install(layout.look),
            sandboxed=sandboxed,
            service_gid=service_gid,
        )
        self._owners = Owners(layout.owners, root=root)
        self._freezer = Freezer(hierarchies)
        self._destroyer = Destroyer(layout, hierarchies)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._launches = asyncio.Semaphore(LAUNCHES_AT_ONCE_MAX)
        self._watched: dict[str, int] = {}
        self._ended: set[str] = set()
        self._listeners: list[ExitListener] = []
        self._log = log.get_logger()
        self._tasks = aio.Tasks(
            lambda name, error: self._log.error("task.failed", task=name, error=repr(error))
        )

    def adopt_all(self) -> int:
        """Watch every desktop that runs, whoever started it.

        Returns how many. Called once, at the host's start.
        """
        count = 0
        states = state_file.read_all(self._layout.desktops)
        for wiped in self._destroyer.forget_wiped(states):
            self._log.info("desktop.wiped", session_id=wiped.handle.session_id)
            states.remove(wiped)
        known = {(state.handle.workspace_id, state.handle.fence) for state in states}
        self._owners.retain(
            lambda *which: which in known or os.path.lexists(self._layout.home(*which).parent)
        )
        for state in states:
            if state.ready and self._watch(state):
                self._log.info("desktop.adopted", session_id=state.handle.session_id, pid=state.handle.pid)
                count += 1
        return count

    async def close(self) -> None:
        """Stop watching. Desktops go on."""
        loop = asyncio.get_running_loop()
        for descriptor in self._watched.values():
            loop.remove_reader(descriptor)
            os.close(descriptor)
        self._watched.clear()
        await self._tasks.close()

    def listen(self, listener: ExitListener) -> Callable[[], None]:
        """Tell `listener` of every end from now on, and of those that ended before and are not wiped.

        Returns how to stop.
        """
        self._listeners.append(listener)
        for state in state_file.read_all(self._layout.desktops):
            if state.ready and not self._runs(state):
                listener(state.handle, self._words(state))
        return lambda: self._listeners.remove(listener)

    def owner(self, workspace_id: str, fence: int) -> tuple[int, int] | None:
        """Return (uid, gid) of the desktop of (workspace, fence); None = our own user."""
        _check_ids(workspace_id)
        return self._owners.of(workspace_id, fence)

    def templates(self) -> frozenset[str]:
        """Return what a desktop can be made from here now."""
        return look.templates(self._place.look)

    async def launch(self, spec: DesktopSpec) -> LaunchResult:
        """Start the desktop, or find the one of this session and fence."""
        _check_ids(spec.session_id, spec.workspace_id)
        environment.check(spec)
        async with self._locks[spec.session_id]:
            known = state_file.read(self._layout.desktops / spec.session_id)
            if known is not None and known.ready:
                return self._launched(known, spec)
            self._check_home(spec)
            if known is not None:
                await self._destroyer.discard(known, keep_home=True)
            async with self._launches:
                return await self._launch(spec)

    async def census(self) -> list[ObservedDesktop]:
        """Look at the whole machine."""
        table = await asyncio.to_thread(census.look)
        homes = await asyncio.to_thread(homes_of, self._layout)
        states = state_file.read_all(self._layout.desktops)
        named = {state.handle.home for state in states}
        alone = [home for home in homes if home.handle.home not in named and Path(home.handle.home).is_dir()]
        return [*(self._observed(state, table) for state in states), *alone]

    async def observe(self, handle: Handle) -> ObservedDesktop:
        """Look at one desktop; one that nobody knows is absent, unless processes bear its mark."""
        state = self._known(handle)
        table = await asyncio.to_thread(census.look)
        if state is not None:
            return self._observed(state, table)
        stray = self._stray(handle)
        left = await asyncio.to_thread(census.members, stray, table, thorough=True)
        presence = Presence.RUNNING if left else Presence.ABSENT
        if presence is Presence.ABSENT and Path(handle.home).is_dir():
            presence = Presence.PROCESSES_ENDED
        return ObservedDesktop(handle=handle, presence=presence, processes=len(left))

    async def freeze(self, handle: Handle, *, applications_only: bool) -> FreezeReceipt:
        """Freeze everything or only the applications, and prove it."""
        async with self._locks[handle.session_id]:
            state = self._known(handle)
            if state is None or not (self._runs(state) or self._left(state)):
                raise errors.DesktopGone(session_id=handle.session_id)
            receipt = await self._freezer.freeze(state, applications_only=applications_only)
            self._log.info("desktop.frozen", session_id=handle.session_id, method=receipt.method)
            return receipt

    async def thaw(self, handle: Handle) -> None:
        """Let everything run again; gone or running is done."""
        async with self._locks[handle.session_id]:
            if (state := self._known(handle)) is not None:
                await self._freezer.thaw(state)
                self._log.info("desktop.thawed", session_id=handle.session_id)

    async def ask_close(self, handle: Handle, *, hook: bool) -> AskReport:
        """Run the user's hook, ask every window to close, HUP and TERM."""
        async with self._locks[handle.session_id]:
            state = self._running(handle)
            report = await ask.ask(
                state, self._layout.desktops / handle.session_id, self._groups(state), hook=hook
            )
            self._log.info(
                "desktop.asked",
                session_id=handle.session_id,
                hook=report.hook,
                refused_windows=len(report.refused_windows),
                remaining_processes=report.remaining_processes,
            )
            return report

    async def end(self, handle: Handle, proof: EndProof) -> None:
        """End every process of the desktop, with proof; already gone is done."""
        async with self._locks[handle.session_id]:
            state = self._known(handle) or self._stray(handle)
            self._ended.add(handle.session_id)
            await self._destroyer.end(state, proof)
            self._log.info("desktop.ended", session_id=handle.session_id)

    async def wipe(self, handle: Handle, proof: EndProof) -> None:
        """Move the home to the seed area and forget the desktop, with proof; already gone is done."""
        async with self._locks[handle.session_id]:
            state = self._known(handle) or self._stray(handle)
            await self._destroyer.wipe(state, proof)
            self._owners.forget(handle.workspace_id, handle.fence)
            self._ended.discard(handle.session_id)
            self._log.info("desktop.wiped", session_id=handle.session_id)

    async def discard(self, handle: Handle) -> None:
        """End and remove a desktop that never became ready. Refuses others. Of one that was never launched,
        its empty home.
        """
        _check_ids(handle.session_id, handle.workspace_id)
        async with self._locks[handle.session_id]:
            state = state_file.read(self._layout.desktops / handle.session_id)
            if state is None:
                if self._destroyer.remove_empty(self._stray(handle)):
                    self._owners.forget(handle.workspace_id, handle.fence)
                    self._log.info("desktop.discarded", session_id=handle.session_id)
                return
            if (state.handle.workspace_id, state.handle.fence) != (handle.workspace_id, handle.fence):
                raise errors.DesktopGone("the desktop of this session has another fence")
            await self._destroyer.discard(state)
            self._owners.forget(handle.workspace_id, handle.fence)
            self._log.info("desktop.discarded", session_id=handle.session_id)

    async def mark(
        self, handle: Handle, *, provisional_loss_epoch: int | None, revoked_grant: int | None = None
    ) -> None:
        """Write the marks, durable when this returns."""
        async with self._locks[handle.session_id]:
            if (state := self._known(handle)) is None:
                raise errors.DesktopGone(session_id=handle.session_id)
            state = msgspec.structs.replace(
                state, provisional_loss_epoch=provisional_loss_epoch, revoked_grant=revoked_grant
            )
            state_file.write(self._layout.desktops / handle.session_id, state)

    def last_words(self, handle: Handle) -> str:
        """Return the end of the desktop's own log; "" when there is none."""
        _check_ids(handle.session_id)
        return log_keeper.last_words(self._layout.desktops / handle.session_id / "log")

    def delete_old_seeds(self, *, now_s: float) -> int:
        """Delete wiped homes that have lain long enough. Blocking."""
        return self._destroyer.delete_old_seeds(now_s=now_s)

    def _groups(self, state: DesktopState) -> DesktopGroups:
        return DesktopGroups(self._hierarchies, state.handle.session_id)

    async def _launch(self, spec: DesktopSpec) -> LaunchResult:
        start = Launch(self._place, spec, self._owners.of(spec.workspace_id, spec.fence))
        try:
            result = await start.run()
        except BaseException as exc:
            # Cancelled or failed: nothing of a start that nobody waits for may go on.
            if start.state is not None:
                await self._destroyer.discard(start.state, keep_home=True)
            if isinstance(exc, errors.SessionError):
                self._log.warning("desktop.failed", session_id=spec.session_id, code=exc.code)
            raise
        assert start.state is not None
        self._watch(start.state)
        if result.limits:
            self._log.warning("network.limited", session_id=spec.session_id, missing=list(result.limits))
        self._log.info("desktop.launched", session_id=spec.session_id, ready_ms=result.ready_ms)
        return result

    def _launched(self, known: DesktopState, spec: DesktopSpec) -> LaunchResult:
        if (known.handle.workspace_id, known.handle.fence) != (spec.workspace_id, spec.fence):
            raise errors.Conflict(
                "a desktop of this session runs under another fence", fence=known.handle.fence
            )
        if not self._runs(known):
            raise errors.DesktopGone("this desktop was ready once and has ended", session_id=spec.session_id)
        return LaunchResult(handle=known.handle, ready_ms=0, adopted=True, limits=known.limits_missing)

    def _check_home(self, spec: DesktopSpec) -> None:
        """Refuse a home that is not exactly that of this workspace and fence, or that another desktop has."""
        home = Path(spec.home)
        if home != self._layout.home(spec.workspace_id, spec.fence):
            raise errors.BadInput("this home does not lie where homes of this workspace lie", field="home")
        if home.is_symlink() or not home.is_dir():
            raise errors.BadInput("this home is not there", field="home")
        owner = self._owners.of(spec.workspace_id, spec.fence)
        if home.stat().st_uid != (os.geteuid() if owner is None else owner[0]):
            raise errors.BadInput("this home belongs to another user than its desktop", field="home")
        if spec.template not in (offered := self.templates()):
            raise no_template(spec.template, offered)
        for state in state_file.read_all(self._layout.desktops):
            if (
                state.handle.home == spec.home
                and state.handle.session_id != spec.session_id
                and self._runs(state)
            ):
                raise errors.Conflict("another desktop has this home", session_id=state.handle.session_id)

    def _known(self, handle: Handle) -> DesktopState | None:
        """Return our own state for a handle that agrees with it.

        The handle's numbers are never used unchecked.
        """
        _check_ids(handle.session_id, handle.workspace_id)
        state = state_file.read(self._layout.desktops / handle.session_id)
        if state is None:
            return None
        ours, theirs = state.handle, handle
        if (ours.workspace_id, ours.fence, ours.pid, ours.start_time, ours.boot_id, ours.home) != (
            *(theirs.workspace_id, theirs.fence, theirs.pid, theirs.start_time, theirs.boot_id, theirs.home),
        ):
            raise errors.DesktopGone(
                "the desktop of this session is another one", session_id=handle.session_id
            )
        return state

    def _stray(self, handle: Handle) -> DesktopState:
        """Return what is known of a desktop without a state file: its ids, no number of the caller."""
        own = msgspec.structs.replace(
            handle,
            pid=0,
            start_time=0,
            uid=os.geteuid(),
            home=str(self._layout.home(handle.workspace_id, handle.fence)),
        )
        return DesktopState(handle=own, user_id="", registry_epoch=0, ready=True)

    def _running(self, handle: Handle) -> DesktopState:
        state = self._known(handle)
        if state is None or not self._runs(state):
            raise errors.DesktopGone(session_id=handle.session_id)
        return state

    def _left(self, state: DesktopState) -> bool:
        """Say whether anything of it runs, also without its first processes."""
        return state.handle.boot_id == identity.boot_id() and bool(census.members(state, census.look()))

    def _runs(self, state: DesktopState) -> bool:
        if state.handle.boot_id != identity.boot_id():
            return False
        return is_there(state.handle.pid, state.handle.start_time) or is_there(
            state.init_pid, state.init_start_time
        )

    def _observed(self, state: DesktopState, table: Table) -> ObservedDesktop:
        members = census.members(state, table) if state.handle.boot_id == identity.boot_id() else {}
        if members:
            presence = Presence.RUNNING
        else:
            presence = Presence.PROCESSES_ENDED if Path(state.handle.home).is_dir() else Presence.ABSENT
        return ObservedDesktop(
            handle=state.handle,
            presence=presence,
            frozen=bool(members) and self._freezer.is_frozen(state, members),
            user_id=state.user_id,
            registry_epoch=state.registry_epoch,
            provisional_loss_epoch=state.provisional_loss_epoch,
            revoked_grant=state.revoked_grant,
            processes=len(members),
            memory_bytes=self._groups(state).memory_bytes() if members else None,
        )

    def _words(self, state: DesktopState) -> str:
        return log_keeper.last_words(self._layout.desktops / state.handle.session_id / "log")

    def _watch(self, state: DesktopState) -> bool:
        """Learn of the end of a desktop by the pidfd of what ends it; False when it has ended already."""
        session_id = state.handle.session_id
        if session_id in self._watched:
            return True
        descriptor = None
        if state.init_pid:
            descriptor = identity.open_process(state.init_pid, state.init_start_time)
        if descriptor is None:
            descriptor = identity.open_process(state.handle.pid, state.handle.start_time)
        if descriptor is None:
            return False
        self._watched[session_id] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._exited, session_id)
        return True

    def _exited(self, session_id: str) -> None:
        descriptor = self._watched.pop(session_id)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._tasks.spawn(self._tell_exit(session_id), name=f"desktop-exit-{session_id}")

    async def _tell_exit(self, session_id: str) -> None:
        """Clean up beside a desktop that has ended, and tell its end with its last words."""
        async with self._locks[session_id]:
            state = state_file.read(self._layout.desktops / session_id)
            if state is None:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    while census.members(state, census.look()):
                        identity.reap(state.handle.pid)
                        await asyncio.sleep(0.01)
            identity.reap(state.handle.pid)
            if self._watch(state):
                return  # its sandbox lives on without its outermost process: that is no end
            if not census.members(state, census.look(), thorough=True):
                await self._destroyer.sweep(state)
            if session_id not in self._ended:
                self._log.info("desktop.died", session_id=session_id)
            words = self._words(state)
        for listener in tuple(self._listeners):
            listener(state.handle, words)


def homes_of(layout: Layout) -> list[ObservedDesktop]:
    """Return every home on this machine as one whose desktop nobody remembers. Blocking.

    It was made, and a crash came before its launch; or its state file was lost. Its session has no name here.
    """
    found = []
    for folder in sorted(layout.homes.iterdir()) if layout.homes.is_dir() else ():
        if not _HEX_ID.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):
            for home in sorted(folder.iterdir()):
                if _FENCE.fullmatch(home.name) and home.is_dir() and not home.is_symlink():
                    handle = Handle(
                        provider="local",
                        session_id="",
                        workspace_id=hex_to_ulid(folder.name),
                        fence=int(home.name),
                        pid=0,
                        start_time=0,
                        boot_id="",
                        uid=home.stat().st_uid,
                        home=str(home),
                        run_folder="",
                        socket="",
                    )
                    found.append(ObservedDesktop(handle=handle, presence=Presence.PROCESSES_ENDED))
    return found


def _check_ids(*names: str) -> None:
    for name in names:
        if not is_ulid(name):
            raise errors.BadInput("an id has not the documented form")
