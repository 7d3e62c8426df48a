"""Start one desktop and say when it is ready; or say why it is not, with its last words.

Not a supervisor: once ready, the desktop lives by itself and needs no descriptor, pipe or parent of ours.
Order matters, and each step has its reason: the state file is written before the first process, so that a
crash leaves nothing unknown; the display starts at once, while its network gets rules and a way out from
outside; the applications wait for both, and for their own control group, so that nothing of the user runs
before; ready means that somebody who attaches now sees a window manager's screen.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from session_service.base import errors
from session_service.base.layout import Layout
from session_service.host import (
    census,
    display,
    environment,
    identity,
    log_keeper,
    network,
    pipes,
    sandbox,
    state_file,
)
from session_service.host.control_groups import DesktopGroups, Hierarchies, Limits
from session_service.host.spawn import spawn
from session_service.host.state_file import DesktopState
from session_service.ports.desktops import DesktopSpec, Handle, LaunchResult

READY_S: Final = 60.0
INFO_S: Final = 10.0
MEMORY_FREE_BYTES_MIN: Final = 256 << 20
DISK_FREE_BYTES_MIN: Final = 256 << 20
"""Below these a new desktop would harm those that run: refused with NoRoom."""
_SANDBOX_REFUSED: Final = ("bwrap: ", "setpriv: ")

Progress = Callable[[DesktopState], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where desktops of this machine are made, and how."""

    layout: Layout
    hierarchies: Hierarchies
    look: Path
    sandboxed: bool = True
    service_gid: int | None = None
    """The group that may connect to the RFB sockets; None: only our own user."""


@dataclass(slots=True)
class Pipes:
    """The ends of the pipes of one start; all are closed when the start is over, whatever its outcome."""

    open: set[int] = field(default_factory=set)

    def pair(self) -> tuple[int, int]:
        """Return (read, write)."""
        read, write = os.pipe2(os.O_CLOEXEC)
        self.open |= {read, write}
        return read, write

    def close(self, *descriptors: int) -> None:
        """Close those that are still ours."""
        for descriptor in descriptors or tuple(self.open):
            if descriptor in self.open:
                self.open.discard(descriptor)
                os.close(descriptor)

    async def read(self, descriptor: int, end: bytes) -> bytes:
        """Read one word; the descriptor is closed by the reader."""
        self.open.discard(descriptor)
        return await pipes.read_until(descriptor, end)


