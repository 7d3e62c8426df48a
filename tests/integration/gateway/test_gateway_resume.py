"""`continuity.v1` over real sockets: replay and resync, exact bytes over cuts, keys that are let go of."""

import asyncio
import contextlib
import json
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from session_service.client.models import Ticket
from session_service.client.resumable_stream import NewStream, ResumableStream, StreamEnded
from session_service.core.continuity import proof
from session_service.core.continuity.client import Began, Replayed
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.gateway_world import GREETING, SHORT, World, running
from tests.fakes.rfb_desktop import FakeDesktop, Viewer
from tests.fakes.until import until

SID = "01JD0000000000000000000000"
HANDSHAKE = GREETING + b"\x01" + b"\x01"
KEY_DOWN, KEY_UP = b"\x04\x01\x00\x00\x00\x00\x00a", b"\x04\x00\x00\x00\x00\x00\x00a"


class Page:
    """A client without a core: what is said is what a test says."""

    def __init__(self, world: World, socket: ClientConnection) -> None:
        self.world, self.socket = world, socket
        self.challenge = ""
        self.opened: dict[str, Any] = {}

    async def text(self) -> dict[str, Any]:
        message = await self.socket.recv()
        assert isinstance(message, str), message
        found: dict[str, Any] = json.loads(message)
        return found

    async def say(self, **fields: object) -> None:
        await self.socket.send(json.dumps(fields))

    async def bytes(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            message = await self.socket.recv()
            found += message if isinstance(message, bytes) else b""
        return found

    async def open(self) -> dict[str, Any]:
        await self.say(t="open", aud=self.world.aud, auth=self.world.control.ticket(SID), can=[])
        self.opened = await self.text()
        return self.opened

    async def resume(self, opened: dict[str, Any], number: int, **where: Any) -> dict[str, Any]:
        fields = {"received": 0, "have": 0, "end": 0, "leg": opened["leg"], **where}
        text = proof.attempt_text(
            aud=self.world.aud,
            session_id=SID,
            grant=opened["grant"],
            number=number,
            challenge=fields.pop("challenge", self.challenge),
            **fields,
        )
        mac = proof.encode(proof.sign(proof.decode(opened["key"]), text))
        await self.say(
            t="resume",
            aud=self.world.aud,
            sid=SID,
            grant=opened["grant"],
            leg=fields["leg"],
            n=number,
            rx=fields["received"],
            have=fields["have"],
            end=fields["end"],
            mac=mac,
        )
        return await self.text()


@asynccontextmanager
async def page(world: World, **options: Any) -> AsyncIterator[Page]:
    async with world.connect(subprotocols=["continuity.v1"], **options) as socket:
        made = Page(world, socket)
        hello = await made.text()
        assert hello["t"] == "hello"
        made.challenge = hello["c"]
        yield made


def _drop(desktop: FakeDesktop) -> None:
    transport = desktop.viewers[-1].transport
    assert transport is not None
    transport.abort()


def add(world: World, desktop: FakeDesktop, **more: Any) -> None:
    world.control.add_session(SID, str(desktop.path), **more)


async def test_hello_comes_with_the_101_and_only_one_subprotocol_is_offered(
    world: World, desktop: FakeDesktop
) -> None:
    add(world, desktop)
    async with page(world) as first, page(world) as second:
        assert first.socket.subprotocol == "continuity.v1"
        assert first.challenge != second.challenge
    with pytest.raises(InvalidStatus):
        await world.connect(subprotocols=["continuity.v1", "binary"])


async def test_a_cut_is_replayed_from_where_the_client_stands(world: World, desktop: FakeDesktop) -> None:
    add(world, desktop)
    async with page(world) as first:
        opened = await first.open()
        assert (opened["t"], opened["grant"], opened["n"]) == ("opened", 1, 0)
        assert await first.bytes(12) == GREETING
        await first.socket.send(GREETING)
        await until(lambda: world.gateway._hub.streams[SID].core.ring.end == 14)
        first.socket.transport.abort()
    await world.control.end_of(0)
    async with page(world) as second:
        answer = await second.resume(opened, 1, received=12, have=0, end=12)
        assert answer["how"] == "replay"
        assert (answer["rx"], answer["x"]) == (12, zlib.crc32(GREETING))
        assert await second.bytes(2) == b"\x01\x01"
    assert len(desktop.viewers) == 1


async def test_a_place_that_is_not_kept_begins_a_new_stream_with_the_same_key(
    world: World, desktop: FakeDesktop
) -> None:
    add(world, desktop)
    async with page(world) as first:
        opened = await first.open()
        await first.bytes(12)
        await first.say(a=12)
        await first.say(h=1)
        assert await first.text() == {"a": 0}
    for number, where in enumerate(
        (
            {"received": 5},
            {"received": 99},
            {"received": 12, "have": 3, "end": 9},
            {"received": 12, "leg": proof.NO_LEG},
        ),
        1,
    ):
        async with page(world) as next_one:
            answer = await next_one.resume(opened, number, **where)
            assert (answer["how"], answer["rx"], answer["x"]) == ("resync", 0, 0)
            assert await next_one.bytes(12) == GREETING
    assert len(desktop.viewers) == 5


async def test_recorded_late_and_forged_attempts_never_attach(world: World, desktop: FakeDesktop) -> None:
    add(world, desktop)
    async with page(world) as first:
        opened = await first.open()
    async with page(world) as second:
        assert (await second.resume(opened, 5))["t"] == "resumed"
    async with page(world) as late:
        assert (await late.resume(opened, 5))["why"] == "proof_used"
    async with page(world) as recorded:
        assert (await recorded.resume(opened, 9, challenge=second.challenge))["why"] == "not_found"
    async with page(world) as forged:
        assert (await forged.resume({**opened, "key": "A" * 43}, 9))["why"] == "not_found"
    async with page(world) as elsewhere:
        assert (await elsewhere.resume({**opened, "grant": 2}, 9))["why"] == "not_found"
    async with page(world) as again:
        assert (await again.resume(opened, 6))["t"] == "resumed"


async def test_another_device_takes_over_and_the_older_key_is_told_so(
    world: World, desktop: FakeDesktop
) -> None:
    add(world, desktop)
    async with page(world) as first, page(world) as second:
        opened = await first.open()
        await first.bytes(12)
        assert (await second.open())["grant"] == 2
        assert await first.text() == {"t": "taken", "by": "Other device"}
        with pytest.raises(ConnectionClosed) as closed:
            await first.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4409
        async with page(world) as back:
            answer = await back.resume(opened, 1)
            assert (answer["why"], answer["code"], answer["next"]) == ("taken", 4409, "click")


async def test_what_is_held_down_is_let_go_of_after_a_drop_and_at_the_end_of_a_replay(
    desktop: FakeDesktop,
) -> None:
    async with running(replace(SHORT, release_s=0.2)) as world:
        add(world, desktop)
        async with page(world) as first:
            opened = await first.open()
            await first.bytes(12)
            await first.socket.send(HANDSHAKE + KEY_DOWN)
            await until(lambda: KEY_DOWN in desktop.viewers[0].messages)
            first.socket.transport.abort()
        await until(lambda: KEY_UP in desktop.viewers[0].messages)
        sent = len(HANDSHAKE + KEY_DOWN)
        async with page(world) as second:
            answer = await second.resume(opened, 1, received=12, have=0, end=sent + 8)
            assert (answer["how"], answer["rx"]) == ("replay", sent)
            said = len(desktop.viewers[0].messages)
            await second.socket.send(KEY_DOWN)
            await until(lambda: len(desktop.viewers[0].messages) > said + 1)
            assert desktop.viewers[0].messages[-2:] == [KEY_DOWN, KEY_UP]


async def test_a_lost_leg_is_told_and_the_next_resume_is_a_resync(world: World, desktop: FakeDesktop) -> None:
    add(world, desktop)
    async with page(world) as first:
        opened = await first.open()
        await first.bytes(12)
        _drop(desktop)
        with pytest.raises(ConnectionClosed) as closed:
            await first.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4481
    async with page(world) as second:
        answer = await second.resume(opened, 1, received=12)
        assert (answer["how"], answer["was"]) == ("resync", None)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('{"a":13}', 4400),
        ('{"a":1.0}', 4400),
        ("[1]", 4400),
        ('{"t":"bye","end":0}', 4400),
        ('{"t":"something new"}', None),
    ],
)
async def test_a_lying_acknowledgement_ends_the_link(
    world: World, desktop: FakeDesktop, message: str, code: int | None
) -> None:
    add(world, desktop)
    async with page(world) as first:
        await first.open()
        await first.bytes(12)
        await first.socket.send(message)
        await first.say(h=1)
        if code is None:
            assert await first.text() == {"a": 0}
            return
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await first.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


