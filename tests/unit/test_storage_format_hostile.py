"""Hostile bytes: a decoder answers with a value or a declared error whatever it gets; bombs stay whole."""

import random
import struct

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import FormatError, LimitReached, Malformed, NewerServiceNeeded
from storage.format import config, entries, extras, lists, names, pack, secrets, table, tree
from storage.format.encoding import decode, encode
from storage.format.frame import make_frame, open_frame
from storage.format.keys import EpochKeys
from storage.format.limits import CHUNK_BYTES_MAX, KIB, MIB, NODE_BYTES_MAX

ID = bytes(16)
REF = ID + struct.pack("<I", 5)


def framed(coded: bytes, raw_bytes: int, codec: int = 1) -> bytes:
    return struct.pack("<BBHII", codec, 0, 0, raw_bytes, len(coded)) + coded


def squeeze(raw: bytes, **more) -> bytes:
    return zstandard.ZstdCompressor(level=1, **more).compress(raw)


def test_a_zstd_frame_must_say_its_size_and_say_it_truly():
    raw = b"x" * 100_000
    assert open_frame(framed(squeeze(raw), len(raw)), raw_bytes_max=MIB).raw == raw
    bomb = squeeze(bytes(64 * MIB))
    writer = zstandard.ZstdCompressor(write_content_size=False)
    for coded, told in (
        (bomb, 1_000),  # states 64 MiB
        (writer.compress(raw), len(raw)),  # states nothing
        (squeeze(raw) + squeeze(raw), len(raw)),  # a second frame
        (squeeze(raw) + b"\0", len(raw)),
        (squeeze(raw)[:-3], len(raw)),
        (squeeze(raw)[:4], len(raw)),
        (b"", 0),
        (b"not zstd at all", 15),
    ):
        with pytest.raises(Malformed):
            open_frame(framed(coded, told), raw_bytes_max=MIB)


def test_a_zstd_frame_with_a_large_window_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=True)
    coded = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(40 * MIB))
    assert zstandard.get_frame_parameters(coded).window_size > 8 * MIB
    with pytest.raises(Malformed):
        open_frame(framed(coded, 40 * MIB), raw_bytes_max=64 * MIB)


def test_frame_lengths_and_padding_are_checked_to_the_byte():
    good = make_frame(b"hello", compress=False, padding=7)
    assert open_frame(good, raw_bytes_max=5).raw == b"hello"
    for bad in (
        good[:11],
        good + b"\x01",
        good[:3] + b"\x01" + good[4:],
        framed(b"hello", 6, codec=0),
        framed(b"hello", 5, codec=0)[:-1],
        b"",
    ):
        with pytest.raises(Malformed):
            open_frame(bad, raw_bytes_max=MIB)
    with pytest.raises(Malformed):
        open_frame(good, raw_bytes_max=4)
    with pytest.raises(NewerServiceNeeded):
        open_frame(framed(b"hello", 5, codec=2), raw_bytes_max=MIB)
    with pytest.raises(LimitReached):
        make_frame(b"", padding=4 * KIB + 1)


def test_bytes_that_do_not_shrink_are_stored_as_they_are():
    noise = random.Random(1).randbytes(50_000)
    assert open_frame(make_frame(noise), raw_bytes_max=MIB).raw == noise
    assert len(make_frame(noise)) == len(noise) + 12


def test_deep_nesting_is_a_declared_error():
    bomb = b"\x91" * 200_000 + b"\xc0"
    anything = msgspec.msgpack.Decoder(list[object])
    with pytest.raises(Malformed):
        decode(anything, bomb, what="bomb")
    with pytest.raises(Malformed):
        entries.decode_entry(2, bomb)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xa1\xff",  # text that is no UTF-8
        b"\x81\x01\x02",  # a map
        b"\xcb" + bytes(8),  # a float
        b"\xd4\x01\x02",  # an extension
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xc6\xff\xff\xff\xff",  # bytes of four GiB
        b"",
        b"\xc1",
    ],
)
def test_what_the_format_has_no_use_for_is_refused(raw):
    for read in READERS:
        with pytest.raises(FormatError):
            read(raw)


READERS = (
    lambda raw: entries.decode_entry(1, raw),
    lambda raw: entries.decode_entry(2, raw),
    lambda raw: entries.decode_entry(4, raw),
    lambda raw: entries.decode_entry(7, raw),
    tree.decode_entries,
    lambda raw: tree.decode_children(raw, 1),
    lambda raw: lists.decode_list(raw, 0),
    lambda raw: lists.decode_list(raw, 1),
    config.decode_config,
    lambda raw: secrets.read_receipt(raw, {}),
    lambda raw: secrets.decode_tenant_secret(raw, tenant="aa"),
    lambda raw: table.read_table(decode(table.table_decoder, raw, what="table")),
)


