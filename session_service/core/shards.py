"""Which gateway process a session's links go to: a number in the path, the same for the life of a session.

Not a secret and no placement: any gateway process can carry any session, and does while the one that is
named is away. It is computed from the session's id so that a page that comes back finds its stream where it
left it, without a table that somebody would have to keep.
"""

import zlib

FIRST = "0"
"""The gateway inside the service process; the only one where there is one process."""


def names(processes: int) -> tuple[str, ...]:
    """Return the shards of a service with that many gateway processes, from `FIRST`."""
    return tuple(str(number) for number in range(processes))


def shard_of(session_id: str, processes: int) -> str:
    """Return the shard that stands in the paths of a session's tickets."""
    return str(zlib.crc32(session_id.encode()) % processes)
