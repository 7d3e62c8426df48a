"""Every number that bounds format version 1, in one place.

A writer that would pass one makes the entry `unreadable` or splits its plan; a reader refuses the object.
Values of storage.md 4.1, "Limits". Bytes unless the name says otherwise.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

HEADER_BYTES: Final = 64
TRAILER_BYTES: Final = 16
BOX_OVERHEAD_BYTES: Final = 28
"""Nonce 12 and tag 16."""
FRAME_OVERHEAD_BYTES: Final = 12
HEAD_LENGTH_BYTES: Final = 4

SEGMENT_RAW_BYTES_MAX: Final = 4 * MIB
CHUNK_BYTES_MAX: Final = 1 * MIB
HEAD_RAW_BYTES_MAX: Final = 16 * MIB
"""Of heads and footers."""
PADDING_BYTES_MAX: Final = 4 * KIB
SEALED_EXTRA_BYTES_MAX: Final = BOX_OVERHEAD_BYTES + FRAME_OVERHEAD_BYTES + PADDING_BYTES_MAX
SEGMENTS_MAX: Final = 65_535
"""Rows of one table, hence segments of one object."""
ENTRY_OBJECT_BYTES_MAX: Final = 32 * MIB
PACK_BYTES_MAX: Final = 64 * MIB
CONFIG_BYTES_MAX: Final = 64 * KIB
ZSTD_WINDOW_BYTES_MAX: Final = 8 * MIB

NODE_BYTES_MAX: Final = 256 * KIB
NODE_LEVELS_MAX: Final = 8
"""Levels 0 to 8 of tree and list nodes."""
DEPTH_FOLDERS_MAX: Final = 4_096
ENTRIES_MAX: Final = 50_000_000
FILE_BYTES_LIMIT: Final = 1 << 63
"""A file is smaller than this."""
NAME_BYTES_MAX: Final = 255
SYMLINK_TARGET_BYTES_MAX: Final = 4_095
XATTR_VALUE_BYTES_MAX: Final = 64 * KIB
XATTR_ENTRY_BYTES_MAX: Final = 1 * MIB
CHUNK_REFS_INLINE_MAX: Final = 64
EXTENTS_INLINE_MAX: Final = 1_000
REPORT_PATHS_MAX: Final = 1_000
TABLES_IN_ENTRY_BYTES_MAX: Final = 256 * KIB
"""Above this the pack references of an entry carry nil tables and the footers are read."""
INLINE_NEW_BYTES_MAX: Final = 1 * MIB
"""New sealed bytes up to this lie in the entry itself: one object, one PUT."""

SEQ_LIMIT: Final = 10**16
FENCE_LIMIT: Final = 1 << 53
