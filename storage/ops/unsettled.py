"""Which folders the next scan must look at, whether or not the kernel tells of a change in them.

Source: docs/design/0010-change-notification.md, "What is looked at always".
"""

from collections.abc import Iterable, Iterator
from typing import Final

from storage.format.tree import Entry
from storage.ops.stat_cache import RACY_NS
from storage.scan.entry import Kind, StatFacts

AGAIN_NS: Final = RACY_NS
"""A file that was read within so long after its times is looked at once more, as a scan of everything would.
"""


def is_unsettled(entry: Entry, facts: StatFacts, read_ns: int) -> bool:
    """Return whether a file may change once more within the tick in which it was read."""
    return entry.type == Kind.FILE and max(facts.mtime_ns, facts.ctime_ns) + AGAIN_NS >= read_ns


def folders_of(found: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the folders of paths of the report."""
    for path in found:
        yield path.rpartition(b"/")[0]
