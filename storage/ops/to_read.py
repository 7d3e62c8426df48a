"""What of a scan waits for a reader: files in batches, and inodes with several names, read once for all.

A batch is what one reader takes at a time; the hop between threads is paid for each batch, not for each file.
"""

from dataclasses import dataclass, field
from typing import Final

from storage.format.limits import MIB
from storage.format.tree import Entry
from storage.ops.assemble import MetFolder
from storage.ops.folder_record import Remembered
from storage.scan.entry import StatFacts

BATCH_BYTES: Final = 4 * MIB
BATCH_FILES: Final = 256
BATCHES_WAITING_MAX: Final = 6
"""Batches under way or waiting; each holds one descriptor per folder in it."""
BATCH_FOLDERS: Final = 32


@dataclass(slots=True)
class Linked:
    """One name of an inode that has several. `entry` stays None if it vanished."""

    name: bytes
    path: bytes
    folder: MetFolder
    facts: StatFacts
    entry: Entry | None = None
    clean: bool = False
    """May be remembered with its stat facts."""
    read_ns: int = 0
    twin: "Linked | None" = None
    """Another name of the same inode, which is read for both."""


@dataclass(frozen=True, slots=True)
class ToRead:
    """One file that a reader is to read."""

    folder_fd: int
    folder: MetFolder
    name: bytes
    facts: StatFacts
    known: Remembered | None
    linked: Linked | None

    @property
    def path(self) -> bytes:
        path = self.folder.path
        return path + b"/" + self.name if path else self.name


@dataclass(slots=True)
class Batch:
    """Files to be read by one reader, with descriptors of their folders."""

    files: list[ToRead] = field(default_factory=list)
    folders: list[int] = field(default_factory=list)
    last_folder: MetFolder | None = None
    size: int = 0
