"""How the parts use memory: what the allocator keeps, and when garbage is collected.

A full collection stops every stream while it walks all objects: what was made until the start is taken out of
its sight, and it comes seldom, because links do not leave cycles behind. The allocator is told by variables,
which it reads only when a process begins.

Source: gateway.md 2 "malloc", 3 "gc.freeze() after start and a high gen-2 threshold are mandatory whatever
the stack".
"""

import gc
from typing import Final

YOUNG_THRESHOLD: Final = 5000
"""New objects before the youngest are looked through: at Python's 700 it was a twelfth of a storm's cost,
because a link is some sixty objects that all stay. A look at 5,000 takes a third of a millisecond.
"""
MIDDLE_THRESHOLD: Final = 10
"""Looks at the youngest before one at the middle: 50,000 objects, a few milliseconds."""
OLD_THRESHOLD: Final = 1000
"""Collections of the middle generation before a full one."""
KEPT_BYTES: Final = 134_217_728
"""Free memory at the top of the heap that is not given back."""
RELAY_MAP_BYTES: Final = 33_554_432
"""Relays map only larger blocks: a big buffer of one read is there for the next one."""
WORKER_MAP_BYTES: Final = 1_048_576
"""Workers map each larger block, so that every home's memory is given back."""


def environment(part: str) -> dict[str, str]:
    """Return what the allocator of a part is told."""
    mapped = WORKER_MAP_BYTES if part.startswith("worker") else RELAY_MAP_BYTES
    return {"MALLOC_MMAP_THRESHOLD_": str(mapped), "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES)}


def settle() -> None:
    """Call once everything is made that stays until the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_THRESHOLD, MIDDLE_THRESHOLD, OLD_THRESHOLD)