async def test_bye_holds_or_ends(world: World, desktop: FakeDesktop) -> None:
    add(world, desktop)
    for end in (False, True):
        async with page(world) as one:
            await one.open()
            await one.say(t="bye", end=end)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await one.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1000
    assert len(world.control.left) == 1
    assert {end.cause for end in world.control.ends} == {"tab_closed"}


async def test_a_client_that_never_acknowledges_stops_its_desktop_at_four_megabytes(
    world: World, tmp_path: Path
) -> None:
    def flood(viewer: Viewer, message: bytes) -> None:
        if message[0] == 3 and viewer.transport is not None:
            viewer.transport.write(bytes(1 << 20))

    async with FakeDesktop(tmp_path / "flood.sock", answer=flood) as desktop:
        add(world, desktop)
        async with page(world) as one:
            await one.open()
            await one.bytes(12)
            await one.socket.send(HANDSHAKE + (b"\x03" + bytes(9)) * 12)
            found = 12
            with pytest.raises(TimeoutError):
                while True:
                    async with asyncio.timeout(1.0):
                        message = await one.socket.recv()
                    found += len(message) if isinstance(message, bytes) else 0
            assert 4 << 20 <= found <= 5 << 20
            await one.say(a=found)
            await one.bytes(1 << 20)


async def test_a_stream_that_gave_up_its_ring_is_resynced(desktop: FakeDesktop) -> None:
    async with running(replace(SHORT, rings_bytes_max=4)) as world:
        add(world, desktop)
        async with page(world) as one:
            opened = await one.open()
            one.socket.transport.abort()
        await until(lambda: not world.gateway._hub.streams)
        async with page(world) as two:
            assert (await two.resume(opened, 1))["how"] == "resync"


