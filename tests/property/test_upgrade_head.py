"""The usual head of an upgrade, read by us, against `websockets`: never another answer or another yes.

Heads are made from the parts that browsers, programs, proxies and attackers send, cut, doubled and damaged.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session_service.gateway.handshake import Refusal, Upgrade, judge_upgrade, read_upgrade
from session_service.gateway.upgrade_head import BYTES_MAX, FIELDS_MAX, read_head

ORIGINS = frozenset({"https://desk.example"})
SHARDS = frozenset({"0", "1"})
ALONE = frozenset({"binary", "continuity.v1"})
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
CHROME = (
    "GET /s/0/ws HTTP/1.1",
    "Host: desk.example",
    "Connection: Upgrade",
    "Pragma: no-cache",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0",
    "Upgrade: websocket",
    "Origin: https://desk.example",
    "Sec-WebSocket-Version: 13",
    "Accept-Language: en-GB,en;q=0.9",
    "Cookie: __Host-session=0123456789",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    "Sec-WebSocket-Protocol: continuity.v1",
    "X-Forwarded-For: 192.0.2.7, 10.0.0.1",
)
REQUEST_LINES = (
    "GET /s/0/ws HTTP/1.1",
    "GET /s/1/ws?x=1 HTTP/1.1",
    "GET /s/0/t/0123456789abcdefghij HTTP/1.1",
    "GET /s/9/ws HTTP/1.1",
    "GET /s/0/ws HTTP/1.0",
    "GET /s/0/ws  HTTP/1.1",
    "GET /s/0/w s HTTP/1.1",
    "get /s/0/ws HTTP/1.1",
    "POST /s/0/ws HTTP/1.1",
    "GET http://desk.example/s/0/ws HTTP/1.1",
    "GET /s/../s/0/ws HTTP/1.1",
)
LINES = (
    *CHROME[1:],
    "connection: keep-alive, Upgrade",
    "Connection: keep-alive",
    "Connection: Upgrade,",
    "Connection: upgraded",
    "Connection:",
    "UPGRADE: WebSocket",
    "Upgrade: h2c, websocket",
    "Upgrade: websocket ",
    "Sec-WebSocket-Version: 8",
    "Sec-WebSocket-Version:13",
    "Sec-WebSocket-Key: c2hvcnQ=",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!",
    "Sec-WebSocket-Key:  \t dGhlIHNhbXBsZSBub25jZQ==\t",
    "Sec-WebSocket-Protocol: binary",
    "Sec-WebSocket-Protocol: binary, base64",
    "Sec-WebSocket-Protocol: continuity.v1, binary",
    "Sec-WebSocket-Protocol: Continuity.v1",
    "Sec-WebSocket-Protocol:",
    "Origin: https://evil.example",
    "Origin: null",
    "Origin:",
    "Content-Length: 0",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "X-Forwarded-For: 203.0.113.9",
    "User-Agent: \tcurl/8 ",
    "User-Agent: na\u00efve",
    "User-Agent: bell\x07",
    "User-Agent: " + "x" * 400,
    "Host : desk.example",
    " folded: line",
    "no colon",
    "X_Under_Score: 1",
    "X-Plus+: 1",
    ": empty",
    "",
)


def bytes_of(lines: list[str] | tuple[str, ...], end: str = "\r\n") -> bytes:
    return (end.join(lines) + end + end).encode("latin-1")


def same(head: bytes) -> Upgrade | Refusal:
    """The answer, which is the same whoever gives it."""
    ours = read_upgrade(head, origins=ORIGINS, shards=SHARDS)
    assert ours == judge_upgrade(head, origins=ORIGINS, shards=SHARDS), head
    return ours


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head that is right but for a few changes."""
    lines = list(CHROME)
    if draw(st.booleans()):
        lines[0] = draw(st.sampled_from(REQUEST_LINES))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(lines)))
        change = draw(st.sampled_from(("add", "drop", "replace", "swap")))
        if change == "add" or place == len(lines):
            lines.insert(max(1, place), draw(st.sampled_from(LINES)))
        elif change == "drop":
            del lines[place]
        elif change == "replace":
            lines[place] = draw(st.sampled_from(LINES))
        else:
            lines[place] = lines[place].swapcase()
    head = bytearray(bytes_of(lines))
    for _ in range(draw(st.integers(0, 2))):
        head[draw(st.integers(0, len(head) - 1))] = draw(st.integers(0, 255))
    return bytes(head)


