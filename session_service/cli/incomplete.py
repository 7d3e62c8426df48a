"""What an archive says of itself at its end: that it is incomplete, and what it lacks.

The service sends an archive while it makes it, so it can tell of damage in the store only there. The mark
stands where no content of a user can stand. It is made in `storage/ops/missing_list.py`.
"""

from typing import Final

import msgspec

INCOMPLETE: Final = 3
"""Exit status of a command that gave what it could, and not all."""
REPAIR: Final = "`session-service replica repair`, or a backup of the bucket, brings the objects back."
MARK: Final = b"session-service incomplete"
TAIL_BYTES: Final = 256 << 10
"""Kept of a download; the list is at most half as long."""
LINES_MAX: Final = 10_000
_BLOCK: Final = 512
_END: Final = 2 * _BLOCK


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is not in an archive, or a folder (its path ends with a slash) that is not whole in it."""

    path: str
    object: str
    reason: str


class Tail:
    """The last bytes of what passed."""

    def __init__(self) -> None:
        self._kept = b""

    def take(self, piece: bytes) -> None:
        """Take what passed."""
        self._kept = (self._kept + piece)[-TAIL_BYTES:]

    def zip_is_incomplete(self) -> bool:
        """Return whether a zip says that it is incomplete: its comment does."""
        return self._kept.endswith(len(MARK).to_bytes(2, "little") + MARK)

    def missing_of_tar(self) -> tuple[str, list[Missing]] | None:
        """Return the name of the list in a tar and what stands in it; None if the tar is complete."""
        body = self._kept[:-_END]
        for at in range(len(body) - _BLOCK, -1, -_BLOCK):
            head = body[at : at + _BLOCK]
            if head[257:262] != b"ustar":
                continue
            size = int(head[124:136].rstrip(b"\0 ") or b"0", 8) if head[124:135].isdigit() else -1
            behind = len(body) - at - _BLOCK
            if head[265:297].rstrip(b"\0") != MARK or size + -size % _BLOCK != behind:
                return None
            name = head[:100].rstrip(b"\0").decode("utf-8", "backslashreplace")
            return name, _lines(body[at + _BLOCK : at + _BLOCK + size])
        return None


def _lines(text: bytes) -> list[Missing]:
    found = (line.split("\t") for line in text.decode("utf-8", "backslashreplace").splitlines())
    return [Missing(path=one[0], object=one[1], reason=one[2]) for one in found if len(one) == 3][:LINES_MAX]
