"""The contract of whatever runs desktops: launch, find again, freeze, ask, end.

Not scheduling and not the lifecycle. The local provider speaks to the privileged host process; containers
and Kubernetes follow
behind the same suite (`tests/contract/test_desktops.py`). Every call may be repeated; "already so" is
success.
Structs are msgspec because they travel between processes as they are.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from session_service.base.errors import BadInput

SCREEN_MIN: Final = (320, 200)
SCREEN_MAX: Final = (7680, 4320)
"""Width and height of a new desktop's screen, in pixels."""
TEMPLATE_FORM: Final = r"[a-z][a-z0-9-]{0,31}"
KEYBOARD_LAYOUT_FORM: Final = (
    r"[a-z]{2,12}(\([A-Za-z0-9_-]{1,32}\))?(,[a-z]{2,12}(\([A-Za-z0-9_-]{1,32}\))?){0,3}"
)
"""As setxkbmap takes them: `de`, `ch(fr)`, `us,de(nodeadkeys)`."""
TIME_ZONE_FORM: Final = r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}"
"""Regular expressions of the whole value. Who asks is refused by them at once, and the launch looks again."""


def no_template(name: str, offered: Iterable[str]) -> BadInput:
    """Return the error for a template that is not there; it says which are."""
    names = ", ".join(sorted(offered))
    return BadInput(
        f"There is no template {name!r} here; there are: {names}.", field="template", templates=names
    )


class DesktopSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to launch. `home` must exist (restored by the worker); `owner` is its uid and gid, None = our
    own user.
    """

    session_id: str
    workspace_id: str
    user_id: str
    fence: int
    registry_epoch: int
    home: str
    template: str = "openbox"
    geometry: tuple[int, int] = (1280, 800)
    keyboard_layout: str = ""
    locale: str = ""
    time_zone: str = ""
    title: str = ""
    """Shown in the panel or as host name; letters, digits and dashes."""
    memory_mb_max: int = 4096
    cpus_max: float = 2.0
    processes_max: int = 2000
    network: str = "isolated"
    """isolated (own namespace, outside reachable, host and private ranges not), none, or host (explicit
    choice).
    """


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """How a desktop is found again after a restart. Plain JSON in the registry; every number is checked
    before use.
    """

    provider: str
    session_id: str
    workspace_id: str
    fence: int
    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat of `pid`, the sandbox's outermost process."""
    boot_id: str
    uid: int
    home: str
    run_folder: str
    socket: str
    """The RFB unix socket, inside `run_folder`; untrusted: open it as design.md section 3 says."""
    cgroup: str = ""
    network: str = "isolated"
    """What the network really became; shown on the page when it is `none`."""
    template: str = "openbox"


class Presence(StrEnum):
    """What a look at the machine found for one desktop."""

    RUNNING = "running"
    PROCESSES_ENDED = "processes_ended"
    """No process is left but the home folder is there."""
    ABSENT = "absent"


class ObservedDesktop(msgspec.Struct, frozen=True, kw_only=True):
    """One desktop as the host finds it, by its state file and by census; independent of the registry."""

    handle: Handle
    presence: Presence
    frozen: bool = False
    user_id: str = ""
    registry_epoch: int = 0
    provisional_loss_epoch: int | None = None
    """The loss that a resume ended while the registry was away; None when there is nothing to settle."""
    revoked_grant: int | None = None
    """Keys up to this grant were withdrawn while the registry was away."""
    processes: int = 0
    memory_bytes: int | None = None


class LaunchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A desktop that answered: inputs up, window manager there, RFB banner read."""

    handle: Handle
    ready_ms: int
    adopted: bool = False
    """True when a desktop of this session and fence was running already (idempotent launch)."""
    limits: tuple[str, ...] = ()
    """Limits that could not be set here, by name (memory, cpu, processes, network), shown by doctor and
    on the page.
    """


class FreezeReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """Proof that nothing of the desktop runs: the method and how many processes were seen, twice the same."""

    method: str
    """cgroup2, cgroup1 or sigstop."""
    processes: int
    display_running: bool
    """True when only the applications were frozen and the X server goes on (viewers see the last picture)."""


class AskReport(msgspec.Struct, frozen=True, kw_only=True):
    """What asking the applications brought: hook result, windows that stayed, whether all processes went."""

    hook: str
    """none, done, failed, timed_out."""
    refused_windows: tuple[str, ...] = ()
    remaining_processes: int = 0


class EndProof(msgspec.Struct, frozen=True, kw_only=True):
    """Why a desktop may be ended or its home wiped. Only the storage worker can seal one; the host checks
    the seal.

    kind: "verified" (ending: checkpoint seq/hash of this workspace holds everything, was read back) or
    "same" (wiping:
    the home as it lies equals that checkpoint and the log still holds it). seal = keyed BLAKE3 under the
    key that only
    worker and host have, over the canonical msgpack of the other fields.
    """

    kind: str
    workspace_id: str
    session_id: str
    fence: int
    seq: int
    hash: bytes
    home: str
    made_at_boot_ms: int
    seal: bytes


class DesktopProvider(Protocol):
    """All calls raise PartUnavailable when the host is away; none may be given up for it: repeat."""

    async def owner(self, *, workspace_id: str, fence: int) -> tuple[int, int] | None:
        """Return the uid and gid that the desktop of (workspace, fence) has or will have; None = our own
        user.
        """
        ...

    async def templates(self) -> frozenset[str]:
        """Return the names of what a desktop can be made from on this machine now."""
        ...

    async def launch(self, spec: DesktopSpec) -> LaunchResult:
        """Start the desktop, or find the one of this session and fence.

        Raises: DesktopStartFailed (with last words), SandboxImpossible, NoRoom.
        """
        ...

    async def census(self) -> list[ObservedDesktop]:
        """Look at the whole machine: state files, processes and homes. The base of adoption and of every
        "absent". A home whose desktop nobody remembers has a handle without a session id.
        """
        ...

    async def observe(self, handle: Handle) -> ObservedDesktop:
        """Look at one desktop."""
        ...

    async def freeze(self, handle: Handle, *, applications_only: bool = False) -> FreezeReceipt:
        """Freeze everything (or only the applications) and prove it. Raises FreezeFailed, DesktopGone."""
        ...

    async def thaw(self, handle: Handle) -> None:
        """Let everything run again; gone or running is done."""
        ...

    async def ask_close(self, handle: Handle, *, hook: bool) -> AskReport:
        """Run the user's hook (if `hook`), ask every window to close, HUP and TERM, each with its limit."""
        ...

    async def end(self, handle: Handle, proof: EndProof) -> None:
        """End every process of the desktop as a whole; returns when none is left. Raises ProofRequired."""
        ...

    async def wipe(self, handle: Handle, proof: EndProof) -> None:
        """Move the home to the seed area and forget the desktop's files. Raises ProofRequired."""
        ...

    async def discard(self, handle: Handle) -> None:
        """End and remove a desktop that never became active: state file says it never was ready. Refuses
        others. Of one without a state file an empty home is removed; one that holds anything stays.
        """
        ...

    async def mark(
        self, handle: Handle, *, provisional_loss_epoch: int | None, revoked_grant: int | None = None
    ) -> None:
        """Write the marks into the state file, fsynced, before a provisional resume or revocation; both
        None clears them.
        """
        ...

    def on_exit(self, callback: Callable[[Handle, str], None]) -> None:
        """Call `callback(handle, last_words)` when a running desktop's processes end, whoever ended them."""
        ...

    async def last_words(self, handle: Handle) -> str:
        """Return the end of the desktop's own log, cleaned and capped."""
        ...
