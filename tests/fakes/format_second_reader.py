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
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
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
        assert raw[32:48] == meta[32:]
        assert raw[48:64] in (data[32:], bytes(16))  # zero: made by somebody without the data key
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
        self._tenant_secrets = tenant_keys = self._tenant_keys(tenant, master_key, recovery_code)
        self._keys: dict[bytes, bytes] = {}
        id_secret = self._read_slots(tenant, workspace, tenant_keys)
        self._chunk_keys = {
            DATA: derive("chunk id: data", id_secret),
            META: derive("chunk id: meta", id_secret),
        }
        self.chunks: dict[tuple[int, bytes], bytes] = {}
        self.checkpoints: list[tuple[int, bytes, list[Any]]] = []
        """(number, hash, fields of C) of those that count and were not forgotten."""
        self.sides: dict[int, tuple[str, list[Any]]] = {}
        """Name and fields of live side checkpoints, by the number of their B."""
        self.pins: dict[int, bool] = {}
        self.fence = 0
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
        """From the highest number down to 1, or to the newest R with `entries_to`; then upwards."""
        seq = max(int(name[2:]) for name in self.objects if name.startswith("c/"))
        entries: list[tuple[int, Any, int, bytes, Opened]] = []
        fold: Any = None
        void: dict[int, bytes] = {}
        while seq > (fold[1] if fold else 0):
            name = f"c/{seq:016d}"
            if seq in void:
                assert blake3(self.objects[name]).digest() == void[seq]
                seq -= 1
                continue
            opened = self._opened(name, 2)
            kind, body, end, entry_hash = opened.head()
            assert body[0] == seq
            if kind == 4 and body[6][1] and fold is None:
                fold = body[6]
            if kind == 7:
                void |= dict(body[6][6])
            entries.append((kind, body, end, entry_hash, opened))
            seq -= 1
        self._retired = {
            f"p/{fence}-{pack_id.hex()}"
            for kind, body, *_ in entries
            if kind == 4
            for fence, pack_id in body[6][0]
        }
        previous = blake3(self.objects["config"]).digest()
        if fold is not None:
            previous = self._read_history(*fold[4])
        for kind, body, end, entry_hash, opened in reversed(entries):
            assert body[1] == previous
            self._take(opened.chunks(end, len(opened.raw), body[5], self._chunk_keys))
            self._entry(kind, body, entry_hash)
            previous = entry_hash

    def _entry(self, kind: int, body: list[Any], entry_hash: bytes) -> None:
        seq, fence, fields = body[0], body[2], body[6]
        if kind == 1:
            self.fence = max(self.fence, fence)
        elif kind == 2:
            self._read_packs(fields[12])
            if fence == self.fence:
                self.checkpoints.append((seq, entry_hash, fields))
        elif kind == 3:
            self.checkpoints = [one for one in self.checkpoints if one[0] not in fields[0]]
            for number in fields[0]:
                self.sides.pop(number, None)
        elif kind == 4:
            self._read_packs(fields[3])
        elif kind == 5 and fields[3] != "told":
            self.pins[fields[0]] = fields[2]
        elif kind == 6 and fields[0] in self.objects:
            self._read_side(seq, *fields)
        else:
            assert kind in (5, 6, 7)

    def _read_history(self, name: str, told_hash: bytes) -> bytes:
        """Take in what a fold left; return the hash of its last entry."""
        opened = self._opened(name, 4)
        _, body, end, found_hash = opened.head()
        assert found_hash == told_hash
        rows = []
        for _, _, chunk in opened.chunks(end, len(opened.raw), body[7], self._chunk_keys):
            version, part = msgspec.msgpack.decode(chunk)
            assert version == 1
            rows += part
        assert [row[0] for row in rows] == list(range(1, body[0] + 1))
        for seq, row_hash, kind, fence, _, _, fields in rows:
            if kind == 1:
                self.fence = max(self.fence, fence)
            if kind == 2 and fields is not None:
                assert fence == self.fence
                self.checkpoints.append((seq, row_hash, fields))
        assert self.fence == body[1]
        if len(body) > 10 and body[10]:  # entry 1, which named config, is gone
            assert body[10] == blake3(self.objects["config"]).digest()
        self.pins = dict(body[4])
        self._read_packs(body[6])
        for side in body[5]:
            self._read_side(*side)
        return rows[-1][1]

    def _read_side(self, seq: int, name: str, told_hash: bytes) -> None:
        opened = self._opened(name, 5)
        kind, body, end, found_hash = opened.head()
        assert (kind, found_hash) == (2, told_hash)
        self._take(opened.chunks(end, len(opened.raw), body[5], self._chunk_keys))
        full_base = body[6][1] & 16
        self._read_packs(body[6][12], "b" if full_base else "p")
        self.sides[seq] = (name, body[6])

    def _read_packs(self, packs: list[list[Any]], below: str = "p") -> None:
        for pack in packs:
            if f"{below}/{pack[0]}-{pack[1].hex()}" not in self._retired:
                self._read_pack(pack, below)

    def _read_pack(self, pack: list[Any], below: str) -> None:
        fence, pack_id, size, footer_bytes, footer_hash, table = pack
        name = f"{below}/{fence}-{pack_id.hex()}"
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

    def receipt(self, session: str, master_key: bytes) -> bytes:
        """Return the body of a receipt whose signature holds; the signer is derived from the master key."""
        opened = self._opened(f"r/{session}", 6)
        _, signed, end, _ = opened.head()
        body, signer, signature = signed
        assert end == len(opened.raw)
        private = Ed25519PrivateKey.from_private_bytes(derive("receipt signer", master_key))
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        assert signer == derive("receipt signer id", public, 8)
        private.public_key().verify(signature, b"session-service receipt v1" + body)
        return body

    def tombstone(self, workspace: str) -> list[Any] | None:
        """Return `[workspace, actor, at_ms, reason, [slot names]]`, or None if it was not erased."""
        name = f"e/{workspace}"
        if name not in self._tenant_objects:
            return None
        raw = self._tenant_objects[name]
        opened = Opened(name, raw, 8, bytes(16), self._tenant_secrets[raw[8:16].hex()])
        _, body, end, _ = opened.head()
        assert (body[0], end) == (workspace, len(raw))
        return body

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