def sample_bodies() -> list[bytes]:
    """Valid bytes of each kind, to be changed at random."""
    entry = tree.Entry(b"a", 1, 0o644, None, 5, -1, 7, 5, REF, extras.make_extras(full_extras()))
    folder = tree.Entry(b"", 2, 0o700, None, None, 0, 0, 0, (ID, 0), None)
    totals, report = entries.Totals(1, 1, 5, 9), entries.Report(0, 0, 0, 0, [], None)
    pack_ref = entries.PackRef(1, ID, 500, 100, bytes(32), table.Table(b"", b""))
    fields = (
        entries.Checkpoint(
            "s", 1, "r", 0, folder, 5, None, (1, 2), totals, report, [], [(b"p", "a")], [pack_ref]
        ),
        entries.TakeOver("n", "s", 1, bytes(8)),
        entries.Retire([(1, ID)], 0, ["x"], [pack_ref], None),
        entries.Keep(1, bytes(32), True, "r", "a"),
    )
    heads = [
        entries.encode_entry(
            seq=2,
            prev=bytes(32),
            fence=1,
            time_ms=0,
            writer="1",
            table=table.Table(b"", b""),
            fields=one,
        )
        for one in fields
    ]
    return [
        *heads,
        tree.encode_node(0, [entry]),
        tree.encode_node(1, [tree.Child(b"a", ID, 3)]),
        lists.encode_refs([(ID, 5)]),
        lists.encode_lists([(ID, 5)], 1),
        config.encode_config(repository_id=ID, created_ms=1, first_slot="1-m0011223344556677"),
    ]


def full_extras() -> extras.Extras:
    return extras.Extras(
        extents=((0, 2), (2, 3)),
        xattrs=((b"user.a", b"b"),),
        link_group=bytes(8),
        grade=1,
        inode_flags=64,
        xattr_errors=((b"user.z", 5),),
        birth_time=(1, 2),
    )


@given(st.integers(0, 8), st.data())
def test_changed_bytes_give_a_value_or_a_declared_error(number, data):
    """No decoder may answer with anything else, whatever is flipped, cut, put in or repeated."""
    raw = bytearray(sample_bodies()[number])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        what = data.draw(st.sampled_from(["set", "cut", "put", "swap"]))
        if what == "cut":
            del raw[at:]
        elif what == "put":
            raw[at:at] = data.draw(st.binary(max_size=9))
        elif at < len(raw):
            raw[at] = data.draw(st.integers(0, 255))
    for read in READERS:
        try:
            read(bytes(raw))
        except FormatError:
            continue


@given(st.binary(max_size=300))
def test_random_bytes_are_never_an_object(raw):
    keys = EpochKeys.from_secrets(ID, bytes(32), bytes(32))
    with pytest.raises(FormatError):
        pack.read_pack(keys, f"p/1-{ID.hex()}", raw)
    for read in READERS:
        try:
            read(raw)
        except FormatError:
            continue


def entry_of(**changed) -> tree.Entry:
    usual = {
        "name": b"a",
        "type": 1,
        "mode": 0o644,
        "uid": None,
        "gid": None,
        "mtime_s": 0,
        "mtime_ns": 0,
        "size": 5,
        "content": REF,
        "extra": None,
    }
    return tree.Entry(**{**usual, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"name": b""},
        {"name": b"."},
        {"name": b".."},
        {"name": b"a/b"},
        {"name": b"a\0"},
        {"name": b"x" * 256},
        {"mode": 0o10000},
        {"mode": -1},
        {"uid": -1},
        {"gid": 1 << 32},
        {"mtime_ns": 1_000_000_000},
        {"mtime_ns": -1},
        {"size": -1},
        {"size": 4},
        {"size": 6},
        {"type": 0},
        {"content": REF[:-1]},
        {"content": b""},
        {"content": REF * 65, "size": 325},
        {"content": ID + struct.pack("<I", 0), "size": 0},
        {"content": ID + struct.pack("<I", CHUNK_BYTES_MAX + 1), "size": CHUNK_BYTES_MAX + 1},
        {"content": (ID, 9)},
        {"content": (ID[:-1], 0)},
        {"content": (1, 2)},
        {"type": 2},
        {"type": 2, "content": None},
        {"type": 3, "content": b""},
        {"type": 3, "content": b"a\0b"},
        {"type": 3, "content": b"x" * 4_096},
        {"type": 3, "content": None},
        {"type": 4},
        {"type": 6, "content": None},
        {"type": 6, "content": (ID, 0)},
        {"extra": [(1, msgspec.Raw(encode([[0, 6]])))]},
        {"extra": [(1, msgspec.Raw(encode([[3, 1], [0, 4]])))]},
        {"extra": [(1, msgspec.Raw(encode([[0, 0], [0, 5]])))]},
        {"extra": [(3, msgspec.Raw(encode(b"short")))]},
        {"extra": [(4, msgspec.Raw(encode(4)))]},
        {"extra": [(4, msgspec.Raw(encode(3)))]},
        {"extra": [(3, msgspec.Raw(encode(bytes(8)))), (2, msgspec.Raw(encode([])))]},
        {"extra": [(2, msgspec.Raw(encode([[b"b", b""], [b"a", b""]])))]},
        {"extra": [(2, msgspec.Raw(encode([[b"b", bytes(65_537)]])))]},
        {"extra": [(2, msgspec.Raw(encode("text")))]},
        {"extra": [(5, msgspec.Raw(encode(1 << 32)))]},
    ],
)
def test_an_entry_that_breaks_a_rule_is_refused(changed):
    raw = encode(tree.Node(1, 0, [entry_of(**changed)]))
    with pytest.raises(Malformed):
        tree.decode_entries(raw)
    assert tree.decode_entries(encode(tree.Node(1, 0, [entry_of()])))


