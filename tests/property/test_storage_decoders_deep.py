"""What a host that holds the keys can write: each decoder against changed bodies of its own kind.

Beside `test_storage_decoders.py`, which crosses everything with everything. Here the bodies are those of a
repository with an object of every kind, each changed beneath its seal, sealed again as its writer would, and
read by whoever reads it: objects, tables, trees, attributes, the state that a log gives, names, slots, codes.
Only declared errors may come out, in bounded memory, and each reader must have read some cases as values:
else the cases would only show that a checksum holds.
"""

import asyncio
import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from storage.errors import ChainBroken, StorageError
from storage.format import entries, lists, names, recovery, secrets, tree
from storage.format.box import seal
from storage.format.encoding import decode, encode
from storage.format.entries import decode_entry
from storage.format.envelope import make_object, open_head, seal_segments
from storage.format.extras import make_extras, read_extras
from storage.format.frame import make_frame
from storage.format.header import ObjectType, OpenHeader, make_header
from storage.format.history import HistoryHead, read_history
from storage.format.key_slot import open_slot, seal_slot, slot_blob
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import MIB
from storage.format.pack import check_pack, read_segments
from storage.format.secrets import ReceiptSigner
from storage.format.snapshot import SnapshotHead, read_snapshot
from storage.format.table import PlannedSegment, Table, make_table, pack_chunk_refs, read_chunk_refs
from storage.objects.memory import MemoryBucket
from storage.ops.erasure import Tombstone
from storage.replica.marks import StoreId, mark_decoder
from storage.repository.state import (
    HISTORY_KIND,
    SNAPSHOT_KIND,
    LogState,
    StoredHead,
    StoredHistory,
    StoredSnapshot,
)
from tests.fakes import whole_repository
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF
from tests.property.test_storage_decoders import change
from tests.unit.test_storage_format_hostile import full_extras, sample_bodies

PEAK_BYTES_MAX = 48 * MIB
ID = bytes(16)
KEYS = EpochKeys.from_secrets(ID, bytes(32), bytes(32))
HISTORY, SNAPSHOT, PACK = "l/15-0011223344556677", f"x/{17:016d}", f"p/1-{ID.hex()}"
Read = Callable[[bytes], object]
signer = ReceiptSigner(MASTER_KEY)
stone_decoder = msgspec.msgpack.Decoder(Tombstone)
id_decoder = msgspec.msgpack.Decoder(StoreId)
extras_decoder = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]])
parts_decoder = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]])


def fresh(count: int) -> bytes:
    return bytes(count)


@dataclass(slots=True)
class Kind:
    """A reader, and valid bytes for it."""

    read: Read
    samples: list[bytes] = field(default_factory=list)


def sealed(object_type: ObjectType, name: str, body: bytes, chunks: list[bytes]) -> bytes:
    """Return an object as its writer would seal it, with the table of its segments if the body has room."""
    header = make_header(KEYS, object_type, name, fresh(32))
    planned = [
        PlannedSegment(
            kind=BoxKind.META,
            frame=make_frame(raw),
            raw_bytes=len(raw),
            chunks=((KEYS.chunk_id(BoxKind.META, raw), len(raw)),),
        )
        for raw in chunks
    ]
    made = seal_segments(KEYS, header, planned, [fresh(32) for _ in planned])
    head_of = {ObjectType.HISTORY: HistoryHead, ObjectType.INDEX_SNAPSHOT: SnapshotHead}.get(object_type)
    try:
        if head_of is not None:
            head = msgspec.msgpack.decode(body, type=head_of)
            body = encode(msgspec.structs.replace(head, table=make_table(made)))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass  # then the body itself is what is tried
    boxes = [box for _, box in made]
    return make_object(KEYS, header, kind=0, body=body, boxes=boxes, fresh=fresh(32))


def read_sealed_history(raw: bytes) -> object:
    body, chunks = decode(parts_decoder, raw, what="parts")
    whole = sealed(ObjectType.HISTORY, HISTORY, body, chunks[:3])
    hash_ = open_head(KEYS, ObjectType.HISTORY, HISTORY, whole).entry_hash
    return read_history(KEYS, HISTORY, whole, hash_=hash_)


