"""Our framing against `websockets` as the peer: the same messages, the same refusals, whatever the cut of
the bytes.
"""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask
from websockets.uri import parse_uri

from session_service.core.close_codes import Close
from session_service.core.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Decoder,
    FrameError,
    close_frame,
    frame_head,
    parse_close,
    unmask_slowly,
)

MESSAGE_BYTES_MAX = 65536
TEXT_BYTES_MAX = 4096
MORE = b"\x89\x80\x00\x00\x00\x00" * 3
"""Harmless where a frame has ended; elsewhere it completes the head that is waited for."""


def decoder() -> Decoder:
    return Decoder(unmask=apply_mask, message_bytes_max=MESSAGE_BYTES_MAX, text_bytes_max=TEXT_BYTES_MAX)


def decode(data: bytes, cuts: list[int]) -> tuple[list[tuple[int, bytes]], int | None]:
    """All messages and the code of the mistake that ended them, if any, fed in pieces."""
    reading, found = decoder(), []
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, end in pairwise(places):
        try:
            found += reading.feed(data[start:end])
        except FrameError as error:
            return found + error.messages, int(error.code)
    return found, None


def joined(messages: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Binary pieces in a row as one: their limits carry no meaning."""
    out: list[tuple[int, bytes]] = []
    for opcode, payload in messages:
        if opcode == BINARY and out and out[-1][0] == BINARY:
            out[-1] = (BINARY, out[-1][1] + payload)
        else:
            out.append((opcode, payload))
    return out


def client() -> ClientProtocol:
    return ClientProtocol(parse_uri("ws://x/"), state=State.OPEN, max_size=None)


MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.just(BINARY), st.binary(max_size=300)),
        st.tuples(st.just(BINARY), st.sampled_from((125, 126, 127, 65535, 65536)).map(bytes)),
        st.tuples(st.just(TEXT), st.text(max_size=60).map(str.encode)),
        st.tuples(st.sampled_from((PING, PONG)), st.binary(max_size=125)),
    ),
    max_size=8,
)


@given(MESSAGES, st.lists(st.integers(0, 1 << 20), max_size=12), st.data())
def test_what_websockets_sends_is_what_we_read(
    messages: list[tuple[int, bytes]], cuts: list[int], data: st.DataObject
) -> None:
    """Messages whole or cut into fragments by their client, and control frames as they come."""
    peer = client()
    for opcode, payload in messages:
        if opcode == PING:
            peer.send_ping(payload)
        elif opcode == PONG:
            peer.send_pong(payload)
        else:
            send: Any = peer.send_text if opcode == TEXT else peer.send_binary
            if data.draw(st.booleans()):
                send(payload)
                continue
            middle = data.draw(st.integers(0, len(payload)))
            send(payload[:middle], fin=False)
            peer.send_continuation(payload[middle:], fin=True)
    found, code = decode(b"".join(peer.data_to_send()), cuts)
    assert code is None
    assert [m for m in joined(found) if m != (BINARY, b"")] == [
        m for m in joined(messages) if m != (BINARY, b"")
    ]


@given(st.binary(max_size=70000), st.binary(max_size=4000))
def test_what_we_send_is_what_websockets_reads(body: bytes, reason: bytes) -> None:
    peer = client()
    for opcode in (BINARY, PING):
        payload = body if opcode == BINARY else body[:125]
        peer.receive_data(frame_head(opcode, len(payload)) + payload)
    text = reason.decode(errors="ignore")
    peer.receive_data(close_frame(Close.TAKEN, text))
    frames = [event for event in peer.events_received() if isinstance(event, Frame)]
    assert [frame.opcode for frame in frames] == [Opcode.BINARY, Opcode.PING, Opcode.CLOSE]
    assert frames[0].data == body
    code, told = parse_close(bytes(frames[2].data))
    assert code == Close.TAKEN
    assert text.startswith(told)
    assert len(told.encode()) == len(text.encode()) or len(told.encode()) > 119


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4))
def test_the_slow_mask_is_the_fast_mask(data: bytes, mask: bytes) -> None:
    assert unmask_slowly(data, mask) == apply_mask(data, mask)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_the_cut_of_the_bytes_changes_nothing(data: bytes, cuts: list[int]) -> None:
    """Also where the bytes are nonsense."""
    assert decode(data, cuts) == decode(data, [])


def theirs(data: bytes) -> int | None:
    """The code with which websockets refuses these frames; 0 when it is content."""
    peer = ServerProtocol(state=State.OPEN, max_size=None)
    peer.receive_data(data)
    if peer.parser_exc is None:
        return 0
    return peer.close_sent.code if getattr(peer, "close_sent", None) is not None else None


def mutate(chance: random.Random, frames: bytes) -> bytes:
    """Frames with a few bytes changed, cut or doubled."""
    data = bytearray(frames)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data))
        way = chance.randrange(3)
        if way == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif way == 1:
            del data[at : at + chance.randrange(1, 4)]
        else:
            data[at:at] = data[at : at + chance.randrange(1, 6)]
        if not data:
            data += b"\x82"
    return bytes(data)


@pytest.mark.parametrize("rounds", [10_000, pytest.param(200_000, marks=pytest.mark.soak)])
def test_mutated_frames_are_refused_where_websockets_refuses_them(rounds: int) -> None:
    """Seeded. What it refuses, we refuse; we do so earlier, on a head alone, so the reverse is for other
    tests.
    """
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    for number in range(rounds):
        peer = client()
        for _ in range(chance.randrange(1, 4)):
            peer.send_binary(chance.randbytes(chance.randrange(0, 140)))
            if chance.random() < 0.3:
                peer.send_ping(chance.randbytes(4))
        data = mutate(chance, b"".join(peer.data_to_send()))
        _, code = decode(data + MORE, [chance.randrange(len(data) + 1)])
        if any(opcode == CLOSE for opcode, _ in decode(data + MORE, [])[0]):
            continue  # after a close frame websockets reads nothing more, we read to the end
        other = theirs(data)
        assert code is not None or other in {0, Close.NOT_UTF8}, f"seed {seed}, round {number}: {data.hex()}"


def test_a_head_alone_is_enough_to_refuse_too_much() -> None:
    """Nothing is kept of what would be refused."""
    with pytest.raises(FrameError) as refused:
        decoder().feed(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask")
    assert refused.value.code == Close.MESSAGE_TOO_BIG


def test_bytes_one_by_one_are_kept_once() -> None:
    """No quadratic copying: a frame of the largest size, fed by single bytes."""
    peer = client()
    peer.send_binary(bytes(65536))
    reading, found = decoder(), []
    for byte in b"".join(peer.data_to_send()):
        found += reading.feed(bytes((byte,)))
    assert found == [(BINARY, bytes(65536))]
    assert not reading.is_partial
