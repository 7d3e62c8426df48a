"""A world for the real control code: a machine, a store, a registry and clients, all on virtual time, all
from one seed.

Not a test. `World` is what outlives the service; `World.life()` runs one life of it, from start to stop or
kill. A kill drops all memory: calls under way never return, calls that come later have no effect, and the
next life has the registry, the machine and the store only.
"""

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from session_service.base.errors import RegistryUnavailable
from session_service.base.ids import DeviceId, TenantId, UserId, WorkspaceId
from session_service.control.control import Control
from session_service.control.parts import Admission, NodeFacts, Parts, StreamsPlace
from session_service.core.changes import PutSession, PutUser, PutWorkspace, Unit
from session_service.core.policy import Policy
from session_service.core.records import Session, User, Workspace
from session_service.core.views import Alarm
from session_service.ports.pictures import Pictures
from session_service.ports.streams import Attachment, LinkEnd, LinkOffer, LinkRefusal
from session_service.registry.memory import MemoryRegistry
from tests.fakes.checkpoints import Repository
from tests.fakes.desktops import Machine
from tests.fakes.ids import SeededIds
from tests.fakes.streams import FakeStreams
from tests.sim.loop import Time


class Life:
    """One life of the service: while it is over, nothing it calls does anything."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.alive = True
        self.killed = asyncio.Event()
        self.streams = FakeStreams()
        self.attached: dict[str, str] = {}
        self.stop = asyncio.Event()
        place = StreamsPlace()
        place.put(self.streams)
        self.control = Control(
            parts=Parts(
                clock=world.time,
                ids=world.ids,
                registry=self._port(world.registry, "registry"),
                desktops=self._port(world.machine, "desktops"),
                checkpoints=self._port(world.repository, "checkpoints"),
                streams=place,
                policy=world.policy,
                admission=Admission(accepting=lambda: world.accepting, disk=lambda: world.disk),
                pictures=world.pictures,
                resume_secret=bytes(range(32)),
            ),
            node=NodeFacts(id=world.node_id, boot_id=world.machine.boot_id, address="here"),
        )

        self.control.alarm_book.listen(self._alarmed)

    def _alarmed(self, alarm: Alarm, raised: bool) -> None:
        """A part of control that failed in a way it has no words for is a violation, even if it recovers."""
        if raised and alarm.kind == "task":
            self.world.machine.violations.append(f"task: {alarm.detail}")

    def _port(self, target: Any, name: str) -> Any:
        return _Gated(target, name, self)

    async def before(self, call: str) -> None:
        await self._gate(call, "before")

    async def after(self, call: str) -> None:
        await self._gate(call, "after")

    async def _gate(self, call: str, when: str) -> None:
        if self.alive:
            self.world.step(self, call, when)
        if not self.alive:
            await asyncio.get_running_loop().create_future()
        delay_s = self.world.delay_s(call, when)
        if delay_s > 0:
            await asyncio.sleep(delay_s)
            if not self.alive:
                await asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        """kill -9: from now on nothing happens in this life."""
        if self.alive:
            for link_id, session_id in self.attached.items():
                if link_id not in self.streams.open:
                    continue
                self.world.link_ended[link_id] = self.world.available_ms
                self.world.last_seen[session_id] = self.world.available_ms
        self.alive = False
        self.control._runners.open = False  # what is cancelled now is not started again
        self.killed.set()
        self.world.machine.forget_listener()


class _Gated:
    """A port whose calls can be slow, and can be the last thing that a life does."""

    def __init__(self, target: Any, name: str, life: Life) -> None:
        self._target, self._name, self._life = target, name, life

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._target, attribute)
        if not inspect.iscoroutinefunction(found):
            return found
        return self._call(f"{self._name}.{attribute}", found)

    def _call(self, call: str, found: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def gated(*args: Any, **more: Any) -> Any:
            await self._life.before(call)
            unit = args[0] if args and isinstance(args[0], Unit) else None
            try:
                answer = await found(*args, **more)
            except RegistryUnavailable:
                if unit is not None:
                    self._life.world.maybe_committed(unit)
                raise
            if unit is not None:
                self._life.world.committed(unit)
            await self._life.after(call)
            return answer

        return gated


class World:
    """Everything that a crash of the service does not touch."""

    def __init__(self, *, seed: int = 0, policy: Policy | None = None, users: int = 1) -> None:
        self.random = random.Random(seed)
        self.time = Time()
        self.ids = SeededIds(self.time, seed)
        self.registry = MemoryRegistry()
        self.machine = Machine()
        self.repository = Repository(machine=self.machine, clock=self.time)
        self.machine.may_destroy = self._may_destroy
        self.policy = policy if policy is not None else Policy(hold_s=30.0)
        self.node_id = self.ids.ulid()
        self.pictures: Pictures | None = None
        """Takes pictures of desktops, where a test has some."""
        self.accepting = True
        self.disk = (0, 0)
        """MiB that are free, and that must stay so."""
        self.slow = False
        self.crash_at: int | None = None
        self.steps = 0
        self.lives = 0
        self.trace: list[str] = []
        self.on_commit: list[Callable[[Session], None]] = []
        self.up = False
        self.available_ms = 0.0
        """How long users could have come back so far: the truth that holds are checked against."""
        self.link_ended: dict[str, float] = {}
        self.last_seen: dict[str, float] = {}
        """When a client of a session was attached last, whatever the registry remembers of it."""
        self.at_step: Callable[[int, str, str], None] = lambda number, call, when: None
        self.time.passed = self._passed
        self.users: list[User] = []
        self.workspaces: list[Workspace] = []
        self._seed_people(users)

    def _seed_people(self, count: int) -> None:
        tenant = TenantId(self.ids.ulid())
        for number in range(count):
            user = User(
                id=UserId(self.ids.ulid()),
                tenant_id=tenant,
                name=f"user-{number}",
                role="user",
                password_hash="",
                created_at_ms=self.time.wall_ms(),
            )
            workspace = Workspace(
                id=WorkspaceId(self.ids.ulid()), user_id=user.id, tenant_id=tenant, name="default"
            )
            self.users.append(user)
            self.workspaces.append(workspace)

    async def introduce(self) -> None:
        """Write users and workspaces, once."""
        for user, workspace in zip(self.users, self.workspaces, strict=True):
            if await self.registry.user(user.id) is None:
                await self.registry.commit(
                    Unit(
                        writes=(
                            PutUser(user=user, expected=None),
                            PutWorkspace(workspace=workspace, expected=None),
                        )
                    )
                )

    def _passed(self, seconds: float) -> None:
        if self.up and self.accepting:
            self.available_ms += seconds * 1000

    # -- what the gates ask ---------------------------------------------------------------------------

    def step(self, life: Life, call: str, when: str) -> None:
        self.steps += 1
        self.at_step(self.steps, call, when)
        self.trace.append(f"{self.time.monotonic_ms()} {when} {call}")
        if self.crash_at is not None and self.steps >= self.crash_at:
            self.crash_at = None
            self.trace.append(f"{self.time.monotonic_ms()} KILLED {when} {call}")
            life.kill()
            self.up = False

    def delay_s(self, call: str, when: str) -> float:
        if not self.slow:
            return 0.0
        return self.random.choice((0.0, 0.0, 0.001, 0.02, 0.3))

    def committed(self, unit: Unit) -> None:
        for write in unit.writes:
            if isinstance(write, PutSession):
                self.trace.append(
                    f"{self.time.monotonic_ms()} {write.session.state} {write.session.close_step} "
                    f"g{write.session.generation} {write.session.id[-4:]}"
                )
                for listener in self.on_commit:
                    listener(write.session)

    def maybe_committed(self, unit: Unit) -> None:
        """The answer was lost: only what is in the registry happened."""
        for write in unit.writes:
            if isinstance(write, PutSession) and self.row(write.session.id) == write.session:
                self.committed(unit)
                return

    def row(self, session_id: str) -> Session | None:
        """Read a session's row past every fault."""
        found = self.registry._tables.rows["session"].get(session_id)
        assert found is None or isinstance(found, Session)
        return found

    def epoch(self) -> int:
        return int(self.registry._tables.rows["mark"][1].epoch)

    def rows(self) -> list[Session]:
        return list(self.registry._tables.rows["session"].values())

    def _may_destroy(self, verb: str, handle: Any) -> str:
        """S14: a desktop is ended or wiped only where the registry says so."""
        steps = {"end": ("ending", "ended"), "wipe": ("ended", "wiped")}[verb]
        for row in self.rows():
            if (row.workspace_id, row.fence) == (
                handle.workspace_id,
                handle.fence,
            ) and row.close_step in steps:
                return ""
        return f"S14: {verb} without a record that says {steps[0]}"

    # -- lives ----------------------------------------------------------------------------------------

    def live(self, play: Callable[[Life], Awaitable[None]]) -> None:
        """Run one life: control beside `play`; ends when `play` returns (stopped in order) or when it is
        killed.
        """
        self.lives += 1
        loop = self.time.loop()
        with _current(loop):
            loop.run_until_complete(self._one(play))

    async def _one(self, play: Callable[[Life], Awaitable[None]]) -> None:
        if self.lives == 1:
            await self.introduce()
        life = Life(self)
        self.up = True
        run = asyncio.ensure_future(life.control.run(life.stop))
        acting = asyncio.ensure_future(play(life))
        killed = asyncio.ensure_future(life.killed.wait())
        await asyncio.wait({run, acting, killed}, return_when=asyncio.FIRST_COMPLETED)
        if life.alive and acting.done() and not run.done():
            life.stop.set()
            await asyncio.wait({run, killed}, return_when=asyncio.FIRST_COMPLETED)
        if not life.alive:
            self.registry.forget_waiting()
        life.kill()
        self.up = False
        ended = [task for task in (run, acting) if task.done() and not task.cancelled()]
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in ended:
            task.result()


