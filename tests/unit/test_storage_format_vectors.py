"""The golden bytes of format version 1: made and read by the real code, and refused once they are changed."""

import re
from pathlib import Path

import pytest
from blake3 import blake3

from storage.errors import FormatError, StorageError
from storage.format import entries, envelope, keys, pack, table, tree
from storage.format.encoding import encode
from storage.format.frame import make_frame
from storage.format.header import ObjectType, make_header
from storage.format.keys import BoxKind, EpochKeys

TEXT = (Path(__file__).parent.parent / "vectors" / "format-v1-vectors.txt").read_text(encoding="utf-8")
PACK_NAME = "p/1-00112233445566778899aabbccddeeff"
ENTRY_1, ENTRY_2 = "c/0000000000000001", "c/0000000000000002"


def values(name: str) -> list[bytes]:
    """Return the values that the vectors file gives for a name, in order."""
    pattern = rf"^{re.escape(name)} = ([0-9a-f]+)$"
    found = re.findall(pattern, TEXT, re.MULTILINE)
    return [bytes.fromhex(one) if len(one) % 2 == 0 else b"" for one in found]


def value(name: str) -> bytes:
    return values(name)[0]


def fresh(index: int) -> bytes:
    return bytes([index & 255]) * 32


@pytest.fixture(scope="module")
def epoch() -> EpochKeys:
    return EpochKeys.from_secrets(value("repo_id"), value("epoch_key"), value("id_secret"))


def planned(epoch: EpochKeys, kind: BoxKind, chunks: list[bytes]) -> table.PlannedSegment:
    raw = b"".join(chunks)
    ids = tuple((epoch.chunk_id(kind, chunk), len(chunk)) for chunk in chunks)
    frame = make_frame(raw, compress=False)
    return table.PlannedSegment(kind=kind, frame=frame, raw_bytes=len(raw), chunks=ids)


def plan(epoch: EpochKeys) -> list[table.PlannedSegment]:
    data = planned(epoch, BoxKind.DATA, [b"hello", b"world!"])
    return [data, planned(epoch, BoxKind.META, [value("node")])]


def made_pack(epoch: EpochKeys, segments: list[table.PlannedSegment]) -> pack.PackBytes:
    header = make_header(epoch, ObjectType.PACK, PACK_NAME, fresh(-1))
    writer = pack.PackWriter(epoch, header, PACK_NAME, bytearray(16 * 1024))
    for index, segment in enumerate(segments):
        slot = writer.reserve(len(segment.frame))
        assert slot is not None
        writer.seal(slot, segment, fresh=fresh(index))
        writer.check(slot)
    return writer.finish(fresh=fresh(2), compress=False)


def made_entry(
    epoch: EpochKeys,
    seq: int,
    prev: bytes,
    time_ms: int,
    fields: entries.Fields,
    *,
    segments: list[table.PlannedSegment],
    padding: int,
) -> bytes:
    name = f"c/{seq:016d}"
    header = make_header(epoch, ObjectType.LOG_ENTRY, name, fresh(-1))
    sealed = envelope.seal_segments(epoch, header, segments, [fresh(i) for i in range(len(segments))])
    body = entries.encode_entry(
        seq=seq,
        prev=prev,
        fence=1,
        time_ms=time_ms,
        writer="1.0",
        table=table.make_table(sealed),
        fields=fields,
    )
    return envelope.make_object(
        epoch,
        header,
        kind=entries.kind_of(fields),
        body=body,
        boxes=[box for _, box in sealed],
        fresh=fresh(0xFE),
        compress=False,
        padding=padding,
    )


def read_entry(epoch: EpochKeys, name: str, raw: bytes) -> tuple[entries.LogEntry, list[list[bytes]], bytes]:
    head = envelope.open_head(epoch, ObjectType.LOG_ENTRY, name, raw)
    entry = entries.decode_entry(head.kind, head.body)
    chunks = pack.read_segments(epoch, head.header, entry.segments, raw[head.area_start :])
    return entry, chunks, head.entry_hash


def take_over(epoch: EpochKeys) -> entries.TakeOver:
    return entries.TakeOver("node-a", "session-a", 1, epoch.key_id)


def checkpoint(epoch: EpochKeys) -> entries.Checkpoint:
    root_id = epoch.chunk_id(BoxKind.META, value("node"))
    root = tree.Entry(b"", 2, 0o700, None, None, 1700000000, 0, 0, (root_id, 0), None)
    totals, report = entries.Totals(1, 1, 5, 100), entries.Report(0, 0, 0, 0, [], None)
    return entries.Checkpoint(
        "session-a",
        1 | 2 | 8,
        "close",
        0,
        root,
        1700000000500,
        None,
        (1000, 1000),
        totals,
        report,
        [],
        [],
        [],
    )


def test_every_derived_key_is_the_one_of_the_vectors(epoch):
    assert epoch.key_id == value("key_id")
    assert epoch.meta == value("meta_key")
    assert epoch.data == value("data_key")
    assert epoch.chunk_data == value("chunk_id_key_data")
    assert epoch.chunk_meta == value("chunk_id_key_meta")
    assert epoch.chunker_seed == int.from_bytes(value("chunker_seed_le"), "little")
    assert epoch.chunk_id(BoxKind.DATA, b"hello") == value("chunk_id(data, 'hello')")
    assert epoch.chunk_id(BoxKind.META, b"hello") == value("chunk_id(meta, 'hello')")
    assert f"hedge_key = {epoch.hedge.hex()[:63]}" in TEXT, "the printed hedge key lacks its last digit"


