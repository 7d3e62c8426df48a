"""msgpack as version 1 uses it: arrays of declared types, nothing else, and no byte after the end.

Structs are `array_like`: fields are only ever appended, always with a default, and old readers ignore what
they do not know. Whatever an old reader must not ignore is a new kind. Nobody re-encodes what he decoded.

Source: storage.md 4.1 "Bodies", 4.6 "msgspec".
"""

from typing import TypeVar

import msgspec

from storage.errors import LimitReached, Malformed

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class Body(msgspec.Struct, array_like=True, frozen=True, kw_only=False):
    """The base of every structure of the format."""


def encode(value: object) -> bytes:
    """Return the msgpack bytes of a value of the format."""
    try:
        return _encoder.encode(value)
    except (OverflowError, ValueError) as exc:
        raise LimitReached(limit="integer or text that msgpack cannot hold") from exc


def decode(decoder: "msgspec.msgpack.Decoder[T]", raw: bytes | memoryview | msgspec.Raw, *, what: str) -> T:
    """Return the value in `raw`.

    Besides its own errors msgspec lets RecursionError and UnicodeDecodeError through.
    """
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError, MemoryError) as exc:
        raise Malformed(rule=f"msgpack of {what}") from exc
