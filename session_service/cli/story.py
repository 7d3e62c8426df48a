"""The story of the product, played on real parts: work, lose the connection, come back, stay away too
long, find every file.

Each step proves what it says, by process ids, pixels, hashes and receipts; the first one that differs
ends the story.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from session_service.app.parent import start_time
from session_service.base import errors
from session_service.cli.stage import Stage
from session_service.client import models
from session_service.client.desktop_link import DesktopLink, open_link
from session_service.client.framebuffer import Picture

TYPED_S: Final = 20.0
"""How long a command typed into the terminal may take to show its effect."""
STATE_S: Final = 60.0
PIXELS_MAX: Final = 0
"""Pixels that may differ after the return, with the terminal's cursor hidden and the pointer still."""
QUIET_S: Final = 0.6


class StoryDiffers(errors.SessionError):
    """The demonstration did not go as promised."""

    code, status = "story_differs", 500
    action = "Run it again with --json for the facts, and `session-service doctor` for the machine."


@dataclass(slots=True, kw_only=True)
class Step:
    """One step as it went."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Cast:
    """What later steps need of earlier ones."""

    workspace: str = ""
    session: str = ""
    link: DesktopLink | None = None
    text: str = ""
    sha256: str = ""
    shell: bytes = b""
    picture: Picture | None = None
    identity: tuple[int, int] = (0, 0)
    seq: int = 0


def need(true: bool, words: str) -> None:
    """Raise StoryDiffers unless `true`."""
    if not true:
        raise StoryDiffers(words)


class Story:
    """Plays the steps in order on one stage."""

    def __init__(self, stage: Stage, *, tell: Callable[[Step], None], away_s: float) -> None:
        self._stage = stage
        self._tell = tell
        self._away_s = away_s
        self._cast = _Cast()
        self.steps: list[Step] = []

    async def play(self) -> bool:
        """Play all; returns whether everything was as promised. The last step tells what was not."""
        acts: tuple[tuple[str, Callable[[Step], Awaitable[None]]], ...] = (
            ("start a desktop", self._start),
            ("type through a websocket", self._work),
            ("cut the connection without a close", self._cut),
            ("come back to the same desktop", self._return),
            ("stay away longer than the hold", self._stay_away),
            ("check what the close proved", self._receipt),
            ("start again and find the file", self._again),
        )
        for name, act in acts:
            step = Step(name=name)
            self.steps.append(step)
            began = time.monotonic()
            try:
                await act(step)
                step.ok = True
            except (errors.SessionError, TimeoutError) as exc:
                step.facts["error"] = getattr(exc, "detail", "") or "it took too long"
                step.facts["code"] = getattr(exc, "code", "timeout")
            step.seconds = round(time.monotonic() - began, 3)
            self._tell(step)
            if not step.ok:
                return False
        return True

    async def _open(self) -> DesktopLink:
        ticket = await self._stage.api.ticket(self._cast.session, device_label="Demonstration")
        return await open_link(self._stage.address, path=ticket.path, ticket=ticket.ticket)

    async def _until(self, *states: str) -> models.Session:
        async with asyncio.timeout(STATE_S):
            while True:
                found = await self._stage.api.session(self._cast.session)
                if found.state in states:
                    return found
                await asyncio.sleep(0.05)

    async def _saved_file(self, name: str) -> bytes:
        """Type nothing more; save until the file is in a checkpoint, and fetch it from there."""
        async with asyncio.timeout(TYPED_S):
            while True:
                point = await self._stage.api.save(self._cast.session)
                self._cast.seq = point.seq
                files = await self._stage.api.files(self._cast.workspace, point.seq)
                if any(one.name == name and one.size > 0 for one in files):
                    pieces = self._stage.api.content(self._cast.workspace, point.seq, path=name)
                    return b"".join([piece async for piece in pieces])
                await asyncio.sleep(0.1)

    async def _start(self, step: Step) -> None:
        mine = await self._stage.api.workspaces()
        self._cast.workspace = mine[0].id
        session = await self._stage.api.start(workspace_id=self._cast.workspace, template="bare")
        self._cast.session = session.id
        found = await self._until("active", "held")
        need(found.state == "held", "a desktop without a client is held from its first moment")
        self._cast.identity = self._stage.processes_of(session.id)
        step.facts |= {"session": session.id, "pid": self._cast.identity[0], "network": found.network}

    async def _work(self, step: Step) -> None:
        cast = self._cast
        cast.link = await self._open()
        await self._until("active")
        await cast.link.settled(quiet_s=QUIET_S, limit_s=TYPED_S)
        cast.text = f"What I wrote before the line went dead: {secrets.token_hex(16)}"
        cast.sha256 = hashlib.sha256(f"{cast.text}\n".encode()).hexdigest()
        await cast.link.type(
            f"echo {cast.text} > proof.txt; V={secrets.token_hex(4)}; echo $$ $V > shell.txt\n"
        )
        cast.shell = await self._saved_file("shell.txt")
        written = await self._saved_file("proof.txt")
        need(
            hashlib.sha256(written).hexdigest() == cast.sha256,
            "the file in the checkpoint is not what was typed",
        )
        await cast.link.type("clear; printf '\\033[?25l'; echo the cursor is hidden\n")
        cast.picture = await cast.link.settled(quiet_s=QUIET_S, limit_s=TYPED_S)
        step.facts |= {"sha256": cast.sha256, "shell": cast.shell.decode().split()[0], "checkpoint": cast.seq}

    async def _cut(self, step: Step) -> None:
        assert self._cast.link is not None
        self._cast.link.cut()
        held = await self._until("held")
        step.facts |= {"cause": held.loss_cause, "hold_remaining_s": held.hold_remaining_s}
        need(
            held.loss_cause in {"reset", "unknown", "network_changed"},
            f"the cause was told as {held.loss_cause}",
        )
        need(held.hold_remaining_s is not None and held.hold_remaining_s > 0, "no time was left")

    async def _return(self, step: Step) -> None:
        cast = self._cast
        assert cast.picture is not None
        began = time.monotonic()
        cast.link = await self._open()
        first = await cast.link.picture()
        step.facts["first_picture_ms"] = round((time.monotonic() - began) * 1000)
        await self._until("active")
        identity = self._stage.processes_of(cast.session)
        need(identity == cast.identity, "another process answers")
        need(start_time(identity[0]) == identity[1], "the desktop's process is gone")
        settled = (
            first
            if first.differing(cast.picture) == 0
            else await cast.link.settled(quiet_s=QUIET_S, limit_s=TYPED_S)
        )
        differing = settled.differing(cast.picture)
        step.facts |= {"pid": identity[0], "pixels_differing": differing}
        need(differing <= PIXELS_MAX, f"{differing} pixels differ")
        await cast.link.type("echo $$ $V > again.txt\n")
        need(
            await self._saved_file("again.txt") == cast.shell,
            "another shell answers, or it lost its variable",
        )

    async def _stay_away(self, step: Step) -> None:
        assert self._cast.link is not None
        self._cast.link.cut()
        seen: list[str] = []
        began = time.monotonic()
        found = await self._stage.api.session(self._cast.session)
        async with asyncio.timeout(self._away_s + STATE_S):
            while found.state != "closed" or not seen:
                found = await self._stage.api.session(self._cast.session)
                if found.state != (seen[-1] if seen else ""):
                    seen.append(found.state)
                    if found.state == "closing":
                        step.facts["held_s"] = round(time.monotonic() - began, 1)
                await asyncio.sleep(0.05)
        step.facts |= {"states": seen, "outcome": found.outcome, "saved_as_of": found.saved_as_of}
        need(found.outcome == "saved", f"the outcome is {found.outcome}")
        pid, started = self._cast.identity
        need(start_time(pid) != started, "the desktop still runs after its close")
        held_s = step.facts.get("held_s", self._away_s)
        need(held_s >= self._away_s - 0.5, f"closed after {held_s} s, before its hold was over")

    async def _receipt(self, step: Step) -> None:
        receipt = (await self._stage.api.receipt(self._cast.session)).body
        final = receipt["c2"]
        need(bool(final["complete"]) and not final["unreadable"], "the final checkpoint is not complete")
        points = await self._stage.api.checkpoints(self._cast.workspace)
        found = [one for one in points if one.seq == final["seq"]]
        need(
            len(found) == 1 and found[0].hash == final["hash"],
            "the receipt names another checkpoint than the log",
        )
        need(found[0].final, "the checkpoint is not the final one")
        pieces = self._stage.api.content(self._cast.workspace, final["seq"], path="proof.txt")
        data = b"".join([piece async for piece in pieces])
        need(hashlib.sha256(data).hexdigest() == self._cast.sha256, "the saved file has another hash")
        step.facts |= {"checkpoint": final["seq"], "entries": final["entries"], "bytes": final["bytes"]}

    async def _again(self, step: Step) -> None:
        session = await self._stage.api.start(workspace_id=self._cast.workspace, template="bare")
        need(session.id != self._cast.session, "the closed session was given again")
        self._cast.session = session.id
        self._cast.link = await self._open()
        await self._until("active")
        await self._cast.link.settled(quiet_s=QUIET_S, limit_s=TYPED_S)
        await self._cast.link.type("sha256sum proof.txt > check.txt\n")
        line = (await self._saved_file("check.txt")).decode()
        step.facts |= {"session": session.id, "sha256": line.split()[0]}
        need(line.split()[0] == self._cast.sha256, "the file in the new desktop has another hash")
        await self._cast.link.close()
