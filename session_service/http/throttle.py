"""Pauses after failed attempts: a few tries, then a pause that doubles. Pure; the time is an argument.

Not a lock-out: a pause ends by itself. Kept in memory only, so a restart forgets it; hashing stays slow
meanwhile. An attempt counts as failed from its beginning and is forgiven when it succeeds, so that many at
once gain nothing.
"""

import unicodedata
from collections import OrderedDict
from dataclasses import dataclass

from session_service.http import limits


@dataclass(slots=True)
class _Failures:
    count: int = 0
    paused_until_ms: int = 0
    last_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an attempt may be made now, and what follows if it fails."""

    allowed: bool
    pause_s: float
    """Seconds to wait where not allowed; else the pause that follows the last try."""
    tries_left: int


def account_key(name: str) -> str:
    """Return the form under which names are counted: as the registry compares them, so that no other
    spelling of a name gives further tries.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


class Throttle:
    """Counts failures by key; at most `THROTTLE_KEYS_MAX` keys, the longest quiet one goes first."""

    def __init__(self, *, tries: int) -> None:
        self._tries = tries
        self._keys: OrderedDict[str, _Failures] = OrderedDict()

    def begin(self, key: str, *, now_ms: int) -> Verdict:
        """Count an attempt as failed, unless a pause is on; call `forgive` when it succeeds."""
        failures = self._keys.get(key)
        if failures is not None and self._is_old(failures, now_ms):
            del self._keys[key]
            failures = None
        if failures is None:
            failures = self._keys[key] = _Failures()
            if len(self._keys) > limits.THROTTLE_KEYS_MAX:
                self._keys.popitem(last=False)
        if now_ms < failures.paused_until_ms:
            wait_s = (failures.paused_until_ms - now_ms) / 1000
            return Verdict(allowed=False, pause_s=wait_s, tries_left=0)
        failures.count += 1
        failures.last_ms = now_ms
        self._keys.move_to_end(key)
        pause_s = self._pause_s(failures.count)
        if pause_s:
            failures.paused_until_ms = now_ms + round(pause_s * 1000)
        left = max(0, self._tries - failures.count)
        return Verdict(allowed=True, pause_s=pause_s or limits.PAUSE_S_FIRST, tries_left=left)

    def forgive(self, key: str) -> None:
        """Forget the failures of a key: the attempt was right."""
        self._keys.pop(key, None)

    def give_back(self, key: str) -> None:
        """Take one counted attempt back: it was right, though others of this key may not have been."""
        if (failures := self._keys.get(key)) is not None:
            failures.count = max(0, failures.count - 1)
            if failures.count < self._tries:
                failures.paused_until_ms = 0

    def _pause_s(self, count: int) -> float:
        over = count - self._tries
        return 0.0 if over < 0 else min(limits.PAUSE_S_FIRST * 2.0 ** min(over, 30), limits.PAUSE_S_MAX)

    def _is_old(self, failures: _Failures, now_ms: int) -> bool:
        quiet_since = max(failures.last_ms, failures.paused_until_ms)
        return now_ms - quiet_since > limits.FAILURES_FORGOTTEN_S * 1000
