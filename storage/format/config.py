"""The config of a repository: plain, made first, never changed, holding no secret.

msgpack `["CKPT", 1, repository id, created_ms, must features, may features, hints]`. The `prev` of entry 1 is
its BLAKE3, so changing it later breaks the chain. Hints: one text, the slot that the maker will create first.
Nodes that race at a birth all use the winner's hint, so that they meet at one name; afterwards nobody reads
it.

Source: storage.md 4.1, row "config"; docs/design/0001-format-version-1.md, "Birth".
"""

from typing import Final

import msgspec
from blake3 import blake3

from storage.errors import Malformed, NewerServiceNeeded
from storage.format.encoding import Body, decode, encode
from storage.format.limits import CONFIG_BYTES_MAX

MAGIC_TEXT: Final = "CKPT"
VERSION: Final = 1


class Config(Body, frozen=True):
    """What a repository is, before any key is known."""

    magic: str
    version: int
    repository_id: bytes
    created_ms: int
    must_features: list[str]
    may_features: list[str]
    hints: list[str]


_decoder: Final = msgspec.msgpack.Decoder(Config)


def encode_config(*, repository_id: bytes, created_ms: int, first_slot: str) -> bytes:
    """Return the bytes of a new config."""
    return encode(Config(MAGIC_TEXT, VERSION, repository_id, created_ms, [], [], [first_slot]))


def decode_config(raw: bytes) -> Config:
    """Return a checked config.

    Raises:
        NewerServiceNeeded: another version, or a feature that a reader must know.
    """
    if len(raw) > CONFIG_BYTES_MAX:
        raise Malformed(rule="config size")
    config = decode(_decoder, raw, what="config")
    if config.magic != MAGIC_TEXT or len(config.repository_id) != 16:
        raise Malformed(rule="config")
    if config.version != VERSION:
        raise NewerServiceNeeded(what="repository version", value=config.version)
    if config.must_features:
        raise NewerServiceNeeded(what="repository feature", value=config.must_features[0][:80])
    return config


def config_hash(raw: bytes) -> bytes:
    """Return what entry 1 names as its predecessor."""
    return blake3(raw).digest()