class Launch:
    """One start of one desktop."""

    def __init__(self, place: Place, spec: DesktopSpec, owner: tuple[int, int] | None) -> None:
        self._place = place
        self._spec = spec
        self._owner = owner
        self._uid = os.geteuid() if owner is None else owner[0]
        self._groups = DesktopGroups(place.hierarchies, spec.session_id)
        self._folders = sandbox.Folders(
            home=Path(spec.home), base=place.layout.desktops / spec.session_id, look=place.look
        )
        self._pipes = Pipes()
        self._leader = 0
        self.state: DesktopState | None = None

    async def run(self) -> LaunchResult:
        """Start it. Raises DesktopStartFailed, SandboxImpossible, NoRoom.

        Then `state` says what may be left of it.
        """
        started = time.monotonic()
        self._check_room()
        self._prepare()
        missing = self._groups.make(self._limits())
        self.state = self._record(self._first_state(missing))
        try:
            async with asyncio.timeout(READY_S):
                await self._start()
        except TimeoutError as exc:
            raise self._failure(f"it did not become ready within {READY_S:.0f} s") from exc
        finally:
            self._pipes.close()
        assert self.state is not None
        return LaunchResult(
            handle=self.state.handle,
            ready_ms=round((time.monotonic() - started) * 1000),
            limits=self.state.limits_missing,
        )

    async def _start(self) -> None:
        log_read, log = self._pipes.pair()
        if self._owner is not None:
            os.fchown(log, *self._owner)  # programs open /dev/stderr by name, too
        display_read, display_write = self._pipes.pair()
        go_read, go_write = self._pipes.pair()
        here_read, here_write = self._pipes.pair()
        info_read, info_write = self._pipes.pair()
        sync_read, sync_write = self._pipes.pair()
        arguments_read, arguments_write = self._pipes.pair()
        command, told = self._command()
        os.write(arguments_write, told)
        self._pipes.close(arguments_write)
        pid = spawn(
            sandbox.in_groups(sandbox.as_owner(command, self._owner), self._groups.entry("x")),
            descriptors={
                1: log,
                2: log,
                sandbox.DISPLAY_FD: display_write,
                sandbox.GO_FD: go_read,
                sandbox.INFO_FD: info_write,
                sandbox.SYNC_FD: sync_write,
                sandbox.ARGUMENTS_FD: arguments_read,
                sandbox.HERE_FD: here_write,
            },
            environment=self._environment(),
        )
        self._pipes.close(log, display_write, go_read, info_write, sync_write, arguments_read, here_write)
        facts = identity.facts(pid)
        assert facts is not None, pid  # our own child: even a dead one stays until it is reaped
        self._change(pid=pid, start_time=facts.start_time, helpers=_identities(self._keep_log(log_read)))
        if self._place.sandboxed:
            await self._sandbox_made(info_read)
        await self._or_death(
            self._display_up(display_read),
            self._set_apart(here_read, go_write),
            *((self._connect_network(sync_read),) if self._place.sandboxed else ()),
        )
        self._let_go(go_write)
        await self._or_death(self._answers(), asyncio.to_thread(self._assert_closed))
        self._finish()

    async def _sandbox_made(self, info_read: int) -> None:
        """Learn the first process inside, from bubblewrap itself."""
        async with asyncio.timeout(INFO_S):
            info = await self._pipes.read(info_read, b"}")
        if not info:
            raise await self._died()
        init = int(msgspec.json.decode(info)["child-pid"])
        facts = identity.facts(init)
        if facts is None:
            raise await self._died()
        self._change(init_pid=init, init_start_time=facts.start_time)

    async def _connect_network(self, exit_fd: int) -> None:
        assert self.state is not None
        kind = self._spec.network
        if kind == "isolated":
            found = await network.set_up(
                self.state.init_pid, exit_fd=exit_fd, groups=self._groups.entry("aid")
            )
            kind = found.kind
            if found.reason:
                self._change(limits_missing=(*self.state.limits_missing, "network"))
            self._change(helpers=(*self.state.helpers, *_identities(found.helper)))
        self._change(network=kind)

    async def _display_up(self, display_read: int) -> None:
        word = await self._pipes.read(display_read, b"\n")
        if not word.strip().isdigit():
            raise await self._died()
        self._change(display=int(word))

    async def _set_apart(self, here_read: int, go_write: int) -> None:
        """Put the first process of the applications into their group.

        It has no child yet. From then on it may prepare what needs neither display nor network.
        """
        if not await self._pipes.read(here_read, b"\n"):
            raise await self._died()
        leader = [pid for pid, _ in self._own_processes() if _is_leader(pid)]
        if len(leader) != 1:
            raise self._failure("its first process was not found")
        self._groups.move(leader[0], "app")
        self._leader = leader[0]
        _tell(go_write, b"apart\n")

    def _let_go(self, go_write: int) -> None:
        """Note what belongs to the display, and start the applications."""
        assert self.state is not None
        table = census.Table(census.look_at(pid for pid, _ in self._own_processes()))
        leader = table.by_pid.get(self._leader)
        applications = set() if leader is None else table.descent(leader.identity)
        self._change(
            display_side=tuple(p.identity for pid, p in table.by_pid.items() if pid not in applications)
        )
        self._record(self.state)
        _tell(go_write, b"go %d\n" % self.state.display)
        self._pipes.close(go_write)

    async def _answers(self) -> None:
        """Return when window manager and RFB server are there."""
        assert self.state is not None
        x11 = self._folders.x11 if self._place.sandboxed else Path("/tmp/.X11-unix")
        cookie = display.cookie_of((self._folders.etc / "xauth").read_bytes())
        async with asyncio.TaskGroup() as both:
            both.create_task(
                display.window_manager(x11 / f"X{self.state.display}", cookie=cookie, uid=self._uid),
                name="wait-window-manager",
            )
            both.create_task(
                display.banner(self._folders.run / "rfb.sock", uid=self._uid), name="wait-banner"
            )

    async def _or_death(self, *steps: Coroutine[Any, Any, None]) -> None:
        """Wait for all steps, which run side by side, or for the end of the desktop."""
        assert self.state is not None
        descriptor = identity.open_process(self.state.handle.pid, self.state.handle.start_time)
        if descriptor is None:
            for step in steps:
                step.close()
            raise await self._died()
        loop = asyncio.get_running_loop()
        died = asyncio.Event()
        loop.add_reader(descriptor, died.set)
        try:
            async with asyncio.TaskGroup() as group:
                death = group.create_task(self._raise_on(died), name="wait-death")
                async with asyncio.TaskGroup() as together:
                    for step in steps:
                        together.create_task(step, name="launch-step")
                death.cancel()
        except BaseExceptionGroup as exc:
            raise _first(exc) from exc
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def _raise_on(self, died: asyncio.Event) -> None:
        await died.wait()
        raise await self._died()

    async def _died(self) -> errors.SessionError:
        """Return the error for a desktop that ended before it was ready."""
        assert self.state is not None
        identity.reap(self.state.handle.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):  # the keeper writes the last line after the last writer has gone
                while any(is_there(*helper) for helper in self.state.helpers[:1]):
                    identity.reap(self.state.helpers[0][0])
                    await asyncio.sleep(0.01)
        return self._failure("it ended before it was ready")

    def _failure(self, what: str) -> errors.SessionError:
        words = log_keeper.last_words(self._folders.log)
        if (
            self.state is not None
            and not self.state.display_side
            and any(line.startswith(_SANDBOX_REFUSED) for line in words.splitlines())
        ):
            return errors.SandboxImpossible(f"the sandbox cannot be made: {words}")
        return errors.DesktopStartFailed(f"{what}; last words: {words or 'none'}", last_words=words)

    def _keep_log(self, read: int) -> int:
        """Start the log keeper, which reads from there; returns its pid."""
        command = sandbox.as_owner(log_keeper.command(str(self._folders.log)), self._owner)
        pid = spawn(
            sandbox.in_groups(command, self._groups.entry("aid")),
            descriptors={0: read},
            environment={"PATH": sandbox.SEARCH, census.MARK: self._spec.session_id},
        )
        self._pipes.close(read)
        return pid

    def _command(self) -> tuple[list[str], bytes]:
        """Return the command line, and what bubblewrap is told by a pipe."""
        inside = self._place.sandboxed
        look = sandbox.LOOK if inside else str(self._folders.look)
        supervise = [
            "/bin/sh",
            f"{look}/supervise",
            *((f":{display.SANDBOX_DISPLAY}", "-nolisten", "local") if inside else ()),
            *("-displayfd", str(sandbox.DISPLAY_FD)),
            *display.flags(
                run_folder=sandbox.RUN if inside else str(self._folders.run),
                cookie_file=self._cookie_file(),
                geometry=self._spec.geometry,
                title=environment.host_name(self._spec),
                shared=self._place.service_gid is not None,
            ),
        ]
        if not inside:
            return supervise, b""
        return sandbox.command(
            supervise,
            folders=self._folders,
            environment=self._environment(),
            host_name=environment.host_name(self._spec),
            own_network=self._spec.network != "host",
        )

    def _cookie_file(self) -> str:
        return f"{sandbox.ETC}/xauth" if self._place.sandboxed else str(self._folders.etc / "xauth")

    def _environment(self) -> dict[str, str]:
        inside = self._place.sandboxed
        return environment.of(
            self._spec,
            home=sandbox.HOME if inside else str(self._folders.home),
            look=sandbox.LOOK if inside else str(self._folders.look),
            cookie_file=self._cookie_file(),
            sandboxed=inside,
        )

    def _limits(self) -> Limits:
        return Limits(
            memory_bytes_max=self._spec.memory_mb_max << 20,
            cpus_max=self._spec.cpus_max,
            processes_max=self._spec.processes_max,
        )

    def _prepare(self) -> None:
        """Make the folders, empty, each with the owner that its use needs."""
        folders, gid = self._folders, self._uid
        folders.base.mkdir(mode=0o711, exist_ok=True)
        folders.base.chmod(0o711)
        shared = self._place.service_gid
        for folder, mode, group in (
            (folders.run, 0o2710 if shared is not None else 0o700, gid if shared is None else shared),
            (folders.x11.parent, 0o700, gid),
            (folders.x11, 0o1700, gid),
            (folders.log, 0o700, gid),
            (folders.etc, 0o711, None),
        ):
            folder.mkdir(exist_ok=True)
            if group is not None and self._owner is not None:
                os.chown(folder, self._uid, group)
            folder.chmod(mode)
        host_name = environment.host_name(self._spec)
        files = sandbox.etc_files(
            host_name=host_name, resolver=network.RESOLVER if self._spec.network == "isolated" else ""
        )
        if self._spec.network == "host":
            files["resolv.conf"] = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace")
        for name, text in files.items():
            (folders.etc / name).write_text(text, encoding="utf-8")
            (folders.etc / name).chmod(0o644)
        cookie = folders.etc / "xauth"
        cookie.touch(mode=0o600)
        cookie.write_bytes(display.cookie_entry(os.urandom(display.COOKIE_BYTES)))
        if self._owner is not None:
            os.chown(cookie, 0, self._owner[1])
            cookie.chmod(0o640)

    def _check_room(self) -> None:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        available = int(text.partition("MemAvailable:")[2].split(None, 1)[0]) * 1024
        disk = os.statvfs(self._place.layout.root)
        free = disk.f_bavail * disk.f_frsize
        for what, have, need in (
            ("memory", available, MEMORY_FREE_BYTES_MIN),
            ("disk", free, DISK_FREE_BYTES_MIN),
        ):
            if have < need:
                raise errors.NoRoom(
                    f"too little {what} is free for another desktop", free_bytes=have, need_bytes=need
                )

    def _assert_closed(self) -> None:
        """Look from outside: nothing of this desktop listens on TCP (only where its network is its own).

        Blocking: the kernel walks through the connections of the whole machine for it.
        """
        assert self.state is not None
        if not self._place.sandboxed or self._spec.network == "host":
            return
        for name in ("tcp", "tcp6"):
            table = Path(f"/proc/{self.state.init_pid}/net/{name}").read_text(encoding="ascii")
            listening = [line.split()[1] for line in table.splitlines()[1:] if line.split()[3] == "0A"]
            if listening:
                raise self._failure(f"its display listens on TCP ({listening[0]})")

    def _first_state(self, missing: tuple[str, ...]) -> DesktopState:
        spec = self._spec
        handle = Handle(
            provider="local",
            session_id=spec.session_id,
            workspace_id=spec.workspace_id,
            fence=spec.fence,
            pid=0,
            start_time=0,
            boot_id=identity.boot_id(),
            uid=self._uid,
            home=spec.home,
            run_folder=str(self._folders.run),
            socket=str(self._folders.run / "rfb.sock"),
            cgroup=str(self._groups.main or ""),
            network=spec.network if self._place.sandboxed else "host",
            template=spec.template,
        )
        if handle.network != spec.network:
            missing = (*missing, "network")
        return DesktopState(
            handle=handle,
            user_id=spec.user_id,
            registry_epoch=spec.registry_epoch,
            limits_missing=missing,
            sandboxed=self._place.sandboxed,
        )

    def _change(
        self, *, pid: int | None = None, start_time: int = 0, network: str | None = None, **facts: object
    ) -> None:
        """Note what is known now; in memory until `_record` makes it durable."""
        assert self.state is not None
        handle = self.state.handle
        if pid is not None:
            handle = msgspec.structs.replace(handle, pid=pid, start_time=start_time)
        if network is not None:
            handle = msgspec.structs.replace(handle, network=network)
        self.state = msgspec.structs.replace(self.state, handle=handle, **facts)

    def _record(self, state: DesktopState) -> DesktopState:
        state_file.write(self._folders.base, state)
        return state

    def _own_processes(self) -> tuple[tuple[int, int], ...]:
        """Return (pid, start time) of its processes, by the cheapest way there is: many start at once."""
        assert self.state is not None
        if grouped := self._groups.members("x") | self._groups.members("app"):
            return _identities(*sorted(grouped))
        return tuple(process.identity for process in census.members(self.state, census.look()).values())

    def _finish(self) -> None:
        assert self.state is not None
        self._change(ready=True, furniture=self._own_processes())
        self._record(self.state)


def is_there(pid: int, start_time: int) -> bool:
    """Say whether this very process still runs."""
    found = identity.facts(pid)
    return found is not None and found.start_time == start_time and identity.is_alive(found)


def _tell(descriptor: int, words: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # its end is told by who waits for the screen
        os.write(descriptor, words)


def _first(group: BaseException) -> BaseException:
    """Return the first single error in nested groups: it ended the wait, the others only followed."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _identities(*pids: int) -> tuple[tuple[int, int], ...]:
    found = (identity.facts(pid) for pid in pids if pid)
    return tuple((facts.pid, facts.start_time) for facts in found if facts is not None)


def _is_leader(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return len(words) > 1 and words[1].endswith(b"/leader")
