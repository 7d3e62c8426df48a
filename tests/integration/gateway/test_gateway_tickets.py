"""Tickets in the first message and in the path: good, wrong, used, refused, late; and what each client is
told.
"""

import asyncio
import json
from typing import Any

import pytest
import structlog
from websockets.exceptions import ConnectionClosed, InvalidStatus

from session_service.core.close_codes import Close, Next
from session_service.ports.streams import LinkRefusal
from tests.fakes.gateway_world import GREETING, World, greet, read_bytes, request
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.until import until


async def refused(world: World, first: str | bytes) -> tuple[dict[str, Any] | None, int]:
    """Send a first message; return the `no` that came, if any, and the close code."""
    async with world.connect() as client:
        await client.send(first)
        no = None
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                no = json.loads(await client.recv())
    assert closed.value.rcvd is not None, "closed without a code"
    return no, closed.value.rcvd.code


async def test_a_good_ticket_opens_once(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path))
    ticket = world.control.ticket("s")
    async with world.connect() as client:
        await client.send(world.first(ticket))
        opened = json.loads(await client.recv())
        assert opened["t"] == "opened"
        assert opened["sid"] == "s"
        assert "key" not in opened
        assert (await greet(client)).startswith(b"\x02\x80\x01\xe0")
    no, code = await refused(world, world.first(ticket))
    assert (no and no["why"], code) == ("proof_used", Close.PROOF_USED)


async def test_an_unknown_ticket_is_not_found(world: World) -> None:
    no, code = await refused(world, world.first("A" * 43))
    assert no is not None
    assert (no["t"], no["code"], no["why"], no["next"]) == ("no", 4404, "not_found", "click")
    assert code == Close.NOT_FOUND


async def test_a_refusal_says_the_way_forward(world: World) -> None:
    """What control knows is passed on; what it does not know is left out."""
    world.control.refusal = LinkRefusal(
        code=Close.SAVING, why="hold_expired_saving", next=Next.WAIT, retry_ms=5000, saved_as_of_ms=17
    )
    no, code = await refused(world, world.first("A" * 43))
    assert no == {
        "t": "no",
        "code": 4423,
        "why": "hold_expired_saving",
        "next": "wait",
        "retry": 5000,
        "to": None,
        "by": "",
        "saved_as_of": 17,
        "outcome": "",
    }
    assert code == Close.SAVING


@pytest.mark.parametrize(
    "change",
    [
        lambda m: b"\x00" + m.encode(),
        lambda m: "[]",
        lambda m: "{",
        lambda m: m.replace('"open"', '"close"'),
        lambda m: m.replace("ws://127.0.0.1", "wss://evil.example"),
        lambda m: m.replace('"auth": "', '"auth": 1, "x": "'),
        lambda m: m.replace('"can": []', '"can": [], "x": ' + "[" * 5 + "]" * 5),
    ],
)
async def test_another_first_message_is_refused(world: World, change: Any) -> None:
    no, code = await refused(world, change(world.first("A" * 43)))
    assert code == Close.BAD_MESSAGE
    assert no is not None
    assert no["why"] == "protocol"
    assert not world.control.offers


async def test_unknown_keys_of_the_first_message_are_ignored(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path))
    async with world.connect() as client:
        await client.send(world.first(world.control.ticket("s"), later={"a": ["}", '"', 1]}))
        assert json.loads(await client.recv())["t"] == "opened"


async def test_a_first_message_that_does_not_come_is_too_slow(hasty: World) -> None:
    async with hasty.connect() as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == Close.TOO_SLOW


async def test_a_starting_session_tells_its_progress(hasty: World, desktop: FakeDesktop) -> None:
    session = hasty.control.add_session("s", str(desktop.path))
    session.progress = ["starting", "starting", "restoring 40 %", "restoring 90 %"]
    async with hasty.connect() as client:
        await client.send(hasty.first(hasty.control.ticket("s")))
        told = [json.loads(await client.recv()) for _ in range(4)]
    assert told[:3] == [
        {"t": "wait", "why": "starting", "pct": None},
        {"t": "wait", "why": "restoring", "pct": 40},
        {"t": "wait", "why": "restoring", "pct": 90},
    ]
    assert told[3]["t"] == "opened"


async def test_a_long_start_is_told_again_and_again(hasty: World, desktop: FakeDesktop) -> None:
    """Proxies close what is silent, so the same word is repeated."""
    session = hasty.control.add_session("s", str(desktop.path))
    session.progress = ["starting"] * 60
    async with hasty.connect() as client:
        await client.send(hasty.first(hasty.control.ticket("s")))
        told = [json.loads(await client.recv())["t"] for _ in range(3)]
    assert told[:2] == ["wait", "wait"]


async def test_a_client_that_leaves_while_its_session_starts_uses_no_ticket(
    world: World, desktop: FakeDesktop
) -> None:
    session = world.control.add_session("s", str(desktop.path))
    session.progress = ["starting"] * 10_000
    ticket = world.control.ticket("s")
    async with world.connect() as client:
        await client.send(world.first(ticket))
        await client.recv()
    await until(lambda: not world.gateway._hub.links)
    assert ticket in world.control.tickets
    assert not world.control.ends


