"""Makes the plain small files of a restore for one thread: the quick way for almost every file of a home.

Plain is a file whose bytes are all at hand, without holes, attributes or special bits. It costs seven calls
of the kernel and as little of the interpreter as can be, and no lock while the kernel works. The guarantees
are those of `extract.py`: beneath folders of this restore, O_EXCL, no link followed. Whatever is not plain,
or finds its name taken, goes the extractor's own way.
"""

import os

from storage.errors import HostileTree
from storage.scan.entry import RestoreFacts
from storage.scan.extract import NEW_FILE, OPEN_WHILE_MADE, Extractor, of_target


class Lane:
    """One thread's hand of an extractor. Close it: it holds folders open."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._wardrobe = extractor.wardrobe
        self._folders = extractor.open_folders()

    def file(self, path: bytes, facts: RestoreFacts, data: bytes | memoryview) -> None:
        """Make a whole file of `data`; facts with holes are not for this call."""
        extractor = self._extractor
        if len(data) != facts.size:
            raise HostileTree(path=path, rule="bytes of the file")
        extractor.count(path, len(data))
        parent, _, leaf = path.rpartition(b"/")
        try:
            if not self._wardrobe.is_plain(facts):
                return self._otherwise(path, facts, data)
            folder = self._folders.fd(parent)
            try:
                fd = os.open(leaf, NEW_FILE, facts.mode & OPEN_WHILE_MADE | 0o600, dir_fd=folder)
            except FileExistsError:
                return self._otherwise(path, facts, data)
            try:
                rest = data
                while rest:
                    rest = rest[os.write(fd, rest) :]
                found = self._wardrobe.dress_plain(fd, facts)
                extractor.plain_file(path, os.fstat(fd) if extractor.remembers else found)
            finally:
                os.close(fd)
        except OSError as exc:
            raise of_target(path, exc) from exc

    def _otherwise(self, path: bytes, facts: RestoreFacts, data: bytes | memoryview) -> None:
        writer = self._extractor.counted_file(path, facts)
        writer.write(0, data)
        writer.close()

    def close(self) -> None:
        """Close the folders."""
        self._folders.close()
