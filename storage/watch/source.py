"""What a watcher of folders is: it gives folders keys, and tells an atlas what happened to them.

Two exist: `fanotify.py`, for whoever is given a group that root has opened, and `inotify.py` for everybody.
They differ in cost and reach, not in what they promise: what a call changed before it returned is told by
the next `read`, or the queue is said to have overflowed. Not told by either: stores into a memory map, until
it is unmapped.
"""

from typing import Final, Protocol

from storage.watch.dirt import Atlas, Key
from storage.watch.kernel import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
)

MASK: Final = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
"""Everything that changes what a checkpoint holds of a folder. Reading is not told, our own neither."""
READ_BYTES: Final = 256 * 1024


class Source(Protocol):
    """One queue of the kernel."""

    @property
    def mode(self) -> str:
        """fanotify or inotify."""
        ...

    @property
    def folders_max(self) -> int | None:
        """How many folders it can watch, None for any number."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        ...

    def watch(self, folder_fd: int) -> Key:
        """Watch an open folder.

        Raises:
            OSError: this one cannot be watched.
        """
        ...

    def forget(self, key: Key) -> None:
        """Stop watching; what is gone already is no error."""
        ...

    def read(self, atlas: Atlas) -> int:
        """Tell everything that the kernel has queued; return how many events it were. Never waits."""
        ...

    def close(self) -> None: ...