def read_sealed_snapshot(raw: bytes) -> object:
    body, chunks = decode(parts_decoder, raw, what="parts")
    return read_snapshot(KEYS, SNAPSHOT, sealed(ObjectType.INDEX_SNAPSHOT, SNAPSHOT, body, chunks[:3]))


def pack_area() -> tuple[OpenHeader, PlannedSegment, bytes]:
    """Return what a pack of one segment begins with: its header, the segment, its box."""
    header = make_header(KEYS, ObjectType.PACK, PACK, fresh(32))
    chunk = b"content" * 9
    plan = PlannedSegment(
        kind=BoxKind.DATA,
        frame=make_frame(chunk),
        raw_bytes=len(chunk),
        chunks=((KEYS.chunk_id(BoxKind.DATA, chunk), len(chunk)),),
    )
    [(_, box)] = seal_segments(KEYS, header, [plan], [fresh(32)])
    return header, plan, box


def pack_table() -> bytes:
    _, plan, box = pack_area()
    return encode(make_table([(plan, box)]))


def read_sealed_pack(told: bytes) -> object:
    """A pack whose footer says something else than lies before it."""
    header, _, box = pack_area()
    footer = seal(KEYS, header, BoxKind.FOOTER, 1, make_frame(told), fresh=fresh(32))
    trailer = len(footer).to_bytes(4, "little") + b"\1\0\0\0CKPTPACK"
    return check_pack(KEYS, PACK, header.raw + box + footer + trailer)


def state_behind(history: StoredHead) -> LogState:
    state = LogState(config_hash=bytes(32))
    state.apply(history)
    return state


def read_text(read: Callable[[str], object]) -> Read:
    return lambda raw: read(raw.decode("latin-1"))


def read_any_name(name: str) -> object:
    """Every parser of names; what one of them takes is a value."""
    parsers = (
        names.log_entry_seq,
        names.pack_parts,
        names.history_to,
        names.guard_number,
        names.side_parts,
        names.side_pack_parts,
        names.snapshot_seq,
        names.epoch_slot_parts,
        names.tenant_slot_parts,
    )
    failure: StorageError | None = None
    for parse in parsers:
        try:
            return parse(name)
        except StorageError as exc:
            failure = exc
    assert failure is not None
    raise failure


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return asyncio.run(_kinds(tmp_path_factory.mktemp("whole")))