@contextmanager
def _current(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Quiet, and closed at the end: a run writes thousands of events that nobody reads."""
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        loop.close()
        structlog.configure(processors=before)


def _drop(logger: Any, method: str, event: Any) -> Any:
    raise structlog.DropEvent


class Client:
    """One browser page of a user."""

    def __init__(self, life: Life, number: int = 0, *, device: str = "laptop") -> None:
        self.life = life
        self.user = life.world.users[number]
        self.workspace = life.world.workspaces[number]
        self.device = device
        self.link_id: str | None = None
        self.last_link_id = ""
        self.session_id: str | None = None

    async def start(self, **more: Any) -> Session:
        session = await self.life.control.start(user=self.user, workspace_id=self.workspace.id, **more)
        self.session_id = session.id
        return session

    async def open(self, session_id: str) -> Attachment | LinkRefusal:
        """Ask for a ticket, open a link, and attach."""
        ticket = await self.life.control.issue_ticket(
            session_id, user=self.user, device_id=DeviceId(self.device), device_label=self.device
        )
        link_id = self.last_link_id = self.life.world.ids.ulid()
        offer = LinkOffer(link_id=link_id, ticket=ticket.token, subprotocol="binary", address="10.0.0.9")
        self.life.streams.open[link_id] = session_id
        answer = await self.life.control.attachments.attach(offer)
        if isinstance(answer, Attachment):
            self.link_id, self.session_id = link_id, session_id
            self.life.attached[link_id] = session_id
        else:
            self.life.streams.open.pop(link_id, None)
        return answer

    def drop(self, cause: str = "reset") -> None:
        """The link ends."""
        if self.link_id is None or self.session_id is None:
            return
        link_id, self.link_id = self.link_id, None
        if link_id in self.life.streams.open:
            self.life.world.link_ended[link_id] = self.life.world.available_ms
            self.life.world.last_seen[self.session_id] = self.life.world.available_ms
        self.life.streams.open.pop(link_id, None)
        self.life.control.attachments.ended(LinkEnd(session_id=self.session_id, link_id=link_id, cause=cause))


async def until(condition: Callable[[], object], *, limit_s: float = 600.0, pause_s: float = 0.25) -> None:
    """Wait for a state in virtual time."""
    waited = 0.0
    while not condition():
        assert waited < limit_s, "the state was not reached in time"
        await asyncio.sleep(pause_s)
        waited += pause_s


async def ready(life: Life) -> None:
    """Wait until the service is ready."""
    async with asyncio.timeout(600):
        while not await life.control.ready():  # noqa: ASYNC110  # virtual time: a sleep costs nothing
            await asyncio.sleep(0.05)