def test_unknown_types_and_tags_are_kept_and_told():
    odd = entry_of(type=9, content=None, extra=[(77, msgspec.Raw(encode(1))), (200, msgspec.Raw(encode(2)))])
    [read] = tree.decode_entries(encode(tree.Node(1, 0, [odd])))
    assert tree.entry_extras(read).unknown_tags == (77,)


def test_names_of_a_node_ascend_and_its_level_is_the_one_asked_for():
    for pair in ((b"b", b"a"), (b"a", b"a")):
        with pytest.raises(Malformed):
            tree.decode_entries(encode(tree.Node(1, 0, [entry_of(name=name) for name in pair])))
    leaf = tree.encode_node(0, [entry_of()])
    with pytest.raises(Malformed):
        tree.decode_children(leaf, 1)
    with pytest.raises(NewerServiceNeeded):
        tree.decode_entries(encode(tree.Node(2, 0, [])))
    with pytest.raises(Malformed):
        tree.decode_children(encode(tree.Node(1, 1, [])), 1)


def test_tables_add_up_or_are_refused():
    def row(sealed=100, raw=5, count=1, kind=2, zeros=b"\0\0\0") -> bytes:
        return struct.pack("<IIIB", sealed, raw, count, kind) + zeros + bytes(16)

    [segment] = table.read_table(table.Table(row(), REF))
    assert segment.chunks == ((ID, 5),)
    for rows, chunks in (
        (row()[:-1], REF),
        (row(), REF[:-1]),
        (row(raw=4), REF),
        (row(count=2), REF),
        (row(count=0), REF),
        (row(), REF + REF),
        (row(kind=1), REF),
        (row(kind=4), REF),
        (row(zeros=b"\0\1\0"), REF),
        (row(sealed=5_000), REF),
        (row(count=0, raw=0), b""),
        (row(raw=5 * MIB, count=5), (ID + struct.pack("<I", MIB)) * 5),
    ):
        with pytest.raises(Malformed):
            table.read_table(table.Table(rows, chunks))


@pytest.mark.parametrize("name", ["c/1", "c/0000000000000000", "c/00000000000000001", "c/000000000000000a"])
def test_names_of_log_entries_have_one_spelling(name):
    with pytest.raises(Malformed):
        names.log_entry_seq(name)
    assert names.log_entry_seq(names.log_entry(7)) == 7


def test_numbers_beyond_the_limits_are_not_written():
    for make in (
        lambda: names.log_entry(0),
        lambda: names.log_entry(10**16),
        lambda: names.pack(0, ID),
        lambda: names.pack(1 << 53, ID),
        lambda: tree.encode_node(0, [entry_of(name=b"%0255d" % at) for at in range(NODE_BYTES_MAX // 255)]),
        lambda: encode(1 << 70),
    ):
        with pytest.raises(LimitReached):
            make()


def test_a_config_of_another_version_or_with_an_unknown_feature_is_refused():
    good = msgspec.msgpack.decode(sample_bodies()[-1])
    for at, value, error in (
        (0, "OTHER", Malformed),
        (1, 2, NewerServiceNeeded),
        (2, bytes(15), Malformed),
        (4, ["registry-order"], NewerServiceNeeded),
    ):
        changed = list(good)
        changed[at] = value
        with pytest.raises(error):
            config.decode_config(encode(changed))
