"""Every parser of `continuity.v1` against anything: a value or the one declared error, and nothing else."""

import json
import random
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_service.core.continuity.client import Client
from session_service.core.continuity.limits import TEXT_BYTES_MAX
from session_service.core.continuity.messages import (
    Ack,
    read_client,
    read_first,
    read_plain_ack,
    read_server,
    say,
)
from session_service.core.continuity.ring import Ring
from session_service.core.continuity.serving import opened
from session_service.core.websocket import FrameError
from session_service.gateway.first_message import read_open

SID = "01JD0000000000000000000000"
READERS: list[Callable[[str], object]] = [read_first, read_client, read_server]
SEEDS = [
    '{"t":"open","aud":"wss://desk.example:443","auth":"tttttttttttttttttttt","can":["x"]}',
    '{"t":"resume","aud":"wss://desk.example:443","sid":"01JD0000000000000000000000","grant":1,"leg":"AAECAwQFBgc",'  # noqa: ISC004  # one message in two lines
    '"n":1,"rx":0,"have":0,"end":0,"mac":"Hj7f5WvDplk0pDLVPwsfidCH9nF2p0kLbapkFsYDLuw"}',
    '{"a":65536}',
    '{"h":1}',
    '{"t":"bye","end":true}',
    '{"t":"hello","c":"AAAAAAAAAAAAAAAAAAAAAA"}',
    '{"t":"resumed","n":1,"how":"replay","leg":"AAECAwQFBgc","rx":0,"x":0,"gap":1.5}',
    '{"t":"no","why":"taken","code":4409,"next":"click","retry":null,"to":"/s/0/ws","by":"x"}',
    '{"t":"drain","after":[0,3000],"to":null}',
    '{"t":"taken","by":"Phone"}',
    '{"t":"wait","why":"restoring","pct":40}',
    opened(session_id=SID, leg="AAECAwQFBgc", mode="control", grant=1, key=bytes(32), hold_s=1.5, gap_s=None),
]
NEARLY_ACKS = st.from_regex(r'\{ ?"?a"? ?: ?-?0?[0-9]{1,17}(\.0|e1)?\}?', fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "t",
        "a",
        "h",
        "c",
        "n",
        "rx",
        "x",
        "leg",
        "sid",
        "grant",
        "key",
        "mac",
        "aud",
        "auth",
        "end",
        "have",
        "how",
        "after",
        "to",
    ]
)


@given(st.text(max_size=200))
def test_any_text_is_a_value_or_the_declared_error(text: str) -> None:
    _read(text)


@given(st.sampled_from(SEEDS), NAMES, VALUES)
def test_any_field_of_any_kind_is_a_value_or_the_declared_error(seed: str, name: str, value: object) -> None:
    _read(json.dumps({**json.loads(seed), name: value}))


def _mutated(count: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        text = list(chance.choice(SEEDS))
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(text))
            way = chance.randrange(4)
            if way == 0:
                text[at] = chr(
                    chance.choice((34, 44, 58, 91, 93, 92, 123, 125, 0, 0xD800, chance.randrange(128)))
                )
            elif way == 1:
                del text[at : at + chance.randrange(1, 8)]
            elif way == 2:
                text[at:at] = text[: chance.randrange(20)]
            else:
                text[at:at] = str(chance.choice((2**52, 2**63, -1, "1e999", "[" * 50, "null", "true")))
            if not text:
                break
        _read("".join(text))


def test_mutated_messages_are_values_or_the_declared_error() -> None:
    _mutated(20_000, 5)


@pytest.mark.soak
def test_a_million_mutated_messages_are_values_or_the_declared_error() -> None:
    _mutated(1_000_000, 6)


def _read(text: str) -> None:
    for reader in READERS:
        try:
            reader(text)
        except FrameError:
            continue


@given(
    st.lists(st.one_of(st.sampled_from(SEEDS), st.binary(max_size=20), st.integers(900, 5000)), max_size=12),
    st.randoms(),
)
def test_a_client_survives_whatever_a_server_says(
    said: list[str | bytes | int], chance: random.Random
) -> None:
    client = Client(aud="wss://desk.example:443", path="/s/0/ws", draw=chance.random)
    client.open("t" * 20, 0.0)
    now = 0.0
    for item in said:
        now += chance.random()
        number = client._number if chance.random() < 0.9 else 1
        if isinstance(item, str):
            client.text(number, item, now)
        elif isinstance(item, bytes):
            client.data(number, item, now)
            client.send(item)
        else:
            client.closed(number, item, now)
        at = client.next_deadline()
        if at is not None and chance.random() < 0.5:
            now = max(now, at)
            client.tick(now)


@given(
    st.lists(st.tuples(st.sampled_from("saf"), st.binary(max_size=6000), st.integers(0, 20_000)), max_size=30)
)
def test_a_ring_is_a_window_of_the_whole_stream(acts: list[tuple[str, bytes, int]]) -> None:
    ring, whole, forgotten = Ring(), b"", 0
    for act, data, number in acts:
        if act == "s":
            ring.append(data)
            whole += data
        elif act == "a":
            before = ring.acked
            assert ring.acknowledge(number) == (before <= number <= len(whole))
        elif not forgotten:
            ring.forget()
            forgotten = len(whole)
        assert ring.end == len(whole)
        for at in {ring.acked, ring.base, ring.end, number}:
            if ring.holds(at):
                assert b"".join(ring.since(at)) == whole[at:]
    assert say(a=ring.acked) == f'{{"a":{ring.acked}}}'


@pytest.mark.parametrize("begin", ['"', "", '{"t":"'])
@pytest.mark.parametrize("part", ['\\"', '"a\\', '"\\\n', "\\", '"'])
def test_a_message_that_is_no_json_costs_no_more_than_another(begin: str, part: str) -> None:
    """A string that never ended took a third of a second, from anybody, before a ticket was looked at."""
    text = (begin + part * TEXT_BYTES_MAX)[:TEXT_BYTES_MAX]
    began = process_time()
    for _ in range(10):
        for read in (read_first, read_client):
            with pytest.raises(FrameError):
                read(text)
        with pytest.raises(FrameError):
            read_open(text, ())
    assert process_time() - began < 1.0, "thirty messages; it was ten seconds"


@given(NEARLY_ACKS | st.integers(-2, 1 << 54).map('{{"a":{}}}'.format))
def test_the_short_way_of_an_acknowledgement_says_what_the_long_one_says(text: str) -> None:
    """It may know fewer forms, never another answer."""
    offset = read_plain_ack(text.encode())
    if offset is not None:
        assert read_client(text) == Ack(offset=offset)
