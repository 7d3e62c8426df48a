"""What the next dial of a client meets: the service, a portal, a broken line, a refusal.

Not the meeting itself (`links.py`): only its description, so that a case reads as a list of doors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from session_service.core.close_codes import ENDINGS, Close


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One dial's fate. Without anything set it is the service in good health."""

    http: tuple[int, str] | None = None
    """Answered with this status instead of 101, by a portal or proxy."""
    problem: tuple[int, str] | None = None
    """A ticket is asked for and refused by the API: status and code of its problem document."""
    junk: bytes = b""
    """Answered with bytes that are no HTTP."""
    resets: bool = False
    """The line is cut as soon as the client asks."""
    mute: bool = False
    """The 101 and the challenge come, an answer to the first message never does."""
    waits: int = 0
    """Messages that say `wait` before the answer, `wait_s` apart."""
    wait_s: float = 0.5
    refusal: Mapping[str, Any] | None = None
    """Told `no` with these fields, and closed with its code."""
    loses_answer: bool = False
    """Accepted, and the line is cut before the answer is out."""
    delay_s: float = 0.0
    resync: bool = False
    wrong_checksum: bool = False
    foreign_leg: bool = False
    """The answer to a resume names another stream than the one asked for."""
    early_bytes: bool = False
    """Bytes of the desktop come before the answer, which no server sends."""
    withheld_bytes: int = 0
    """So many of the client's last bytes are said not to have arrived; they must come again, the same."""

    @property
    def words(self) -> str:
        """What it is, in a few words for the report of a case."""
        if self.http is not None:
            return f"answers {self.http[0]} in the service's place"
        if self.problem is not None:
            return f"refuses it: {self.problem[0]} {self.problem[1]}"
        if self.refusal is not None:
            return f"no {self.refusal['code']} {self.refusal['why']}, next {self.refusal['next']}"
        named = {"junk": self.junk, "cuts it": self.resets, "never answers": self.mute, "wait": self.waits}
        named["takes it, other than it should be"] = (
            self.wrong_checksum or self.foreign_leg or self.early_bytes or self.withheld_bytes
        )
        return next((name for name, is_so in named.items() if is_so), "takes it")


OPEN = Door()


def refused(code: Close, *, retry_ms: int | None = None, **more: Any) -> Door:
    """A door that says `no` as the table of close codes has it."""
    row = ENDINGS[code]
    fields = {
        "t": "no",
        "code": int(code),
        "why": row.why,
        "next": str(row.next),
        "retry": retry_ms,
        "to": None,
        "by": "another device",
        "saved_as_of": None,
        **more,
    }
    return Door(refusal=fields)


ENDED = refused(Close.ENDED)