async def test_a_client_that_is_lost_during_the_commit_is_reported(
    world: World, desktop: FakeDesktop
) -> None:
    """Control attached it, so control must hear of its end, although no byte ever flowed."""
    world.control.add_session("s", str(desktop.path))
    world.control.gate.clear()
    client = await world.connect()
    await client.send(world.first(world.control.ticket("s")))
    await until(lambda: world.control.offers)
    client.transport.abort()
    await until(lambda: not world.gateway._hub.connections)
    world.control.gate.set()
    end = await world.control.end_of()
    assert end.cause == "reset"
    assert not desktop.viewers
    await client.wait_closed()


async def test_a_takeover_during_the_commit_finds_its_link(world: World, desktop: FakeDesktop) -> None:
    """Control may close a link in the very moment in which it answers; the answer must not revive it."""
    world.control.add_session("s", str(desktop.path))
    world.control.gate.clear()
    async with world.connect() as client:
        await client.send(world.first(world.control.ticket("s")))
        await until(lambda: world.control.offers)
        link_id = world.control.offers[0].link_id
        world.gateway.close_link("s", link_id, code=Close.TAKEN, why="taken", by="Phone")
        world.control.gate.set()
        no = json.loads(await client.recv())
        assert (no["code"], no["by"]) == (4409, "Phone")
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert (await world.control.end_of()).cause == "taken_over"


async def test_a_control_that_fails_is_a_retry(world: World) -> None:
    world.control.failure = RuntimeError("registry on fire")
    with structlog.testing.capture_logs() as logs:
        no, code = await refused(world, world.first("A" * 43))
    assert code == Close.RETRY
    assert no is not None
    assert no["retry"] == 1000
    failed = [line["event"] for line in logs if line["log_level"] == "error"]
    assert failed[-1] == "task.failed"
    assert set(failed) <= {"task.failed", "request.failed"}


@pytest.mark.parametrize("subprotocols", [["binary"], ["binary", "base64"], None])
async def test_a_stock_client_brings_its_ticket_in_the_path(
    world: World, desktop: FakeDesktop, subprotocols: list[Any] | None
) -> None:
    """RFB starts at once; what was not offered is not echoed."""
    world.control.add_session("s", str(desktop.path))
    path = f"/s/{world.shard}/t/{world.control.ticket('s')}"
    async with world.connect(path, subprotocols=subprotocols, origin=None) as client:
        assert client.subprotocol == ("binary" if subprotocols else None)
        assert (await greet(client)).startswith(b"\x02\x80\x01\xe0")
        assert world.control.offers[0].in_path
    assert (await world.control.end_of()).cause == "tab_closed"


async def test_bytes_right_behind_the_request_are_not_lost(world: World, desktop: FakeDesktop) -> None:
    """A client in a hurry sends its version before it has the 101."""
    from tests.fakes.gateway_world import masked

    world.control.add_session("s", str(desktop.path))
    reader, _ = await world.raw(
        request(f"/s/{world.shard}/t/{world.control.ticket('s')}") + masked(2, GREETING + b"\x01\x01")
    )
    await reader.readuntil(b"\r\n\r\n")
    await desktop.viewer()


@pytest.mark.parametrize(
    ("code", "status"), [(Close.PROOF_USED, 403), (Close.NOT_FOUND, 403), (Close.RETRY, 503)]
)
async def test_a_ticket_in_the_path_is_refused_before_the_upgrade(
    world: World, code: Close, status: int
) -> None:
    world.control.refusal = LinkRefusal(code=code, why="x", next="open")
    with pytest.raises(InvalidStatus) as refusal:
        await world.connect(f"/s/{world.shard}/t/" + "A" * 43)
    assert refusal.value.response.status_code == status
    assert refusal.value.response.headers["Referrer-Policy"] == "no-referrer"


async def test_no_ticket_is_ever_logged(world: World, desktop: FakeDesktop) -> None:
    """In the path and in the first message, good and bad, open and ended."""
    world.control.add_session("s", str(desktop.path))
    with structlog.testing.capture_logs() as logs:
        tickets = [world.control.ticket("s") for _ in range(2)]
        async with world.connect() as client:
            await client.send(world.first(tickets[0]))
            await client.recv()
        async with world.connect(f"/s/{world.shard}/t/{tickets[1]}") as client:
            await read_bytes(client, 12)
        await world.control.end_of(1)
        for ticket in tickets:
            await refused(world, world.first(ticket))
            with pytest.raises(InvalidStatus):
                await world.connect(f"/s/{world.shard}/t/{ticket}")
    text = repr(logs)
    assert "link.opened" in text
    assert not [ticket for ticket in tickets if ticket in text]


async def test_two_sockets_with_one_ticket_open_one_link(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path))
    ticket = world.control.ticket("s")

    async def try_it() -> str:
        async with world.connect() as client:
            await client.send(world.first(ticket))
            return str(json.loads(await client.recv())["t"])

    assert sorted(await asyncio.gather(try_it(), try_it())) == ["no", "opened"]
