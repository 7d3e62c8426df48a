"""Opens whatever tells of changes in homes: what root handed over, else inotify, else nothing but scans."""

from pathlib import Path

from storage.scan.settled import keeps_fine_times
from storage.watch.fanotify import Fanotify
from storage.watch.inotify import Inotify, watches_allowed
from storage.watch.source import Source
from storage.watch.watching import Watching


def open_watching(homes: Path, *, group: int | None = None, share: float = 1.0) -> Watching:
    """Return a watcher of homes beneath a folder. It never fails: then homes are scanned.

    Args:
        group: of fanotify, marked on their file system as `watch.fanotify.open_group` does; ours from now on.
        share: of the node's watches, if more processes watch homes on it.
    """
    watching = Watching(_source(homes, group, share), watchable=keeps_fine_times)
    watching.start()
    return watching


def only_scans() -> Watching:
    """Return a watcher that watches nothing."""
    return Watching(None, watchable=keeps_fine_times)


def _source(homes: Path, group: int | None, share: float) -> Source | None:
    if group is not None:
        try:
            return Fanotify(group, marked=homes)
        except OSError:
            pass  # a file system without ids or handles; inotify knows it by path
    try:
        return Inotify(folders_max=int(watches_allowed() * share))
    except OSError:
        return None
