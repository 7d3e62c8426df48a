"""Desktops of this machine, through the privileged host process.

Not the host: this side holds no right of its own and keeps no state that matters. Every call may be repeated;
when the host is away it raises PartUnavailable, which is retryable. Ends of desktops arrive on a call that
streams events; when the host restarts it is called again, and the host tells once more what has ended
meanwhile.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from session_service.base import aio, errors, log
from session_service.base.rpc import Client
from session_service.ports.desktops import (
    AskReport,
    DesktopSpec,
    EndProof,
    FreezeReceipt,
    Handle,
    LaunchResult,
    ObservedDesktop,
)
from session_service.ports.host_calls import (
    AskCall,
    Exit,
    FreezeCall,
    HandleCall,
    LaunchCall,
    MarkCall,
    Owner,
    OwnerCall,
    ProofCall,
)

CALL_S: Final = 90.0
"""The longest a call may take: a launch has 60 s, asking applications 36 s, ending 30 s."""
RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 2.0

Result = TypeVar("Result")


class LocalDesktops:
    """The `DesktopProvider` of one machine."""

    def __init__(self, host_socket: Path) -> None:
        self._client = Client(host_socket, part="host")
        self._events = Client(host_socket, part="host")
        self._callbacks: list[Callable[[Handle, str], None]] = []
        self._log = log.get_logger()
        self._tasks = aio.Tasks(
            lambda name, error: self._log.error("task.failed", task=name, error=repr(error))
        )
        self._listening = False

    async def close(self) -> None:
        """Close the connections; desktops and host go on."""
        await self._tasks.close()
        await self._events.close()
        await self._client.close()

    async def owner(self, *, workspace_id: str, fence: int) -> tuple[int, int] | None:
        """Return the uid and gid that the desktop of (workspace, fence) has or will have.

        None = our own user.
        """
        found = await self._call("owner", OwnerCall(workspace_id=workspace_id, fence=fence), Owner)
        return found.ids

    async def templates(self) -> frozenset[str]:
        """Return the names of what a desktop can be made from on this machine now."""
        return await self._call("templates", None, frozenset[str])

    async def launch(self, spec: DesktopSpec) -> LaunchResult:
        """Start the desktop, or find the one of this session and fence."""
        return await self._call("launch", LaunchCall(spec=spec), LaunchResult)

    async def census(self) -> list[ObservedDesktop]:
        """Look at the whole machine."""
        return await self._call("census", None, list[ObservedDesktop])

    async def observe(self, handle: Handle) -> ObservedDesktop:
        """Look at one desktop."""
        return await self._call("observe", HandleCall(handle=handle), ObservedDesktop)

    async def freeze(self, handle: Handle, *, applications_only: bool = False) -> FreezeReceipt:
        """Freeze everything (or only the applications) and prove it."""
        wish = FreezeCall(handle=handle, applications_only=applications_only)
        return await self._call("freeze", wish, FreezeReceipt)

    async def thaw(self, handle: Handle) -> None:
        """Let everything run again; gone or running is done."""
        await self._call("thaw", HandleCall(handle=handle), type(None))

    async def ask_close(self, handle: Handle, *, hook: bool) -> AskReport:
        """Run the user's hook, ask every window to close, HUP and TERM, each with its limit."""
        return await self._call("ask_close", AskCall(handle=handle, hook=hook), AskReport)

    async def end(self, handle: Handle, proof: EndProof) -> None:
        """End every process of the desktop as a whole; returns when none is left."""
        await self._call("end", ProofCall(handle=handle, proof=proof), type(None))

    async def wipe(self, handle: Handle, proof: EndProof) -> None:
        """Move the home to the seed area and forget the desktop's files."""
        await self._call("wipe", ProofCall(handle=handle, proof=proof), type(None))

    async def discard(self, handle: Handle) -> None:
        """End and remove a desktop that never became ready. Refuses others."""
        await self._call("discard", HandleCall(handle=handle), type(None))

    async def mark(
        self, handle: Handle, *, provisional_loss_epoch: int | None, revoked_grant: int | None = None
    ) -> None:
        """Write the marks into the state file, durable when this returns."""
        call = MarkCall(
            handle=handle, provisional_loss_epoch=provisional_loss_epoch, revoked_grant=revoked_grant
        )
        await self._call("mark", call, type(None))

    def on_exit(self, callback: Callable[[Handle, str], None]) -> None:
        """Call `callback(handle, last_words)` when a desktop's processes end, whoever ended them.

        Perhaps twice.
        """
        self._callbacks.append(callback)
        if not self._listening:
            self._listening = True
            self._tasks.spawn(self._listen(), name="desktop-exits")

    async def last_words(self, handle: Handle) -> str:
        """Return the end of the desktop's own log, cleaned and capped."""
        return await self._call("last_words", HandleCall(handle=handle), str)

    async def _call(self, method: str, params: Any, answer: type[Result]) -> Result:
        try:
            async with asyncio.timeout(CALL_S):
                return await self._client.call(method, params, answer)
        except TimeoutError as exc:
            raise errors.PartUnavailable(part="host", method=method) from exc

    async def _listen(self) -> None:
        """Hear of ends for as long as we live; a host that is away is called again."""
        pause = RECONNECT_S_MIN
        while True:
            try:
                await self._events.call("exits", None, type(None), event=Exit, on_event=self._tell)
            except errors.SessionError:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, RECONNECT_S_MAX)
            else:
                pause = RECONNECT_S_MIN

    def _tell(self, found: Exit) -> None:
        for callback in self._callbacks:
            callback(found.handle, found.last_words)
