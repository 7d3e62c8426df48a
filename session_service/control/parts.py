"""Everything control sees of the world: clock, ids, registry, desktops, checkpoints and streams, and nothing
else.

Not a container: `app` builds it once, top to bottom. On a deterministic loop a test gives fakes for all six.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from session_service.core.policy import DEFAULT, Policy
from session_service.ports.checkpoints import Checkpoints
from session_service.ports.clock import Clock, Ids
from session_service.ports.desktops import DesktopProvider
from session_service.ports.pictures import Pictures
from session_service.ports.registry import Registry
from session_service.ports.replication import SecondCopies
from session_service.ports.streams import PlannedPause, Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Who this node is: an id that is kept on its disk, this boot, and where its users reach it."""

    id: str
    boot_id: str
    address: str = ""
    cores: int = 1


def _room_for_all() -> None:
    """Admit everybody; `app` gives a check of memory and disk that raises NoRoom."""


def _disk_for_all() -> tuple[int, int]:
    """Nothing needs to stay free; `app` gives what is free in the state folder, and what must stay so."""
    return 0, 0


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What `app` knows about the machine: `room` raises NoRoom, `accepting` says whether users could reach us
    now, `disk` returns the MiB that are free where homes lie and those that must stay free.
    """

    room: Callable[[], None] = _room_for_all
    accepting: Callable[[], bool] = _always
    disk: Callable[[], tuple[int, int]] = _disk_for_all


class StreamsPlace:
    """Where the gateway is put once it exists: it is built with control's `attachments`, so control comes
    first.
    """

    def __init__(self) -> None:
        self._streams: Streams | None = None

    def put(self, streams: Streams) -> None:
        """Take the gateway."""
        self._streams = streams

    def close_link(self, session_id: str, link_id: str, *, code: int, why: str, by: str = "") -> None:
        """End one link with a code; without a gateway there is none."""
        if self._streams is not None:
            self._streams.close_link(session_id, link_id, code=code, why=why, by=by)

    def links(self, session_id: str) -> tuple[str, ...]:
        """Return the ids of the links that are open now."""
        return () if self._streams is None else self._streams.links(session_id)

    def announce(self, pause: PlannedPause | None) -> None:
        """Tell every link of a planned pause; None takes it back."""
        if self._streams is not None:
            self._streams.announce(pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The six ports, the policy that applies, and what the machine allows."""

    clock: Clock
    ids: Ids
    registry: Registry
    desktops: DesktopProvider
    checkpoints: Checkpoints
    streams: StreamsPlace
    policy: Policy = DEFAULT
    admission: Admission = Admission()
    pictures: Pictures | None = None
    """Takes pictures of desktops for their users; None: nobody is shown any."""
    second: SecondCopies | None = None
    """The second store, if there is one."""
    second_required: bool = False
    """Whether a close waits until its last checkpoint stands on the second store, too."""
    workers: int = 2
    """Processes that save and restore, one home at a time each."""
    upload_bytes_per_s: float | None = None
    """What all of them together may send to the store; None: as much as the line carries."""
    upkeep: bool = False
    """Whether logs are tidied once an hour: forgetting by policy, collecting, folding."""
    resume_secret: bytes = field(default=b"", repr=False)
    """What the keys of resumable streams are derived from; empty: one of this run, so that a restart asks
    every page for a new ticket.
    """
