"""The checkers: what must be true of every commit, every launch and every end, by the invariants' names.

Not assertions of the product: these look from outside, at the registry's rows, the machine and the log, past
every fault.
"""

from dataclasses import dataclass, field

from session_service.core.records import CloseCause, Outcome, Session, State
from session_service.ports.streams import Attachment, LinkRefusal
from tests.sim.world import World

TOLERANCE_MS = 1_500
"""Latency of calls between a link's end and the reading of its base, and stalls too short to be noticed."""

SAVED_OUTCOMES = frozenset(
    {Outcome.SAVED, Outcome.ENDED_BY_USER, Outcome.ENDED_BY_OPERATOR, Outcome.SAVED_AFTER_DEATH}
)


@dataclass
class Witness:
    """Looks at every commit."""

    world: World
    violations: list[str] = field(default_factory=list)
    rows: dict[str, Session] = field(default_factory=dict)
    history: dict[tuple[str, int], Session] = field(default_factory=dict)
    lost_at: dict[tuple[str, int], float] = field(default_factory=dict)
    ends: dict[tuple[str, int, int], list[str]] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    """Witnesses that a run was not vacuous: what happened how often."""

    def __post_init__(self) -> None:
        self.world.on_commit.append(self.committed)

    def say(self, words: str) -> None:
        self.violations.append(f"{self.world.time.monotonic_ms()} {words}")

    def count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def committed(self, row: Session) -> None:
        before = self.rows.get(row.id)
        if before is not None and row.generation <= before.generation:
            return  # told twice: the answer was lost and the row was read
        self.rows[row.id] = row
        self.history[row.id, row.generation] = row
        if row.fence < self.fences.get(row.workspace_id, 0):
            self.say(f"S4: fence of {row.workspace_id} moved back")
        self.fences[row.workspace_id] = max(row.fence, self.fences.get(row.workspace_id, 0))
        self._one_open(row)
        if row.state is State.HELD and (before is None or before.loss_epoch != row.loss_epoch):
            self._lost(before, row)
        if before is not None and before.state is State.HELD and row.state is not State.HELD:
            self._hold_ended(before, row)
        if row.state is State.CLOSED:
            self._closed(row)

    def _one_open(self, row: Session) -> None:
        if row.state is State.CLOSED:
            return
        others = [
            one.id
            for one in self.world.rows()
            if one.workspace_id == row.workspace_id and one.state is not State.CLOSED and one.id != row.id
        ]
        if others:
            self.say(f"S8: two open sessions of {row.workspace_id}")

    def _lost(self, before: Session | None, row: Session) -> None:
        self.count(f"lost: {row.loss_cause}")
        link = before.link_id if before is not None else None
        ended = self.world.link_ended.get(link, self.world.available_ms) if link else self.world.available_ms
        self.lost_at[row.id, row.loss_epoch] = ended

    def _hold_ended(self, before: Session, row: Session) -> None:
        key = (row.id, before.loss_epoch, self.world.epoch())
        how = "resumed" if row.state is State.ACTIVE else f"closing: {row.close_cause}"
        self.count(how)
        if row.state is State.ACTIVE or row.close_cause is CloseCause.HOLD:
            self.ends.setdefault(key, []).append(how)
        if len(self.ends.get(key, ())) > 1:
            self.say(f"S7: {key} ended as {self.ends[key]}")
        if row.close_cause is CloseCause.HOLD and row.state is State.CLOSING:
            assert before.hold is not None
            available_ms = self.world.available_ms - self.lost_at[row.id, before.loss_epoch]
            seen_ms = self.world.available_ms - self.world.last_seen.get(row.id, 0.0)
            waited_ms = min(available_ms, seen_ms)
            if waited_ms < before.hold.left_ms - TOLERANCE_MS:
                self.say(f"S5: {row.id} expired after {waited_ms:.0f} of {before.hold.left_ms} ms")

    def _closed(self, row: Session) -> None:
        self.count(f"closed: {row.outcome}")
        if row.outcome not in SAVED_OUTCOMES or row.c2 is None:
            return
        content = self.world.repository.content_of(row.workspace_id, row.c2.seq, row.c2.hash)
        if content is None:
            self.say(f"S1: {row.id} is closed and its last checkpoint is not in the log")
        infos = [entry.info for entry in self.world.repository.logs.get(row.workspace_id, [])]
        whole = any(info is not None and info.seq == row.c2.seq and info.complete for info in infos)
        if not whole and not row.accepted_paths:
            self.say(f"S1: {row.id} is closed with files that nobody could read and nobody accepted")
        if (row.workspace_id, row.fence) in self.world.machine.homes:
            self.say(f"S1: {row.id} is closed and its home is there")

    # -- answers --------------------------------------------------------------------------------------

    def answered(
        self, session_id: str, link_id: str, answer: Attachment | LinkRefusal, open_links: tuple[str, ...]
    ) -> None:
        """S6, S11: who is told something about a hold is told the truth, after the commit."""
        row = self.world.row(session_id)
        assert row is not None
        if isinstance(answer, Attachment):
            self.count("attached")
            written = self.history.get((session_id, answer.generation))
            if written is None:
                self.say(
                    f"S6: {session_id} is told of generation {answer.generation}, which was never written"
                )
            elif written.link_id != link_id:
                self.say(f"S12: {session_id} is attached and the record names another link")
            if len(open_links) > 1:
                self.say(f"S12: {session_id} has {len(open_links)} control links")
            return
        self.count(f"refused: {answer.code}")
        if answer.code in (4410, 4423, 4480) and row.state in (State.ACTIVE, State.HELD, State.STARTING):
            self.say(f"S6: {session_id} is {row.state} and its user is told {answer.why}")

    # -- the end --------------------------------------------------------------------------------------

    def quiet(self) -> None:
        """After faults ended and nobody came back: everything is closed, nothing is lost."""
        for row in self.world.rows():
            if row.state is not State.CLOSED:
                self.say(f"liveness: {row.id} is {row.state} at {row.close_step}")
        if self.world.machine.running():
            self.say("liveness: a desktop runs and no session is open")
        for key, home in self.world.machine.homes.items():
            if key not in self.world.machine.desktops:
                self.count("litter")  # restored, and its start was forgotten before anything ran in it
                continue
            self.say(f"liveness: the home of {key} is still there with {len(home.writes)} writes")

        for workspace_id, written in sorted(self.world.machine.written.items()):
            newest = self.world.repository.newest(workspace_id)
            missing = written - (newest.content if newest is not None else frozenset())
            if missing:
                self.say(f"S10: {sorted(missing)[:5]} of {workspace_id} are not in the newest checkpoint")

    def restored(self) -> None:
        """The registry is an older one now: what it says is what there is."""
        self.rows = {row.id: row for row in self.world.rows()}
        self.fences.clear()

    def all_violations(self) -> list[str]:
        return self.violations + self.world.machine.violations
