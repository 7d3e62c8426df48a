"""The one place that ends a started desktop or wipes a home, and only with a proof that its files are saved.

Not a decision: the proof was made by the storage worker, which alone can seal one; here its seal, kind,
session, fence, home and age are checked, and without it nothing happens (S1, design.md 3). A desktop that
never became ready is the one exception. A test of the architecture forbids kill, rmtree and unlink of
desktops' files anywhere else.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.base.ids import is_ulid, ulid_to_hex
from session_service.base.layout import Layout
from session_service.core import proof as proofs
from session_service.host import census, identity
from session_service.host.control_groups import DesktopGroups, Hierarchies
from session_service.host.state_file import DesktopState, sync_folder
from session_service.ports.desktops import EndProof

END_S: Final = 30.0
LOOK_AGAIN_S: Final = 0.005
GROUP_REMOVE_S: Final = 2.0
SEED_AGE_S: Final = 900.0
"""How long a wiped home lies in the seed area before it is deleted."""


def boot_ms() -> int:
    """Return CLOCK_BOOTTIME in milliseconds: it goes on in suspend, and nobody can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Destroyer:
    """Ends and wipes. The caller holds the desktop's lock."""

    def __init__(
        self, layout: Layout, hierarchies: Hierarchies, *, now_boot_ms: Callable[[], int] = boot_ms
    ) -> None:
        self._layout = layout
        self._hierarchies = hierarchies
        self._now_boot_ms = now_boot_ms

    async def end(self, state: DesktopState, proof: EndProof) -> None:
        """End every process. Returns when a thorough look finds none. Raises ProofRequired."""
        self._check(state, proof, kind="verified")
        await self._kill(state)

    async def wipe(self, state: DesktopState, proof: EndProof) -> None:
        """Move the home to the seed area and forget our files of the desktop. Raises ProofRequired."""
        self._check(state, proof, kind="same")
        if census.members(state, census.look(), thorough=True):
            raise errors.ProofRequired("processes of this desktop still run; end it first")
        self._seed(state)
        self._forget(state)

    async def discard(self, state: DesktopState, *, keep_home: bool = False) -> None:
        """End and remove a desktop that never became ready. Raises ProofRequired for every other.

        Args:
            keep_home: for a launch that is tried again with the same restored home.
        """
        if state.ready:
            raise errors.ProofRequired("this desktop was ready once; only a proof ends it")
        await self._kill(state)
        if not keep_home:
            self._seed(state)
            self._forget(state)

    def remove_empty(self, state: DesktopState) -> bool:
        """Remove the home of a desktop that nobody remembers, if nothing lies in it; says whether it did.

        No proof is needed: the kernel refuses where there is a single name. Raises ProofRequired while
        something runs.
        """
        home = Path(state.handle.home)
        if not home.is_dir() or home.is_symlink():
            return False
        if census.members(state, census.look(), thorough=True):
            raise errors.ProofRequired("processes of this desktop still run; end it first")
        try:
            home.rmdir()
        except OSError:
            return False
        sync_folder(home.parent)
        with contextlib.suppress(OSError):
            home.parent.rmdir()
        return True

    async def sweep(self, state: DesktopState) -> None:
        """After a desktop has ended by itself: end our helpers beside it and remove its empty groups."""
        assert not census.members(state, census.look(), thorough=True), state.handle.session_id
        await self._end_helpers(state)

    def forget_wiped(self, states: Iterable[DesktopState]) -> list[DesktopState]:
        """Forget desktops of which nothing is left, neither home nor process: a wipe that a crash cut short.

        Called once, before anything is launched. Where the folder of homes itself is not there, a disk may be
        missing: then nothing is forgotten.
        """
        gone = [state for state in states if state.ready and not os.path.lexists(state.handle.home)]
        if not gone or not self._layout.homes.is_dir():
            return []
        table = census.look()
        wiped = [state for state in gone if not census.members(state, table, thorough=True)]
        for state in wiped:
            self._forget(state)
        return wiped

    def delete_old_seeds(self, *, now_s: float) -> int:
        """Delete wiped homes that have lain long enough; returns how many. Blocking: run it in a thread."""
        count = 0
        for seed in sorted(self._layout.seeds.iterdir()) if self._layout.seeds.is_dir() else ():
            if now_s - seed.lstat().st_ctime >= SEED_AGE_S:
                shutil.rmtree(seed, ignore_errors=True)
                count += 1
        return count

    def _check(self, state: DesktopState, proof: EndProof, *, kind: str) -> None:
        handle = state.handle
        flaw = proofs.flaw(
            proof,
            self._key(),
            kind=kind,
            workspace_id=handle.workspace_id,
            session_id=handle.session_id,
            fence=handle.fence,
            home=handle.home,
            now_boot_ms=self._now_boot_ms(),
        )
        if flaw is not None:
            raise errors.ProofRequired(f"nothing was ended or wiped: {flaw}", session_id=handle.session_id)

    def _key(self) -> bytes:
        try:
            key = self._layout.seal_key.read_bytes()
        except OSError as exc:
            raise errors.ProofRequired("the key that proofs are checked with cannot be read") from exc
        if len(key) != proofs.SEAL_KEY_BYTES:
            raise errors.ProofRequired("the key that proofs are checked with is damaged")
        return key

    async def _kill(self, state: DesktopState) -> None:
        groups = DesktopGroups(self._hierarchies, state.handle.session_id)
        try:
            async with asyncio.timeout(END_S):
                while left := self._left(state):
                    self._kill_group(groups)
                    for process in left.values():
                        self._kill_one(*process.identity)
                    identity.reap(state.handle.pid)
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError as exc:
            raise errors.FreezeFailed("a process does not end even when it is killed") from exc
        identity.reap(state.handle.pid)
        await self._end_helpers(state)

    def _left(self, state: DesktopState) -> dict[int, census.Process]:
        """Return what is left of a desktop; that nothing is left is said after a thorough look only."""
        return census.members(state, census.look()) or census.members(state, census.look(), thorough=True)

    async def _end_helpers(self, state: DesktopState) -> None:
        groups = DesktopGroups(self._hierarchies, state.handle.session_id)
        if groups.main is not None and self._hierarchies.freezer == "cgroup2":
            # Nothing of the desktop is left in it; a frozen log keeper could not write the last words.
            with contextlib.suppress(OSError):
                (groups.main / "cgroup.freeze").write_text("0")
        # The log keeper ends by itself at the end of its input; it is given the time to write the last words.
        for step in range(int(GROUP_REMOVE_S / LOOK_AGAIN_S)):
            for pid, _ in state.helpers:
                identity.reap(pid)
            left = census.helpers(state, census.look())
            if not left and groups.remove():
                break
            if step >= 40:
                for process in left.values():
                    self._kill_one(*process.identity)
            await asyncio.sleep(LOOK_AGAIN_S)
        for pid, _ in state.helpers:
            identity.reap(pid)

    def _kill_group(self, groups: DesktopGroups) -> None:
        """Kill a whole group at once, where the kernel can.

        A frozen one of version 1 dies when it is let go.
        """
        if groups.main is None:
            return
        for part in ("x", "app"):
            with contextlib.suppress(OSError):
                (groups.main / part / "cgroup.kill").write_text("1")
        if self._hierarchies.freezer == "cgroup1":
            for pid in groups.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                (groups.main / "freezer.state").write_text("THAWED")

    def _kill_one(self, pid: int, start_time: int) -> None:
        if (descriptor := identity.open_process(pid, start_time)) is None:
            return
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)

    def _seed(self, state: DesktopState) -> None:
        """Rename the home into the seed area.

        Already gone is done. Never follows a link, never leaves `homes`.
        """
        handle = state.handle
        home = Path(handle.home)
        assert is_ulid(handle.workspace_id)
        if home != self._layout.home(handle.workspace_id, handle.fence):
            raise errors.ProofRequired("this home does not lie where homes of this workspace lie")
        self._layout.seeds.mkdir(mode=0o700, exist_ok=True)
        place = (
            self._layout.seeds / f"{ulid_to_hex(handle.workspace_id)}-{handle.fence}-{self._now_boot_ms()}"
        )
        try:
            home.rename(place)
        except FileNotFoundError:
            return
        sync_folder(home.parent)
        with contextlib.suppress(OSError):
            home.parent.rmdir()

    def _forget(self, state: DesktopState) -> None:
        """Remove our own files of the desktop, the state file last."""
        folder = self._layout.desktops / state.handle.session_id
        for child in sorted(folder.iterdir()) if folder.is_dir() else ():
            if child.name != "state.json":
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()
        with contextlib.suppress(FileNotFoundError):
            (folder / "state.json").unlink()
            folder.rmdir()
        if folder.parent.is_dir():
            sync_folder(folder.parent)
