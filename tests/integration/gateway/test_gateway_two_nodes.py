"""Two nodes behind one origin: each with the real control and a real gateway, over one registry.

Desktops and store are those of the simulation, except the desktop's socket, which is real; in front stands
what a balancer does: it looks at the path and connects. Nothing is told to a client but by the nodes.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from session_service.app.system import SystemClock
from session_service.base.aio import Tasks
from session_service.base.ids import DeviceId
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream
from session_service.control.control import Control
from session_service.control.parts import Admission, NodeFacts, Parts, StreamsPlace
from session_service.core.actor import SYSTEM
from session_service.core.changes import PutNode, PutUser, PutWorkspace, Unit
from session_service.core.close_codes import ENDINGS, Close
from session_service.core.continuity.client import Began, Lost, Replayed
from session_service.core.continuity.failures import FAILURES_MAX
from session_service.core.policy import Policy
from session_service.core.records import NodeState, State, User, Workspace
from session_service.gateway.gateway import Gateway
from session_service.gateway.limits import GatewayLimits
from session_service.ports.desktops import DesktopSpec, Handle
from session_service.registry.memory import MemoryRegistry
from tests.fakes.checkpoints import Repository
from tests.fakes.desktops import Machine
from tests.fakes.ids import SeededIds
from tests.fakes.rfb_desktop import FakeDesktop

LIMIT_S = 20.0


class SocketMachine(Machine):
    """Its desktops are reached at a real socket."""

    socket = ""

    def _handle(self, spec: DesktopSpec) -> Handle:
        return msgspec.structs.replace(super()._handle(spec), socket=self.socket, uid=os.geteuid())


@dataclass(kw_only=True)
class Node:
    """One node: what decides, and what carries."""

    control: Control
    gateway: Gateway
    machine: SocketMachine
    repository: Repository
    port: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class Balancer:
    """One origin: looks at the path of a request and connects to its node."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.asked: list[str] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps = Tasks(lambda name, error: None)

    async def __aenter__(self) -> "Balancer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._pumps.close()

    def cut(self) -> None:
        """Reset everything that is carried."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b" ")[1].split(b"/")[2].decode()
        self.asked.append(name)
        there, far = await asyncio.open_connection("127.0.0.1", self.ports[name])
        far.write(head)
        self._writers += [near, far]
        self._pumps.spawn(self._pump(reader, far), name="up")
        self._pumps.spawn(self._pump(there, near), name="down")

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()
        except OSError:
            sink.transport.abort()


@dataclass(kw_only=True)
class Cluster:
    """Two nodes, `a` and `b`, and one user."""

    registry: MemoryRegistry
    front: Balancer
    user: User
    workspace: Workspace
    nodes: dict[str, Node]

    async def ticket(
        self, session_id: str, *, at: str, device: str = "laptop", mode: str = "control"
    ) -> Ticket:
        """A ticket as the API gives it, with the path that this node's API names."""
        issued = await self.nodes["b"].control.issue_ticket(
            session_id, user=self.user, device_id=DeviceId(device), device_label=device, mode=mode
        )
        return Ticket(ticket=issued.token, expires_at="", mode=mode, path=f"/s/{at}/ws", stock_path="")

    async def start(self) -> str:
        """Start a desktop on node b."""
        session = await self.nodes["b"].control.start(user=self.user, workspace_id=self.workspace.id)
        await self.state(session.id, State.HELD)
        return session.id

    async def state(self, session_id: str, *states: State) -> None:
        """Wait until the registry has the session in one of these states."""
        async with asyncio.timeout(LIMIT_S):
            while (found := await self.registry.session(session_id)) is None or found.state not in states:  # noqa: ASYNC110 - a row tells nobody
                await asyncio.sleep(0.01)

    async def declare(self, name: str, state: NodeState) -> None:
        """Write into the registry how a node is."""
        known = next(
            one for one in self.registry._tables.rows["node"].values() if one.address == f"/s/{name}/ws"
        )
        write = PutNode(node=replace(known, state=state), expected_incarnation=known.incarnation)
        await self.registry.commit(Unit(writes=(write,)))

    def stream(self, session_id: str, *, at: str) -> ResumableStream:
        """Our own client, which first dials one node's path."""

        async def tickets() -> Ticket:
            return await self.ticket(session_id, at=at)

        return ResumableStream(self.front.origin, tickets)

    @asynccontextmanager
    async def asking(self, ticket: str, *, at: str = "b") -> AsyncIterator[ClientConnection]:
        """A socket on which `open` was said."""
        aud = self.front.origin.replace("http", "ws")
        async with connect(
            f"{aud}/s/{at}/ws",
            subprotocols=["continuity.v1"],  # type: ignore[list-item]  # a plain text is one
            origin=self.front.origin,  # type: ignore[arg-type]  # a plain text is one
            compression=None,
            proxy=None,
        ) as socket:
            assert json.loads(await socket.recv())["t"] == "hello"
            await socket.send(json.dumps({"t": "open", "aud": aud, "auth": ticket, "can": []}))
            yield socket


