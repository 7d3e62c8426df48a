"""A hashed wheel of deadlines: millions of holds, one timer.

Not a source of truth: the record decides whether a hold is over, the wheel only says whom to look at.
Deadlines are readings of the availability counter in milliseconds; a counter that stands still fires nothing.
A key is looked at up to one slot late (a second, if nothing else is said) and never early.
"""

from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import islice
from typing import Generic, TypeVar

SLOT_MS = 1_000
SLICE_KEYS_MAX = 256
"""So many due keys are given out at once; the caller lets others run between slices."""

Key = TypeVar("Key", bound=Hashable)


class Wheel(Generic[Key]):
    """Keys with deadlines. Setting, moving and removing take constant time; the next due slot is kept at
    hand.

    Args:
        slot_ms: the width of a slot.
    """

    def __init__(self, *, slot_ms: int = SLOT_MS) -> None:
        self._slot_ms = slot_ms
        self._slot_of: dict[Key, int] = {}
        self._slots: dict[int, dict[Key, None]] = {}
        self._first: int | None = None
        self._order: list[int] = []
        self._ordered: set[int] = set()

    def __len__(self) -> int:
        return len(self._slot_of)

    def __contains__(self, key: object) -> bool:
        return key in self._slot_of

    def set(self, key: Key, deadline_ms: int) -> None:
        """Put a key at its deadline, rounded up to a slot; an earlier entry of the key is replaced."""
        slot = -(-deadline_ms // self._slot_ms)
        before = self._slot_of.get(key)
        if before == slot:
            return
        if before is not None:
            self.remove(key)
        self._slot_of[key] = slot
        keys = self._slots.get(slot)
        if keys is not None:
            keys[key] = None
            return
        self._slots[slot] = {key: None}
        if slot not in self._ordered:
            self._ordered.add(slot)
            heappush(self._order, slot)
        if self._first is None or slot < self._first:
            self._first = slot

    def remove(self, key: Key) -> None:
        """Take a key out; unknown is done."""
        slot = self._slot_of.pop(key, None)
        if slot is None:
            return
        keys = self._slots[slot]
        del keys[key]
        if not keys:
            del self._slots[slot]
            if slot == self._first:
                self._find_first()

    def next_deadline_ms(self) -> int | None:
        """Return the reading at which the first slot is due; None when the wheel is empty. Arm one timer for
        it.
        """
        return None if self._first is None else self._first * self._slot_ms

    def due(self, reading_ms: int) -> tuple[Key, ...]:
        """Take out and return at most one slice of due keys, oldest slot first; call again until it is
        empty.
        """
        taken: list[Key] = []
        last = reading_ms // self._slot_ms
        while self._first is not None and self._first <= last and len(taken) < SLICE_KEYS_MAX:
            keys = self._slots[self._first]
            some = tuple(islice(keys, SLICE_KEYS_MAX - len(taken)))
            for key in some:
                del keys[key], self._slot_of[key]
            taken += some
            if not keys:
                del self._slots[self._first]
                self._find_first()
        return tuple(taken)

    def _find_first(self) -> None:
        """Skip the slots that are empty by now; one is only ever skipped once."""
        while self._order and self._order[0] not in self._slots:
            self._ordered.discard(heappop(self._order))
        self._first = self._order[0] if self._order else None
