"""The priority of a whole process, lowered for a while and raised again.

A plain process may lower its priority (nice) and not raise it again, unless RLIMIT_NICE allows it; who starts
it sets that where he can (`allow_return`). Nothing here decides who stands back, or when.
"""

import contextlib
import os
import resource
import threading
from typing import Final

NICE_LIMIT: Final = 20
"""RLIMIT_NICE that allows to go back to priority 0 (getrlimit(2): 20 - nice)."""
NICE_MAX: Final = 19


def allow_return(pid: int) -> bool:
    """Let a process raise its priority again, up to the usual one; return False without the right to."""
    try:
        resource.prlimit(pid, resource.RLIMIT_NICE, (NICE_LIMIT, NICE_LIMIT))
    except (OSError, ValueError):
        return False
    return True


def may_return() -> bool:
    """Return whether this process can raise its priority again: tried, in a thread that ends with its own.

    A limit or a capability does not say so: a capability of a user namespace allows nothing here, and a
    container may forbid the call.
    """
    found: list[bool] = []
    trying = threading.Thread(target=lambda: found.append(_returns()), name="try-priority")
    trying.start()
    trying.join()
    return found == [True]


def _returns() -> bool:
    """Lower the priority of this thread by one, and raise it again."""
    try:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        if nice >= NICE_MAX:
            return False
        os.setpriority(os.PRIO_PROCESS, 0, nice + 1)
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        return False
    return True


def set_nice(nice: int) -> None:
    """Set the priority of every thread of this process; the caller first, because new ones inherit it.

    A thread that was not reached yet may start another one meanwhile: so until nobody new is there.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    reached: set[str] = set()
    while new := set(os.listdir("/proc/self/task")) - reached:
        for task in new:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, int(task), nice)
        reached |= new