async def _kinds(folder: Path) -> dict[str, Kind]:
    """Open everything of a whole repository, and sort its bodies by who reads them."""
    whole = await whole_repository.make(folder, pad_to=64)
    bucket = MemoryBucket(dict(whole.objects))
    opened = whole_repository.open_whole(bucket, folder / "cold")
    workspace = await opened._known.required(REF)
    keys = workspace.keys
    told = whole.objects
    found: dict[str, Kind] = {
        **{f"entry {kind}": Kind(lambda raw, kind=kind: decode_entry(kind, raw)) for kind in range(1, 8)},
        "leaf": Kind(_read_leaf),
        "extras": Kind(lambda raw: read_extras(decode(extras_decoder, raw, what="extras"), size=5)),
        "list": Kind(lambda raw: lists.decode_list(raw, 0)),
        "history": Kind(read_sealed_history),
        "snapshot": Kind(read_sealed_snapshot),
        "pack": Kind(read_sealed_pack, [pack_table()]),
        "refs": Kind(read_chunk_refs),
        "tombstone": Kind(lambda raw: decode(stone_decoder, raw, what="tombstone")),
        "receipt": Kind(lambda raw: secrets.read_receipt(raw, {signer.key_id: signer.public_key})),
        "mark": Kind(lambda raw: decode(mark_decoder, raw, what="mark")),
        "identity": Kind(lambda raw: decode(id_decoder, raw, what="identity")),
        "name": Kind(read_text(read_any_name), [name.removeprefix(PREFIX).encode() for name in told]),
        "code": Kind(read_text(recovery.private_of), [recovery.code_of(bytes(range(32))).encode()]),
        "blob": Kind(lambda raw: recovery.opening_key(bytes(range(32)), raw), [bytes(range(1, 33))]),
        "slot": Kind(lambda raw: (slot_blob("k/x", raw), open_slot(MASTER_KEY, ID, "k/x", raw))),
    }
    state = await workspace.log.another().refresh()
    for name, raw in whole.objects.items():
        short = name.removeprefix(PREFIX)
        if short.startswith(("c/", "b/")) and not names.is_side_pack(short):
            _take_entry(found, keys.of_header(raw, short), short, raw)
        elif short.startswith("l/") and short == state.histories[-1][0]:
            head, rows = read_history(keys.of_header(raw, short), short, raw, hash_=state.histories[-1][1])
            chunk = encode([1, rows])
            found["history"].samples.append(encode((encode(head), [chunk])))
            stored = StoredHead(
                head.to, rows[-1].hash, HISTORY_KIND, 0, encode(StoredHistory(head, rows)), _tables(head), []
            )
        elif short == SNAPSHOT:
            top, told, objects = read_snapshot(keys.of_header(raw, short), short, raw)
            found["snapshot"].samples.append(encode((encode(top), [encode([1, told]), encode([2, objects])])))
            whole_top = StoredHead(
                top.to, top.hash, SNAPSHOT_KIND, 0, encode(StoredSnapshot(top, told, objects)), [], []
            )
        elif short == "r/s":
            body = open_head(keys.of_header(raw, short), ObjectType.RECEIPT, short, raw).body
            found["receipt"].samples.append(body)
    stone = await opened.tombstone(whole_repository.ERASED)
    found["tombstone"].samples.append(encode(stone))
    found["mark"].samples.append(encode(["CKPT", 1, 3, ID, 5, "a", "r"]))
    found["identity"].samples.append(encode(["CKPT", 1, ID]))
    found["refs"].samples.append(pack_chunk_refs([(ID, 5), (ID, 9)]))
    _more_samples(found)
    found["state: history"] = _state_kind(stored, lambda: LogState(config_hash=bytes(32)))
    found["state: snapshot"] = _state_kind(whole_top, lambda: LogState(config_hash=bytes(32)))
    found["state: entry"] = _entries_behind(found, stored)
    found["slot"].samples.append(_slot())
    await opened.close()
    return found


def _tables(head: HistoryHead) -> list:
    """Nil, as where a pack was given up meanwhile: what lies in packs is not what is tried here."""
    return [None for _ in head.packs]


def _read_leaf(raw: bytes) -> object:
    return [tree.entry_extras(entry) for entry in tree.decode_entries(raw)]


def _take_entry(found: dict[str, Kind], keys: EpochKeys, name: str, raw: bytes) -> None:
    try:
        object_type = ObjectType.LOG_ENTRY if name.startswith("c/") else ObjectType.SIDE_CHECKPOINT
        head = open_head(keys, object_type, name, raw)
    except StorageError:
        return
    found[f"entry {head.kind}"].samples.append(head.body)
    entry = decode_entry(head.kind, head.body)
    for chunks in read_segments(keys, head.header, entry.segments, raw[head.area_start :]):
        found["leaf"].samples += [chunk for chunk in chunks if _is_leaf(chunk)]


def _is_leaf(chunk: bytes) -> bool:
    try:
        return bool(tree.decode_entries(chunk))
    except StorageError:
        return False


def _state_kind(stored: StoredHead, begin: Callable[[], LogState]) -> Kind:
    def read(raw: bytes) -> object:
        return begin().apply(msgspec.structs.replace(stored, body=raw))

    return Kind(read, [stored.body])


def _entries_behind(found: dict[str, Kind], history: StoredHead) -> Kind:
    """Entries that follow a history, whatever they say: their predecessor is put right first."""
    samples = [encode([kind, raw]) for kind in range(1, 8) for raw in found[f"entry {kind}"].samples]
    pair = msgspec.msgpack.Decoder(tuple[int, bytes])

    def read(raw: bytes) -> object:
        kind, body = decode(pair, raw, what="kind and body")
        state = state_behind(history)
        try:
            loose = msgspec.msgpack.decode(body, type=list[msgspec.Raw])
            loose[0], loose[1] = msgspec.Raw(encode(state.seq + 1)), msgspec.Raw(encode(state.hash))
            body = encode(loose)
        except (msgspec.DecodeError, IndexError, RecursionError, UnicodeDecodeError):
            pass  # then it is tried as it is
        return state.apply(StoredHead(state.seq + 1, bytes(32), kind, 0, body, []))

    return Kind(read, samples)


