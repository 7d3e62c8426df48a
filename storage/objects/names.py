"""Which object names and sizes an adapter accepts.

One rule for every adapter, so that a name that works in memory also works in a folder and in a bucket. The
rule is narrower than S3: no empty part, no part that starts with a dot (the folder store keeps its own
files there), nothing that a file system or a URL would change. Prefixes for listing follow the same
alphabet but may end anywhere.
"""

from __future__ import annotations

import re

from storage.errors import StoreRefused

NAME_BYTES_MAX = 900
"""S3 allows 1,024 bytes for bucket prefix and name together."""

PART_BYTES_MAX = 200
"""File systems allow 255; SeaweedFS and MinIO too. Room is left for an adapter's own suffix."""

OBJECT_BYTES_MAX = 64 * 1024 * 1024
"""The largest object of the format (a pack). Up to here every store takes one plain PUT; nothing is ever
multipart.
"""

_PART = r"[A-Za-z0-9_=~-][A-Za-z0-9_=~.-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*\Z", re.ASCII)
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?\Z", re.ASCII)


def is_name(name: str) -> bool:
    """Whether every adapter can store this name exactly as it is."""
    return (
        len(name) <= NAME_BYTES_MAX
        and _NAME.match(name) is not None
        and max(map(len, name.split("/"))) <= PART_BYTES_MAX
    )


def check_name(name: str) -> None:
    """Refuse a name that some adapter could not store exactly as it is."""
    if not is_name(name):
        raise StoreRefused(name=name[:80], reason="not a valid object name")


def check_prefix(prefix: str) -> None:
    """Refuse a listing prefix under which no valid name could lie."""
    if len(prefix) > NAME_BYTES_MAX or not _PREFIX.match(prefix):
        raise StoreRefused(name=prefix[:80], reason="not a valid prefix of object names")
