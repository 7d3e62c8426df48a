"""Unix sockets with a path that nobody else may enter, not even while they are being made.

The usual way, a umask around bind, is the whole process's: a thread that makes a folder meanwhile makes one
that it cannot enter, and two servers that start beside each other leave the narrow umask for ever.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

MODE: Final = 0o600


def bound(path: Path, kind: socket.SocketKind) -> socket.socket:
    """Return a non-blocking socket bound to `path`, for us alone; a stale one of an earlier run is replaced.

    Raises:
        OSError: the folder does not exist, or the path is too long for a socket.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.setblocking(False)
        os.fchmod(made.fileno(), MODE)  # Linux gives the file the mode that the socket has
        made.bind(os.fspath(path))
    except OSError:
        made.close()
        raise
    return made
