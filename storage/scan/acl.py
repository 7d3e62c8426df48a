"""Rewrite a POSIX ACL for the user who gets the files back.

An ACL names users and groups by number. The number of the home's owner means "the owner" and becomes the
target's; any other number may be somebody else on this machine, so such a row is dropped unless numbers are
wanted. The kernel's form: version 2 as u32, then rows of tag u16, permissions u16, id u32, all
little-endian.
"""

import struct

NAMES = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})

_VERSION = 2
_HEAD = struct.Struct("<I")
_ROW = struct.Struct("<HHI")
_USER, _GROUP = 0x02, 0x08
_TAGS = frozenset({0x01, _USER, 0x04, _GROUP, 0x10, 0x20})


def rewrite(
    raw: bytes, *, captured: tuple[int, int] | None, owner: tuple[int, int], numbers: bool
) -> tuple[bytes, int] | None:
    """Return the ACL for `owner` and how many rows were dropped; None if the bytes are no ACL.

    Args:
        captured: uid and gid that meant "the owner" where the files were saved.
        owner: uid and gid that get the files now.
        numbers: keep rows of other users and groups as they are.
    """
    if len(raw) < _HEAD.size or (len(raw) - _HEAD.size) % _ROW.size or _HEAD.unpack_from(raw)[0] != _VERSION:
        return None
    kept: list[tuple[int, int, int]] = []
    dropped = 0
    for tag, permissions, number in _ROW.iter_unpack(raw[_HEAD.size :]):
        if tag not in _TAGS or permissions > 7:
            return None
        if tag not in {_USER, _GROUP}:
            kept.append((tag, permissions, number))
            continue
        which = 0 if tag == _USER else 1
        if captured is not None and number == captured[which]:
            kept.append((tag, permissions, owner[which]))
        elif numbers:
            kept.append((tag, permissions, number))
        else:
            dropped += 1
    return _HEAD.pack(_VERSION) + b"".join(_ROW.pack(*row) for row in kept), dropped
