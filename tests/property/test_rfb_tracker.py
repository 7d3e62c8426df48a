"""What reaches a desktop: whole messages only, nothing changed that need not be, nothing left down, nothing
from a viewer.
"""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_service.core.rfb import (
    EXTENDED_BUTTONS,
    EXTENDED_CLIPBOARD,
    KEYS_DOWN_MAX,
    MESSAGE_BYTES_MAX,
    ClientTracker,
    RfbError,
)
from tests.fakes.rfb_desktop import client_message_length

GREETING = b"RFB 003.008\n\x01\x00"
U16, U32 = st.integers(0, 65535), st.integers(0, (1 << 32) - 1)


def be(value: int, size: int, *, signed: bool = False) -> bytes:
    return value.to_bytes(size, "big", signed=signed)


def key(symbol: int, down: bool) -> bytes:
    return bytes((4, down, 0, 0)) + be(symbol, 4)


def qemu(symbol: int, code: int, down: bool) -> bytes:
    return bytes((255, 0)) + be(down, 2) + be(symbol, 4) + be(code, 4)


def pointer(mask: int, x: int, y: int) -> bytes:
    return bytes((5, mask)) + be(x, 2) + be(y, 2)


def encodings(*numbers: int) -> bytes:
    return bytes((2, 0)) + be(len(numbers), 2) + b"".join(be(number, 4, signed=True) for number in numbers)


def cut_text(text: bytes, *, extended: bool = False) -> bytes:
    return bytes((6, 0, 0, 0)) + be(-len(text) if extended else len(text), 4, signed=True) + text


TOUCHING = st.one_of(
    st.builds(key, U32, st.booleans()),
    st.builds(qemu, U32, U32, st.booleans()),
    st.builds(pointer, st.integers(0, 255), U16, U16),
    st.builds(cut_text, st.binary(max_size=40), extended=st.booleans()),
    st.integers(0, 3).map(lambda n: bytes((251, 0)) + bytes(4) + bytes((n, 0)) + bytes(16 * n)),
    st.just(bytes((250, 0, 1, 2))),
)
LOOKING = st.one_of(
    st.just(bytes(20)),
    st.lists(st.integers(-400, 20).filter(lambda n: n != EXTENDED_BUTTONS), max_size=5).map(
        lambda numbers: encodings(*numbers, EXTENDED_CLIPBOARD)
    ),
    st.just(bytes((3,)) + bytes(9)),
    st.just(bytes((150,)) + bytes(9)),
    st.binary(max_size=64).map(lambda data: bytes((248, 0, 0, 0)) + bytes(4) + bytes((len(data),)) + data),
)


def feed(tracker: ClientTracker, data: bytes, cuts: list[int]) -> bytes:
    """What comes out, after a check that it always ends at a message's end."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    out = b""
    for start, end in pairwise(places):
        out += tracker.feed(data[start:end])
        if len(out) > len(GREETING):
            split(out[len(GREETING) :])
    return out


def split(data: bytes) -> list[bytes]:
    """Whole messages, by the other reading of the protocol; fails where one is cut."""
    found = []
    while data:
        length = client_message_length(data)
        assert length is not None, "a cut message"
        assert len(data) >= length, "a cut message"
        found.append(data[:length])
        data = data[length:]
    return found


@given(st.lists(st.one_of(TOUCHING, LOOKING), max_size=12), st.lists(st.integers(0, 5000), max_size=12))
def test_a_controlling_client_is_passed_on_unchanged(messages: list[bytes], cuts: list[int]) -> None:
    """But for the shared flag, and a release before its very first press (an earlier leg may have left a
    button down).
    """
    out = feed(ClientTracker(view_only=False), GREETING + b"".join(messages), cuts)
    assert out[:14] == b"RFB 003.008\n\x01\x01"
    found = split(out[14:])
    first = next((m for m in messages if m[0] == 5), None)
    if first is not None and first[1]:
        found.remove(bytes((5, 0)) + first[2:])
    assert found == messages


@given(st.lists(st.one_of(TOUCHING, LOOKING), max_size=12), st.lists(st.integers(0, 5000), max_size=12))
def test_a_viewer_touches_nothing_and_is_sent_no_clipboard(messages: list[bytes], cuts: list[int]) -> None:
    """Only looking passes; each list of encodings is followed by the capabilities that ask for no content."""
    found = split(feed(ClientTracker(view_only=True), GREETING + b"".join(messages), cuts)[14:])
    caps = found[1]
    assert found[0] == encodings(0, EXTENDED_CLIPBOARD)
    assert caps == cut_text(be(1 << 24 | 1 << 25 | 1 << 27 | 1, 4) + bytes(4), extended=True)
    assert [m for m in found[2:] if m != caps] == [m for m in messages if m[0] in {0, 2, 3, 150, 248}]
    assert sum(m == caps for m in found) == 1 + sum(m[0] == 2 for m in messages)


@given(st.lists(TOUCHING, max_size=40), st.lists(st.integers(0, 5000), max_size=6))
def test_nothing_stays_down_after_a_release(messages: list[bytes], cuts: list[int]) -> None:
    """A desktop's own account of keys and buttons, after the client vanished at any place."""
    tracker = ClientTracker(view_only=False)
    data = GREETING + b"".join(messages)
    out = feed(tracker, data[: len(data) - 3], cuts)
    down: set[bytes] = set()
    buttons = 0
    for message in split(out[14:] + tracker.release()):
        if message[0] == 4:
            (down.add if message[1] else down.discard)(message[4:])
        elif message[0] == 255:
            name = message[8:] if any(message[8:]) else b"s" + message[4:8]
            (down.add if any(message[2:4]) else down.discard)(b"q" + name)
        elif message[0] == 5:
            buttons = message[1]
    assert (down, buttons) == (set(), 0)
    assert tracker.release() == b""


