"""Whose address a link has, and how an origin is written when it is dialled."""

from ipaddress import ip_network

import pytest

from session_service.core.close_codes import Close
from session_service.core.websocket import FrameError
from session_service.gateway.address import client_address
from session_service.gateway.first_message import audience, read_open

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.1.1.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.1.1.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        ("10.1.1.1", ["6.6.6.6", "203.0.113.7, 10.2.2.2"], "203.0.113.7"),
        ("203.0.113.9", ["6.6.6.6"], "203.0.113.9"),
        ("10.1.1.1", ["not an address"], "10.1.1.1"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("unix", ["6.6.6.6"], "unix"),
        ("::ffff:10.1.1.1", ["203.0.113.7"], "203.0.113.7"),
        ("::ffff:10.1.1.1", ["6.6.6.6, ::ffff:203.0.113.7, ::ffff:10.2.2.2"], "203.0.113.7"),
        ("::ffff:203.0.113.9", ["6.6.6.6"], "203.0.113.9"),
    ],
)
def test_only_named_proxies_are_believed(peer: str, forwarded: list[str], expected: str) -> None:
    assert client_address(peer, forwarded, TRUSTED) == expected


@pytest.mark.parametrize(
    ("origin", "dialled"),
    [
        ("https://Desk.Example", "wss://desk.example:443"),
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080"),
        ("http://localhost", "ws://localhost:80"),
        ("https://[::1]:8443", "wss://[::1]:8443"),
    ],
)
def test_an_audience_always_has_its_port(origin: str, dialled: str) -> None:
    assert audience(origin) == dialled


@pytest.mark.parametrize(
    "text", ["", "null", "{}", '{"t":"open"}', '{"t":"resume","aud":"a","auth":"b"}', "[" * 4000]
)
def test_what_is_no_open_is_refused_without_a_crash(text: str) -> None:
    with pytest.raises(FrameError) as refused:
        read_open(text, {"http://127.0.0.1"})
    assert refused.value.code == Close.BAD_MESSAGE


def test_braces_in_a_text_are_not_depth() -> None:
    text = '{"t":"open","aud":"ws://127.0.0.1:80","auth":"%s","x":"[[[[[[[\\"{{{{{"}' % ("A" * 32)
    assert read_open(text, {"http://127.0.0.1"}) == "A" * 32
