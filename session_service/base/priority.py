"""The priority of a whole process, lowered for a while and raised again.

A plain process may lower its priority (nice) and not raise it again, unless RLIMIT_NICE allows it; who starts
it sets that where he can (`allow_return`). Nothing here decides who stands back, or when.
"""

import contextlib
import os
import resource
from pathlib import Path
from typing import Final

NICE_LIMIT: Final = 20
"""RLIMIT_NICE that allows to go back to priority 0 (getrlimit(2): 20 - nice)."""

CAP_SYS_NICE: Final = 23
"""capability.h"""


def allow_return(pid: int) -> bool:
    """Let a process raise its priority again, up to the usual one; return False without the right to."""
    try:
        resource.prlimit(pid, resource.RLIMIT_NICE, (NICE_LIMIT, NICE_LIMIT))
    except (OSError, ValueError):
        return False
    return True


def may_return() -> bool:
    """Return whether this process can raise its priority again."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    return soft == resource.RLIM_INFINITY or soft >= NICE_LIMIT or _has_capability(CAP_SYS_NICE)


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def set_nice(nice: int) -> None:
    """Set the priority of every thread of this process; the caller first, because new ones inherit it."""
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
