"""A part's memory and descriptors are nobody's but its own and root's.

Not a sandbox. Parts hold keys of streams and the master key. Processes of one account may read each other's
memory, environment and open files (ptrace, /proc/PID/mem) unless one says no. So a gateway process that was
taken over reads no key of another one, and where one plain user runs everything, the part that faces the
network does not read the master key out of a worker. It leaves no core dumps either.
"""

import ctypes
from typing import Final

PR_SET_DUMPABLE: Final = 4


def close() -> None:
    """Let nobody of our account look into this process. Its own /proc/self stays open to it."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
