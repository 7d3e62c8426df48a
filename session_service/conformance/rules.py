"""What the wire asks of a client, in the words of docs/protocol.md: each case names the rule that it tries.

Not the specification: these are quotations, so that a report can say where the reason stands, also where the
document is not at hand. A test finds each of them in its section, word for word.
"""

from dataclasses import dataclass
from typing import Final

DOCUMENT: Final = "docs/protocol.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One quotation and the section that it stands in."""

    section: str
    words: str


def _rule(section: str, words: str) -> Rule:
    return Rule(section=section, words=words)


_FRAMING: Final = "Framing"
_MESSAGES: Final = "Messages"
_PROOF: Final = "The proof"
_BUFFERS: Final = "Acknowledgements and buffers"
_RESUME: Final = "Resume"
_CLIENT: Final = "The client"

HANDSHAKE: Final = _rule(
    _FRAMING,
    "A client offers `continuity.v1` alone: a middlebox that takes it out of a list must not downgrade "
    "a link in silence, so a list with it is refused (400). No extensions. Origin is absent or one of "
    "`public_origins`. Nothing secret stands in the URL.",
)
SPLIT: Final = _rule(_FRAMING, "Message limits carry no meaning, so any split is legal.")
CONTROL: Final = _rule(
    _FRAMING,
    "**A text message is control**: one JSON object in UTF-8, at most 4 KiB (1009), at most 4 deep. "
    "Offsets, counters and codes are integers from 0 on below 2^52: `1.0`, `true` and `-1` are not "
    "(4400).",
)
UNKNOWN: Final = _rule(_FRAMING, "Unknown keys, and unknown `t` after the answer, are ignored.")
FIRST: Final = _rule(
    _FRAMING,
    "The first client message is `open` or `resume`, whole within 15 s of the 101 (4408), else 4400. A "
    "client sends nothing else before the answer.",
)
FRAMING: Final = _rule(
    _FRAMING,
    "A length in a longer form than it needs is 1002, as all broken framing; text that is not UTF-8 is 1007.",
)
AUD: Final = _rule(
    _MESSAGES,
    "`aud` is the address as it was dialled: `ws` or `wss`, host in lower case, the port always "
    "(`wss://desk.example:443`).",
)
RESUME: Final = _rule(
    _MESSAGES,
    "`n` is greater than any sent before under this key; `rx` bytes were received; `have` and `end` "
    "are the first byte kept towards the desktop and one past the last.",
)
BEAT: Final = _rule(
    _MESSAGES,
    "nothing was sent for 20 s; the client must have exactly this many bytes, and answers `a` at once",
)
DRAIN: Final = _rule(_MESSAGES, "come back in this range of milliseconds")
PROOF: Final = _rule(
    _PROOF,
    "No newline at the end, decimals without leading zeros, `c` and `leg` as they stand in the messages.",
)
OPENED: Final = _rule(
    _PROOF,
    "A lost answer is repeated with `n + 1` at any time of the hold: the same grant and a greater `n` "
    "is success, never a takeover. A lost `opened` needs a new ticket.",
)
LOGIN: Final = _rule(
    _PROOF,
    "It signs in, asks the API for a ticket, and resumes with `auth`: the same key, the same stream, "
    "byte for byte.",
)
LOGIN_TWICE: Final = _rule(
    _PROOF,
    "Told `login` again, its grant is void (a sign-out, a changed password, an administrator), the "
    "ticket is unused, and only `open` is left.",
)
ACKS: Final = _rule(
    _BUFFERS, "A client acknowledges when 64 KiB came since the last time, or 50 ms after a message;"
)
LATE_ACK: Final = _rule(_BUFFERS, "A late acknowledgement is never an error;")
UP_RING: Final = _rule(
    _BUFFERS, "Towards the desktop a client keeps 256 KiB. Full or detached it takes no input."
)
EXACTLY_ONCE: Final = _rule(
    _RESUME,
    "Replay: exactly once, both ways. A client whose checksum differs from `x` is a copy of another "
    "one: it sends nothing and asks its user.",
)
RESYNC: Final = _rule(
    _RESUME,
    "Resync: the client forgets everything of the old stream and begins with RFB's ProtocolVersion. "
    "Unacknowledged input is never sent again;",
)
SILENCE: Final = _rule(
    _CLIENT, "OPEN --closed, error, 25 s without a byte, 3 s after a probe--> WAITING --> DIALLING --> OPEN"
)
DIAL: Final = _rule(
    _CLIENT, "A dial without an answer is given up after 15 s; each `wait` gives it 25 s from then on."
)
PAUSES: Final = _rule(
    _CLIENT,
    "First try after a uniform pause of 0 to 250 ms, then 0.5 s x 2^k with full jitter, at most 15 s; "
    "at once when the network is back, the page is shown or the machine woke.",
)
RETRY: Final = _rule(_CLIENT, "A given `retry` means uniform in [retry, 1.5 retry], at most 60 s.")
SECOND: Final = _rule(
    _CLIENT,
    "A second socket may be tried while the first one hangs. From then on nothing that arrives on the "
    "first counts, refusals and `taken` included.",
)
ONLY_A_NO: Final = _rule(
    _CLIENT,
    "**Only a `no` or `taken` decides.** A close code alone, an HTTP status or a page is the network: "
    "ask again, the answer is the same. Exceptions are 1002, 1007, 1009, 4400 and 4413: one resync, "
    "then the user is told. A redirect of HTTP is never followed.",
)
NO_SERVER: Final = _rule(
    _CLIENT,
    "What no server says (bytes before the answer, an answer about another stream) is met as 4400 is: "
    "one resync.",
)
TICKETS: Final = _rule(
    _CLIENT,
    "A ticket is asked for when it is needed. A page in the place of the API's answer, a redirect, and "
    "a problem that may be tried again are the network: ask again with the pauses of a dial. Any other "
    "problem (the token has expired, the session is not there) is told to the user, and not asked "
    "about again.",
)
WRONG_BEAT: Final = _rule(
    _CLIENT,
    "`h` that differs from what was received: leave the link, ask for a resync with `leg` = `AAAAAAAAAAA`.",
)
CLOCKS: Final = _rule(_CLIENT, "Clocks, sleep and throttled timers only ever lead to a probe or a dial.")
PATHS: Final = _rule(
    _CLIENT,
    "`to` is a path `/s/<1-16 of a-z 0-9>/ws` of the same origin; any other form is ignored. At most 3 "
    "in a row, then as `retry`, and never without a pause.",
)
NEXT: Final = _rule(
    _CLIENT,
    "`next` says what follows a refusal: `resume`, `open` (a new ticket), `click`, `login`, `start`, "
    "`wait`, `report`, `consent`, `none`.",
)
