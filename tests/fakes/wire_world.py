"""`continuity.v1` in a seeded world: the real core of both ends, sockets that lose what they carry, a desktop
that notices every spliced, lost or doubled byte, copies of a client, another device, and an attacker.

Not a server: control's part (ticket, grant, commit) is played here in a few lines. After
rigs/gateway/wire_model.py of the design's findings; time is counted in steps of 50 ms.
"""

import copy
import random
import struct
import zlib
from collections import deque
from typing import Any

from session_service.core.close_codes import Close
from session_service.core.continuity import serving
from session_service.core.continuity.attempts import NOT_FOUND, Order, is_proved
from session_service.core.continuity.client import (
    Began,
    Client,
    Deliver,
    Dial,
    Ended,
    Phase,
    Replayed,
    Say,
    Send,
)
from session_service.core.continuity.limits import RELEASE_S
from session_service.core.continuity.messages import Ack, Beat, Open, Resume, read_client, read_first, say
from session_service.core.continuity.proof import encode, grant_key, session_secret
from session_service.core.continuity.serving import ServerLink, ServerStream

SID, AUD, SECRET = "01JD0000000000000000000000", "wss://desk.example:443", bytes(range(32))
STEP_S = 0.05
EVENT = struct.Struct(">BBBBII")
ALL = frozenset({"takeover", "copy", "crash", "leg", "attack", "expiry", "budget", "drain"})


class Bad(Exception):
    """What must never happen has happened."""


def check(fine: object, words: str) -> None:
    if not fine:
        raise Bad(words)


def pattern(leg: str, at: int, count: int) -> bytes:
    """What a desktop says at this place of its stream: every byte is known."""
    start = zlib.crc32(leg.encode())
    return bytes((start + (place * 2654435761 >> 7)) & 255 for place in range(at, at + count))


class Desktop:
    """Takes the client's bytes of one stream: whole events only, each once, in order."""

    def __init__(self, world: "World", leg: str) -> None:
        self.world = world
        self.leg = leg
        self.part = b""
        self.chain = 0
        self.down: set[int] = set()

    def take(self, data: bytes) -> None:
        self.part += data
        while len(self.part) >= EVENT.size:
            event, self.part = self.part[: EVENT.size], self.part[EVENT.size :]
            magic, kind, key, origin, number, chain = EVENT.unpack(event)
            check(magic == 0xE7, "input torn")
            check(chain == self.chain, "input spliced, lost or out of order")
            self.chain = zlib.crc32(event, chain)
            check((origin, number) not in self.world.input, "input doubled")
            self.world.input.add((origin, number))
            if kind == 1:
                self.down.add(key)
            elif kind == 0:
                self.down.discard(key)


class Link:
    """One socket: two queues, and two ends that may not notice the same thing."""

    def __init__(self, world: "World", who: "Player | None", number: int = 0) -> None:
        self.who, self.number = who, number
        self.up: deque[str | bytes] = deque()
        self.down: deque[str | bytes | int] = deque()
        self.client_there = self.server_there = True
        self.state = "new"
        self.challenge = "A" * 22 if "no challenge" in world.mutations else encode(world.chance.randbytes(16))
        self.server: ServerLink | None = None
        self.down.append(say(t="hello", c=self.challenge))
        world.links.append(self)

    def tell(self, item: str | bytes | int) -> None:
        if self.server_there and self.client_there:
            self.down.append(item)

    def cut(self, *, client: bool, server: bool) -> None:
        if client:
            self.client_there = False
            self.down.clear()
        if server:
            self.server_there = False
            self.up.clear()


