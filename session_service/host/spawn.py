"""Start a program that outlives us: a session of its own, no descriptor of ours but those that are named.

Not asyncio's subprocess: its transport kills the child when the loop closes, and a desktop must outlive the
host. Short programs whose answer is waited for (nft, nsenter) do use asyncio.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from typing import Final

_HIGH: Final = 200
"""Sources are first moved above every target, so that no target overwrites a source still needed."""


def spawn(arguments: Sequence[str], *, descriptors: Mapping[int, int], environment: Mapping[str, str]) -> int:
    """Start `arguments` (absolute program first) and return its pid; `descriptors` maps its numbers to ours.

    Standard input is /dev/null; outputs are /dev/null unless named.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    wanted = {0: null, 1: null, 2: null, **descriptors}
    moved: dict[int, int] = {}
    try:
        for target, source in wanted.items():
            moved[target] = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        return os.posix_spawn(
            arguments[0],
            list(arguments),
            dict(environment),
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in moved.items()],
            setsid=True,
            setsigmask=[],
            setsigdef=range(1, 32),
        )
    finally:
        os.close(null)
        for source in moved.values():
            os.close(source)
