"""The list, last in an archive, of what is not in it because objects of the store are damaged.

An archive is sent while it is made, so nobody can be told beforehand, and a status was sent long ago. A file
is therefore known to be whole before its name is written (`archive.py`), and what is not is listed here: for
people as a text, for programs by a mark that stands at the very end, where no content of a user can stand.
"""

from typing import Final

from storage.errors import PathMissing, StorageError
from storage.format.limits import KIB
from storage.format.tree import Entry
from storage.ops.browse import Browser
from storage.repository.damage import Damage, damage_of

NAME: Final = "INCOMPLETE"
MARK: Final = b"session-service incomplete"
"""In a tar the owner's name of the list, whose end is the archive's; in a zip the comment of the archive."""
BYTES_MAX: Final = 128 * KIB
"""Of the list; what does not fit is counted."""
NAMES_MAX: Final = 100
_HEAD: Final = (
    "This archive is incomplete: objects of the store are damaged or missing.\n"
    "Of these files nothing is in it. Of a folder, which ends with a slash, what could be read is.\n"
    "Path, object and reason:\n\n"
)


class MissingList:
    """What one archive lacks."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._bytes = 0
        self.count = 0

    def add(self, path: bytes, damage: Damage) -> None:
        """Note a file that is left out."""
        self._add(path, damage, "")

    def add_folder(self, path: bytes, damage: Damage) -> None:
        """Note a folder of which not all names could be read."""
        self._add(path, damage, "/")

    def _add(self, path: bytes, damage: Damage, ending: str) -> None:
        self.count += 1
        line = "\t".join((_shown(path) + ending, damage.object, damage.reason)) + "\n"
        self._bytes += len(line.encode())
        if self._bytes <= BYTES_MAX:
            self._lines.append(line)

    def text(self) -> bytes:
        """Return the list as it stands in the archive."""
        more = self.count - len(self._lines)
        tail = f"and {more} more\n" if more else ""
        return (_HEAD + "".join(self._lines) + tail).encode()


async def free_name(browser: Browser, start: Entry) -> str:
    """Return a name for the list that nothing in the archive has."""
    for number in range(1, NAMES_MAX):
        name = f"{NAME}.txt" if number == 1 else f"{NAME} {number}.txt"
        if start.name:
            if start.name != name.encode():
                return name
            continue
        try:
            await browser.find(name.encode())
        except PathMissing:
            return name
        except StorageError as exc:
            if damage_of(exc) is None:
                raise
            return name
    return f"{NAME} of this archive.txt"


def _shown(path: bytes) -> str:
    text = path.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
