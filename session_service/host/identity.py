"""Who a process is: pid, start time and boot id, held by a pidfd; and the gentle signals to a proven one.

Not the end of anything: only `destroy.py` kills. A pid alone is never believed, since the kernel gives it to
the next process; the pidfd is opened first and the start time compared afterwards, so that no reuse can slip
between (desktops.md 1).
"""

import functools
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GENTLE: Final = frozenset({signal.SIGSTOP, signal.SIGCONT, signal.SIGHUP, signal.SIGTERM})

READ_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What /proc says of one process at one moment."""

    pid: int
    start_time: int
    """Field 22 of stat: clock ticks after boot."""
    parent: int
    state: str
    name: str
    """At most 15 bytes, chosen by the process: for display and hints only."""
    terminal: int


@functools.cache
def boot_id() -> str:
    """Return the id of this start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read(path: str) -> bytes:
    """Return a file of the kernel's, in as few calls as possible: a look reads some thousand of them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while piece := os.read(descriptor, READ_BYTES):  # a short piece is not the end of such a file
            content += piece
        return content
    finally:
        os.close(descriptor)


def facts(pid: int) -> ProcessFacts | None:
    """Return what /proc says of `pid`, or None when there is no such process."""
    try:
        text = read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(b") ")
    fields = tail.split()
    return ProcessFacts(
        pid=pid,
        start_time=int(fields[19]),
        parent=int(fields[1]),
        state=fields[0].decode("ascii"),
        name=head.partition(b"(")[2].decode("utf-8", "replace"),
        terminal=int(fields[4]),
    )


def is_alive(found: ProcessFacts | None) -> bool:
    """Say whether a process still runs; a zombie has ended and waits only to be reaped."""
    return found is not None and found.state not in "ZX"


def open_process(pid: int, start_time: int) -> int | None:
    """Return a pidfd of the process with this start time, or None when it is gone or its number is reused."""
    if pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    found = facts(pid)
    if found is None or found.start_time != start_time or not is_alive(found):
        os.close(descriptor)
        return None
    return descriptor


def send(pid: int, start_time: int, number: signal.Signals) -> bool:
    """Send a gentle signal to exactly this process; False when it is gone."""
    assert number in GENTLE, number
    if (descriptor := open_process(pid, start_time)) is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def exit_status(pid: int) -> int:
    """Return how a child of ours ended, negative for a signal; it has ended already: nothing waits."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def reap(pid: int) -> None:
    """Collect the exit of a child of ours, if it is one and has ended.

    Others are collected by their own parent.
    """
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
