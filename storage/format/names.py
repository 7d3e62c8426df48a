"""How the objects of a repository are named, relative to its prefix, and how names are read back.

ASCII, lower case. `<seq>` is 16 decimal digits so that a listing sorts; `<fence>` is decimal. A name is part
of an object's key (`storage/format/keys.py`), so spelling one differently makes the object unreadable.

Source: storage.md 4.1, table of objects.
"""

import re
from typing import Final

from storage.errors import LimitReached, Malformed
from storage.format.limits import FENCE_LIMIT, SEQ_LIMIT

CONFIG: Final = "config"
LOG_PREFIX: Final = "c/"
PACK_PREFIX: Final = "p/"
KEY_PREFIX: Final = "k/"
HISTORY_PREFIX: Final = "l/"
SIDE_PREFIX: Final = "b/"
GUARD_PREFIX: Final = "g/"
INDEX_PREFIX: Final = "x/"
RECEIPT_PREFIX: Final = "r/"
TOMBSTONE_PREFIX: Final = "e/"
"""Below the tenant."""

_LOG_ENTRY: Final = re.compile(r"c/([0-9]{16})\Z")
_PACK: Final = re.compile(r"p/(0|[1-9][0-9]{0,15})-([0-9a-f]{32})\Z")
_HISTORY: Final = re.compile(r"l/([1-9][0-9]{0,15})-([0-9a-f]{16})\Z")
_GUARD: Final = re.compile(r"g/([0-9]{8})\Z")
_SIDE: Final = re.compile(r"b/([1-9][0-9]{0,15})-([1-9][0-9]{0,8})\Z")
_SIDE_PACK: Final = re.compile(r"b/([1-9][0-9]{0,15})-([0-9a-f]{32})\Z")
_SNAPSHOT: Final = re.compile(r"x/([0-9]{16})\Z")
_EPOCH_SLOT: Final = re.compile(r"k/([1-9][0-9]{0,8})-([mkr])([0-9a-f]{16})\Z")
_TENANT_SLOT: Final = re.compile(r"k/([0-9a-f]{16})-([mkr])([0-9a-f]{16})\Z")
_SESSION: Final = re.compile(r"[0-9a-z][0-9a-z-]{0,63}\Z")


def repository_prefix(tenant: str, workspace: str) -> str:
    """Return the prefix under which everything of one workspace lies."""
    return f"t/{tenant}/w/{workspace}/"


def tenant_prefix(tenant: str) -> str:
    """Return the prefix of a tenant: its keys, tombstones and workspaces."""
    return f"t/{tenant}/"


def log_entry(seq: int) -> str:
    """Return the name of entry `seq` (1 and up)."""
    if not 0 < seq < SEQ_LIMIT:
        raise LimitReached(limit="seq", value=seq)
    return f"c/{seq:016d}"


def log_entry_seq(name: str) -> int:
    """Return the number in the name of a log entry."""
    match = _LOG_ENTRY.match(name)
    if match is None or int(match[1]) == 0:
        raise Malformed(rule="log entry name", object=name)
    return int(match[1])


def pack(fence: int, pack_id: bytes) -> str:
    """Return the name of a pack; `pack_id` is 16 bytes."""
    if not 0 < fence < FENCE_LIMIT:
        raise LimitReached(limit="fence", value=fence)
    if len(pack_id) != 16:
        raise Malformed(rule="pack id is 16 bytes")
    return f"p/{fence}-{pack_id.hex()}"


def pack_parts(name: str) -> tuple[int, bytes]:
    """Return (fence, id) of the name of a pack."""
    match = _PACK.match(name)
    if match is None:
        raise Malformed(rule="pack name", object=name)
    return int(match[1]), bytes.fromhex(match[2])


def history(to: int, drawn: bytes) -> str:
    """Return the name of a history of entries 1 to `to`; `drawn` is 8 random bytes."""
    name = f"l/{to}-{drawn.hex()}"
    history_to(name)
    return name


def history_to(name: str) -> int:
    """Return the last number that a history is about, from its name."""
    match = _HISTORY.match(name)
    if match is None:
        raise Malformed(rule="history name", object=name)
    return int(match[1])


