"""Links that are cut again and again at the same age: a proxy with a time limit, not a bad network.

Not a decision: only the label of a loss. One cut says nothing; two of one session at the same age, neither
of them a goodbye, are a timer of something in between. Its operator can be told what to change
(docs/running.md), where "reset" leaves him guessing.
"""

from collections import OrderedDict
from typing import Final

from session_service.core.records import LossCause

AGE_S_MIN: Final = 20.0
"""Nobody configures less; shorter links of one age are a client that gives up."""
APART_S_MAX: Final = 1.5
"""Two ages that are no further apart are the same: timers are exact, and our reading is not."""
SESSIONS_MAX: Final = 20_000
"""Sessions whose last cut is remembered; beyond it the oldest is forgotten."""


class RegularEnds:
    """The age of the last link that was cut, by session."""

    __slots__ = ("_ages",)

    def __init__(self) -> None:
        self._ages: OrderedDict[str, float] = OrderedDict()

    def cause(self, session_id: str, cause: LossCause, age_s: float) -> LossCause:
        """Return the cause as it is to be reported: `proxy_idle` for a cut at the age of the last one."""
        if cause is not LossCause.RESET or age_s < AGE_S_MIN:
            return cause
        before = self._ages.pop(session_id, None)
        self._ages[session_id] = age_s
        if len(self._ages) > SESSIONS_MAX:
            self._ages.popitem(last=False)
        regular = before is not None and abs(before - age_s) <= APART_S_MAX
        return LossCause.PROXY_IDLE if regular else cause