@given(head=heads())
@settings(max_examples=400)
def test_a_head_is_answered_as_the_library_answers_it(head: bytes) -> None:
    """Whatever stands in it, twice, damaged, or not at all."""
    same(head)


@given(head=st.binary(max_size=300), asked=st.booleans())
def test_no_bytes_make_the_parser_fail(head: bytes, asked: bool) -> None:
    """Bytes of any kind are no usual head, and the library's word counts."""
    whole = b"GET /s/0/ws HTTP/1.1\r\n" * asked + head + b"\r\n\r\n"
    assert isinstance(same(whole), Upgrade | Refusal)


@pytest.mark.parametrize("name", [line.partition(":")[0] for line in CHROME[1:]])
def test_a_header_that_stands_twice_is_for_the_library(name: str) -> None:
    """The same value again, in another spelling of its name."""
    lines = list(CHROME)
    again = next(line for line in lines if line.startswith(name + ":"))
    lines.append(name.swapcase() + again[len(name) :])
    assert read_head(bytes_of(lines), ALONE) is None
    same(bytes_of(lines))


def test_what_browsers_send_is_read_without_the_library() -> None:
    """Else the fast way would be one that nobody takes."""
    for changed in (
        CHROME,
        [line for line in CHROME if not line.startswith(("Origin", "X-Forwarded"))],
        ["Connection: keep-alive, Upgrade" if line == "Connection: Upgrade" else line for line in CHROME],
        [line.replace("continuity.v1", "binary") for line in CHROME],
    ):
        assert read_head(bytes_of(changed), ALONE) is not None
        assert isinstance(same(bytes_of(changed)), Upgrade)


def test_the_answer_is_the_one_of_the_standard() -> None:
    """RFC 6455 section 1.3."""
    answer = same(bytes_of(CHROME))
    assert isinstance(answer, Upgrade)
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer.accepted
    assert answer.accepted.endswith(b"\r\nSec-WebSocket-Protocol: continuity.v1\r\n\r\n")


def test_more_than_the_limits_is_for_the_library() -> None:
    """A head that is long, or of many lines, still gets its answer."""
    long = (*CHROME, "X-Long: " + "x" * BYTES_MAX)
    many = (*CHROME, *(f"X-{number}: 1" for number in range(FIELDS_MAX)))
    for lines in (long, many):
        assert read_head(bytes_of(lines), ALONE) is None
        assert isinstance(same(bytes_of(lines)), Upgrade)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\r\n", "\n\r"])
def test_other_ends_of_lines_are_for_the_library(end: str) -> None:
    assert read_head(bytes_of(CHROME, end), ALONE) is None
    same(bytes_of(CHROME, end))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(100))
def test_a_million_damaged_heads_are_answered_as_the_library_answers_them(part: int) -> None:
    """Random bytes of right heads replaced, lines added and dropped; the seed is the number."""
    for seed in range(part * 10_000, (part + 1) * 10_000):
        chance = random.Random(seed)
        lines = [chance.choice(REQUEST_LINES) if chance.random() < 0.2 else CHROME[0], *CHROME[1:]]
        for _ in range(chance.randrange(4)):
            lines.insert(chance.randint(1, len(lines)), chance.choice(LINES))
        for _ in range(chance.randrange(3)):
            del lines[chance.randrange(len(lines))]
        head = bytearray(bytes_of(lines))
        for _ in range(chance.randrange(3)):
            head[chance.randrange(len(head))] = chance.randrange(256)
        same(bytes(head))
