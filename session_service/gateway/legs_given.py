"""Desktops' sockets that the service connected for gateway processes, and can cut without asking them.

Not the leg: whoever was given the socket carries its bytes. The service keeps a descriptor of the same
connection, and `shutdown` works on the connection: who stands still, or obeys nobody, sends no byte more.
There is one for each session that is controlled from there, and one for each link that looks on.

Source: docs/design/0020.
"""

import asyncio
import contextlib
import select
import socket
from typing import Final, NamedTuple

from session_service.gateway.outpost import Outpost

ENDED_AT_ONCE: Final = 256
"""Looked at in one turn of the loop; the rest follows in the next."""


Name = tuple[str, str]
"""A session, and the link that looks on at it; "" for control. Never a link's id alone: it is chosen by its
process, which could call it by the name of what another one has.
"""


class _Given(NamedTuple):
    name: Name
    outpost: Outpost
    connected: socket.socket


class LegsGiven:
    """Connected sockets by whose they are."""

    def __init__(self) -> None:
        self._given: dict[Name, _Given] = {}
        self._names: dict[int, Name] = {}
        self._ends: select.epoll | None = None

    def __len__(self) -> int:
        return len(self._given)

    def __contains__(self, name: Name) -> bool:
        return name in self._given

    def keep(self, name: Name, outpost: Outpost, connected: socket.socket) -> None:
        """Own a connected socket from now on, in the place of an older one of that name.

        Raises:
            OSError: no descriptors are left; the socket is closed.
        """
        self.cut(name)
        try:
            ends = self._ends or self._watch()
            # For no event: the end of both directions is told all the same, and bytes are not.
            ends.register(connected.fileno(), 0)
        except OSError:
            connected.close()
            raise
        self._given[name] = _Given(name, outpost, connected)
        self._names[connected.fileno()] = name

    def cut(self, name: Name) -> None:
        """Let no byte pass over it any more, whoever has it. Unknown is done."""
        given = self._given.get(name)
        if given is not None:
            with contextlib.suppress(OSError):  # the desktop was quicker
                given.connected.shutdown(socket.SHUT_RDWR)
            self._forget(given)

    def cut_elsewhere(self, name: Name, place: Outpost | None) -> None:
        """Cut it unless `place` has it."""
        given = self._given.get(name)
        if given is not None and given.outpost is not place:
            self.cut(name)

    def cut_all(self, outpost: Outpost | None = None) -> None:
        """Cut those of a process that is gone, or of all of them."""
        for given in tuple(self._given.values()):
            if outpost is None or given.outpost is outpost:
                self.cut(given.name)

    def close(self) -> None:
        """Cut all, and look for no more ends. Repeating this is harmless."""
        self.cut_all()
        ends, self._ends = self._ends, None
        if ends is not None:
            asyncio.get_running_loop().remove_reader(ends.fileno())
            ends.close()

    def _watch(self) -> select.epoll:
        ends = self._ends = select.epoll()
        asyncio.get_running_loop().add_reader(ends.fileno(), self._look)
        return ends

    def _look(self) -> None:
        """Whose both directions are over is closed here, too."""
        assert self._ends is not None
        for descriptor, _events in self._ends.poll(0, ENDED_AT_ONCE):
            if (name := self._names.get(descriptor)) is not None:
                self._forget(self._given[name])

    def _forget(self, given: _Given) -> None:
        del self._given[given.name], self._names[given.connected.fileno()]
        if self._ends is not None:
            # Not by its closing: the connection lives on where it was handed to, and would be told of.
            self._ends.unregister(given.connected.fileno())
        given.connected.close()