async def end_of(socket: ClientConnection) -> tuple[dict[str, object], int]:
    """The last word of a link, and its close code."""
    said: dict[str, object] = {}
    async with asyncio.timeout(LIMIT_S):
        try:
            while True:
                message = await socket.recv()
                if isinstance(message, str):
                    said = json.loads(message)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return said, closed.rcvd.code


@asynccontextmanager
async def cluster(folder: Path, policy: Policy | None = None) -> AsyncIterator[Cluster]:
    """Two nodes that run and are settled."""
    clock = SystemClock()
    ids = SeededIds(clock)
    registry = MemoryRegistry()
    user = User(
        id=ids.ulid(), tenant_id=ids.ulid(), name="ada", role="user", password_hash="", created_at_ms=1
    )  # type: ignore[arg-type]  # plain ids
    workspace = Workspace(id=ids.ulid(), user_id=user.id, tenant_id=user.tenant_id, name="default")  # type: ignore[arg-type]  # plain ids
    people = PutUser(user=user, expected=None), PutWorkspace(workspace=workspace, expected=None)
    await registry.commit(Unit(writes=people))
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    assert runner.server is not None
    async with Balancer() as front, FakeDesktop(folder / "rfb.sock") as desktop:
        nodes: dict[str, Node] = {}
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                machine = SocketMachine(boot_id=f"boot-{name}")
                machine.socket = str(desktop.path)
                place = StreamsPlace()
                repository = Repository(machine=machine, clock=clock)
                control = Control(
                    parts=Parts(
                        clock=clock,
                        ids=ids,
                        registry=registry,
                        desktops=machine,
                        checkpoints=repository,
                        streams=place,
                        policy=policy or Policy(),
                        admission=Admission(accepting=lambda: True),
                        resume_secret=bytes(range(32)),
                    ),
                    node=NodeFacts(id=ids.ulid(), boot_id=machine.boot_id, address=f"/s/{name}/ws"),  # type: ignore[arg-type]  # a plain id
                )
                gateway = Gateway(
                    attachments=control.attachments,
                    http=runner.server,
                    origins=lambda: {front.origin},
                    ids=ids,
                    limits=GatewayLimits(close_s=0.2, poll_s=0.01),
                    shard=name,
                )
                place.put(gateway)
                ((_host, port),) = await gateway.listen("127.0.0.1", 0)
                nodes[name] = Node(
                    control=control, gateway=gateway, machine=machine, repository=repository, port=port
                )
                front.ports[name] = port
                group.create_task(control.run(nodes[name].stop), name=f"control-{name}")
            async with asyncio.timeout(LIMIT_S):
                for node in nodes.values():
                    while not await node.control.ready():  # noqa: ASYNC110 - no event tells it
                        await asyncio.sleep(0.01)
            try:
                yield Cluster(registry=registry, front=front, user=user, workspace=workspace, nodes=nodes)
            finally:
                for node in nodes.values():
                    await node.gateway.close()
                    node.stop.set()
    await runner.cleanup()


async def told(stream: ResumableStream, kind: type) -> object:
    """The next event of a kind."""
    async with asyncio.timeout(LIMIT_S):
        while not isinstance(event := await stream.next_event(), kind):
            pass
        return event


async def test_a_client_that_comes_back_to_another_node_is_sent_on_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    """It dials the node of its older path, follows `moved`, and goes on with the same bytes."""
    async with cluster(tmp_path) as two:
        session_id = await two.start()
        async with two.stream(session_id, at="b") as stream:
            assert isinstance(await told(stream, Began), Began)
            stream._client.path = "/s/a/ws"  # where it was carried before
            two.front.asked.clear()
            two.front.cut()
            await told(stream, Replayed)
            assert two.front.asked == ["a", "b"]
            assert (stream.number, stream.resyncs, stream._client.path) == (1, 0, "/s/b/ws")


