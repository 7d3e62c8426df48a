"""Open sessions in memory, each joined with its record, and the one way to change a record.

Not decisions: `core.lifecycle.step` decides, the registry's compare-and-set is the judge, and who loses reads
again. Memory is never needed after a crash: `load` makes all of it from the registry. After each change, and
after each fresh read, `arrange` is called with the session, so that what should run for its state runs,
whoever changed it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from session_service.base.errors import Conflict, NotFound, RegistryUnavailable
from session_service.base.ids import DeviceId, EffectId, SessionId
from session_service.base.log import get_logger
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.core import limits
from session_service.core.changes import (
    AddEffect,
    EpochIs,
    Guard,
    LeaseIs,
    PutLease,
    PutSession,
    Rank,
    SessionIs,
    Unit,
    Write,
)
from session_service.core.continuity.attempts import Order
from session_service.core.events import DURABLE_EFFECTS, Effect, Event, Facts
from session_service.core.lifecycle import Step, step
from session_service.core.pace import Cost, Pace
from session_service.core.rate import Rate, told
from session_service.core.records import EffectRecord, Lease, LossCause, Session, State
from session_service.ports.checkpoints import PendingLook, Progress, WorkspaceName
from session_service.ports.desktops import Handle

FactsOf = Callable[[Session], Facts]
Also = Callable[[Step], Sequence[Write]]
LeaseOf = Callable[[Lease], Lease | None]
Listener = Callable[["Live", tuple[Effect, ...]], None]


@dataclass(slots=True, kw_only=True)
class OpenLink:
    """The control link that memory knows of."""

    id: str
    since_ms: int
    address: str
    recorded: bool = False
    """False while its commit is under way: it exists, but the record may never name it."""
    answered: bool = False
    """True once its gateway was told where it leads."""
    asking: int = 0
    """How many of its calls wait for an answer now."""
    seen_mono_ms: int = 0


@dataclass(slots=True, kw_only=True)
class Trouble:
    """What is tried again, since when and how often."""

    error: str = ""
    since_ms: int | None = None
    attempts: int = 0
    begun_mono_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What was promised while the registry was away and is not recorded yet (control/marks.py)."""

    loss_epoch: int | None = None
    """The loss that a provisional resume ended."""
    link_id: str | None = None
    """Its link; None after a restart, which ended it."""
    cause: LossCause = LossCause.SERVER_RESTART
    """Why that link ended, if it did."""
    revoked_grant: int | None = None
    """Keys up to this grant attach no more."""
    actor: str = "system"
    reason: str = ""


NO_MARKS: Final = Marks()


