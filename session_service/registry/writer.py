"""The one thread that writes: it gathers units into groups, commits each group once, and answers after that.

Not a queue for others: only `SqliteRegistry` hands units in. Why a thread of its own: an fsync blocks, and a
database file has one writer anyway. Units that wait together share a transaction in the order of their rank,
each in a savepoint. The same thread copies the WAL back into the file when nothing waits, because SQLite's
own checkpoints would stop a commit in the middle of a storm.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from session_service.base import log
from session_service.base.errors import RegistryUnavailable
from session_service.core.changes import Unit
from session_service.registry.connection import (
    breaks_connection,
    open_connection,
    quick_check,
    unavailable,
)
from session_service.registry.writes import Transaction

WINDOW_S: Final = 0.020
"""Units that arrive within this time share a transaction; the window closes when nothing else waits."""
GROUP_UNITS_MAX: Final = 500
"""Units of one transaction: 5,000 drops are ten groups, and none waits for all (lifecycle.md 11)."""
WAITING_UNITS_MAX: Final = 50_000
"""Units that wait at most; more are refused as unavailable, so that a dead disk cannot fill the memory."""
IDLE_S: Final = 0.5
"""Without units for this long the WAL is copied back."""
WAL_PAGES_MAX: Final = 16_384
"""64 MiB of WAL: copied back even when units wait, so that a busy day cannot fill the disk."""


@dataclass(slots=True)
class Waiting:
    """A unit and the future that its caller awaits."""

    unit: Unit
    answer: "asyncio.Future[None]"


Outcome = tuple[Waiting, BaseException | None]


class Writer:
    """Owns the writing connection. Everything but `hand_in` and `stop` runs on its thread."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._queue: queue.SimpleQueue[list[Waiting] | None] = queue.SimpleQueue()
        self._count = 0
        self._stopped = False
        self._connection: apsw.Connection | None = None
        self._wal_pages = 0
        self._inode = 0
        self._healthy = True
        self._damaged = False
        self._log = log.get_logger()
        self._thread = threading.Thread(target=self._run, name="registry-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; which opens the connection."""
        self._thread.start()

    def hand_in(self, batch: list[Waiting]) -> None:
        """Queue units that arrived in one turn of the loop; called there, and answered there."""
        if self._stopped or self._count + len(batch) > WAITING_UNITS_MAX:
            cause = "closed" if self._stopped else "too_many_waiting"
            self._deliver([(one, RegistryUnavailable(cause=cause)) for one in batch], counted=False)
            return
        self._count += len(batch)
        self._queue.put(batch)

    async def stop(self) -> None:
        """Answer what waits, copy the WAL back and end the thread. Repeating does nothing."""
        if not self._stopped:
            self._stopped = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- on the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        with contextlib.suppress(apsw.Error, OSError):  # the first unit tries again, and is answered
            self._open()
        while not last:
            try:
                batches, last = self._gather()
                waiting = [one for batch in batches for one in batch]
                waiting.sort(key=lambda one: one.unit.rank)  # stable: first come within a rank
                for start in range(0, len(waiting), GROUP_UNITS_MAX):
                    self._commit_and_answer(waiting[start : start + GROUP_UNITS_MAX])
                if not waiting or self._wal_pages > WAL_PAGES_MAX:
                    self._copy_back(apsw.SQLITE_CHECKPOINT_PASSIVE)
            except Exception as exc:  # noqa: BLE001 - the thread's edge: it must outlive a mistake of ours
                self._log.error("task.failed", task="registry-writer", error=repr(exc))
        self._copy_back(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._drop_connection()

    def _gather(self) -> tuple[list[list[Waiting]], bool]:
        """Return what arrived within the window, and whether this was the last."""
        try:
            first = self._queue.get(timeout=IDLE_S if self._wal_pages else None)
        except queue.Empty:
            return [], False
        batches: list[list[Waiting]] = []
        closes = time.monotonic() + WINDOW_S
        while first is not None:
            batches.append(first)
            if time.monotonic() >= closes:
                return batches, False
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return batches, False
        return batches, True

    def _commit_and_answer(self, group: Sequence[Waiting]) -> None:
        outcomes: list[Outcome] = [(one, RegistryUnavailable(cause="internal")) for one in group]
        try:
            outcomes = self._commit(group)
        finally:
            self._answer(outcomes)

    def _commit(self, group: Sequence[Waiting]) -> list[Outcome]:
        try:
            connection = self._open()
            self._still_there()
            connection.execute("BEGIN IMMEDIATE")
            try:
                transaction = Transaction(connection)
                outcomes = [(one, _carry_out(transaction, one.unit)) for one in group]
                transaction.finish()
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except apsw.Error as exc:
            return self._failed(group, exc)
        except OSError as exc:
            return self._failed(group, apsw.CantOpenError(str(exc)))
        except RegistryUnavailable as exc:
            return self._unhealthy(group, exc)
        if not self._healthy:
            self._healthy = True
            self._log.info("registry.recovered", path=str(self._path))
        return outcomes

    def _failed(self, group: Sequence[Waiting], error: apsw.Error) -> list[Outcome]:
        if breaks_connection(error):
            self._damaged = isinstance(error, apsw.CorruptError | apsw.NotADBError)
            self._drop_connection()
        return self._unhealthy(group, unavailable(error, path=self._path))

    def _unhealthy(self, group: Sequence[Waiting], error: RegistryUnavailable) -> list[Outcome]:
        if self._healthy:
            self._healthy = False
            self._log.error("registry.failed", cause=error.facts["cause"], error=error.detail)
        return [(one, RegistryUnavailable(error.detail, **error.facts)) for one in group]

    def _still_there(self) -> None:
        """Refuse to write to a file that has lost its name: SQLite would go on, and all would be lost."""
        try:
            there = self._path.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise RegistryUnavailable(
                "The registry's file was removed or replaced while in use. Make a backup of what is open"
                " still (`session-service backup FILE`), stop the service, and restore that.",
                cause="file_gone",
                path=str(self._path),
            )

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            connection = open_connection(self._path, writes=True)
            if self._damaged and (found := quick_check(connection)):
                connection.close()
                raise apsw.CorruptError(found)
            self._damaged = False
            connection.set_wal_hook(self._wal_grew)
            self._inode = self._path.stat().st_ino
            self._connection = connection
            self._wal_pages = 1  # what an earlier process left is copied back in the first idle moment
        return self._connection

    def _wal_grew(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _copy_back(self, mode: int) -> None:
        if self._connection is None or not self._wal_pages:
            return
        try:
            in_wal, copied = self._connection.wal_checkpoint(mode=mode)
            # A reader may hold old pages; then the rest is for the next idle moment.
            self._wal_pages = 0 if copied >= in_wal else in_wal
        except apsw.Error as exc:
            self._failed((), exc)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._wal_pages = 0
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # it is given up because of an error already
                connection.close(True)

    def _answer(self, outcomes: list[Outcome]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, outcomes)

    # -- on the loop -----------------------------------------------------------------------------------

    def _deliver(self, outcomes: list[Outcome], *, counted: bool = True) -> None:
        if counted:
            self._count -= len(outcomes)
        for waiting, error in outcomes:
            if waiting.answer.done():
                continue  # its caller was cancelled; the unit stands all the same
            if error is None:
                waiting.answer.set_result(None)
            else:
                waiting.answer.set_exception(error)


def _carry_out(transaction: Transaction, unit: Unit) -> BaseException | None:
    """Carry out one unit of a group; a refusal, or a mistake in this unit alone, is its own answer."""
    try:
        transaction.carry_out(unit)
    except apsw.Error as exc:
        if isinstance(exc, apsw.ConstraintError):
            return AssertionError(f"a unit breaks a rule of the schema: {exc}")
        raise
    except Exception as exc:  # noqa: BLE001 - the edge of one unit: the others of its group go on
        return exc
    return None
