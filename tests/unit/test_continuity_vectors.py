"""The published vectors of `continuity.v1`, byte for byte, and the rules of its messages and its ring."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.speedups import apply_mask

from session_service.core.close_codes import Close
from session_service.core.continuity import proof
from session_service.core.continuity.client import Began, Client, Dial, Ended, Lost, Phase, Say, Send
from session_service.core.continuity.limits import ACK_S, BEAT_S, SILENT_S, UP_RING_BYTES
from session_service.core.continuity.messages import Resume, read_client, read_first, read_server, say
from session_service.core.continuity.ring import Ring, messages_of
from session_service.core.continuity.serving import ServerLink, ServerStream, opened
from session_service.core.websocket import Decoder, FrameError, close_frame, decode_text, frame_head

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "wire-v1-vectors.json").read_text()
)
MASK = bytes.fromhex("37fa213d")
SID, AUD = "01JD0000000000000000000000", "wss://desk.example:443"


def decoder() -> Decoder:
    return Decoder(unmask=apply_mask, message_bytes_max=65536, text_bytes_max=4096)


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda v: v["grant"])
def test_a_grants_key_is_the_published_one(vector: dict[str, Any]) -> None:
    key = proof.grant_key(bytes.fromhex(vector["secret"]), vector["sid"], vector["grant"])
    assert key.hex() == vector["key"]
    assert proof.encode(key) == vector["key_b64url"]


@pytest.mark.parametrize("vector", VECTORS["resume"], ids=lambda v: v["challenge"])
def test_an_attempt_is_signed_and_written_as_published(vector: dict[str, Any]) -> None:
    attempt = read_first(vector["message"])
    assert isinstance(attempt, Resume)
    fields = {
        "aud": attempt.aud,
        "session_id": attempt.session_id,
        "grant": attempt.grant,
        "leg": attempt.leg,
        "number": attempt.number,
        "received": attempt.received,
        "have": attempt.have,
        "end": attempt.end,
    }
    text = proof.attempt_text(**fields, challenge=vector["challenge"])
    assert text.encode().hex() == vector["input"]
    assert proof.sign(bytes.fromhex(vector["key"]), text).hex() == vector["mac"] == attempt.mac.hex()
    assert proof.is_signed(bytes.fromhex(vector["key"]), text, attempt.mac)
    assert not proof.is_signed(bytes.fromhex(vector["key"]), text + "0", attempt.mac)


@pytest.mark.parametrize("vector", VECTORS["history_crc32"], ids=lambda v: v["rx"])
def test_the_history_has_the_published_checksum_on_both_sides(vector: dict[str, Any]) -> None:
    history = bytes.fromhex(vector["c2s"])
    stream, ring = ServerStream("AAECAwQFBgc"), Ring(checked=True)
    for byte in history:
        stream.receive(bytes([byte]))
    ring.append(history + b"more")
    ring.acknowledge(vector["rx"] // 2)
    assert stream.standing().checksum == ring.checksum(vector["rx"]) == vector["x"]
    assert stream.standing().taken == vector["rx"]


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["name"])
def test_frames_are_the_published_ones(vector: dict[str, Any]) -> None:
    server = vector["from_server"]
    if vector["opcode"] == 8:
        code, why = vector["name"].split()[1:]
        assert close_frame(int(code), why).hex() == server["hex"]
        return
    client = vector["from_client_masked_37fa213d"]
    size = vector["payload_bytes"]
    if "hex" in server:
        payload = bytes.fromhex(server["hex"])[-size:] if size else b""
        masked = bytes.fromhex(client["hex"])
        if vector["fin"] and vector["opcode"]:
            assert frame_head(vector["opcode"], size) + payload == bytes.fromhex(server["hex"])
    else:
        payload = bytes(size)
        frame = frame_head(2, size) + payload
        assert (len(frame), hashlib.sha256(frame).hexdigest()) == (server["bytes"], server["sha256"])
        head = bytes.fromhex(client["head_hex"])
        masked = head[: client["bytes"] - size] + apply_mask(payload, MASK)
        assert hashlib.sha256(masked).hexdigest() == client["sha256"]
    before = bytes.fromhex("028037fa213d") if vector["opcode"] == 0 else b""
    (found,) = [one for one in decoder().feed(before + masked) if one != (2, b"")] or [(2, b"")]
    assert found == (vector["opcode"] or 2, payload)


@pytest.mark.parametrize("vector", VECTORS["malformed_from_client"], ids=lambda v: v["why"])
def test_what_is_malformed_is_closed_with_the_published_code(vector: dict[str, Any]) -> None:
    with pytest.raises(FrameError) as caught:
        for _opcode, payload in decoder().feed(bytes.fromhex(vector["hex"])):
            read_client(decode_text(payload))
    assert caught.value.code == vector["close"]


# -- messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "7",
        '{"a":1',
        '{"a":1e2}',
        '{"a":4503599627370496}',
        '{"a":"1"}',
        '{"a":null}',
        '{"t":"bye","end":1}',
        '{"x":[[[[1]]]]}',
        '{"a":01}',
        '{"a":1}{"a":2}',
        '{"h":NaN}',
    ],
)
def test_a_message_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(FrameError) as caught:
        read_client(text)
    assert caught.value.code == Close.BAD_MESSAGE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sid", "01jd0000000000000000000000"),
        ("aud", "wss://desk.example:443\n"),
        ("aud", "WSS://desk.example:443"),
        ("grant", -1),
        ("leg", "AAECAwQFBgd="),
        ("leg", "AAECAwQFBgd"),
        ("n", 1.0),
        ("rx", True),
        ("end", 0),
        ("mac", "AAAA"),
        ("mac", None),
    ],
)
def test_a_resume_of_another_form_is_refused(name: str, value: object) -> None:
    fields = json.loads(VECTORS["resume"][1]["message"]) | {name: value}
    with pytest.raises(FrameError):
        read_first(json.dumps(fields))


def test_secrets_are_in_no_repr() -> None:
    attempt = read_first(VECTORS["resume"][1]["message"])
    assert "mac" not in repr(attempt)
    text = opened(
        session_id=SID, leg="AAECAwQFBgc", mode="control", grant=1, key=bytes(32), hold_s=1, gap_s=None
    )
    assert "key" not in repr(read_server(text))
    assert "ticket" not in repr(Say(text='{"auth":"ticket"}'))


def test_only_a_path_of_this_origin_is_a_redirect() -> None:
    for to in ("https://evil.example/s/0/ws", "//evil.example/s/0/ws", "/s/0/ws/", "/s/../ws", 7, None):
        message = read_server(say(t="drain", after=[0, 1], to=to))
        assert message.to is None  # type: ignore[union-attr]  # a Drain
    assert read_server(say(t="drain", after=[0, 1], to="/s/b1/ws")).to == "/s/b1/ws"  # type: ignore[union-attr]  # a Drain


# -- ring ---------------------------------------------------------------------------------------------


def test_a_ring_keeps_what_is_not_acknowledged_and_large_chunks_by_reference() -> None:
    ring, large = Ring(), bytes(70_000)
    for piece in (b"abc", b"def", large, b"ghi"):
        ring.append(piece)
    assert any(piece is large for piece in ring.since(0))
    assert ring.acknowledge(4)
    assert b"".join(ring.since(4)) == b"ef" + large + b"ghi"
    assert not ring.acknowledge(3)
    assert not ring.acknowledge(ring.end + 1)
    assert ring.acknowledge(ring.end)
    assert (ring.size, ring.unacknowledged) == (0, 0)
    assert [len(piece) for piece in messages_of(bytes(130_000), 65536)] == [65536, 64464]


def test_a_forgotten_ring_still_takes_acknowledgements_and_replays_nothing() -> None:
    ring = Ring()
    ring.append(bytes(100))
    ring.forget()
    assert ring.acknowledge(50)
    assert not ring.holds(50)
    ring.append(b"new")
    assert ring.acknowledge(100)
    assert b"".join(ring.since(100)) == b"new"


def test_many_small_chunks_cost_their_bytes() -> None:
    ring = Ring()
    for _ in range(10_000):
        ring.append(b"x")
    assert len(ring._chunks) < 10


# -- time ---------------------------------------------------------------------------------------------


def test_a_server_acknowledges_by_size_and_by_time_and_beats_when_it_is_silent() -> None:
    link = ServerLink(received=0, now=0.0)
    assert link.next_deadline() == BEAT_S
    assert link.received(10, 1.0) is None
    assert link.next_deadline() == 1.0 + ACK_S
    assert link.tick(1.0 + ACK_S, received=10, sent=5) == '{"a":10}'
    assert link.received(10 + 4096, 2.0) == '{"a":4106}'
    assert link.tick(2.0 + BEAT_S, received=4106, sent=5) == '{"h":5}'


def attached() -> Client:
    client = Client(aud=AUD, path="/s/0/ws", draw=lambda: 0.5)
    assert client.open("t" * 20, 0.0) == [Dial(number=1, path="/s/0/ws")]
    client.text(1, say(t="hello", c="A" * 22), 0.0)
    acts = client.text(
        1,
        opened(
            session_id=SID, leg="AAECAwQFBgc", mode="control", grant=1, key=bytes(32), hold_s=1, gap_s=None
        ),
        0.0,
    )
    assert acts == [Began(resync=False, mode="control", gap_s=None, lost_input=False)]
    return client


def test_a_client_that_hears_nothing_for_25_s_leaves_its_socket() -> None:
    client = attached()
    assert client.next_deadline() == SILENT_S
    (lost,) = client.tick(SILENT_S)
    assert isinstance(lost, Lost)
    assert client.phase is Phase.WAITING
    assert client.data(1, b"late", SILENT_S) == []
    assert client.closed(1, 4409, SILENT_S) == []


def test_a_probe_has_three_seconds() -> None:
    client = attached()
    assert client.hurry(10.0) == [Say(text='{"h":1}')]
    assert client.next_deadline() == 13.0
    client.text(1, '{"a":0}', 11.0)
    assert client.next_deadline() == 11.0 + SILENT_S


def test_input_is_refused_while_detached_and_when_the_ring_is_full() -> None:
    client = attached()
    assert client.send(b"abc") == [Send(data=b"abc")]
    client.send(bytes(UP_RING_BYTES))
    assert client.send(b"more") == []
    client.text(1, f'{{"a":{client.up.end}}}', 0.0)
    assert client.send(b"more") != []
    client.closed(1, 1006, 1.0)
    assert client.send(b"blind") == []


def test_a_code_without_a_word_is_the_network_and_ends_nothing() -> None:
    for code in (1000, 1001, 1006, 1011, 4404, 4409, 4410):
        client = attached()
        (lost,) = client.closed(1, code, 1.0)
        assert isinstance(lost, Lost), code
        assert client.has_key


def test_a_broken_stream_is_resynced_once_and_then_reported() -> None:
    client = attached()
    (first,) = client.text(1, '{"h":7}', 1.0)
    assert isinstance(first, Lost)
    client.tick(client.next_deadline() or 0.0)
    (text,) = client.text(client._number, say(t="hello", c="A" * 22), 2.0)
    assert isinstance(text, Say)
    assert json.loads(text.text)["leg"] == proof.NO_LEG
    answer = say(t="resumed", n=1, how="resync", leg="AAECAwQFBgc", rx=0, x=0, gap=None, was=None)
    assert isinstance(client.text(client._number, answer, 2.0)[0], Began)
    (second,) = client.text(client._number, '{"h":7}', 3.0)
    assert isinstance(second, Ended)
    assert second.step == "report"