async def test_a_ticket_that_is_shown_to_another_node_stays_good_and_is_sent_on(tmp_path: Path) -> None:
    async with cluster(tmp_path) as two:
        session_id = await two.start()
        ticket = (await two.ticket(session_id, at="a")).ticket
        async with two.asking(ticket, at="a") as socket:
            said, code = await end_of(socket)
        assert (code, said["why"], said["to"]) == (Close.MOVED, "moved", "/s/b/ws")
        async with two.asking(ticket, at="b") as socket:
            assert json.loads(await socket.recv())["t"] == "opened"


async def test_the_session_of_a_lost_node_is_waited_for_and_gone_on_with_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as two:
        session_id = await two.start()
        async with two.stream(session_id, at="b") as stream:
            await told(stream, Began)
            await two.declare("b", NodeState.LOST)
            stream._client.path = "/s/a/ws"
            two.front.cut()
            lost = await told(stream, Lost)
            while isinstance(lost, Lost) and lost.why != "node_unreachable":
                lost = await told(stream, Lost)
            assert stream._client.has_key
            await two.declare("b", NodeState.UP)
            stream.hurry()
            await told(stream, Replayed)
            assert (stream.number, stream.resyncs) == (1, 0)


async def test_each_end_that_control_decides_is_told_with_its_code_and_its_word(tmp_path: Path) -> None:
    """Login, taken, used, unknown, ended, guessed too often: over real sockets, each as the table has it."""
    async with cluster(tmp_path) as two:
        session_id = await two.start()
        control = two.nodes["b"].control
        found: dict[Close, tuple[dict[str, object], int]] = {}
        first = (await two.ticket(session_id, at="b")).ticket
        async with two.asking(first) as laptop:
            assert json.loads(await laptop.recv())["t"] == "opened"
            phone = (await two.ticket(session_id, at="b", device="phone")).ticket
            async with two.asking(phone) as newer:
                said, code = await end_of(laptop)
                assert (code, said["t"], said["by"]) == (Close.TAKEN, "taken", "phone")
                await control.disconnect(session_id, actor=SYSTEM)
                found[Close.LOGIN] = await end_of(newer)
        async with two.asking(first) as socket:
            found[Close.PROOF_USED] = await end_of(socket)
        left = (await two.ticket(session_id, at="b")).ticket
        await control.end(session_id, actor=SYSTEM)
        await two.state(session_id, State.CLOSED)
        async with two.asking(left) as socket:
            found[Close.ENDED] = await end_of(socket)
        for _ in range(FAILURES_MAX):
            async with two.asking("A" * 43) as socket:
                found[Close.NOT_FOUND] = await end_of(socket)
        async with two.asking("A" * 43) as socket:
            found[Close.TOO_MANY] = await end_of(socket)
    for wanted, (said, code) in found.items():
        assert (code, said["code"], said["why"]) == (wanted, wanted, ENDINGS[wanted].why)


async def test_a_policy_that_lets_the_first_device_stay_tells_the_second_one_so(tmp_path: Path) -> None:
    async with cluster(tmp_path, Policy(takeover="refuse")) as two:
        session_id = await two.start()
        first = (await two.ticket(session_id, at="b")).ticket
        phone = (await two.ticket(session_id, at="b", device="phone")).ticket
        async with two.asking(first) as laptop:
            assert json.loads(await laptop.recv())["t"] == "opened"
            async with two.asking(phone) as second:
                said, code = await end_of(second)
            assert (code, said["why"], said["by"]) == (Close.IN_USE, "in_use", "laptop")
        await two.state(session_id, State.HELD)
        async with two.asking(phone) as second:
            assert json.loads(await second.recv())["t"] == "opened", "the ticket was unused"


async def test_a_hold_that_ran_out_is_told_while_files_are_saved_and_afterwards(tmp_path: Path) -> None:
    """With the store away the session stays in closing: its user is told to wait; then it is closed."""
    async with cluster(tmp_path, Policy(hold_s=0.5)) as two:
        session_id = await two.start()
        tickets = [(await two.ticket(session_id, at="b", device=name)).ticket for name in ("one", "two")]
        store = two.nodes["b"].repository
        store.down = True
        await two.state(session_id, State.CLOSING)
        async with two.asking(tickets[0]) as socket:
            said, code = await end_of(socket)
        assert (code, said["why"]) == (Close.SAVING, "hold_expired_saving")
        store.down = False
        await two.state(session_id, State.CLOSED)
        async with two.asking(tickets[1]) as socket:
            said, code = await end_of(socket)
        assert (code, said["why"], said["next"]) == (Close.HOLD_EXPIRED, "hold_expired", "start")