async def test_a_viewer_gets_no_key_and_its_stream_ends_with_its_link(
    world: World, desktop: FakeDesktop
) -> None:
    add(world, desktop, mode="view")
    async with page(world) as one:
        assert (await one.open())["key"] is None
        await one.bytes(12)
    await asyncio.wait_for(desktop.viewers[0].closed.wait(), 10)


async def test_a_stopping_gateway_says_when_to_come_back(desktop: FakeDesktop) -> None:
    async with running() as world:
        add(world, desktop)
        async with page(world) as one:
            await one.open()
            await one.bytes(12)
            await world.gateway.close()
            assert await one.text() == {"t": "drain", "after": [0, 3000], "to": None}
            with pytest.raises(ConnectionClosed) as closed:
                await one.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012


FIRST = [
    '{"t":"open","aud":"AUD","auth":"tttttttttttttttttttt","can":["x"]}',
    (
        '{"t":"resume","aud":"AUD","sid":"01JD0000000000000000000000","grant":1,"leg":"AAECAwQFBgc","n":1,'
        '"rx":0,"have":0,"end":0,"mac":"Hj7f5WvDplk0pDLVPwsfidCH9nF2p0kLbapkFsYDLuw"}'
    ),
]
LATER = ['{"a":12}', '{"h":1}', '{"t":"bye","end":false}', '{"t":"x"}', "{}", '{"a":99999999999}']


async def test_whatever_a_client_says_ends_its_own_link_at_most(world: World, desktop: FakeDesktop) -> None:
    """Mutated first and later messages, while somebody else works; no callback of the loop fails."""
    add(world, desktop)
    chance, failures = random.Random(41), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def mutated(text: str) -> str:
        letters = list(text.replace("AUD", world.aud))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(letters))
            letters[at] = chance.choice(['"', "{", "[", "1", "\\", "\x00", "é", letters[at]])
        return "".join(letters)

    world.control.add_session("other", str(desktop.path))
    async with world.opened("other") as beside:
        assert await beside.recv() == GREETING
        for number in range(60):
            async with page(world) as one:
                if number % 2:
                    await one.open()
                for _ in range(3):
                    with contextlib.suppress(ConnectionClosed):
                        await one.socket.send(mutated(chance.choice(LATER if number % 2 else FIRST)))
        await beside.send(GREETING)
        assert await beside.recv() == b"\x01\x01"
    assert failures == []


# -- with the Python client -----------------------------------------------------------------------------


def stream(world: World, proxy: CuttingProxy | None = None) -> ResumableStream:
    async def ticket() -> Ticket:
        return Ticket(
            ticket=world.control.ticket(SID), expires_at="", mode="control", path="/s/0/ws", stock_path=""
        )

    dial = f"http://127.0.0.1:{proxy.port}" if proxy is not None else ""
    return ResumableStream(world.origin, ticket, dial_url=dial)


