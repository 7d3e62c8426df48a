"""Checks of one sealed object against what the log says of it, before it is copied and where it is read back.

No data key is used: header and commitments, the hash of the head, the digest of every segment, sums and sizes
bind every byte. What passes here is the object that the log names, as its writer sealed it.

Source: storage.md 4.1 "Header", "Table"; docs/design/0011-second-target.md.
"""

from collections.abc import Sequence

from blake3 import blake3

from storage.errors import Malformed, ObjectDamaged, WrongKey
from storage.format import config as config_format
from storage.format import names
from storage.format.encoding import encode
from storage.format.entries import decode_entry
from storage.format.envelope import open_head
from storage.format.header import ObjectType, header_key_id, open_header
from storage.format.history import read_history
from storage.format.limits import HEADER_BYTES, TRAILER_BYTES
from storage.format.pack import read_footer, read_trailer
from storage.format.table import Segment, area_bytes, digest
from storage.replica.wanted import Wanted
from storage.repository.slots import RepositoryKeys

TYPE_AT = 5
"""Of the type in a header."""


def check_sealed(keys: RepositoryKeys, wanted: Wanted, raw: bytes) -> None:
    """Check a whole object of a repository.

    Raises:
        FormatError, RepositoryError: it is not what the log names.
    """
    name = wanted.name
    if wanted.container is not None and len(raw) != wanted.container.size:
        raise ObjectDamaged(object=name, what="size", size=len(raw), expected=wanted.container.size)
    if wanted.foreign:
        _same(blake3(raw).digest(), wanted.hash, name)
    elif name == names.CONFIG:
        config_format.decode_config(raw)
        _same(config_format.config_hash(raw), wanted.hash, name)
    elif name.startswith(names.KEY_PREFIX):
        names.epoch_slot_parts(name)
        check_type(name, raw, ObjectType.KEY_SLOT)
    elif name.startswith(names.GUARD_PREFIX):
        if raw != encode(["CKPT", 1, names.guard_number(name)]):
            raise Malformed(rule="guard of a fold", object=name)
    elif name.startswith(names.PACK_PREFIX):
        _check_pack(keys, wanted, raw)
    elif name.startswith(names.HISTORY_PREFIX):
        assert wanted.hash is not None, "only histories that an R names are asked for"
        read_history(keys.of_header(raw, name), name, raw, hash_=wanted.hash)
    elif name.startswith(names.LOG_PREFIX):
        _check_entry(keys, wanted, raw, ObjectType.LOG_ENTRY)
    elif names.is_side_pack(name):
        _check_side_pack(keys, name, raw)
    elif name.startswith(names.SIDE_PREFIX):
        _check_entry(keys, wanted, raw, ObjectType.SIDE_CHECKPOINT)
    elif name.startswith(names.RECEIPT_PREFIX):
        head = open_head(keys.of_header(raw, name), ObjectType.RECEIPT, name, raw)
        if head.area_start != len(raw):
            raise ObjectDamaged(object=name, what="bytes after the receipt")
    else:
        raise Malformed(rule="name of an object", object=name)


def check_type(name: str, raw: bytes, object_type: ObjectType) -> None:
    """Check what is in plain: magic, version and type of an object that the key above sealed."""
    header_key_id(raw, name)
    if raw[TYPE_AT] != object_type:
        raise Malformed(rule="object type", object=name, found=raw[TYPE_AT])


def _check_pack(keys: RepositoryKeys, wanted: Wanted, raw: bytes) -> None:
    name = wanted.name
    open_header(keys.of_header(raw, name), raw[:HEADER_BYTES], ObjectType.PACK, name)
    if wanted.container is None:
        raise Malformed(rule="a pack that no entry names", object=name)
    footer_bytes, count = read_trailer(raw[-TRAILER_BYTES:], pack_bytes=len(raw), name=name)
    end = len(raw) - TRAILER_BYTES - footer_bytes
    if count != len(wanted.container.segments):
        raise ObjectDamaged(object=name, what="number of segments")
    _check_segments(wanted.container.segments, raw, HEADER_BYTES, end, name)
    _same(blake3(memoryview(raw)[end : end + footer_bytes]).digest(), wanted.hash, name)


def _check_side_pack(keys: RepositoryKeys, name: str, raw: bytes) -> None:
    """Check a pack of a full base by its own footer: the entry that names it may not count yet."""
    header = open_header(keys.of_header(raw, name), raw[:HEADER_BYTES], ObjectType.PACK, name)
    footer_bytes, count = read_trailer(raw[-TRAILER_BYTES:], pack_bytes=len(raw), name=name)
    end = len(raw) - TRAILER_BYTES - footer_bytes
    footer = read_footer(header, raw[end : end + footer_bytes], count, pack_bytes=len(raw), name=name)
    _check_segments(footer.segments, raw, HEADER_BYTES, end, name)


def _check_entry(keys: RepositoryKeys, wanted: Wanted, raw: bytes, object_type: ObjectType) -> None:
    name = wanted.name
    head = open_head(keys.of_header(raw, name), object_type, name, raw)
    _same(head.entry_hash, wanted.hash, name)
    segments = decode_entry(head.kind, head.body).segments
    _check_segments(segments, raw, head.area_start, len(raw), name)


def _check_segments(segments: Sequence[Segment], raw: bytes, start: int, end: int, name: str) -> None:
    if start + area_bytes(tuple(segments)) != end:
        raise ObjectDamaged(object=name, what="sum of the segments")
    view = memoryview(raw)
    for segment in segments:
        at = start + segment.offset
        if digest(view[at : at + segment.sealed_bytes]) != segment.digest:
            raise ObjectDamaged(object=name, what="digest of a segment", index=segment.index)


def _same(found: bytes, told: bytes | None, name: str) -> None:
    """Compare with what the log says, where it says anything."""
    if told is not None and found != told:
        raise WrongKey(object=name, what="another object than the log names")
