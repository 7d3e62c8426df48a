"""What a group of users is promised: hold, saving, takeover, template. Parsed from plain data, explained in
words.

Not settings of the machine. Today one default policy applies to all; a later issue picks the most specific
one per group. A session keeps the id and revision it began under, and its own `hold_s`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from session_service.base.errors import BadInput
from session_service.base.ids import PolicyId

HOLD_S_MAX: Final = 7 * 86_400.0
DEFAULT_ID: Final = PolicyId("00000000000000000000000000")
TAKEOVERS: Final = frozenset({"newest", "refuse"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy. Units in the names; `explain` says each in words."""

    id: PolicyId = DEFAULT_ID
    rev: int = 1
    hold_s: float = 1_800.0
    """How long a dropped desktop waits for its user. Longer keeps desktops (and memory) for people who
    left.
    """
    warnings_s: tuple[float, ...] = (600.0, 300.0, 60.0)
    """When the remaining hold is announced."""
    checkpoint_target_s: float = 10.0
    """How old saved-as-of should be at most. Each checkpoint that has something new is one write to the
    store. Saves that are cheap come as often as this; see `core/pace.py` for when they come less often.
    """
    checkpoint_floor_s: float = 5.0
    """The shortest pause between two periodic saves, however much is at risk."""
    checkpoint_ceiling_s: float = 300.0
    """The longest one, however dear a save is; only a longer goal is longer."""
    full_scan_s: float = 600.0
    """How often everything is looked at, whatever the change notices say."""
    takeover: str = "newest"
    """newest: the later device gets the desktop, the older may take it back. refuse: the older one keeps
    it.
    """
    reauthenticate_after_s: float | None = None
    """How long a lost client may be away and still come back without a login; None: as long as the hold, 0:
    each return asks. What asks is the sign-in, not the password: who is signed in notices nothing.
    """
    ticket_in_path: bool = True
    """Whether stock clients may carry their one-use ticket in the address."""
    template: str = "openbox"
    hook: bool = True
    """Whether the user's own before-close hook is run."""
    memory_mb_max: int = 4_096
    cpus_max: float = 2.0
    processes_max: int = 2_000
    network: str = "isolated"
    keep_last: int = 10
    """How many of the newest checkpoints stay, however close together."""
    keep_hourly: int = 24
    """The newest checkpoint of so many hours stays, counted back from the newest; so for longer spans."""
    keep_daily: int = 14
    keep_weekly: int = 8
    keep_monthly: int = 12
    keep_within_s: float = 3_600.0
    """Every checkpoint younger than this stays."""


DEFAULT: Final = Policy()

RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "hold_s": (0.0, HOLD_S_MAX),
    "checkpoint_target_s": (1.0, 86_400.0),
    "checkpoint_floor_s": (1.0, 86_400.0),
    "checkpoint_ceiling_s": (1.0, 86_400.0),
    "full_scan_s": (10.0, 7 * 86_400.0),
    "reauthenticate_after_s": (0.0, HOLD_S_MAX),
    "memory_mb_max": (256, 1 << 22),
    "cpus_max": (0.1, 1_024.0),
    "processes_max": (64, 1 << 22),
    "keep_last": (1, 100_000),
    "keep_hourly": (0, 100_000),
    "keep_daily": (0, 100_000),
    "keep_weekly": (0, 100_000),
    "keep_monthly": (0, 100_000),
    "keep_within_s": (0.0, 10 * 366 * 86_400.0),
    "rev": (1, 1 << 53),
}
WORDS: Final[Mapping[str, str]] = {
    "hold_s": "A desktop waits {0:g} s for its user after the connection is lost.",
    "warnings_s": "The remaining time is announced at {0} s.",
    "checkpoint_target_s": "Files are saved about every {0:g} s.",
    "checkpoint_floor_s": "Periodic saves are at least {0:g} s apart.",
    "checkpoint_ceiling_s": "However dear a save is, the next one comes after {0:g} s.",
    "full_scan_s": "Every {0:g} s the whole home is looked at.",
    "takeover": "When a second device opens the desktop: {0}.",
    "reauthenticate_after_s": "A client that was away for this long must be signed in to come back: {0} s.",
    "ticket_in_path": "Stock viewers may carry a ticket in the address: {0}.",
    "template": "The desktop is made from the template {0}.",
    "hook": "The user's before-close hook is run: {0}.",
    "memory_mb_max": "A desktop may use {0} MB of memory.",
    "cpus_max": "A desktop may use {0:g} processors.",
    "processes_max": "A desktop may have {0} processes.",
    "network": "The desktop's network is {0}.",
    "keep_last": "The newest {0} checkpoints are kept.",
    "keep_hourly": "Of the last {0} hours with a checkpoint, the newest of each is kept.",
    "keep_daily": "Of the last {0} days with a checkpoint, the newest of each is kept.",
    "keep_weekly": "Of the last {0} weeks with a checkpoint, the newest of each is kept.",
    "keep_monthly": "Of the last {0} months with a checkpoint, the newest of each is kept.",
    "keep_within_s": "Every checkpoint of the last {0:g} s is kept.",
}


def parse(data: Mapping[str, Any]) -> Policy:
    """Return the policy of plain data; what is absent has the default.

    Raises:
        BadInput: an unknown key, a wrong type or a value outside its range; `field` names it.
    """
    known = {field.name for field in fields(Policy)}
    values: dict[str, Any] = {}
    for name in sorted(data):
        if name not in known:
            raise BadInput(f"A policy has no field {name!r}.", field=name)
        values[name] = _value(name, data[name])
    return Policy(**values)


def _value(name: str, value: Any) -> Any:
    default = getattr(DEFAULT, name)
    if default is None and value is None:
        return None
    if name == "warnings_s":
        if not isinstance(value, list | tuple) or not all(_is_number(item) and item > 0 for item in value):
            raise BadInput("warnings_s is a list of seconds.", field=name)
        return tuple(sorted((float(item) for item in value), reverse=True))
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise BadInput(f"{name} is true or false.", field=name)
        return value
    if isinstance(default, str):
        if not isinstance(value, str) or not value or len(value) > 64:
            raise BadInput(f"{name} is a short text.", field=name)
        if name == "takeover" and value not in TAKEOVERS:
            raise BadInput("takeover is newest or refuse.", field=name)
        return value
    if not _is_number(value):
        raise BadInput(f"{name} is a number.", field=name)
    low, high = RANGES[name]
    if not low <= value <= high:
        raise BadInput(f"{name} lies between {low:g} and {high:g}.", field=name)
    return float(value) if default is None or isinstance(default, float) else int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def explain(policy: Policy) -> tuple[tuple[str, str], ...]:
    """Return (field, sentence) for everything a policy decides."""
    return tuple((name, _sentence(words, getattr(policy, name))) for name, words in WORDS.items())


def _sentence(words: str, value: Any) -> str:
    return words.replace(" {0} s.", " never.") if value is None else words.format(value)
