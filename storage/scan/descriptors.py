"""When no open file is to be had: that says nothing about the entry that was to be opened.

Taken for an entry's own fault it would make a checkpoint in which a whole home is unreadable, or a home that
is missing for good. So a scan ends there, and its caller tries again later.
"""

import errno
from typing import Final

from storage.errors import DescriptorsExhausted

NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""In this process, and on the whole machine."""


def require_descriptors(exc: OSError) -> None:
    """Raise DescriptorsExhausted if that is what an error says."""
    if exc.errno in NO_DESCRIPTOR:
        raise DescriptorsExhausted(errno=exc.errno) from exc