class Owner:
    """The server's process: everything here is lost by a crash."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.order = Order()
        self.stream: ServerStream | None = None
        self.desktop: Desktop | None = None
        self.link: Link | None = None
        self.asked: list[tuple[Link, Open | Resume, serving.Standing | None]] = []
        self.dropped_at: float | None = None
        self.junk = 0

    def refuse(self, link: Link, refusal: Any) -> None:
        self.world.count["no " + refusal.why] += 1
        link.tell(
            say(
                t="no",
                why=refusal.why,
                code=int(refusal.code),
                next=str(refusal.next),
                retry=0,
                to=None,
                by="",
            )
        )
        link.tell(int(refusal.code))
        link.server_there, link.state = False, "dead"

    def hear(self, link: Link) -> None:
        item = link.up.popleft()
        if link.state == "new":
            assert isinstance(item, str)
            self.first(link, item)
        elif (
            link.state == "live"
            and link.server_there
            and (link is self.link or "old link" in self.world.mutations)
        ):
            check(link is self.link or not isinstance(item, bytes), "input of a displaced link")
            if link is self.link:
                self.take(link, item)

    def first(self, link: Link, text: str) -> None:
        world, message = self.world, read_first(text)
        link.state = "asked"
        standing = (
            self.stream.standing() if self.stream is not None and "position" in world.mutations else None
        )
        if isinstance(message, Resume):
            if not is_proved(SECRET, message, link.challenge) or (
                "junk locks" in world.mutations and self.junk > 4
            ):
                self.junk += 1
                self.refuse(link, NOT_FOUND)
                return
            refusal = self.order.admit(message, grant=world.grant, cause="open", by="")
            if refusal is not None:
                if refusal.why == "proof_used" and "late revokes" in world.mutations:
                    world.grant += 1
                self.refuse(link, NOT_FOUND if "forgotten" in world.mutations else refusal)
                return
        self.asked.append((link, message, standing))

    def commit(self) -> None:
        world, asked = self.world, self.asked
        self.asked = []
        for link, message, standing in asked:
            if not link.server_there:
                continue
            if world.state in {"closing", "closed"}:
                self.refuse(link, world.expired)
                continue
            if isinstance(message, Open):
                if message.ticket not in world.tickets:
                    self.refuse(link, world.used)
                    continue
                world.tickets.discard(message.ticket)
                world.grant += 0 if "keeps the key" in world.mutations else 1
            else:
                refusal = self.order.still(message, grant=world.grant, cause="open", by="")
                if refusal is not None:
                    self.refuse(link, refusal)
                    continue
            world.state = "active"
            if "crash" in world.kinds and world.faults and world.chance.random() < 0.05:
                world.crash()
                return
            self.attach(link, message, standing)

    def attach(self, link: Link, message: Open | Resume, standing: serving.Standing | None) -> None:
        world = self.world
        check(link.who is not None, "a recorded, late or forged attempt attached")
        old, self.link = self.link, link
        if old is not None and old is not link and old.server_there:
            here = world.here
            stolen = old.who is here and link.who is not here and isinstance(message, Resume)
            check(not stolen or "copy" in world.kinds, "stolen back without a click")
            old.tell(serving.taken("other"))
            old.tell(int(Close.TAKEN))
            if "old link" not in world.mutations:
                old.server_there, old.state = False, "dead"
                old.up.clear()
        link.state, self.dropped_at = "live", None
        stream = self.stream
        if isinstance(message, Resume) and stream is not None and stream.can_replay(message):
            world.count["replay"] += 1
            let_go = stream.replay(message)
            link.tell(serving.replayed(message, standing or stream.standing(), gap_s=None))
            for piece in stream.ring.since(message.received):
                link.tell(bytes(piece))
            if let_go and self.desktop is not None:
                self.desktop.down.clear()
        else:
            was = (
                stream.received
                if stream is not None and isinstance(message, Resume) and message.leg == stream.leg
                else None
            )
            self.stream = stream = ServerStream(encode(world.chance.randbytes(8)))
            self.desktop = Desktop(world, stream.leg)
            if isinstance(message, Resume):
                world.count["resync"] += 1
                link.tell(serving.resynced(message, leg=stream.leg, was=was, gap_s=None))
            else:
                world.count["open"] += 1
                key = grant_key(session_secret(SECRET, SID), SID, world.grant)
                link.tell(
                    serving.opened(
                        session_id=SID,
                        leg=stream.leg,
                        mode="control",
                        grant=world.grant,
                        key=key,
                        hold_s=1800,
                        gap_s=None,
                    )
                )
        link.server = ServerLink(received=stream.received, now=world.now)

    def take(self, link: Link, item: str | bytes) -> None:
        stream, now = self.stream, self.world.now
        if stream is None or self.desktop is None or link.server is None:
            return
        if isinstance(item, bytes):
            self.desktop.take(item)
            if stream.receive(item):
                self.desktop.down.clear()
            said = link.server.received(stream.received, now)
        else:
            message, said = read_client(item), None
            if isinstance(message, Ack):
                stream.acknowledge(message.offset)
            elif isinstance(message, Beat):
                said = link.server.acknowledge(stream.received, now)
        if said is not None:
            link.tell(said)

    def turn(self) -> None:
        world, link, stream = self.world, self.link, self.stream
        if link is not None and not link.server_there:
            self.link = link = None
            self.dropped_at = world.now
            world.state = "held" if world.state == "active" else world.state
            if stream is not None:
                stream.detach()
        if (
            link is None
            and self.dropped_at is not None
            and world.now - self.dropped_at >= RELEASE_S
            and self.desktop
        ):
            self.desktop.down.clear()
        if stream is not None and not stream.is_full and world.chance.random() < 0.4:
            data = pattern(stream.leg, stream.ring.end, world.chance.randrange(1, 60))
            stream.send(data)
            if link is not None:
                link.tell(data)
                if link.server is not None:
                    link.server.said_at = world.now
        if link is not None and link.server is not None and stream is not None:
            said = link.server.tick(world.now, received=stream.received, sent=stream.ring.end)
            if said is not None:
                link.tell(said)
        if self.asked and world.chance.random() < 0.5:
            self.commit()


class Player:
    """A client with a user who types, in the real core."""

    def __init__(self, world: "World", origin: int, client: Client) -> None:
        self.world, self.origin, self.client = world, origin, client
        self.link: Link | None = None
        self.left: list[Link] = []
        self.ended: Ended | None = None
        self.number = self.chain = self.seen = self.asked = 0
        self.leg = ""
        self.held: set[int] = set()

    def ticket(self) -> None:
        ticket = encode(self.world.chance.randbytes(16))
        self.world.tickets.clear()
        self.world.tickets.add(ticket)
        self.act(self.client.open(ticket, self.world.now))

    def act(self, acts: list[Any]) -> None:
        for one in acts:
            match one:
                case Dial():
                    if self.link is not None:
                        self.left.append(self.link)
                    self.link = Link(self.world, self, one.number)
                case Say() | Send():
                    if self.link is not None and self.link.client_there:
                        item = one.text if isinstance(one, Say) else bytes(one.data)
                        if isinstance(item, str) and '"t":"resume"' in item:
                            self.world.recorded.append(item)
                        self.link.up.append(item)
                case Deliver():
                    leg = self.client._leg
                    check(
                        one.data == pattern(leg, self.seen, len(one.data)),
                        "bytes lost, doubled or out of order",
                    )
                    self.seen += len(one.data)
                    self.world.moved += len(one.data)
                case Began():
                    self.seen = self.chain = 0
                    self.held.clear()
                case Replayed():
                    pass
                case Ended():
                    check(one.why != "not_found", "an honest client is told that it is unknown")
                    self.ended = one

    def type(self) -> None:
        chance = self.world.chance
        for _ in range(chance.randrange(1, 4)):
            key = chance.randrange(5)
            kind = 1 if chance.random() < 0.3 and key not in self.held else 0 if key in self.held else 2
            event = EVENT.pack(0xE7, kind, key, self.origin, self.number, self.chain)
            acts = self.client.send(event)
            if not acts:
                return
            self.chain, self.number = zlib.crc32(event, self.chain), self.number + 1
            (self.held.add if kind == 1 else self.held.discard)(key)
            self.act(acts)

    def turn(self) -> None:
        world, chance = self.world, self.world.chance
        for link in [*self.left, *([self.link] if self.link else [])]:
            if link.down and link.client_there and chance.random() < 0.6:
                item = link.down.popleft()
                if isinstance(item, int):
                    link.cut(client=True, server=False)
                    self.act(self.client.closed(link.number, item, world.now))
                elif isinstance(item, str):
                    self.act(self.client.text(link.number, item, world.now))
                else:
                    self.act(self.client.data(link.number, item, world.now))
            elif not link.client_there and link is self.link:
                self.link = None
                self.act(self.client.closed(link.number, 1006, world.now))
        self.left = [link for link in self.left if link.client_there and link.down]
        at = self.client.next_deadline()
        if at is not None and world.now >= at:
            self.act(self.client.tick(world.now))
        if self.client.phase is Phase.DIALLING and chance.random() < 0.1:
            self.act(self.client.hurry(world.now))
        if self.client.takes_input and chance.random() < 0.4:
            self.type()
        if self.ended is not None:
            ended, self.ended = self.ended, None
            if ended.step == "open":
                self.ticket()
            else:
                self.asked += 1
                self.waits = ended.step
        elif (
            self.client.phase is Phase.DOWN
            and world.here is self
            and chance.random() < 0.05
            and world.state != "closing"
        ):
            self.ticket()


class World:
    """One run. `kinds` are the faults that may happen; `mutations` make the server naive in one way."""

    def __init__(
        self,
        seed: int,
        *,
        kinds: frozenset[str] | None = None,
        mutations: frozenset[str] = frozenset(),
        client: type[Client] = Client,
    ) -> None:
        from collections import Counter

        from session_service.core.refusals import Refusal

        self.chance = random.Random(seed)
        self.kinds = (
            frozenset(kind for kind in sorted(ALL) if self.chance.random() < 0.5) if kinds is None else kinds
        )
        self.mutations = mutations
        self.used = Refusal(code=Close.PROOF_USED, why="proof_used", next="click")
        self.expired = Refusal(code=Close.HOLD_EXPIRED, why="hold_expired", next="start")
        self.make = lambda: client(aud=AUD, path="/s/0/ws", draw=self.chance.random)
        self.count: Counter[str] = Counter()
        self.now = 1000.0
        self.grant = 0
        self.state = "active"
        self.tickets: set[str] = set()
        self.recorded: list[str] = []
        self.input: set[tuple[int, int]] = set()
        self.moved = 0
        self.links: list[Link] = []
        self.faults = True
        self.owner = Owner(self)
        self.players = [Player(self, 0, self.make())]
        self.here = self.players[0]
        self.here.ticket()

    def crash(self) -> None:
        self.count["crash"] += 1
        for link in self.links:
            link.cut(client=False, server=True)
            link.state = "dead"
            if self.chance.random() < 0.7:
                link.cut(client=True, server=False)
        self.owner = Owner(self)
        self.state = "held" if self.state == "active" else self.state

    def copied(self) -> None:
        """The program is forked, or its machine restored: its memory is there twice."""
        here = self.here
        draw, here.client._draw = here.client._draw, None  # type: ignore[assignment]  # a bound method is not copied
        twin = Player(self, 7 + len(self.players), copy.deepcopy(here.client))
        here.client._draw = twin.client._draw = draw
        twin.chain, twin.seen, twin.number = here.chain, here.seen, 0
        if twin.client.phase is Phase.OPEN:
            twin.type()
        twin.act(twin.client._lose(self.now, "copied") if twin.client.has_key else [])
        self.players.append(twin)
        self.count["copy"] += 1

    def attack(self) -> None:
        """On a socket of its own: what was recorded, or a forgery."""
        link = Link(self, None)
        if self.recorded and self.chance.random() < 0.6:
            link.up.append(self.chance.choice(self.recorded[-20:]))
        else:
            forged = say(
                t="resume",
                aud=AUD,
                sid=SID,
                grant=self.grant,
                leg="AAAAAAAAAAA",
                n=10**9,
                rx=0,
                have=0,
                end=0,
                mac=encode(bytes(32)),
            )
            link.up.append(forged)

    def fault(self) -> None:
        chance, kind = self.chance, self.chance.random()
        if kind < 0.03 and self.links:
            way = chance.random()
            chance.choice(self.links).cut(client=way < 0.8, server=way > 0.3)
            self.count["cut"] += 1
        elif kind < 0.035 and "crash" in self.kinds:
            self.crash()
        elif kind < 0.04 and "leg" in self.kinds and self.owner.stream is not None:
            self.owner.stream = self.owner.desktop = None
            if self.owner.link is not None:
                self.owner.link.tell(int(Close.LEG_LOST))
                self.owner.link.server_there = False
        elif (
            kind < 0.045
            and "budget" in self.kinds
            and self.owner.stream is not None
            and self.owner.link is None
        ):
            self.owner.stream.ring.forget()
        elif kind < 0.048 and "drain" in self.kinds and self.owner.link is not None:
            self.owner.link.tell(serving.drain((0, 200)))
        elif kind < 0.051 and "takeover" in self.kinds:
            if not any(player.origin == 2 for player in self.players):
                self.players.append(Player(self, 2, self.make()))
            self.here = chance.choice([player for player in self.players if player.origin in {0, 2}])
            if self.here.client.phase in {Phase.IDLE, Phase.DOWN}:
                self.here.ticket()
        elif kind < 0.053 and "copy" in self.kinds and self.here.client.has_key and len(self.players) < 3:
            self.copied()
        elif kind < 0.08 and "attack" in self.kinds:
            self.attack()
        elif kind < 0.081 and "expiry" in self.kinds and self.state == "held":
            self.state = "closing"

    def step(self) -> None:
        self.now += STEP_S
        if self.faults:
            self.fault()
        live = [link for link in self.links if link.server_there and link.state == "live"]
        check(len(live) <= 1 or "old link" in self.mutations, "two control links")
        for link in self.chance.sample(self.links, len(self.links)):
            if (
                link.up
                and link.server_there
                and self.chance.random() < (0.15 if link.state == "new" else 0.6)
            ):
                self.owner.hear(link)
        for player in self.players:
            player.turn()
        self.owner.turn()
        for link in self.links:
            gone = link.client_there != link.server_there and not link.down and not link.up
            if gone and self.chance.random() < 0.1:
                link.cut(client=True, server=True)
        self.links = [link for link in self.links if link.client_there or link.server_there]

    def run(self, steps: int = 500) -> None:
        for _ in range(steps):
            self.step()
        alone = self.kinds.isdisjoint({"takeover", "copy", "expiry"})
        check(not alone or self.here.asked == 0, "its user was asked after cuts and junk alone")
        self.faults = False
        seen = None
        for _ in range(1500):
            self.step()
            if self.here.client.phase is Phase.OPEN and seen is None:
                seen = (self.moved, len(self.input))
        if self.state == "closing":
            check(self.here.client.phase is not Phase.OPEN, "a closed session looks open")
            return
        check(self.here.client.phase is Phase.OPEN, f"locked out: {self.here.client.phase}")
        check(
            seen is not None and self.moved > seen[0] and len(self.input) > seen[1],
            "attached, and nothing flows",
        )
        self.hands_off()

    def hands_off(self) -> None:
        """Nobody types any more, keys are let go of where that is known: nothing may stay down."""
        player = self.here
        for key in sorted(player.held):
            event = EVENT.pack(0xE7, 0, key, player.origin, player.number, player.chain)
            player.chain, player.number = zlib.crc32(event, player.chain), player.number + 1
            player.act(player.client.send(event))
        player.held.clear()
        player.type = lambda: None  # type: ignore[method-assign]  # hands off
        for _ in range(100):
            self.step()
        desktop, stream = self.owner.desktop, self.owner.stream
        if desktop is not None and stream is not None and stream.received == player.client.up.end:
            check(not desktop.down, "stuck key")
