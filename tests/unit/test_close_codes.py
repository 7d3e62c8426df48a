"""Every close code: who sends it, and what each client does about it. One walk over the one table.

The browser's channel walks the same table in tests/e2e/test_channel.py.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

import session_service
from session_service.core.close_codes import ENDINGS, REASON_BYTES_MAX, Close, may_be_received
from session_service.core.continuity.client import Act, Client, Ended, Lost, Phase
from session_service.core.continuity.messages import say
from session_service.core.websocket import close_frame
from session_service.gateway import answers
from session_service.ports.streams import LinkRefusal

SOURCE = Path(session_service.__file__).parent
GATEWAY_TESTS = Path(__file__).parents[1] / "integration" / "gateway"
LEG, KEY = "AAECAwQFBgc", "A" * 43
FRAMING, STATE, LINK = "core/websocket.py", "core/refusals.py", "gateway/link.py"
NOBODY = ""
PRODUCED_IN: Mapping[Close, str] = {
    Close.NORMAL: "gateway/resumable_link.py",
    Close.GOING_AWAY: NOBODY,  # a browser that leaves its page
    Close.NO_STATUS: NOBODY,  # never in a frame: a close frame without a code
    Close.ABNORMAL: NOBODY,  # never in a frame: no close frame at all
    Close.RESTART: "gateway/gateway.py",
    Close.PROTOCOL: FRAMING,
    Close.NOT_UTF8: FRAMING,
    Close.TOO_BIG: FRAMING,
    Close.BAD_MESSAGE: "core/continuity/messages.py",
    Close.MESSAGE_TOO_BIG: FRAMING,
    Close.LOGIN: "core/continuity/attempts.py",
    Close.PROOF_USED: "core/continuity/attempts.py",
    Close.NOT_FOUND: "core/continuity/attempts.py",
    Close.TOO_SLOW: LINK,
    Close.TAKEN: "control/attachments.py",
    Close.HOLD_EXPIRED: STATE,
    Close.SAVING: STATE,
    Close.TOO_MANY: STATE,
    Close.ENDED: STATE,
    Close.LEG_LOST: LINK,
    Close.REVOKED: NOBODY,  # reserved: docs/protocol.md, "Who closes with what"
    Close.MOVED: STATE,
    Close.IN_USE: STATE,
    Close.RETRY: STATE,
    Close.NODE_UNREACHABLE: STATE,
}
NODES, HOSTILE, RESUME = "test_gateway_two_nodes", "test_gateway_hostile", "test_gateway_resume"
ENDS = f"{NODES}::test_each_end_that_control_decides_is_told_with_its_code_and_its_word"
FRAMES = f"{HOSTILE}::test_a_broken_frame_ends_the_link_with_its_code"
SAVED = f"{NODES}::test_a_hold_that_ran_out_is_told_while_files_are_saved_and_afterwards"
SEEN_IN: Mapping[Close, str] = {
    Close.NORMAL: f"{RESUME}::test_bye_holds_or_ends",
    Close.RESTART: f"{RESUME}::test_a_stopping_gateway_says_when_to_come_back",
    Close.PROTOCOL: FRAMES,
    Close.NOT_UTF8: f"{HOSTILE}::test_text_that_is_not_utf8_is_refused",
    Close.TOO_BIG: FRAMES,
    Close.BAD_MESSAGE: FRAMES,
    Close.MESSAGE_TOO_BIG: FRAMES,
    Close.LOGIN: ENDS,
    Close.PROOF_USED: ENDS,
    Close.NOT_FOUND: ENDS,
    Close.TOO_SLOW: "test_gateway_tickets::test_a_first_message_that_does_not_come_is_too_slow",
    Close.TAKEN: ENDS,
    Close.HOLD_EXPIRED: SAVED,
    Close.SAVING: SAVED,
    Close.TOO_MANY: ENDS,
    Close.ENDED: ENDS,
    Close.LEG_LOST: f"{RESUME}::test_a_lost_leg_is_told_and_the_next_resume_is_a_resync",
    Close.REVOKED: "test_gateway_limits::test_a_revoked_grant_cuts_its_live_links_within_two_seconds",
    Close.MOVED: f"{NODES}::test_a_client_that_comes_back_to_another_node_is_sent_on_and_nothing_is_lost",
    Close.IN_USE: f"{NODES}::test_a_policy_that_lets_the_first_device_stay_tells_the_second_one_so",
    Close.RETRY: f"{HOSTILE}::test_a_desktop_that_is_not_there_is_a_retry",
    Close.NODE_UNREACHABLE: (
        f"{NODES}::test_the_session_of_a_lost_node_is_waited_for_and_gone_on_with_when_it_is_back"
    ),
}
"""Where a code is seen on a real socket: the file and the test below tests/integration/gateway."""
NEVER_SENT = {Close.GOING_AWAY, Close.NO_STATUS, Close.ABNORMAL}
BROKEN = {Close.PROTOCOL, Close.NOT_UTF8, Close.TOO_BIG, Close.BAD_MESSAGE, Close.MESSAGE_TOO_BIG}
NETWORK = {Close.GOING_AWAY, Close.NO_STATUS, Close.ABNORMAL, Close.RESTART}
EVERY = pytest.mark.parametrize("code", list(Close), ids=lambda code: code.name)


def client() -> Client:
    """A client that is attached on socket 1."""
    made = Client(aud="wss://desk.example:443", path="/s/0/ws", draw=lambda: 0.5)
    made.open("t" * 20, 0.0)
    made.text(1, say(t="hello", c="A" * 22), 0.0)
    opened = say(
        t="opened", sid="01JD0000000000000000000000", grant=1, key=KEY, leg=LEG, n=0, mode="control", hold=1
    )
    made.text(1, opened, 0.0)
    assert made.phase is Phase.OPEN
    return made


def refused(made: Client, refusal: LinkRefusal) -> Act:
    """The server says `no` and closes with the same code."""
    frame = answers.no(refusal)
    text = frame[frame.index(b"{") :].decode()
    assert made.text(1, text, 1.0) == []
    return made.closed(1, refusal.code, 1.0)[-1]


def test_the_table_has_every_code_and_each_has_a_place_that_sends_it() -> None:
    assert set(ENDINGS) == set(PRODUCED_IN) == set(Close)
    for code, place in PRODUCED_IN.items():
        if place:
            assert f"Close.{code.name}" in (SOURCE / place).read_text(), (code, place)


def test_each_code_that_we_send_is_seen_on_a_real_socket_by_a_test_that_exists() -> None:
    """4482 too: the gateway closes with it, and is only not asked to yet."""
    assert set(SEEN_IN) == set(Close) - NEVER_SENT
    for code, place in SEEN_IN.items():
        file, test = place.split("::")
        text = (GATEWAY_TESTS / f"{file}.py").read_text()
        assert f"def {test}(" in text, code
        told = (f"Close.{code.name}", str(int(code)), ENDINGS[code].why)
        assert any(word in text for word in told), (code, place)
    others = [
        path
        for path in SOURCE.rglob("*.py")
        if path.name != "close_codes.py" and path.parent.name != "conformance"
    ]
    assert not [path for path in others if "Close.REVOKED" in path.read_text()], (
        "the page says that it is free"
    )


@EVERY
def test_a_code_alone_is_the_network_unless_it_says_that_somebody_broke_the_wire(code: Close) -> None:
    """Proxies invent codes; a key is never given up for one. What broke is tried once more, then told."""
    made = client()
    (act,) = made.closed(1, int(code), 1.0)
    assert isinstance(act, Lost), act
    assert made.has_key
    assert act.why == ("protocol" if code in BROKEN else "network")
    if code is Close.LEG_LOST:
        assert act.retry_in_s == 0.0


@EVERY
def test_a_code_with_its_word_does_what_the_table_says(code: Close) -> None:
    """What another device or person decided waits for a click; the rest is tried again by itself."""
    if code in BROKEN | NETWORK | {Close.NORMAL}:
        return  # never said in a `no`: the wire itself is what failed, or the client left
    made, row = client(), ENDINGS[code]
    to = "/s/b1/ws" if code is Close.MOVED else None
    act = refused(made, LinkRefusal(code=int(code), why=row.why, next=str(row.next), retry_ms=2_000, to=to))
    if row.by_itself:
        assert isinstance(act, Lost), act
        assert act.why == row.why
        assert (act.retry_in_s, made.path) == ((0.0, to) if to else (2.5, "/s/0/ws"))
    else:
        assert isinstance(act, Ended), act
        assert (act.code, act.why, act.step) == (int(code), row.why, str(row.next))
        assert made.next_deadline() is None


def test_a_client_follows_three_redirects_in_a_row_and_never_goes_round_without_a_pause() -> None:
    made = client()
    number, pauses = 1, []
    for step in range(5):
        no = say(t="no", code=4483, why="moved", next="resume", retry=0, to=f"/s/b{step}/ws")
        made.text(number, no, 1.0)
        (act,) = made.closed(number, 4483, 1.0)
        assert isinstance(act, Lost)
        pauses.append(act.retry_in_s)
        (dial,) = made.tick(made.next_deadline() or 0.0)
        number = made._number
        assert dial.path == made.path  # type: ignore[union-attr]  # it is a Dial
    assert pauses[:3] == [0.0, 0.0, 0.0]
    assert all(pause > 0 for pause in pauses[3:])
    assert made.path == "/s/b2/ws"


@EVERY
def test_every_code_that_is_sent_is_legal_and_its_reason_fits(code: Close) -> None:
    if code in {Close.NO_STATUS, Close.ABNORMAL}:
        assert not may_be_received(int(code))
        return
    assert may_be_received(int(code))
    frame = close_frame(code, f"{ENDINGS[code].why} {'x' * 200}")
    assert frame[1] <= REASON_BYTES_MAX + 2
    assert ENDINGS[code].shown


# -- login --------------------------------------------------------------------------------------------


def login(made: Client, number: int) -> Act:
    made.text(number, say(t="no", code=4401, why="login", next="login", retry=None), 1.0)
    return made.closed(number, 4401, 1.0)[-1]


def first_message(made: Client) -> str:
    (act,) = made.text(made._number, say(t="hello", c="A" * 22), 2.0)
    return act.text  # type: ignore[union-attr]  # it is a Say


def test_after_a_login_the_same_key_goes_on_and_a_void_one_is_given_up() -> None:
    made = client()
    assert isinstance(login(made, 1), Ended)
    assert made.has_key
    made.again("login" + "t" * 20, 2.0)
    assert '"auth":"login' in first_message(made)
    assert '"auth"' not in repr(made.again)
    assert isinstance(login(made, made._number), Ended)
    assert not made.has_key
    assert made.again("t" * 20, 3.0) == []