def test_a_tree_node_has_exactly_the_bytes_of_the_vector(epoch):
    content = table.pack_chunk_refs([(epoch.chunk_id(BoxKind.DATA, b"hello"), 5)])
    entry = tree.Entry(b"a.txt", 1, 0o644, None, None, 1700000000, 5, 5, content, None)
    node = tree.encode_node(0, [entry])
    assert node == value("node")
    assert epoch.chunk_id(BoxKind.META, node) == value("node_id")
    assert tree.decode_entries(node) == [entry]


def test_a_pack_has_exactly_the_bytes_of_the_vector(epoch):
    made = made_pack(epoch, plan(epoch))
    assert made.raw == value("pack")
    footer, chunks = pack.read_pack(epoch, PACK_NAME, made.raw)
    assert chunks == [[b"hello", b"world!"], [value("node")]]
    assert footer.table == made.table
    assert footer.footer_digest == made.footer_digest


def test_log_entries_have_exactly_the_bytes_of_the_vectors(epoch):
    prev = blake3(b"config bytes").digest()
    first = made_entry(epoch, 1, prev, 1700000000000, take_over(epoch), segments=[], padding=0)
    assert first == values("entry")[0]
    entry, chunks, first_hash = read_entry(epoch, ENTRY_1, first)
    assert (entry.prev, chunks, first_hash) == (value("prev"), [], values("entry_hash")[0])
    second = made_entry(
        epoch, 2, first_hash, 1700000001000, checkpoint(epoch), segments=plan(epoch), padding=7
    )
    assert second == values("entry")[1]
    entry, chunks, second_hash = read_entry(epoch, ENTRY_2, second)
    assert entry.fields == checkpoint(epoch)
    assert chunks == [[b"hello", b"world!"], [value("node")]]
    assert second_hash == values("entry_hash")[1]


@pytest.mark.parametrize("bit", [0, 7])
def test_every_flipped_bit_of_a_pack_or_entry_is_refused(epoch, bit):
    for raw, read in readers(epoch):
        for at in range(len(raw)):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            with pytest.raises(FormatError):
                read(bytes(changed))


def test_every_truncation_and_every_appended_byte_is_refused(epoch):
    for raw, read in readers(epoch):
        for length in range(len(raw)):
            with pytest.raises(FormatError):
                read(raw[:length])
        with pytest.raises(FormatError):
            read(raw + b"\0")


def readers(epoch):
    def read_whole_pack(raw: bytes):
        return pack.read_pack(epoch, PACK_NAME, raw)

    def read_first(raw: bytes):
        return read_entry(epoch, ENTRY_1, raw)

    def read_second(raw: bytes):
        return read_entry(epoch, ENTRY_2, raw)

    first, second = values("entry")
    return [(value("pack"), read_whole_pack), (first, read_first), (second, read_second)]


def test_an_object_under_another_name_or_in_another_repository_is_refused(epoch):
    raw = values("entry")[1]
    with pytest.raises(StorageError) as moved:
        read_entry(epoch, "c/0000000000000003", raw)
    assert moved.value.code == "wrong_key"
    other = EpochKeys.from_secrets(bytes(16), value("epoch_key"), value("id_secret"))
    with pytest.raises(StorageError) as copied:
        read_entry(other, ENTRY_2, raw)
    assert copied.value.code == "wrong_key"


def test_a_cloned_machine_never_pairs_one_key_and_nonce_with_two_plaintexts(epoch):
    one = made_pack(epoch, plan(epoch)).raw
    changed = [planned(epoch, BoxKind.DATA, [b"hello", b"WORLD!"]), plan(epoch)[1]]
    other = made_pack(epoch, changed).raw
    assert one[:64] == other[:64], "same random bytes and name: same object key"
    assert one[64:76] != other[64:76], "another plaintext must get another nonce"


def test_an_appended_field_is_ignored_and_a_trailing_byte_is_not(epoch):
    body = entries.encode_entry(
        seq=2,
        prev=bytes(32),
        fence=1,
        time_ms=0,
        writer="9.9",
        table=table.Table(b"", b""),
        fields=take_over(epoch),
    )
    longer = bytes([body[0] + 1]) + body[1:] + encode("of a later version")
    assert entries.decode_entry(1, longer).fields == take_over(epoch)
    with pytest.raises(FormatError):
        entries.decode_entry(1, body + b"\0")


def test_unknown_kinds_below_128_stop_the_reader_and_others_are_skipped(epoch):
    body = entries.encode_entry(
        seq=2,
        prev=bytes(32),
        fence=1,
        time_ms=0,
        writer="9.9",
        table=table.Table(b"", b""),
        fields=take_over(epoch),
    )
    assert entries.decode_entry(200, body).fields is None
    for kind in (0, 8, 127):
        with pytest.raises(StorageError) as stopped:
            entries.decode_entry(kind, body)
        assert stopped.value.code == "newer_service_needed"


def test_secrets_never_show_in_a_repr(epoch):
    shown = repr(epoch) + repr(epoch.object_keys(bytes(32), "config"))
    for secret in (epoch.meta, epoch.data, epoch.hedge, epoch.chunk_data, epoch.chunk_meta):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    assert keys.CONTEXT == "session-service checkpoints v1 "
