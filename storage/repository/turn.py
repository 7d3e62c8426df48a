"""Whose turn it is to run Python: one thread of a scan at a time; native work goes on beside it.

A thread gives up the interpreter's lock with every call of the kernel, and a small file takes seven. Two
threads that do little else take the lock from each other at each of them: of a first checkpoint of 19,000
files that was 0.8 of 6.9 CPU seconds, and a tenth of the time it took. So whoever walks, or reads small
files, does so in turn, and steps aside while it compresses, seals, reads a large file, or waits.

Not a guard of any data: everything is as safe without it. Of one scan, not of the process, so that a disk
that hangs holds nobody else up. Nor does it through the readers, which are the process's: a walk that waits
for a cold or dead disk has the turn meanwhile, and who waits too long for it goes on without.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

WAIT_S: Final = 0.25
"""Ten times what a thread of a first checkpoint has its turn for. Whoever has it longer waits for a disk, and
then two threads are better than one.
"""
_NOBODY: Final = 0


class Turn:
    """A lock that knows who holds it, and that nobody waits for without end. Not to be taken twice by one
    thread.
    """

    __slots__ = ("_holder", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = _NOBODY

    def __enter__(self) -> None:
        if self._lock.acquire(timeout=WAIT_S):
            self._holder = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holder == threading.get_ident():
            self._holder = _NOBODY
            self._lock.release()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let others have the turn meanwhile; whoever does not have it just goes on."""
        if self._holder != threading.get_ident():
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