def _slot() -> bytes:
    return seal_slot(MASTER_KEY, ID, "k/x", b"body", blob=b"behind", fresh=(bytes(32), bytes(32)))


def _more_samples(kinds: dict[str, Kind]) -> None:
    """Add what the repository does not have: an attribute of each tag, a list, an entry of each kind."""
    bodies = sample_bodies()
    for kind, body in zip((2, 1, 4, 5), bodies, strict=False):
        kinds[f"entry {kind}"].samples.append(body)
    kinds["leaf"].samples.append(bodies[4])
    kinds["list"].samples.append(bodies[6])
    kinds["extras"].samples.append(encode(make_extras(full_extras())))
    for kind, fields in (
        (3, entries.Forget([2, 3], "policy", "actor")),
        (6, entries.SideBranch("b/1-1", bytes(32))),
        (7, entries.Version(1, 1, 1, 1, [], [1], [(1, bytes(32))])),
    ):
        body = entries.encode_entry(
            seq=2,
            prev=bytes(32),
            fence=1,
            time_ms=0,
            writer="1",
            table=Table(b"", b""),
            fields=fields,
        )
        kinds[f"entry {kind}"].samples.append(body)


def read_changed(kinds: dict[str, Kind], cases: int, seed: int) -> Counter[str]:
    """Return how many cases each reader took as values; fail at the first undeclared error."""
    chance, values = random.Random(seed), Counter[str]()
    readers = sorted(kinds)
    everything = [raw for kind in kinds.values() for raw in kind.samples]
    tracemalloc.start()
    try:
        for number in range(cases):
            what = readers[number % len(readers)]
            raw = change(chance.choice(kinds[what].samples), chance, everything)
            try:
                kinds[what].read(raw)
                values[what] += 1
            except StorageError:
                continue
            except BaseException as exc:
                raise AssertionError(f"seed {seed}, case {number}, {what}: {raw.hex()}") from exc
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES_MAX
    finally:
        tracemalloc.stop()
    return values


def test_each_reader_takes_what_was_not_changed(kinds):
    """Most of it: some bodies stand for themselves, and belong to no log."""
    for what, kind in kinds.items():
        assert any(takes(kind.read, raw) for raw in kind.samples), what


def takes(read: Read, raw: bytes) -> bool:
    try:
        read(raw)
    except StorageError:
        return False
    return True


def test_a_history_that_speaks_of_entries_that_are_not_there_is_refused(kinds):
    """Found by seed 5: a side branch of no row, and of row 0, which Python takes for the last."""
    [whole] = kinds["state: history"].samples
    stored = msgspec.msgpack.decode(whole, type=StoredHistory)
    assert stored.head.sides
    for seq in (0, 16, 10**9):
        sides = [msgspec.structs.replace(stored.head.sides[0], seq=seq)]
        head = msgspec.structs.replace(stored.head, sides=sides)
        with pytest.raises(ChainBroken):
            kinds["state: history"].read(encode(StoredHistory(head, stored.rows)))
    with pytest.raises(ChainBroken):
        kinds["state: history"].read(encode(StoredHistory(stored.head, [])))
    [whole] = kinds["state: snapshot"].samples
    top = msgspec.msgpack.decode(whole, type=StoredSnapshot)
    for seq in (0, 18):
        sides = [msgspec.structs.replace(stored.head.sides[0], seq=seq)]
        head = msgspec.structs.replace(top.head, sides=sides)
        with pytest.raises(ChainBroken):
            kinds["state: snapshot"].read(encode(StoredSnapshot(head, top.rows, top.objects)))


def test_changed_bodies_give_values_or_declared_errors(kinds):
    assert read_changed(kinds, 4_000, seed=1).total() > 0


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(200, 210))
def test_a_million_changed_bodies_give_values_or_declared_errors(kinds, seed: int):
    values = read_changed(kinds, 100_000, seed)
    sys.stdout.write(f"seed {seed}: values {dict(sorted(values.items()))}\n")
    strict = {"code", "receipt"}  # a checksum or a signature is over every byte
    assert not set(kinds) - strict - set(values), "some reader took nothing"