@dataclass(slots=True, kw_only=True)
class Live:
    """One open session as memory knows it. Everything here can be lost at any moment."""

    record: Session
    lease: Lease
    workspace: WorkspaceName
    workspace_name: str
    user_name: str
    handle: Handle | None = None
    links: dict[str, OpenLink] = field(default_factory=dict)
    viewers: dict[str, DeviceId] = field(default_factory=dict)
    """Links that look on, and whose device each is: signing that device out closes them."""
    order: Order = field(default_factory=Order)
    """The newest attempt to resume; after a restart any number is new, freshness is the challenge."""
    marks: Marks = NO_MARKS
    marks_known: bool = True
    """False after a start, until the disk was asked: until then nothing expires and no key attaches."""
    marking: asyncio.Lock = field(default_factory=asyncio.Lock)
    settling: bool = False
    beside: str = ""
    """What is said while a closing desktop's files lie beside a log that does not take them."""
    progress: Progress | None = None
    rate: Rate = field(default_factory=Rate)
    """How fast what is shown as progress moves."""
    trouble: Trouble = field(default_factory=Trouble)
    pending: PendingLook | None = None
    limits_missing: tuple[str, ...] = ()
    asked: bool = False
    launching: bool = False
    paused: bool = False
    """True while somebody else changes the record of a session whose runner was stopped."""
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    save_due_mono_ms: int = 0
    home_bytes: int | None = None
    """The size of the home when it was restored, then in its last checkpoint."""
    crowded: bool = False
    """Its applications are frozen because the disk is nearly full (control/space.py)."""
    save_cost: Cost = field(default_factory=Cost)
    pace: Pace | None = None
    """How often it is saved, and what that promises; None before the first save."""
    save_begun_mono_ms: int | None = None
    save_unsure: bool = True
    """An attempt may have left something in the store that no entry names; its successor looks for it."""
    saved_mono_ms: int | None = None
    """When a complete checkpoint was verified last, or this life began to look after the session."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    runner: "asyncio.Task[None] | None" = None
    runner_for: State | None = None

    @property
    def attached(self) -> bool:
        """Say whether memory knows of a client, recorded or on its way."""
        return bool(self.links)

    @property
    def marked(self) -> bool:
        """Say whether a provisional resume stands, or may stand on the disk: no hold ends then."""
        return not self.marks_known or self.marks.loss_epoch is not None

    def recorded_link(self) -> OpenLink | None:
        """Return the open link that the record names."""
        return self.links.get(self.record.link_id) if self.record.link_id is not None else None

    def show(self, progress: Progress, *, at_ms: int) -> None:
        """Take what a start or a close told of itself, and how fast it moves."""
        self.progress = progress
        self.rate = told(
            self.rate,
            stage=progress.stage,
            unit=progress.unit,
            done=progress.done,
            total=progress.total,
            at_ms=at_ms,
        )


class Sessions:
    """The open sessions of this node."""

    def __init__(self, *, parts: Parts, node: Node) -> None:
        self._parts = parts
        self._node = node
        self._lives: dict[SessionId, Live] = {}
        self._closed: dict[SessionId, None] = {}
        """Sessions that this life saw closed, oldest first: a list read before that must not revive one."""
        self._listeners: list[Listener] = []
        self._log = get_logger()

    def listen(self, listener: Listener) -> None:
        """Call `listener(live, effects)` after each change of a record; effects are empty after a fresh
        read.
        """
        self._listeners.append(listener)

    # -- finding --------------------------------------------------------------------------------------

    def all(self) -> list[Live]:
        """Return all open sessions, in the order in which memory took them in."""
        return list(self._lives.values())

    def find(self, session_id: str) -> Live | None:
        """Return an open session that memory has."""
        return self._lives.get(SessionId(session_id))

    def find_desktop(self, workspace_id: str, fence: int) -> Live | None:
        """Return the open session that a desktop serves: by workspace and fence, since a returned one changed
        its session.
        """
        for live in self.all():
            if live.record.workspace_id == workspace_id and live.record.fence == fence:
                return live
        return None

    def attached_link(self, live: Live) -> OpenLink | None:
        """Return the open link that the record names, after links were forgotten whose end was never told."""
        self.prune(live)
        return live.recorded_link()

    def prune(self, live: Live) -> None:
        """Forget links that are silent: not answered and not asking, or answered and not open at their
        gateway.
        """
        gone_ms = self._parts.clock.monotonic_ms() - round(limits.LINK_SILENT_S * 1000)
        open_links = self._parts.streams.links(live.record.id)
        for link in list(live.links.values()):
            waits = link.asking or not link.recorded or link.seen_mono_ms > gone_ms
            if not waits and not (link.answered and link.id in open_links):
                del live.links[link.id]

    async def get(self, session_id: str) -> Live:
        """Return an open session of this node, read from the registry when memory does not have it.

        Raises:
            NotFound: no such session, closed, or another node's.
        """
        live = self.find(session_id)
        if live is not None:
            return live
        record = await self._parts.registry.session(SessionId(session_id))
        if record is None or record.state is State.CLOSED or record.node_id != self._node.id:
            raise NotFound()
        return await self.load(record)

    async def load(self, record: Session) -> Live:
        """Join an open record with its lease, workspace and desktop; the record that memory has already
        stays.

        Raises:
            NotFound: it was closed since it was read.
        """
        registry = self._parts.registry
        known = self.find(record.id)
        if known is not None:
            return known
        workspace = await registry.workspace(record.workspace_id)
        lease = await registry.lease(record.workspace_id)
        user = await registry.user(record.user_id)
        desktop = await registry.desktop(record.workspace_id, record.fence)
        known = self.find(record.id)
        if known is not None:
            return known
        if record.id in self._closed:
            raise NotFound()
        assert workspace is not None, "a session without a workspace"
        assert lease is not None, "a session without a lease"
        live = Live(
            record=record,
            lease=lease,
            workspace=WorkspaceName(tenant_id=workspace.tenant_id, workspace_id=workspace.id),
            workspace_name=workspace.name,
            user_name=user.name if user is not None else "",
            handle=msgspec.json.decode(desktop.handle, type=Handle) if desktop is not None else None,
            marks_known=record.state not in (State.ACTIVE, State.HELD),
        )
        self.add(live)
        return live

    def add(self, live: Live) -> None:
        """Take a session into memory."""
        self._lives[live.record.id] = live
        self._tell(live, ())

    async def refresh(self, live: Live) -> None:
        """Read record and lease again; what memory believed is replaced."""
        registry = self._parts.registry
        while True:
            before = (live.record, live.lease)
            record = await registry.session(live.record.id)
            lease = await registry.lease(live.record.workspace_id)
            if before == (live.record, live.lease):
                break  # else a commit of ours came in between, and what was read may be older than it
        if lease is not None:
            live.lease = lease
        if record is None:
            # The registry was restored to before this session: the reconciler adopts the desktop anew.
            self.forget(live)
            raise NotFound()
        if record != live.record:
            live.record = record
            self._tell(live, ())

    async def agree(self, records: Sequence[Session]) -> list[Live]:
        """Make memory know what the registry says: new records, changed ones, and those that are not open any
        more.

        Args:
            records: every open record of this node, read after the last change that memory knows of or in
            between.
        """
        before = self.all()
        lives: list[Live] = []
        for record in records:
            try:
                live = await self.load(record)
            except NotFound:
                continue
            if live.record.generation < record.generation:
                await self.refresh(live)
            lives.append(live)
        named = {record.id for record in records}
        for live in before:
            if live.record.id not in named and self.find(live.record.id) is live:
                await self.refresh(live)
        return lives

    def forget(self, live: Live) -> None:
        """Take a session out of memory."""
        self._lives.pop(live.record.id, None)
        if live.record.state is State.CLOSED:
            self._closed[live.record.id] = None
            while len(self._closed) > limits.CLOSED_REMEMBERED_MAX:
                del self._closed[next(iter(self._closed))]

    # -- changing -------------------------------------------------------------------------------------

    async def move(
        self,
        live: Live,
        event: Event,
        facts: FactsOf,
        *,
        rank: Rank = Rank.STEP,
        also: Also | None = None,
        lease: LeaseOf | None = None,
        guards: tuple[Guard, ...] = (),
        effect_args: bytes = b"{}",
    ) -> Step:
        """Let an event happen: step, commit by compare-and-set, and again from a fresh record when somebody
        else was first.

        Args:
            facts: called with the record for each try, so that counters are read when the transaction is
            built.
            also: more writes of the same transaction.
            lease: the lease's change in the same transaction.

        Raises:
            TransitionRefused: the table refuses it now; nothing changed.
            Conflict: something beside the record stood against it (a ticket, a counter); nothing changed.
            RegistryUnavailable: nothing is known to have changed; the next move reads the record first.
        """
        for _ in range(limits.COMMIT_TRIES_MAX):
            before = live.record
            done = step(before, event, facts(before))
            unit = self._unit(live, before, done, rank, also, lease, guards, effect_args)
            seen = (before.generation, live.lease.generation)
            try:
                await self._parts.registry.commit(unit)
            except Conflict:
                await self.refresh(live)
                if (live.record.generation, live.lease.generation) == seen:
                    raise
                continue
            except RegistryUnavailable:
                if not await self._landed(done.session):
                    raise
            self._keep(live, done, unit)
            return done
        raise Conflict(session_id=live.record.id)

    def _unit(
        self,
        live: Live,
        before: Session,
        done: Step,
        rank: Rank,
        also: Also | None,
        lease: LeaseOf | None,
        guards: tuple[Guard, ...],
        effect_args: bytes,
    ) -> Unit:
        own: list[Guard] = [
            SessionIs(session_id=before.id, generation=before.generation, loss_epoch=before.loss_epoch),
            LeaseIs(workspace_id=before.workspace_id, node_id=self._node.id, fence=before.fence),
            EpochIs(epoch=self._node.epoch),
        ]
        writes: list[Write] = [PutSession(session=done.session, expected=before.generation)]
        after_lease = lease(live.lease) if lease is not None else None
        if done.session.state is State.CLOSED and after_lease is None:
            after_lease = replace(live.lease, session_id=None)
        if after_lease is not None:
            after_lease = replace(after_lease, generation=live.lease.generation + 1)
            writes.append(PutLease(lease=after_lease, expected=live.lease.generation))
        writes += self._effect_rows(before, done, effect_args)
        writes += also(done) if also is not None else ()
        return Unit(rank=rank, guards=(*own, *guards), writes=tuple(writes), audit=(done.audit,))

    def _effect_rows(self, before: Session, done: Step, args: bytes) -> list[Write]:
        """A thaw is owed only by what a close had frozen; elsewhere the reconciler finds a frozen desktop."""
        return [
            AddEffect(
                effect=EffectRecord(
                    id=EffectId(self._parts.ids.ulid()),
                    session_id=done.session.id,
                    generation=done.session.generation,
                    kind=effect.value,
                    args=args,
                )
            )
            for effect in done.effects
            if effect in DURABLE_EFFECTS and (effect is not Effect.THAW or before.state is State.CLOSING)
        ]

    async def _landed(self, meant: Session) -> bool:
        """The answer is unknown: the row says whether it was ours. Raises RegistryUnavailable when it cannot
        be read.
        """
        return await self._parts.registry.session(meant.id) == meant

    def _keep(self, live: Live, done: Step, unit: Unit) -> None:
        if done.session.generation > live.record.generation:
            live.record = done.session
        for write in unit.writes:
            if isinstance(write, PutLease) and write.lease.generation > live.lease.generation:
                live.lease = write.lease
        self._log_step(done)
        self._tell(live, done.effects)

    def _log_step(self, done: Step) -> None:
        record = done.session
        self._log.info(
            "session.changed",
            kind=done.audit.kind,
            session_id=record.id,
            state=record.state.value,
            generation=record.generation,
            **{name: value for name, value in done.audit.facts if name in ("cause", "step", "outcome")},
        )

    def wake_all(self) -> None:
        """Something that many wait for is back: nobody sits out the rest of a pause."""
        for live in self._lives.values():
            live.woken.set()

    def tell(self, live: Live) -> None:
        """Something that is shown of a session changed without its record."""
        self._tell(live, ())

    def _tell(self, live: Live, effects: tuple[Effect, ...]) -> None:
        changed, live.changed = live.changed, asyncio.Event()
        changed.set()
        for listener in self._listeners:
            listener(live, effects)

    async def put_lease(self, live: Live, change: LeaseOf) -> None:
        """Change the lease alone (what was saved), under its own compare-and-set.

        Raises:
            Conflict: the lease is not this session's any more.
            RegistryUnavailable: the next save writes it.
        """
        for _ in range(limits.COMMIT_TRIES_MAX):
            before = live.lease
            if before.fence != live.record.fence or before.session_id != live.record.id:
                raise Conflict(workspace_id=live.record.workspace_id)
            after = change(before)
            if after is None:
                return
            after = replace(after, generation=before.generation + 1)
            unit = Unit(writes=(PutLease(lease=after, expected=before.generation),))
            try:
                await self._parts.registry.commit(unit)
            except Conflict:
                await self.refresh(live)
                continue
            except RegistryUnavailable:
                if await self._parts.registry.lease(live.record.workspace_id) != after:
                    raise
            if after.generation > live.lease.generation:
                live.lease = after
            self._tell(live, ())
            return
        raise Conflict(workspace_id=live.record.workspace_id)
