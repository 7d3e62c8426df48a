"""A client under test that is a program: started for each case, ended after it, made to stand still.

Not a shell: the command is split as a shell splits, and its placeholders are filled afterwards, so that no
value is ever read as syntax. The last of what it writes is kept for the report of a red case.
"""

import asyncio
import contextlib
import os
import shlex
import signal
from typing import Final

from session_service.conformance.casework import ClientEnded, Place

STOP_S: Final = 5.0
"""Between asking a client to end and ending it."""
SAID_BYTES: Final = 2000
READ_BYTES: Final = 4096
PLACEHOLDERS: Final = ("url", "session", "token", "path", "case")


class CommandDriver:
    """Runs a command line with {url}, {session}, {token}, {path} and {case} filled in; the same stand in its
    environment as CONFORMANCE_URL and so on.
    """

    def __init__(self, command: str) -> None:
        self._words = shlex.split(command)
        self._process: asyncio.subprocess.Process | None = None
        self._said = b""

    @property
    def said(self) -> str:
        """The last that it wrote."""
        return self._said.decode(errors="replace")

    async def start(self, place: Place) -> None:
        """Run it in a process group of its own, until it ends. Raises ClientEnded then."""
        values = {
            "url": place.url,
            "session": place.session_id,
            "token": place.token,
            "path": place.path,
            "case": place.case,
        }
        self._process = process = await asyncio.create_subprocess_exec(
            *(_filled(word, values) for word in self._words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {f"CONFORMANCE_{name.upper()}": value for name, value in values.items()},
            start_new_session=True,
        )
        assert process.stdout is not None
        while data := await process.stdout.read(READ_BYTES):
            self._said = (self._said + data)[-SAID_BYTES:]
        raise ClientEnded(await process.wait())

    async def stop(self) -> None:
        """Ask it to end, then end it and all that it started."""
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.wait()
        self._signal(signal.SIGKILL)
        await process.wait()

    async def freeze(self, seconds: float) -> None:
        """Let it stand still, as in a machine that sleeps."""
        self._signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Signal its process group, whose number stays its own until all of the group have ended."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace("{" + name + "}", value)
    return word
