"""One case's side of the wire: what a client was told, what it said, and every rule that it broke.

Not a server (`server.py`) and no script (`cases_*.py`): this answers first messages, keeps the stream, and
looks at each message of the client with the same core that the service uses. A broken rule is a *fault*, and
one fault makes its case red, whatever else went well.
"""

import asyncio
import json
import secrets
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from session_service.conformance import rules
from session_service.conformance.doors import ENDED, OPEN, Door
from session_service.conformance.player import Player, Torn
from session_service.conformance.rules import Rule
from session_service.core.continuity import proof, serving
from session_service.core.continuity.limits import MESSAGE_BYTES_MAX, UP_RING_BYTES
from session_service.core.continuity.messages import Ack, Beat, Bye, Open, Resume, read_client, say
from session_service.core.continuity.ring import messages_of
from session_service.core.continuity.serving import ServerStream
from session_service.core.websocket import FrameError

FAULTS_MAX: Final = 20
"""More of them say nothing new."""
UPDATE_PAUSE_S: Final = 0.02
"""Between two updates, so that a viewer does not spin."""
GRANT: Final = 7
HOLD_S: Final = 1800.0
ATTEMPT_BYTES_MAX: Final = UP_RING_BYTES + MESSAGE_BYTES_MAX
"""What a client may keep towards the desktop: its ring, and the write that filled it."""


TICKET_S: Final = 60.0
"""How long a ticket is good for."""
SEEN_LINES_MAX: Final = 60
"""What is kept of a case for whoever has to find out why it is red."""


class Red(Exception):
    """The client did not do what it must; says what."""

    def __init__(self, words: str, rule: Rule | None = None) -> None:
        super().__init__(words)
        self.rule = rule
        """The rule that was broken, where it is another one than the case's."""


class Socket:
    """What the desk needs of a link; `links.Link` is one."""

    number: int
    challenge: str
    is_answered: bool = False
    is_attached: bool = False

    def text(self, words: str) -> None:
        """Send a text message."""
        raise AssertionError

    def send(self, data: bytes | memoryview) -> None:
        """Send a message of bytes."""
        raise AssertionError

    def abort(self) -> None:
        """Cut it."""
        raise AssertionError


