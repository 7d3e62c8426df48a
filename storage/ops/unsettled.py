"""Which folders the next scan must look at, whether or not the kernel tells of a change in them.

Source: docs/design/0010-change-notification.md, "What is looked at always".
"""

import stat
from collections.abc import Iterable, Iterator
from typing import Final

from storage.ops.assemble import MetFolder
from storage.ops.folder_record import Made
from storage.ops.stat_cache import RACY_NS

AGAIN_NS: Final = RACY_NS
"""A file that was read within so long after its times is looked at once more, as a scan of everything would.
"""


def unsettled(
    found: Iterable[bytes], linked: Iterable[MetFolder], met: Iterable[MetFolder]
) -> Iterator[bytes]:
    """Yield folders that hold something of the report, a name of an inode that may change by another one,
    or a file that may change once more within the tick in which it was read.

    Args:
        found: paths of the report.
        linked: the folder of each name of an inode that has several.
    """
    for path in found:
        yield path.rpartition(b"/")[0]
    for folder in linked:
        yield folder.path
    for folder in met:
        if any(map(_is_unsettled, folder.made)):
            yield folder.path


def _is_unsettled(made: Made) -> bool:
    row, _ = made
    if row[1] is None:
        return True
    return stat.S_ISREG(row[1][0]) and max(row[2], row[3]) + AGAIN_NS >= row[4]