def test_more_keys_than_fingers_are_let_go_of_oldest_first() -> None:
    tracker = ClientTracker(view_only=False)
    tracker.feed(GREETING)
    presses = b"".join(key(number, True) for number in range(KEYS_DOWN_MAX + 1))
    assert split(tracker.feed(presses))[-2:] == [key(0, False), key(KEYS_DOWN_MAX, True)]
    assert len(split(tracker.release())) == KEYS_DOWN_MAX


def test_a_key_whose_symbol_changed_with_shift_is_one_key() -> None:
    tracker = ClientTracker(view_only=False)
    tracker.feed(GREETING + qemu(ord("a"), 30, True) + qemu(ord("A"), 30, False))
    assert tracker.release() == b""


def test_extended_buttons_are_one_byte_longer_once_they_are_listed() -> None:
    """noVNC 1.7 and TigerVNC 1.15: bit 7 marks the longer message."""
    tracker = ClientTracker(view_only=False)
    tracker.feed(GREETING + encodings(0, EXTENDED_BUTTONS) + pointer(0, 1, 2))
    longer = pointer(0x81, 3, 4) + b"\x01"
    assert tracker.feed(longer[:6]) == b""
    assert tracker.feed(longer[6:]) == longer
    assert tracker.release() == pointer(0, 3, 4)


@pytest.mark.parametrize("version", [b"RFB 003.003\n", b"RFB 003.005\n"])
def test_an_old_client_chooses_no_security_type(version: bytes) -> None:
    tracker = ClientTracker(view_only=False)
    assert tracker.feed(version + b"\x00" + key(97, True)) == version + b"\x01" + key(97, True)


def test_an_unknown_message_makes_control_opaque_and_ends_a_view() -> None:
    """A newer client must not be broken by an older gateway; whoever may only look must be understood."""
    tracker = ClientTracker(view_only=False)
    tracker.feed(GREETING + key(97, True))
    assert tracker.feed(key(98, True) + b"\x63whatever") == key(98, True) + b"\x63whatever"
    assert tracker.is_opaque
    assert tracker.feed(b"more") == b"more"
    assert tracker.release() == b""
    viewer = ClientTracker(view_only=True)
    viewer.feed(GREETING)
    with pytest.raises(RfbError):
        viewer.feed(b"\x63whatever")


@pytest.mark.parametrize("version", [b"RFB 003.+08\n", b"RFB 003. 8 \n", b"RFB 003.3  \n", b"RFB 004.008\n"])
def test_a_version_that_can_be_read_in_two_ways_ends_a_view_and_is_not_followed(version: bytes) -> None:
    """A server that reads "+08" as 8 where we read 3 would find keys where we see a clipboard."""
    viewer = ClientTracker(view_only=True)
    with pytest.raises(RfbError):
        viewer.feed(version)
    control = ClientTracker(view_only=False)
    assert control.feed(version) == version
    assert control.is_opaque


def test_a_viewer_that_would_be_sent_plain_text_is_refused() -> None:
    viewer = ClientTracker(view_only=True)
    viewer.feed(GREETING)
    with pytest.raises(RfbError):
        viewer.feed(encodings(0, 1, 5))


def test_a_message_over_the_limit_is_refused_before_it_is_kept() -> None:
    tracker = ClientTracker(view_only=False)
    tracker.feed(GREETING)
    with pytest.raises(RfbError) as refused:
        tracker.feed(bytes((6, 0, 0, 0)) + be(MESSAGE_BYTES_MAX + 1, 4))
    assert refused.value.too_big
    assert tracker.waiting_bytes == 0


def test_a_long_message_in_small_pieces_is_copied_once() -> None:
    tracker = ClientTracker(view_only=False)
    tracker.feed(GREETING)
    message = cut_text(bytes(200_000))
    out = b"".join(tracker.feed(message[at : at + 1]) for at in range(len(message)))
    assert out == message


@pytest.mark.parametrize("rounds", [3_000, pytest.param(100_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("view_only", [False, True])
def test_random_bytes_never_break_the_tracker(rounds: int, view_only: bool) -> None:
    """Seeded: only an RfbError may come, and little is kept."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(rounds):
        tracker = ClientTracker(view_only=view_only)
        try:
            tracker.feed(GREETING)
            for _ in range(4):
                tracker.feed(chance.randbytes(chance.randrange(1, 60)))
        except RfbError:
            continue
        assert tracker.waiting_bytes <= 240, f"seed {seed}"
        tracker.release()
