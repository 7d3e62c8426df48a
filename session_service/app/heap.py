"""How a process that carries thousands of links collects garbage.

A full collection stops every stream while it walks all objects: what was made until the start is taken out of
its sight, and it comes seldom, because links do not leave cycles behind.

Source: gateway.md 3 "gc.freeze() after start and a high gen-2 threshold are mandatory whatever the stack".
"""

import gc
from typing import Final

OLD_THRESHOLD: Final = 1000
"""Collections of the middle generation before a full one."""


def settle() -> None:
    """Call once everything is made that stays until the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, OLD_THRESHOLD)
