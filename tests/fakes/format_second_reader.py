"""A second decoder of format version 1, written from the text of the specification alone.

It imports nothing of the product and is as plain as it can be: a folder or dictionary of objects and the
master key, or the recovery code alone, give the files back. Where the product and this reader disagree, one
of them or the text is wrong.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HEAD, DATA, META, FOOTER = 1, 2, 3, 4


def derive(what: str, material: bytes, length: int = 32) -> bytes:
    context = "session-service checkpoints v1 " + what
    return blake3(material, derive_key_context=context).digest(length=length)


def private_half(code: str) -> bytes:
    """Return the recovery key in a code: 280 bits in Crockford's base32, the last 24 a checksum."""
    number = 0
    for letter in code.replace("-", ""):
        number = 32 * number + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    raw = number.to_bytes(35, "big")
    assert derive("recovery code", raw[:32], 3) == raw[32:]
    return raw[:32]


def key_of_recovery_slot(private: bytes, ephemeral: bytes) -> bytes:
    """Return K of a slot of method r; `ephemeral` lies behind its head."""
    ours = X25519PrivateKey.from_private_bytes(private)
    public = ours.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shared = ours.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    return derive("recovery", shared + ephemeral + public)


def slot_of_code(private: bytes) -> str:
    """Return the id of the slots for a code: r and 8 bytes of the plain BLAKE3 of its public half."""
    public = X25519PrivateKey.from_private_bytes(private).public_key()
    return "r" + blake3(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest(length=8)


class Opened:
    """One object whose header was accepted."""

    def __init__(self, name: str, raw: bytes, kind: int, repository: bytes, key: bytes) -> None:
        assert raw[:6] == b"CKPT\x01" + bytes([kind])
        assert raw[6] == 0
        assert raw[8:16] == derive("key id", key, 8)
        place = repository + raw[:32] + name.encode()
        meta = derive("object: meta", derive("meta key", key) + place, 48)
        data = derive("object: data", derive("data key", key) + place, 48)
        assert raw[32:64] == meta[32:] + data[32:]
        self.raw, self.header = raw, raw[:64]
        self.keys = {HEAD: meta[:32], META: meta[:32], FOOTER: meta[:32], DATA: data[:32]}

    def box(self, at: int, length: int, kind: int, index: int, extra: bytes = b"") -> tuple[int, bytes]:
        sealed = self.raw[at : at + length]
        assert len(sealed) == length
        aad = self.header + extra + bytes([kind]) + struct.pack("<I", index)
        frame = AESGCM(self.keys[kind]).decrypt(sealed[:12], sealed[12:], aad)
        codec, entry_kind, zero, raw_bytes, coded_bytes = struct.unpack("<BBHII", frame[:12])
        assert zero == 0
        coded, padding = frame[12 : 12 + coded_bytes], frame[12 + coded_bytes :]
        assert not any(padding)
        plain = coded if codec == 0 else zstandard.ZstdDecompressor().decompress(coded)
        assert codec in (0, 1)
        assert len(plain) == raw_bytes
        return entry_kind, plain

    def head(self) -> tuple[int, Any, int, bytes]:
        """Return entry kind, body, where the segments start, and the entry hash."""
        (length,) = struct.unpack("<I", self.raw[64:68])
        kind, plain = self.box(68, length, HEAD, 0, self.raw[64:68])
        end = 68 + length
        return kind, msgspec.msgpack.decode(plain), end, blake3(self.raw[:end]).digest()

    def chunks(self, start: int, end: int, table: list[bytes], chunk_keys: dict[int, bytes]) -> Iterator:
        """Yield (class, id, bytes) of every chunk; the area must be used up exactly."""
        rows, ids = table
        taken = 0
        for index in range(len(rows) // 32):
            row = rows[32 * index : 32 * index + 32]
            sealed, raw_bytes, count, kind = struct.unpack("<IIIB", row[:13])
            assert row[13:16] == bytes(3)
            assert blake3(self.raw[start : start + sealed]).digest(length=16) == row[16:]
            _, plain = self.box(start, sealed, kind, index)
            assert len(plain) == raw_bytes
            start += sealed
            at = 0
            for number in range(taken, taken + count):
                chunk_id = ids[20 * number : 20 * number + 16]
                (length,) = struct.unpack("<I", ids[20 * number + 16 : 20 * number + 20])
                chunk = plain[at : at + length]
                assert blake3(chunk, key=chunk_keys[kind]).digest(length=16) == chunk_id
                yield kind, chunk_id, chunk
                at += length
            assert at == raw_bytes
            taken += count
        assert taken * 20 == len(ids)
        assert start == end


class SecondReader:
    """Reads one workspace from its objects."""

    def __init__(
        self,
        objects: Mapping[str, bytes],
        tenant: str,
        workspace: str,
        master_key: bytes | None = None,
        recovery_code: str = "",
    ) -> None:
        self._tenant_objects = {
            name.removeprefix(f"t/{tenant}/"): raw
            for name, raw in objects.items()
            if name.startswith(f"t/{tenant}/")
        }
        place = f"w/{workspace}/"
        self.objects = {
            name.removeprefix(place): raw
            for name, raw in self._tenant_objects.items()
            if name.startswith(place)
        }
        self.config = msgspec.msgpack.decode(self.objects["config"])
        assert self.config[:2] == ["CKPT", 1]
        self.repository = self.config[2]
        tenant_keys = self._tenant_keys(tenant, master_key, recovery_code)
        self._keys: dict[bytes, bytes] = {}
        id_secret = self._read_slots(tenant, workspace, tenant_keys)
        self._chunk_keys = {
            DATA: derive("chunk id: data", id_secret),
            META: derive("chunk id: meta", id_secret),
        }
        self.chunks: dict[tuple[int, bytes], bytes] = {}
        self.checkpoints: list[tuple[int, bytes, list[Any]]] = []
        self._read_log()

    def _tenant_keys(self, tenant: str, master_key: bytes | None, code: str) -> dict[str, bytes]:
        """Return the tenant keys that the one secret opens, by key id."""
        private = private_half(code) if code else b""
        wanted = slot_of_code(private) if code else "m" + derive("key id", master_key or b"", 8).hex()
        found = {}
        for name, raw in self._tenant_objects.items():
            if not (name.startswith("k/") and name.endswith("-" + wanted)):
                continue
            (length,) = struct.unpack("<I", raw[64:68])
            behind = raw[68 + length :]
            key = key_of_recovery_slot(private, behind) if code else master_key
            assert key is not None
            _, body, _, _ = Opened(name, raw, 7, bytes(16), key).head()
            assert len(behind) == (32 if code else 0)
            assert body[0] == tenant
            assert name == f"k/{derive('key id', body[1], 8).hex()}-{wanted}"
            found[derive("key id", body[1], 8).hex()] = body[1]
        return found

    def _read_slots(self, tenant: str, workspace: str, tenant_keys: dict[str, bytes]) -> bytes:
        """Read the keys of every epoch; return the id secret, which is the same in all."""
        id_secrets = set()
        for slot, raw in self.objects.items():
            epoch, _, wrapper = slot.removeprefix("k/").partition("-m")
            if not slot.startswith("k/") or wrapper not in tenant_keys:
                continue
            _, body, _, _ = Opened(slot, raw, 7, self.repository, tenant_keys[wrapper]).head()
            assert body[:4] == [self.repository, tenant, workspace, int(epoch)]
            self._keys[derive("key id", body[4], 8)] = body[4]
            id_secrets.add(body[5])
        [id_secret] = id_secrets
        return id_secret

    def _opened(self, name: str, kind: int) -> Opened:
        """Open an object by the key that its header names."""
        raw = self.objects[name]
        return Opened(name, raw, kind, self.repository, self._keys[raw[8:16]])

    def _read_log(self) -> None:
        previous, fence, seq = blake3(self.objects["config"]).digest(), 0, 1
        while f"c/{seq:016d}" in self.objects:
            name = f"c/{seq:016d}"
            opened = self._opened(name, 2)
            kind, body, end, entry_hash = opened.head()
            assert body[:2] == [seq, previous]
            self._take(opened.chunks(end, len(opened.raw), body[5], self._chunk_keys))
            if kind == 1 and body[2] > fence:
                fence = body[2]
            if kind == 2:
                for pack in body[6][12]:
                    self._read_pack(pack)
                if body[2] == fence:
                    self.checkpoints.append((seq, entry_hash, body[6]))
            previous, seq = entry_hash, seq + 1
        self.fence = fence

    def _read_pack(self, pack: list[Any]) -> None:
        fence, pack_id, size, footer_bytes, footer_hash, table = pack
        name = f"p/{fence}-{pack_id.hex()}"
        opened = self._opened(name, 1)
        raw = opened.raw
        assert len(raw) == size
        assert raw[-8:] == b"CKPTPACK"
        length, count = struct.unpack("<II", raw[-16:-8])
        assert length == footer_bytes
        start = size - 16 - length
        assert blake3(raw[start : start + length]).digest() == footer_hash
        _, footer = opened.box(start, length, FOOTER, count)
        assert table is None or msgspec.msgpack.decode(footer) == table
        self._take(opened.chunks(64, start, msgspec.msgpack.decode(footer), self._chunk_keys))

    def _take(self, chunks: Iterator) -> None:
        for kind, chunk_id, chunk in chunks:
            self.chunks[kind, chunk_id] = chunk

    def tree(self, root: list[Any]) -> Iterator[tuple[bytes, list[Any]]]:
        """Yield (path, entry) of everything below a root entry."""
        yield b"", root
        yield from self._below(b"", root[8])

    def _below(self, path: bytes, ref: list[Any]) -> Iterator[tuple[bytes, list[Any]]]:
        for entry in self._node(*ref):
            where = path + b"/" + entry[0] if path else entry[0]
            yield where, entry
            if entry[1] == 2 and entry[8] is not None:
                yield from self._below(where, entry[8])

    def _node(self, node_id: bytes, level: int) -> Iterator[list[Any]]:
        version, told, items = msgspec.msgpack.decode(self.chunks[META, node_id])
        assert (version, told) == (1, level)
        for item in items:
            if level:
                yield from self._node(item[1], level - 1)
            else:
                yield item

    def data(self, entry: list[Any]) -> bytes:
        """Return the bytes of a file, holes as zeros."""
        stored = b"".join(self.chunks[DATA, ref] for ref in self._refs(entry[8]))
        extra = dict(map(tuple, entry[9] or []))
        if 1 not in extra:
            assert len(stored) == entry[7]
            return stored
        extents = extra[1]
        if isinstance(extents, bytes) or (extents and isinstance(extents[0], bytes)):
            raw = b"".join(self.chunks[META, ref] for ref in self._refs(extents))
            extents = list(struct.iter_unpack("<QQ", raw))
        whole = bytearray(entry[7])
        at = 0
        for offset, length in extents:
            whole[offset : offset + length] = stored[at : at + length]
            at += length
        assert at == len(stored)
        return bytes(whole)

    def _refs(self, content: Any) -> Iterator[bytes]:
        if content is None:
            return
        if isinstance(content, bytes):
            for at in range(0, len(content), 20):
                yield content[at : at + 16]
            return
        list_id, level = content
        version, told, items = msgspec.msgpack.decode(self.chunks[META, list_id])
        assert (version, told) == (1, level)
        if level == 0:
            yield from self._refs(items)
            return
        for child_id, _ in items:
            yield from self._refs([child_id, level - 1])
