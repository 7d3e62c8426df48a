"""List nodes: the chunks of a file that has too many of them for its entry; more than 64 are.

`[1, level, items]`: packed chunk references at level 0, `[id, bytes]` above. Lists are cut by what is in
them, at about 20 references, so that one changed page of a database re-stores one short list.

Source: storage.md 4.1, row "content".
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from storage.errors import LimitReached, Malformed, NewerServiceNeeded
from storage.format.encoding import Body, decode, encode
from storage.format.keys import CHUNK_ID_BYTES
from storage.format.limits import FILE_BYTES_LIMIT, NODE_BYTES_MAX, NODE_LEVELS_MAX
from storage.format.table import pack_chunk_refs, read_chunk_refs

LIST_VERSION: Final = 1
CUT_MASK: Final = 15
CUT_REFS_MIN: Final = 4
CUT_REFS_MAX: Final = 256


class _ListNode(Body, frozen=True):
    version: int
    level: int
    items: bytes | list[tuple[bytes, int]]


_decoder: Final = msgspec.msgpack.Decoder(_ListNode)


def encode_refs(refs: Sequence[tuple[bytes, int]]) -> bytes:
    """Return the bytes of a list node of level 0."""
    return _checked(encode(_ListNode(LIST_VERSION, 0, pack_chunk_refs(refs))))


def encode_lists(children: Sequence[tuple[bytes, int]], level: int) -> bytes:
    """Return the bytes of a list node above level 0, from (list id, bytes of the file in it)."""
    return _checked(encode(_ListNode(LIST_VERSION, level, list(children))))


def _checked(raw: bytes) -> bytes:
    if len(raw) > NODE_BYTES_MAX:
        raise LimitReached(limit="list node bytes", value=len(raw))
    return raw


def decode_list(raw: bytes, level: int) -> list[tuple[bytes, int]]:
    """Return the items of a list node of `level`: chunk references at 0, (list id, bytes) above."""
    if len(raw) > NODE_BYTES_MAX or not 0 <= level <= NODE_LEVELS_MAX:
        raise Malformed(rule="list node bytes")
    node = decode(_decoder, raw, what="list node")
    if node.version != LIST_VERSION:
        raise NewerServiceNeeded(what="list node version", value=node.version)
    if node.level != level or isinstance(node.items, bytes) != (level == 0) or not node.items:
        raise Malformed(rule="list node level")
    if isinstance(node.items, bytes):
        return read_chunk_refs(node.items)
    for list_id, size in node.items:
        if len(list_id) != CHUNK_ID_BYTES or not 0 < size < FILE_BYTES_LIMIT:
            raise Malformed(rule="list node item")
    return node.items


def split_refs(items: Sequence[tuple[bytes, int]]) -> Iterator[Sequence[tuple[bytes, int]]]:
    """Cut references, or the children of any level, where their ids say so; about 20 to a run."""
    start = 0
    for at, (item_id, _) in enumerate(items):
        length = at + 1 - start
        if length == CUT_REFS_MAX or (length >= CUT_REFS_MIN and not item_id[0] & CUT_MASK):
            yield items[start : at + 1]
            start = at + 1
    if start < len(items):
        yield items[start:]