def fold_guard(number: int) -> str:
    """Return the name of the guard of the log's fold `number` (1 and up): while it is not there, that fold
    has not happened, and no number of the log behind the fold before it was ever freed.
    """
    name = f"g/{number:08d}"
    guard_number(name)
    return name


def guard_number(name: str) -> int:
    """Return the number of a fold's guard."""
    match = _GUARD.match(name)
    if match is None or int(match[1]) == 0:
        raise Malformed(rule="guard name", object=name)
    return int(match[1])


def side_checkpoint(fence: int, number: int) -> str:
    """Return the name of a side checkpoint: the stale owner's fence, and 1, 2, 3 of its branch."""
    name = f"b/{fence}-{number}"
    side_parts(name)
    return name


def side_parts(name: str) -> tuple[int, int]:
    """Return (fence, number) of the name of a side checkpoint."""
    match = _SIDE.match(name)
    if match is None or int(match[1]) >= FENCE_LIMIT:
        raise Malformed(rule="side checkpoint name", object=name)
    return int(match[1]), int(match[2])


def side_pack(fence: int, pack_id: bytes) -> str:
    """Return the name of a pack of a side checkpoint that is a full base: no sweep touches it without an R
    that names it.
    """
    if not 0 < fence < FENCE_LIMIT:
        raise LimitReached(limit="fence", value=fence)
    if len(pack_id) != 16:
        raise Malformed(rule="pack id is 16 bytes")
    return f"b/{fence}-{pack_id.hex()}"


def is_side_pack(name: str) -> bool:
    """Return whether a name below `b/` is a pack's."""
    return _SIDE_PACK.match(name) is not None


def side_pack_parts(name: str) -> tuple[int, bytes]:
    """Return (fence, id) of the name of a pack below `b/`."""
    match = _SIDE_PACK.match(name)
    if match is None:
        raise Malformed(rule="name of a side checkpoint's pack", object=name)
    return int(match[1]), bytes.fromhex(match[2])


def index_snapshot(seq: int) -> str:
    """Return the name of the index snapshot of entries 1 to `seq`."""
    if not 0 < seq < SEQ_LIMIT:
        raise LimitReached(limit="seq", value=seq)
    return f"x/{seq:016d}"


def snapshot_seq(name: str) -> int:
    """Return the last number that an index snapshot is about, from its name."""
    match = _SNAPSHOT.match(name)
    if match is None or int(match[1]) == 0:
        raise Malformed(rule="index snapshot name", object=name)
    return int(match[1])


def slot_id(method: str, wrapper: bytes) -> str:
    """Return a slot id: the method's letter and 8 bytes that name the wrapping key."""
    if method not in ("m", "k", "r") or len(wrapper) != 8:
        raise Malformed(rule="slot id")
    return method + wrapper.hex()


def epoch_slot(key_epoch: int, slot: str) -> str:
    """Return the name of a slot that wraps the secrets of one key epoch."""
    name = f"k/{key_epoch}-{slot}"
    if not _EPOCH_SLOT.match(name):
        raise Malformed(rule="epoch slot name", object=name)
    return name


def epoch_slot_parts(name: str) -> tuple[int, str]:
    """Return (key epoch, slot id)."""
    match = _EPOCH_SLOT.match(name)
    if match is None:
        raise Malformed(rule="epoch slot name", object=name)
    return int(match[1]), match[2] + match[3]


def tenant_slot(key_id: bytes, slot: str) -> str:
    """Return the name, below `t/<tenant>/`, of a slot that wraps a tenant key."""
    name = f"k/{key_id.hex()}-{slot}"
    if not _TENANT_SLOT.match(name):
        raise Malformed(rule="tenant slot name", object=name)
    return name


def tenant_slot_parts(name: str) -> tuple[bytes, str]:
    """Return (tenant key id, slot id)."""
    match = _TENANT_SLOT.match(name)
    if match is None:
        raise Malformed(rule="tenant slot name", object=name)
    return bytes.fromhex(match[1]), match[2] + match[3]


def receipt(session: str) -> str:
    """Return the name of the receipt of a session."""
    if not _SESSION.match(session):
        raise Malformed(rule="session id in a receipt's name", object=session[:80])
    return f"r/{session}"


def tombstone(workspace: str) -> str:
    """Return the name, below `t/<tenant>/`, of the tombstone of an erased workspace."""
    return f"{TOMBSTONE_PREFIX}{workspace}"
