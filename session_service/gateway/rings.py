"""What all streams together keep for a replay, and who gives up first when that is too much.

Not a limit per stream: those stand in `core/continuity/limits.py` and slow the desktop down. This one exists
because 10,000 times 4 MiB is more than a machine has; a slow or absent client costs itself its replay, and
nobody else anything.
"""

import os
from collections import OrderedDict
from typing import Protocol


class Kept(Protocol):
    """A stream as the budget sees it."""

    @property
    def kept_bytes(self) -> int: ...
    @property
    def heard_at(self) -> float: ...
    def end(self) -> bool: ...
    def forget(self) -> None: ...


class Rings:
    """The budget of one gateway. Times are readings of the loop's clock, in seconds."""

    def __init__(self, *, bytes_max: int, quiet_s: float) -> None:
        self._bytes_max = bytes_max
        self._quiet_s = quiet_s
        self._counted: dict[Kept, int] = {}
        self._detached: OrderedDict[Kept, None] = OrderedDict()
        self.bytes_held = 0
        self.dropped = 0

    @property
    def detached(self) -> int:
        """How many streams no link carries."""
        return len(self._detached)

    def count(self, stream: Kept, kept: int, now: float) -> None:
        """Note how many bytes a stream keeps by now; over the budget others, or itself, give up."""
        counted = self._counted
        self.bytes_held += kept - counted.get(stream, 0)
        counted[stream] = kept
        if self.bytes_held > self._bytes_max:
            self._make_room(now)

    def detach(self, stream: Kept, now: float) -> None:
        """No link carries it now; it may have to give up at once."""
        self._detached[stream] = None
        self.count(stream, stream.kept_bytes, now)

    def attach(self, stream: Kept) -> None:
        """A link carries it."""
        self._detached.pop(stream, None)

    def leave(self, stream: Kept) -> None:
        """It ended; repeating this is harmless."""
        self._detached.pop(stream, None)
        self.bytes_held -= self._counted.pop(stream, 0)

    def _make_room(self, now: float) -> None:
        while self.bytes_held > self._bytes_max and self._detached:
            oldest = next(iter(self._detached))
            self.dropped += 1
            oldest.end()
        if self.bytes_held <= self._bytes_max:
            return
        quiet = [stream for stream in self._counted if now - stream.heard_at > self._quiet_s]
        for stream in sorted(quiet, key=lambda one: one.heard_at):
            if self.bytes_held <= self._bytes_max:
                return
            self.dropped += 1
            stream.forget()
            self.bytes_held -= self._counted[stream] - stream.kept_bytes
            self._counted[stream] = stream.kept_bytes


def share_of_memory(share: float) -> int:
    """Return a share of the machine's memory, in bytes."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * share)
