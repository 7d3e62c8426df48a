"""Random schedules: users who come and go, and faults, drawn from one seed; then everything heals and must
come to rest.

Not a test. `play(seed, ...)` runs one schedule and returns its witness and trace.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from session_service.base.errors import SessionError
from session_service.core.actor import Actor
from session_service.core.policy import Policy
from session_service.core.records import CloseStep, Session, State
from tests.sim.witness import Witness
from tests.sim.world import Client, Life, World, ready

LOSES_NEWEST = "loses_newest"
"""The store loses a final checkpoint once the record names it; not one of all, whose seeds would shift."""
ALL_FAULTS = frozenset(
    {
        "kill",
        "store",
        "registry",
        "lost_answer",
        "refuse_users",
        "suspend",
        "stall",
        "wall",
        "desktop_dies",
        "host",
        "freeze",
        "launch",
        "past_freezer",
        "unreadable",
        "restore",
    }
)


@dataclass
class Schedule:
    """One seed's users and faults."""

    seed: int
    faults: frozenset[str] = ALL_FAULTS
    lives: int = 3
    life_s: float = 150.0
    users: int = 2
    hold_s: float = 20.0
    slow: bool = True
    world: World = field(init=False)
    witness: Witness = field(init=False)
    dice: random.Random = field(init=False)
    backups: list[str] = field(init=False)
    losses: int = field(init=False)
    frozen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World(
            seed=self.seed, policy=Policy(hold_s=self.hold_s, checkpoint_target_s=5.0), users=self.users
        )
        self.world.slow = self.slow
        self.witness = Witness(self.world)
        self.backups = []
        self.losses = 0
        self.world.on_commit.append(self._lose)
        self.dice = random.Random(f"schedule-{self.seed}")

    def run(self) -> "Schedule":
        """Live a few lives with faults, then one without."""
        for _ in range(self.lives):
            self.world.live(self._life)
            self.world.time.stall(self.dice.choice((0.1, 1.0, 10.0, 100.0)))
            if self.backups and self.dice.random() < 0.3:
                self.world.registry.come_back()
                self.world.registry.restore(self.dice.choice(self.backups))
                self.witness.restored()
                self.witness.count("restored")
        self._heal()
        self.world.live(self._rest)
        self.witness.quiet()
        return self

    async def _life(self, life: Life) -> None:
        if "kill" in self.faults and self.dice.random() < 0.8:
            self.world.crash_at = self.world.steps + self.dice.randrange(1, 900)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._late_heal())
            for number in range(self.users):
                group.create_task(self._user(life, number))
            faults = group.create_task(self._faults(life))
            await asyncio.sleep(self.life_s)
            faults.cancel()
        self._heal_calls()

    async def _rest(self, life: Life) -> None:
        await ready(life)
        waited_s = 0.0
        while any(row.state is not State.CLOSED for row in self.world.rows()) and waited_s < 1_000:
            await asyncio.sleep(5)
            waited_s += 5
            self._frozen()
        await asyncio.sleep(40)

    def _frozen(self) -> None:
        """Nothing is away, and a desktop that somebody may use does not run: said once it lasted for fifteen
        seconds.
        """
        for row in self.world.rows():
            desktop = self.world.machine.desktops.get((row.workspace_id, row.fence))
            stands = row.state in (State.ACTIVE, State.HELD) and desktop is not None and desktop.frozen
            self.frozen[row.id] = self.frozen.get(row.id, 0) + 1 if stands else 0
            if self.frozen[row.id] == 3:
                self.witness.say(f"liveness: {row.id} is {row.state} and its desktop is frozen")

    async def _late_heal(self) -> None:
        """A fault may outlive the service that met it; the next life begins in it."""
        await asyncio.sleep(self._for_s())
        self._heal_calls()

    def _heal(self) -> None:
        world = self.world
        self._heal_calls()
        world.crash_at = None
        world.accepting = True
        for home in world.machine.homes.values():
            home.unreadable.clear()

    def _heal_calls(self) -> None:
        world = self.world
        world.registry.come_back()
        world.repository.down = world.repository.hang = world.machine.away = False
        world.machine.freeze_failures = world.machine.launch_failures = 0

    # -- users ----------------------------------------------------------------------------------------

    async def _user(self, life: Life, number: int) -> None:
        page = Client(life, number, device=f"laptop-{number}")
        other = Client(life, number, device=f"phone-{number}")
        end_s = self.world.time.now_s + self.life_s
        while self.world.time.now_s < end_s:
            await asyncio.sleep(self.dice.choice((0.1, 1.0, 3.0, 10.0, 25.0)))
            act = self.dice.choice(
                (
                    self._open,
                    self._open,
                    self._open,
                    self._drop,
                    self._drop,
                    self._write,
                    self._end,
                    self._extend,
                )
            )
            try:
                async with asyncio.timeout(60):
                    await act(life, self.dice.choice((page, page, other)))
            except (SessionError, TimeoutError):
                continue

    async def _open(self, life: Life, page: Client) -> None:
        session = await page.start()
        if session.state is State.CLOSING:
            session = await life.control.reuse(session.id, user=page.user)
            self.witness.count("reused")
        if page.link_id is not None and page.link_id in life.streams.open:
            return
        answer = await page.open(session.id)
        assert page.session_id is not None
        self.witness.answered(session.id, page.last_link_id, answer, life.streams.links(session.id))

    async def _drop(self, life: Life, page: Client) -> None:
        if page.link_id is not None:
            page.drop(self.dice.choice(("reset", "silent", "tab_closed")))

    async def _write(self, life: Life, page: Client) -> None:
        desktop = self.world.machine.desktop_of(page.workspace.id)
        if desktop is not None:
            self.world.machine.write(desktop)

    async def _end(self, life: Life, page: Client) -> None:
        if self.dice.random() < 0.3 and page.session_id is not None:
            actor = Actor(kind="user", user_id=page.user.id, name="")
            await life.control.end(page.session_id, actor=actor)

    async def _extend(self, life: Life, page: Client) -> None:
        if page.session_id is not None:
            seconds = self.dice.choice((5.0, 20.0, -10.0))
            actor = Actor(kind="operator", user_id=None, name="")
            await life.control.extend(page.session_id, seconds=seconds, actor=actor)

    # -- faults ---------------------------------------------------------------------------------------

    async def _faults(self, life: Life) -> None:
        acts: dict[str, Callable[[Life], Awaitable[None]]] = {
            "store": self._store,
            "registry": self._registry,
            "lost_answer": self._lost_answer,
            "refuse_users": self._refuse_users,
            "suspend": self._suspend,
            "stall": self._stall,
            "wall": self._wall,
            "desktop_dies": self._desktop_dies,
            "host": self._host,
            "freeze": self._freeze,
            "launch": self._launch,
            "past_freezer": self._past_freezer,
            "unreadable": self._unreadable,
            "restore": self._backup,
            LOSES_NEWEST: self._loses_newest,
        }
        able = sorted(self.faults & set(acts))
        while able:
            await asyncio.sleep(self.dice.choice((1.0, 5.0, 15.0, 30.0)))
            name = self.dice.choice(able)
            self.witness.count(f"fault: {name}")
            self.world.trace.append(f"{self.world.time.monotonic_ms()} fault {name}")
            await acts[name](life)

    def _for_s(self) -> float:
        return self.dice.choice((0.5, 3.0, 10.0, 40.0))

    async def _backup(self, life: Life) -> None:
        path = f"backup-{len(self.backups)}"
        try:
            await self.world.registry.backup(path)
        except SessionError:
            return
        self.backups.append(path)

    async def _loses_newest(self, life: Life) -> None:
        self.losses = self.dice.choice((1, 1, 3))

    def _lose(self, row: Session) -> None:
        """Before anything is ended, or before the wipe: the record has just said so."""
        if self.losses == 0 or row.close_step not in (CloseStep.ENDING, CloseStep.ENDED) or row.c2 is None:
            return
        newest = self.world.repository.logs[row.workspace_id][-1]
        if newest.hash == row.c2.hash and self.dice.random() < 0.5:
            self.losses -= 1
            self.world.repository.lose_newest(row.workspace_id)
            self.witness.count(f"lost at {row.close_step}")

    async def _store(self, life: Life) -> None:
        self.world.repository.down = True
        await asyncio.sleep(self._for_s())
        self.world.repository.down = False

    async def _registry(self, life: Life) -> None:
        self.world.registry.go_away()
        await asyncio.sleep(self._for_s())
        self.world.registry.come_back()

    async def _lost_answer(self, life: Life) -> None:
        self.world.registry.lose_answers(self.dice.choice((1, 1, 3)))

    async def _refuse_users(self, life: Life) -> None:
        self.world.accepting = False
        await asyncio.sleep(self.dice.choice((6.0, 20.0, 60.0)))
        self.world.accepting = True

    async def _suspend(self, life: Life) -> None:
        self.world.time.suspend(self.dice.choice((6_000, 60_000, 3_600_000)))

    async def _stall(self, life: Life) -> None:
        self.world.time.stall(self.dice.choice((0.3, 6.0, 40.0)))

    async def _wall(self, life: Life) -> None:
        self.world.time.wall_ahead_ms += self.dice.choice((-86_400_000, 3_600_000, 86_400_000))

    async def _desktop_dies(self, life: Life) -> None:
        running = self.world.machine.running()
        if running and self.dice.random() < 0.4:
            self.world.machine.die(self.dice.choice(running))

    async def _host(self, life: Life) -> None:
        self.world.machine.away = True
        await asyncio.sleep(self._for_s())
        self.world.machine.away = False

    async def _freeze(self, life: Life) -> None:
        self.world.machine.freeze_failures = self.dice.choice((1, 2, 4))

    async def _launch(self, life: Life) -> None:
        self.world.machine.launch_failures = self.dice.choice((1, 2, 3))

    async def _past_freezer(self, life: Life) -> None:
        for desktop in self.world.machine.running():
            if desktop.frozen:
                self.world.machine.write(desktop, past_freezer=True)

    async def _unreadable(self, life: Life) -> None:
        homes = list(self.world.machine.homes.values())
        if not homes:
            return
        home = self.dice.choice(homes)
        home.unreadable.add("secret/mode-000")
        await asyncio.sleep(self._for_s())
        for row in self.world.rows():
            if row.state is State.CLOSING and self.dice.random() < 0.5:
                actor = Actor(kind="operator", user_id=None, name="")
                try:
                    await life.control.accept_paths(
                        row.id, paths=["secret/mode-000"], actor=actor, reason="asked"
                    )
                    self.witness.count("accepted")
                except SessionError:
                    continue
        home.unreadable.clear()