class Desk:
    """The server of one case.

    Args:
        shard: names it in `/s/<shard>/ws`.
        session_id: the session that the client under test asks for.
        aud: the address that clients must sign.
    """

    def __init__(self, *, shard: str, session_id: str, aud: str) -> None:
        self.shard, self.session_id, self.aud = shard, session_id, aud
        self.doors: deque[Door] = deque()
        self.ticket_doors: deque[Door] = deque()
        self.ticket_asks: list[float] = []
        self.refuses_all = False
        """True: every client is told that the session was ended, and nothing that it does is a fault."""
        self.faults: list[Red] = []
        self.seen: deque[str] = deque(maxlen=SEEN_LINES_MAX)
        """What happened, in order, without tickets, keys and proofs."""
        self.dials: list[float] = []
        self.paths: list[str] = []
        self.firsts: list[Open | Resume] = []
        self.links: list[Any] = []
        self.newest: Any = None
        """The link that carries the stream."""
        self.attachments = 0
        self.opens = 0
        self.last_attempt: Resume | None = None
        self.kept: dict[str, list[Any]] = {"acks": [], "byes": [], "tickets": []}
        self.holds_acks = False
        self.is_quiet = False
        self.squares = 1
        self.piece_bytes = MESSAGE_BYTES_MAX
        """How the desktop's bytes are cut into messages."""
        self.player: Player | None = None
        self.stream = ServerStream("")
        self._secret = secrets.token_bytes(32)
        self._tickets: dict[str, float | None] = {}
        """When each was made; None: it was used."""
        self._since = asyncio.get_running_loop().time()
        self._attempts = 0
        self._again = b""
        self._whole = bytearray()
        self._changed = asyncio.Event()

    # -- what scripts say -----------------------------------------------------------------------------

    def fault(self, words: str, rule: Rule | None = None) -> None:
        """Note a broken rule."""
        if self.refuses_all:
            return
        if len(self.faults) < FAULTS_MAX and words not in map(str, self.faults):
            self.faults.append(Red(words, rule))
            self.note(f"FAULT: {words}")
        self.tell()

    def note(self, words: str) -> None:
        """Keep what happened for the report."""
        self.seen.append(f"{asyncio.get_running_loop().time() - self._since:7.2f} s  {words}")

    async def until(self, done: Callable[[], Any], limit_s: float, words: str) -> None:
        """Wait for something of the client. Raises Red at a fault, or with `words` after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                while not done():
                    if self.faults:
                        raise self.faults[0]
                    await self._changed.wait()
        except TimeoutError:
            raise Red(f"{words} (waited {limit_s:g} s)") from None

    def tell(self) -> None:
        """Something happened: look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def cut(self) -> None:
        """Cut the link that carries the stream, as a network does."""
        if self.newest is not None:
            self.note("kit: cuts the line")
            self.newest.abort()

    def say(self, **fields: Any) -> None:
        """Send a message on the link that carries the stream."""
        self.newest.text(say(**fields))

    def beat(self, *, off_by: int = 0) -> None:
        """Say where the stream stands, or somewhere beside it."""
        self.say(h=self.stream.ring.end + off_by)

    def new_ticket(self) -> str:
        """Make a one-use ticket."""
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = asyncio.get_running_loop().time()
        self.kept["tickets"].append(ticket)
        return ticket

    def knows_ticket(self, ticket: str) -> bool:
        """Say whether this desk made it."""
        return ticket in self._tickets

    def take_dial(self, path: str) -> Door:
        """Count a dial; return what it meets."""
        self.dials.append(asyncio.get_running_loop().time())
        self.paths.append(path)
        door = self.doors.popleft() if self.doors else OPEN
        if self.refuses_all:
            door = ENDED
        self.note(f"client: dial {len(self.dials)} of {path}; kit: {door.words}")
        self.tell()
        return door

    def next_ticket_door(self) -> Door:
        """Count a client that asks the API for a ticket; return what it meets."""
        self.ticket_asks.append(asyncio.get_running_loop().time())
        door = self.ticket_doors.popleft() if self.ticket_doors else OPEN
        self.note(f"client: asks for a ticket; kit: {door.words}")
        self.tell()
        return door

    # -- the first message ----------------------------------------------------------------------------

    def hear_first(self, socket: Socket, first: Open | Resume) -> None:
        """Look at a first message as the service does."""
        if self.refuses_all:
            return
        self.firsts.append(first)
        self.note(f"client: {_words_of(first)}")
        if first.aud != self.aud:
            self.fault(f"aud is {first.aud}, the address that was dialled is {self.aud}", rules.AUD)
        if isinstance(first, Open):
            self._use_ticket(first.ticket)
        else:
            self._hear_resume(socket, first)
        self.tell()

    def _use_ticket(self, ticket: str) -> None:
        if ticket not in self._tickets:
            self.fault("a ticket that nobody gave out", rules.OPENED)
            return
        made, self._tickets[ticket] = self._tickets[ticket], None
        if made is None:
            self.fault("a ticket was offered twice: it is for one use", rules.OPENED)
        elif asyncio.get_running_loop().time() - made > TICKET_S:
            self.fault(f"a ticket that is older than {TICKET_S:g} s", rules.OPENED)

    def _hear_resume(self, socket: Socket, first: Resume) -> None:
        if not self.opens:
            self.fault("resumed without a key", rules.OPENED)
            return
        key = proof.grant_key(self._secret, self.session_id, GRANT)
        text = proof.attempt_text(
            aud=first.aud,
            session_id=first.session_id,
            grant=first.grant,
            leg=first.leg,
            number=first.number,
            received=first.received,
            have=first.have,
            end=first.end,
            challenge=socket.challenge,
        )
        if first.session_id != self.session_id or first.grant != GRANT:
            self.fault("resumed another session or grant", rules.PROOF)
        elif not proof.is_signed(key, text, first.mac):
            self.fault(
                "the proof is wrong: it signs this socket's challenge and every field, see the vectors",
                rules.PROOF,
            )
        if first.number <= self._attempts:
            self.fault(f"attempt {first.number} after attempt {self._attempts}: n must grow", rules.RESUME)
        self._attempts = max(self._attempts, first.number)
        if first.ticket:
            self._use_ticket(first.ticket)
        self._look_at_offsets(first)
        self.last_attempt = first

    def _look_at_offsets(self, first: Resume) -> None:
        if first.end - first.have > ATTEMPT_BYTES_MAX:
            self.fault(
                f"keeps {first.end - first.have} bytes towards the desktop; 256 KiB is the limit",
                rules.UP_RING,
            )
        if first.leg == proof.NO_LEG:
            return
        if first.leg != self.stream.leg:
            self.fault("resumed with the leg of an older stream", rules.RESYNC)
        elif not self.stream.ring.acked <= first.received <= self.stream.ring.end:
            self.fault(
                f"says that {first.received} bytes came; between {self.stream.ring.acked} and "
                f"{self.stream.ring.end} can be true",
                rules.RESUME,
            )
        elif not first.have <= self.stream.received <= first.end:
            self.fault(
                f"keeps bytes {first.have} to {first.end}; the desktop has {self.stream.received} of them",
                rules.RESUME,
            )

    # -- the answer -----------------------------------------------------------------------------------

    def answer(self, socket: Socket, first: Open | Resume, door: Door) -> None:
        """Accept a client, as this door wants it."""
        socket.is_answered = True
        self.newest = socket
        if isinstance(first, Open):
            self.opens += 1
            self._attempts = 0
            self._begin()
            key = proof.grant_key(self._secret, self.session_id, GRANT)
            words = serving.opened(
                session_id=self.session_id,
                leg=self.stream.leg,
                mode="control",
                grant=GRANT,
                key=key,
                hold_s=HOLD_S,
                gap_s=None,
            )
            pieces: list[bytes | memoryview] = []
        elif door.resync or not self.stream.can_replay(first):
            was = self.stream.received
            self._begin()
            words = serving.resynced(first, leg=self.stream.leg, was=was, gap_s=0.5)
            pieces = []
        else:
            words, pieces = self._replay(first, door)
        what = json.loads(words)
        told = f"kit: {what['t']} {what.get('how', '')}".rstrip()
        self.note(told + (", and the line is cut before it is out" if door.loses_answer else ""))
        if door.loses_answer:
            socket.abort()
            self.tell()
            return
        socket.text(words)
        self.attachments += 1
        pieces = pieces or list(self.stream.ring.since(self.stream.ring.acked))
        socket.is_attached = True
        for piece in pieces:
            for part in messages_of(piece, MESSAGE_BYTES_MAX):
                socket.send(part)
        self.ask()
        self.tell()

    def _replay(self, first: Resume, door: Door) -> tuple[str, list[bytes | memoryview]]:
        withheld = max(0, min(door.withheld_bytes, self.stream.received - first.have))
        self._again = bytes(self._whole[len(self._whole) - withheld :])
        standing = self._standing(withheld)
        if door.wrong_checksum:
            standing = serving.Standing(taken=standing.taken, checksum=standing.checksum ^ 1)
        self.stream.ring.acknowledge(first.received)
        words = serving.replayed(first, standing, gap_s=0.5)
        if door.foreign_leg:
            words = words.replace(first.leg, "BBBBBBBBBBA")
        return words, list(self.stream.ring.since(first.received))

    def _standing(self, withheld: int) -> serving.Standing:
        """How it stood before the last bytes came; all that came is kept for this."""
        whole = self._whole[: len(self._whole) - withheld]
        return serving.Standing(taken=len(whole), checksum=zlib.crc32(whole))

    def _begin(self) -> None:
        self.stream = ServerStream(proof.encode(secrets.token_bytes(8)))
        self._whole = bytearray()
        self._again = b""
        self.player = Player(self._from_desktop, self.ask)

    # -- bytes ----------------------------------------------------------------------------------------

    def _from_desktop(self, data: bytes) -> None:
        self.stream.send(data)
        if self.newest is not None and self.newest.is_attached:
            for part in messages_of(data, self.piece_bytes):
                self.newest.send(part)

    @property
    def still_again(self) -> int:
        """Bytes that were asked for again and have not come."""
        return len(self._again)

    def ask(self) -> None:
        """An update is wanted: paint it in a moment, unless the case wants it quiet."""
        asyncio.get_running_loop().call_later(UPDATE_PAUSE_S, self._paint)

    def _paint(self) -> None:
        ready = self.player is not None and self.player.is_asked and not self.is_quiet
        if ready and self.player is not None and self.newest.is_attached and not self.stream.is_full:
            self.player.paint(self.squares)
            self.tell()

    def hear_bytes(self, socket: Socket, data: bytes) -> None:
        """Take bytes of the client, from the link that carries the stream."""
        if socket is not self.newest or self.player is None:
            return
        if self._again:
            part = data[: len(self._again)]
            if not self._again.startswith(part):
                self.fault("what was sent again differs from what was sent before", rules.EXACTLY_ONCE)
            self._again = self._again[len(part) :]
            data = data[len(part) :]
        self.stream.receive(data)
        self._whole += data
        try:
            self.player.take(data)
        except Torn as exc:
            self.fault(str(exc), rules.EXACTLY_ONCE)
        self.tell()

    def hear_text(self, socket: Socket, text: str, now: float) -> bool:
        """Take a control message; return True when an acknowledgement is asked for."""
        try:
            message = read_client(text)
            if socket is not self.newest:
                return False
            if isinstance(message, Ack):
                self.stream.acknowledge(message.offset)
                self.kept["acks"].append((now, message.offset))
        except FrameError as exc:
            self.fault(f"control message that is refused: {exc.detail}", rules.CONTROL)
            return False
        if isinstance(message, Bye):
            self.kept["byes"].append(message)
            self.note("client: bye")
        self.tell()
        return isinstance(message, Beat)


def _words_of(first: Open | Resume) -> str:
    """Return a first message for people, without what is secret."""
    if isinstance(first, Open):
        return "open, with a ticket"
    login = ", with a ticket" if first.ticket else ""
    leg = "no leg (asks for a resync)" if first.leg == proof.NO_LEG else f"leg {first.leg}"
    return f"resume n={first.number} rx={first.received} have={first.have} end={first.end}, {leg}{login}"