def pattern(at: int, count: int) -> bytes:
    return bytes((place * 2654435761 >> 9) & 255 for place in range(at, at + count))


async def _through_cuts(tmp_path: Path, cuts: int, seed: int) -> None:
    """Keys up and a known stream down, while the line is cut at random moments."""
    chance = random.Random(seed)
    sent = 0

    def answer(viewer: Viewer, message: bytes) -> None:
        nonlocal sent
        if _is_press(message) and viewer.transport is not None:
            count = chance.randrange(1, 3000)
            viewer.transport.write(pattern(sent, count))
            sent += count

    async with running() as world, FakeDesktop(tmp_path / "cut.sock", answer=answer) as desktop:
        add(world, desktop)
        async with CuttingProxy(world.port, seed=seed) as proxy, stream(world, proxy) as client:
            got, head, typed = 0, 0, 0

            async def read() -> None:
                nonlocal got, head
                async for event in client.events():
                    assert not isinstance(event, Began) or not event.resync
                    if isinstance(event, bytes):
                        skip = min(len(event), HEAD_BYTES - head)
                        head += skip
                        rest = event[skip:]
                        assert rest == pattern(got, len(rest)), f"seed {seed}: differs at {got}"
                        got += len(rest)

            async def type_() -> None:
                nonlocal typed
                await client.write(HANDSHAKE)
                while proxy.cuts < cuts:
                    symbol = (0x1000000 + typed).to_bytes(4, "big")
                    down = chance.random() < 0.5
                    await client.write(b"\x04" + bytes([1]) + b"\0\0" + symbol)
                    if down:
                        await asyncio.sleep(0)
                    await client.write(b"\x04" + bytes([0]) + b"\0\0" + symbol)
                    typed += 1
                    await asyncio.sleep(0.001 * chance.random())

            async def cut() -> None:
                await until(lambda: client.number == 1)
                while proxy.cuts < cuts:
                    await asyncio.sleep(0.03 * chance.random())
                    proxy.cut_all()
                    client.hurry()

            async with asyncio.TaskGroup() as group:
                reader = group.create_task(read())
                group.create_task(cut())
                await group.create_task(type_())
                await until(
                    lambda: got == sent and sum(_is_press(m) for m in desktop.viewers[0].messages) >= typed
                )
                reader.cancel()
            presses = [
                int.from_bytes(m[4:8], "big") - 0x1000000 for m in desktop.viewers[0].messages if _is_press(m)
            ]
            assert presses == list(range(typed)), f"seed {seed}"
            assert (len(desktop.viewers), client.resyncs, desktop.viewers[0].errors) == (1, 0, [])
            assert client.replays > cuts // 4


HEAD_BYTES = 12 + 2 + 4 + 28


def _is_press(message: bytes) -> bool:
    return len(message) == 8 and message[0] == 4 and message[1] == 1


@pytest.mark.slow
async def test_two_hundred_random_cuts_lose_and_double_nothing(tmp_path: Path) -> None:
    await _through_cuts(tmp_path, 100, 11)


@pytest.mark.soak
async def test_ten_thousand_random_cuts_lose_and_double_nothing(tmp_path: Path) -> None:
    await _through_cuts(tmp_path, 5000, 12)


async def test_a_client_whose_desktop_is_lost_gets_a_new_stream_and_writes_nothing_old_to_it(
    world: World, desktop: FakeDesktop
) -> None:
    add(world, desktop)
    async with stream(world) as client:
        events = client.events()
        while not isinstance(await anext(events), Began):
            pass
        number = client.number
        _drop(desktop)
        while not (isinstance(event := await anext(events), Began) and event.resync):
            assert not isinstance(event, Replayed)
        with pytest.raises(NewStream):
            await client.write(b"old", number=number)
    assert len(desktop.viewers) == 2


async def test_a_client_that_was_displaced_stays_down(world: World, desktop: FakeDesktop) -> None:
    add(world, desktop)
    async with stream(world) as one:
        events = one.events()
        while not isinstance(await anext(events), Began):
            pass
        async with page(world) as other:
            await other.open()
            with pytest.raises(StreamEnded) as ended:
                while True:
                    await anext(events)
        assert ended.value.facts["why"] == "taken"
        assert ended.value.facts["by"] == "Other device"
