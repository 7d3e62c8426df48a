"""Reading: a few threads with a read-only connection each, so that a question never waits behind a group.

Not a cache: each question is its own look at the newest commit, so it sees everything that was answered
before. Connections are opened at the start and kept, so that reading goes on when the file has lost its name;
after an error a connection is closed, and the next question opens a new one.
"""

import asyncio
import contextlib
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from session_service.base.errors import RegistryUnavailable
from session_service.core import audit_chain
from session_service.registry import rows as codec
from session_service.registry.connection import open_connection, row, rows, unavailable
from session_service.registry.statements import statements

READERS: Final = 2
"""Threads that read; questions are short and mostly CPU, so more would only contend."""
AUDIT_SLICE: Final = 2000
"""Audit records in memory at once while a chain is verified."""

T = TypeVar("T")


class Readers:
    """A bounded pool of threads, each with its own connection."""

    def __init__(self, path: Path, *, threads: int = READERS) -> None:
        self._path = path
        self._free: queue.SimpleQueue[apsw.Connection | None] = queue.SimpleQueue()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="registry-reader")
        self._closed = False
        for _ in range(threads):
            self._free.put(self._open())

    async def ask(self, question: Callable[[apsw.Connection], T]) -> T:
        """Answer a question on a thread.

        Raises:
            RegistryUnavailable: SQLite failed, or the registry is closed.
        """
        if self._closed:
            raise RegistryUnavailable(cause="closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, question)

    async def one(self, name: str, bindings: Mapping[str, Any], decode: Callable[[codec.Row], T]) -> T | None:
        """Return the one record that a named statement finds."""
        sql = statements()[name]

        def question(connection: apsw.Connection) -> T | None:
            found = row(connection, sql, bindings)
            return None if found is None else decode(found)

        return await self.ask(question)

    async def many(
        self, name: str, bindings: Mapping[str, Any], decode: Callable[[codec.Row], T]
    ) -> Sequence[T]:
        """Return every record that a named statement finds."""
        return await self.found(statements()[name], bindings, decode)

    async def found(
        self, sql: str, bindings: Mapping[str, Any], decode: Callable[[codec.Row], T]
    ) -> Sequence[T]:
        """Return every record that a statement finds."""
        return await self.ask(lambda connection: [decode(one) for one in rows(connection, sql, bindings)])

    async def close(self) -> None:
        """Let running questions end and close every connection."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)
        for _ in range(self._threads):
            if (connection := self._free.get()) is not None:
                connection.close()

    def _answer(self, question: Callable[[apsw.Connection], T]) -> T:
        connection = self._free.get()  # never waits: as many as there are threads
        try:
            if connection is None:
                connection = open_connection(self._path, writes=False)
            return question(connection)
        except apsw.Error as exc:
            if connection is not None:
                with contextlib.suppress(apsw.Error):  # it is given up because of an error already
                    connection.close(True)
                connection = None
            raise unavailable(exc, path=self._path) from exc
        finally:
            self._free.put(connection)

    def _open(self) -> apsw.Connection | None:
        try:
            return open_connection(self._path, writes=False)
        except apsw.Error:
            return None  # the first question tries again, and says why not


def verify_chain(connection: apsw.Connection) -> int:
    """Recompute the whole chain from one point in time, a slice at a time; return the number of records.

    Raises:
        AuditBroken: a record was changed or removed.
    """
    sql = statements()
    head = audit_chain.EMPTY
    connection.execute("BEGIN")  # one snapshot: records that arrive meanwhile are not half seen
    try:
        kept = row(connection, sql["audit_head"], {})
        more = True
        while more:
            found = rows(connection, sql["audit_up"], {"after": head.seq, "limit": AUDIT_SLICE})
            head = audit_chain.verify((codec.audit_from(one) for one in found), start=head)
            more = len(found) == AUDIT_SLICE
    finally:
        connection.execute("ROLLBACK")
    end = None if kept is None else codec.head_from(kept)
    return audit_chain.verify((), start=head, end=end).seq
