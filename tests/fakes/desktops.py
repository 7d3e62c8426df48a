"""Desktops without processes: a machine that remembers what ran, what was frozen and what each home holds.

Stricter than reality: ending or wiping what is not saved is written down as a violation with the invariant's
name. A home is a set of numbered writes. The machine outlives the service, as real desktops do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from session_service.base.errors import (
    DesktopGone,
    DesktopStartFailed,
    FreezeFailed,
    PartUnavailable,
    ProofRequired,
    SessionError,
)
from session_service.ports.desktops import (
    AskReport,
    DesktopSpec,
    EndProof,
    FreezeReceipt,
    Handle,
    LaunchResult,
    ObservedDesktop,
    Presence,
)

Key = tuple[str, int]


@dataclass(slots=True)
class Home:
    """What lies in one home folder."""

    writes: set[int] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)


@dataclass(slots=True)
class FakeDesktop:
    """One launched desktop."""

    handle: Handle
    user_id: str
    registry_epoch: int
    running: bool = True
    frozen: bool = False
    ready: bool = True
    at_freeze: frozenset[int] = frozenset()
    """What the home held when everything was frozen last."""
    thawed_since: bool = False
    marks: tuple[int | None, int | None] = (None, None)
    """The loss that a resume ended, and the grant that was withdrawn, while the registry was away."""


class Machine:
    """A `ports.desktops.DesktopProvider` and the disk under it."""

    def __init__(self, *, boot_id: str = "boot-1") -> None:
        self.boot_id = boot_id
        self.homes: dict[Key, Home] = {}
        self.written: dict[str, set[int]] = {}
        self.seeds: list[frozenset[int]] = []
        self.desktops: dict[Key, FakeDesktop] = {}
        self.violations: list[str] = []
        self.away = False
        self.launch_failures = 0
        self.launch_refused: SessionError | None = None
        self.offered = frozenset({"bare", "openbox"})
        self.freeze_failures = 0
        self.launches = 0
        self.calls: list[str] = []
        self.exit_handler: Callable[[FakeDesktop, Home], None] | None = None
        self.may_destroy: Callable[[str, Handle], str] = lambda verb, handle: ""
        self.saved_in: Callable[[str, int, bytes], frozenset[int] | None] = lambda workspace, seq, hash_: None
        self.proof_secret = b"worker"
        self._on_exit: Callable[[Handle, str], None] | None = None
        self._next_write = 0

    # -- what a test does to it -----------------------------------------------------------------------

    def running(self) -> list[FakeDesktop]:
        return [one for one in self.desktops.values() if one.running]

    def desktop_of(self, workspace_id: str) -> FakeDesktop | None:
        found = [one for one in self.running() if one.handle.workspace_id == workspace_id]
        return found[-1] if found else None

    def write(self, desktop: FakeDesktop, *, past_freezer: bool = False) -> int | None:
        """An application writes; frozen ones cannot, except past the freezer."""
        key = (desktop.handle.workspace_id, desktop.handle.fence)
        if key not in self.homes or not desktop.running or (desktop.frozen and not past_freezer):
            return None
        self._next_write += 1
        self.homes[key].writes.add(self._next_write)
        self.written.setdefault(desktop.handle.workspace_id, set()).add(self._next_write)
        return self._next_write

    def die(self, desktop: FakeDesktop, words: str = "gone") -> None:
        """The processes end by themselves."""
        desktop.running = False
        desktop.frozen = False
        if self._on_exit is not None:
            self._on_exit(desktop.handle, words)

    def forget_listener(self) -> None:
        """The service died: nobody listens."""
        self._on_exit = None

    def reboot(self) -> None:
        """Everything that ran is gone; homes stay."""
        self.boot_id += "+"
        for one in self.desktops.values():
            one.running = False
            one.frozen = False

    # -- the port -------------------------------------------------------------------------------------

    def _reach(self, call: str) -> None:
        self.calls.append(call)
        if self.away:
            raise PartUnavailable("The host is away.")

    async def owner(self, *, workspace_id: str, fence: int) -> tuple[int, int] | None:
        self._reach("owner")
        return None

    async def templates(self) -> frozenset[str]:
        self._reach("templates")
        return self.offered

    async def launch(self, spec: DesktopSpec) -> LaunchResult:
        self._reach("launch")
        key = (spec.workspace_id, spec.fence)
        there = self.desktops.get(key)
        if there is not None and there.running:
            return LaunchResult(handle=there.handle, ready_ms=1, adopted=True)
        for other in self.running():
            if other.handle.workspace_id == spec.workspace_id:
                self.violations.append(
                    f"S8: two desktops of {spec.workspace_id}: {other.handle.fence}, {spec.fence}"
                )
        assert key in self.homes, "launch without a home"
        if self.launch_refused is not None:
            raise self.launch_refused
        self.launches += 1
        handle = self._handle(spec)
        if self.launch_failures > 0:
            self.launch_failures -= 1
            desktop = FakeDesktop(handle, spec.user_id, spec.registry_epoch, running=False, ready=False)
            self.desktops[key] = desktop
            raise DesktopStartFailed("last words")
        self.desktops[key] = FakeDesktop(handle, spec.user_id, spec.registry_epoch)
        return LaunchResult(handle=handle, ready_ms=1)

    def _handle(self, spec: DesktopSpec) -> Handle:
        return Handle(
            provider="fake",
            session_id=spec.session_id,
            workspace_id=spec.workspace_id,
            fence=spec.fence,
            pid=1000 + self.launches,
            start_time=self.launches,
            boot_id=self.boot_id,
            uid=1000,
            home=spec.home,
            run_folder="/run/fake",
            socket=f"/run/fake/{self.launches}.sock",
        )

    def _observed(self, key: Key, one: FakeDesktop) -> ObservedDesktop:
        if one.running:
            presence = Presence.RUNNING
        else:
            presence = Presence.PROCESSES_ENDED if key in self.homes else Presence.ABSENT
        return ObservedDesktop(
            handle=one.handle,
            presence=presence,
            frozen=one.frozen,
            user_id=one.user_id,
            registry_epoch=one.registry_epoch,
            provisional_loss_epoch=one.marks[0],
            revoked_grant=one.marks[1],
        )

    async def census(self) -> list[ObservedDesktop]:
        self._reach("census")
        found = [self._observed(key, one) for key, one in self.desktops.items()]
        return found + [self._alone(key) for key in self.homes if key not in self.desktops]

    def _alone(self, key: Key) -> ObservedDesktop:
        handle = Handle(
            provider="fake",
            session_id="",
            workspace_id=key[0],
            fence=key[1],
            pid=0,
            start_time=0,
            boot_id="",
            uid=1000,
            home=f"/homes/{key[0]}/{key[1]}",
            run_folder="",
            socket="",
        )
        return ObservedDesktop(handle=handle, presence=Presence.PROCESSES_ENDED)

    async def observe(self, handle: Handle) -> ObservedDesktop:
        self._reach("observe")
        key = (handle.workspace_id, handle.fence)
        one = self.desktops.get(key)
        if one is None:
            presence = Presence.PROCESSES_ENDED if key in self.homes else Presence.ABSENT
            return ObservedDesktop(handle=handle, presence=presence)
        return self._observed(key, one)

    def _running(self, handle: Handle) -> FakeDesktop:
        one = self.desktops.get((handle.workspace_id, handle.fence))
        if one is None or not one.running:
            raise DesktopGone()
        return one

    async def freeze(self, handle: Handle, *, applications_only: bool = False) -> FreezeReceipt:
        self._reach("freeze")
        one = self._running(handle)
        if self.freeze_failures > 0:
            self.freeze_failures -= 1
            raise FreezeFailed("process 7 does not stop")
        if not one.frozen:
            one.frozen = True
            one.at_freeze = frozenset(self.homes[handle.workspace_id, handle.fence].writes)
        return FreezeReceipt(method="fake", processes=3, display_running=applications_only)

    async def thaw(self, handle: Handle) -> None:
        self._reach("thaw")
        one = self.desktops.get((handle.workspace_id, handle.fence))
        if one is not None and one.running:
            one.frozen = False

    async def ask_close(self, handle: Handle, *, hook: bool) -> AskReport:
        self._reach("ask_close")
        one = self._running(handle)
        if not one.frozen:
            self.write(one)
            home = self.homes[handle.workspace_id, handle.fence]
            if self.exit_handler is not None:
                self.exit_handler(one, home)
        return AskReport(hook="done" if hook else "none", remaining_processes=2)

    async def end(self, handle: Handle, proof: EndProof) -> None:
        self._reach("end")
        key = (handle.workspace_id, handle.fence)
        one = self.desktops.get(key)
        self._must_prove(proof, "verified", handle)
        if one is None or not one.running:
            return
        if why := self.may_destroy("end", handle):
            self.violations.append(why)
        if not one.frozen:
            self.violations.append(f"S2: {key} runs when it is ended")
        content = self.saved_in(handle.workspace_id, proof.seq, proof.hash)
        if content is None or not one.at_freeze <= content:
            self.violations.append(
                f"S1: {key} is ended, its checkpoint {proof.seq} lacks bytes before the freeze"
            )
        one.running = False
        one.frozen = False

    async def wipe(self, handle: Handle, proof: EndProof) -> None:
        self._reach("wipe")
        key = (handle.workspace_id, handle.fence)
        self._must_prove(proof, "same", handle)
        if key not in self.homes:
            self.desktops.pop(key, None)
            return
        if why := self.may_destroy("wipe", handle):
            self.violations.append(why)
        one = self.desktops.get(key)
        if one is not None and one.running:
            self.violations.append(f"S1: the home of {key} is wiped under a running desktop")
        self._must_hold(key, handle, proof)
        self.seeds.append(frozenset(self.homes.pop(key).writes))
        self.desktops.pop(key, None)

    def _must_hold(self, key: Key, handle: Handle, proof: EndProof) -> None:
        content = self.saved_in(handle.workspace_id, proof.seq, proof.hash)
        home = frozenset(self.homes[key].writes)
        if content is None or not home <= content:
            self.violations.append(f"S1: the home of {key} is wiped and {proof.seq} does not hold it")

    def _must_prove(self, proof: EndProof, kind: str, handle: Handle) -> None:
        right = (proof.kind, proof.session_id, proof.fence, proof.home) == (
            kind,
            handle.session_id,
            handle.fence,
            handle.home,
        )
        if not right or proof.seal != self.proof_secret:
            raise ProofRequired()

    async def discard(self, handle: Handle) -> None:
        self._reach("discard")
        key = (handle.workspace_id, handle.fence)
        one = self.desktops.get(key)
        if one is not None and one.ready:
            raise ProofRequired()
        if one is None and key in self.homes and self.homes[key].writes:
            return  # what it holds may be its user's
        self.desktops.pop(key, None)
        self.homes.pop(key, None)

    async def mark(
        self, handle: Handle, *, provisional_loss_epoch: int | None, revoked_grant: int | None = None
    ) -> None:
        self._reach("mark")
        one = self._running(handle)
        one.marks = (provisional_loss_epoch, revoked_grant)

    def on_exit(self, callback: Callable[[Handle, str], None]) -> None:
        self._on_exit = callback

    async def last_words(self, handle: Handle) -> str:
        self._reach("last_words")
        return "last words"
