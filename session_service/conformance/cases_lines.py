"""Cases of the line: cuts, silence, slow and frozen ends, portals and proxies.

Not refusals (`cases_words.py`): here the server is well and the network is not, so that a client must always
come back by itself, with its key, to the same stream.
"""

import asyncio
import itertools
import random
from typing import Final

from session_service.conformance import rules
from session_service.conformance.casework import Book, Freezes, Jumps, Scene, Untried
from session_service.conformance.desk import Red
from session_service.conformance.doors import OPEN, Door
from session_service.core.continuity.limits import ACK_DOWN_BYTES, MESSAGE_BYTES_MAX

book = Book()
CUTS: Final = 10
PORTALS: Final = (
    (200, "<html>Sign in to this network.</html>"),
    (302, ""),
    (407, "Proxy authentication required"),
    (426, "Upgrade required"),
    (403, "Forbidden"),
    (503, "Try later"),
)
STORM_S: Final = 5.0
STORM_DIALS_MAX: Final = 25
"""In five seconds; the rule's own pauses (full jitter on 0.5 s x 2^k) make more than ten very rare."""
ACK_LATE_S: Final = 1.0
"""The rule is 50 ms; the rest is for slow machines."""
SLACK_S: Final = 5.0


@book.case(rules.EXACTLY_ONCE)
async def cut(scene: Scene) -> None:
    """After a cut line the client resumes by itself and the stream goes on."""
    await scene.begun()
    scene.desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.EXACTLY_ONCE)
async def many_cuts(scene: Scene) -> None:
    """Ten cuts at random moments lose, double and tear nothing."""
    chance = random.Random(5)
    desk = scene.desk
    await scene.begun()
    desk.squares = 8
    for number in range(CUTS):
        await asyncio.sleep(chance.random() * 0.1)
        desk.cut()
        await scene.back(2 + number)
    await scene.goes_on()


@book.case(rules.EXACTLY_ONCE)
async def input_is_sent_again(scene: Scene) -> None:
    """Bytes that the server says it has not got are sent again, the same."""
    desk = scene.desk
    await scene.begun()
    desk.holds_acks = True
    had = desk.stream.received
    await desk.until(lambda: desk.stream.received >= had + 30, scene.patience.back_s, "nothing was sent")
    desk.doors.append(Door(withheld_bytes=25))
    desk.cut()
    first = await scene.back(2)
    if first.end < had + 30:
        raise Red(f"keeps nothing past {first.end}; {had + 30} bytes were sent and not acknowledged")
    desk.holds_acks = False
    await scene.goes_on()
    if desk.still_again:
        raise Red("bytes that were not acknowledged were never sent again")


@book.case(rules.OPENED)
async def lost_opened(scene: Scene) -> None:
    """When the answer to `open` is lost, a new ticket is asked for: the old one is used."""
    scene.desk.doors.append(Door(loses_answer=True))
    await scene.begun()


@book.case(rules.OPENED)
async def lost_resumed(scene: Scene) -> None:
    """When the answer to `resume` is lost, the attempt is repeated with a greater number."""
    await scene.begun()
    scene.desk.doors.extend([Door(loses_answer=True)] * 2)
    scene.desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.SILENCE, is_long=True)
async def half_open(scene: Scene) -> None:
    """A line on which nothing comes any more, not even an error, is given up in 25 s."""
    desk = scene.desk
    await scene.begun()
    desk.newest.is_mute = True
    desk.newest.reads.clear()
    begun = asyncio.get_running_loop().time()
    at = await scene.dialled(2, limit_s=scene.patience.silent_s + SLACK_S)
    if at - begun < scene.patience.silent_s / 5:
        raise Red(f"gave a line up that was silent for {at - begun:.1f} s only")
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.DIAL, is_long=True)
async def mute_server(scene: Scene) -> None:
    """A server that upgrades and never answers is given up in 15 s, at an open and at a resume."""
    scene.desk.doors.append(Door(mute=True))
    await scene.begun(limit_s=15 + SLACK_S)
    scene.desk.doors.append(Door(mute=True))
    scene.desk.cut()
    await scene.back(2, limit_s=15 + scene.patience.back_s)
    await scene.goes_on()


@book.case(rules.ONLY_A_NO)
async def first_dial_meets_a_portal(scene: Scene) -> None:
    """A captive portal in place of the first answer is the network: ask for a ticket and dial again."""
    scene.desk.doors.extend([Door(http=PORTALS[0]), Door(http=PORTALS[1])])
    await scene.begun()


def _portal(status: int, body: str) -> None:
    async def script(scene: Scene) -> None:
        await scene.begun()
        scene.desk.doors.extend([Door(http=(status, body))] * 2)
        scene.desk.cut()
        await scene.back(2)
        if len(scene.desk.dials) < 4:
            raise Red("the kit's own count is wrong")
        await scene.goes_on()

    promise = f"A line that answers {status} instead of 101 is the network: try again with the same key."
    book.add(f"portal_{status}", script, rules.ONLY_A_NO, promise=promise)


for _status, _body in PORTALS:
    _portal(_status, _body)


@book.case(rules.ONLY_A_NO)
async def junk_instead_of_an_answer(scene: Scene) -> None:
    """Bytes that are no HTTP are the network, too."""
    await scene.begun()
    scene.desk.doors.append(Door(junk=b"\x16\x03\x01 no http here\r\n\r\n"))
    scene.desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.PAUSES, is_long=True)
async def pauses_between_tries(scene: Scene) -> None:
    """While every dial fails, the client pauses longer and longer: it neither hammers nor gives up."""
    desk = scene.desk
    await scene.begun()
    desk.doors.extend([Door(resets=True)] * 1000)
    desk.cut()
    await scene.dialled(3)
    before = len(desk.dials)
    await asyncio.sleep(STORM_S)
    tried = len(desk.dials) - before
    desk.doors.clear()
    if tried > STORM_DIALS_MAX:
        raise Red(f"dialled {tried} times in {STORM_S:g} s")
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.BEAT, is_long=True)
async def idle_proxy(scene: Scene) -> None:
    """A proxy with an idle time-out never sees an idle line; when it cuts one all the same, come back."""
    desk, idle_s = scene.desk, scene.patience.idle_s
    await scene.begun()
    desk.is_quiet = True
    link = desk.newest
    for _ in range(4):
        await asyncio.sleep(idle_s / 3)
        if desk.newest is not link or link.is_closed:
            raise Red("left a line that is idle and well")
        await _answers_beat(scene)
    desk.cut()
    await scene.back(2)
    desk.is_quiet = False
    await scene.goes_on()


async def _answers_beat(scene: Scene) -> None:
    desk = scene.desk
    count = len(desk.kept["acks"])
    desk.beat()
    await desk.until(
        lambda: len(desk.kept["acks"]) > count, ACK_LATE_S, "a beat was not answered by an acknowledgement"
    )
    if desk.kept["acks"][-1][1] != desk.stream.ring.end:
        raise Red("a beat was answered with another offset than was sent")


@book.case(rules.BEAT)
async def beats(scene: Scene) -> None:
    """`h` is answered by `a` at once, with exactly the bytes that were sent."""
    await scene.begun()
    scene.desk.is_quiet = True
    await asyncio.sleep(0.3)
    for _ in range(3):
        await _answers_beat(scene)
    scene.desk.is_quiet = False
    await scene.goes_on()


@book.case(rules.WRONG_BEAT)
async def wrong_beat(scene: Scene) -> None:
    """`h` that differs from what was received: leave the line and ask for a new stream."""
    await scene.begun()
    scene.desk.beat(off_by=1)
    await scene.back(2, replay=False)
    if scene.desk.opens != 1:
        raise Red("opened anew; the key is still good for a resync")
    await scene.goes_on()


@book.case(rules.ACKS)
async def acknowledgements(scene: Scene) -> None:
    """What came is acknowledged after 64 KiB, and after 50 ms at the latest."""
    desk = scene.desk
    await scene.begun()
    desk.squares = 800
    await scene.goes_on()
    desk.is_quiet = True
    await desk.until(
        lambda: desk.stream.ring.unacknowledged == 0, ACK_LATE_S * 3, "the last bytes were not acknowledged"
    )
    offsets = [offset for _, offset in desk.kept["acks"]]
    steps = [late - early for early, late in itertools.pairwise(offsets)]
    if max(steps, default=0) > 2 * (ACK_DOWN_BYTES + MESSAGE_BYTES_MAX):
        raise Red(f"acknowledged in steps of up to {max(steps)} bytes; after 64 KiB is the rule")
    desk.is_quiet = False
    await scene.goes_on()


@book.case(rules.SPLIT)
async def odd_pieces(scene: Scene) -> None:
    """Message limits carry no meaning: single bytes and empty messages are the same stream."""
    desk = scene.desk
    await scene.begun()
    desk.piece_bytes = 1
    await scene.goes_on()
    desk.newest.send(b"")
    desk.piece_bytes = 7
    await scene.goes_on()
    desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.SILENCE)
async def slow_line(scene: Scene) -> None:
    """A line of a few KiB a second is slow and not dead: it is kept, and nothing is lost on it."""
    desk = scene.desk
    await scene.begun()
    link = desk.newest
    link.trickle = (300, 0.05)
    desk.squares = 4
    await scene.goes_on(limit_s=60)
    if desk.newest is not link or link.is_closed:
        raise Red("left a line that was slow and well")
    desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.SILENCE)
async def server_reads_nothing(scene: Scene) -> None:
    """A server that reads and acknowledges nothing for a while loses nothing; the line is kept."""
    desk = scene.desk
    await scene.begun()
    link = desk.newest
    link.reads.clear()
    desk.ask()
    await asyncio.sleep(scene.patience.quiet_s)
    if len(desk.dials) != 1:
        raise Red("left a line on which bytes of the server had come a moment before")
    link.reads.set()
    await scene.goes_on()
    desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.LATE_ACK)
async def late_acknowledgements(scene: Scene) -> None:
    """Without acknowledgements the client keeps what it sent, and a late one is welcome."""
    desk = scene.desk
    await scene.begun()
    desk.holds_acks = True
    await scene.goes_on()
    await scene.goes_on()
    desk.cut()
    await scene.back(2)
    desk.holds_acks = False
    await scene.goes_on()


@book.case(rules.CLOCKS, is_long=True)
async def frozen_client(scene: Scene) -> None:
    """A client that stood still while its line was cut goes on where it was."""
    if not isinstance(scene.driver, Freezes):
        raise Untried("this driver cannot make its client stand still")
    desk, freeze_s = scene.desk, scene.patience.freeze_s
    await scene.begun()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.driver.freeze(freeze_s), name="freeze")
        await asyncio.sleep(freeze_s / 4)
        count = len(desk.kept["acks"])
        desk.beat()
        await asyncio.sleep(freeze_s / 4)
        stood_still = len(desk.kept["acks"]) == count
        desk.cut()
    if not stood_still:
        raise Untried("its client went on while it was meant to stand still")
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.CLOCKS)
async def clock_jump(scene: Scene) -> None:
    """A wall clock that is set forward leads to a probe or a dial, never to an end."""
    if not isinstance(scene.driver, Jumps):
        raise Untried("this driver cannot set its client's clock")
    await scene.begun()
    await scene.driver.jump(3600.0)
    await scene.goes_on()
    scene.desk.cut()
    await scene.back(2)
    await scene.driver.jump(-3600.0)
    await scene.goes_on()


@book.case(rules.FIRST)
async def nothing_before_the_answer(scene: Scene) -> None:
    """Between its first message and the answer a client sends nothing."""
    scene.desk.doors.append(Door(delay_s=1.0))
    await scene.begun()
    scene.desk.doors.extend([Door(delay_s=1.0), OPEN])
    scene.desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.DIAL)
async def starting_desktop(scene: Scene) -> None:
    """`wait` is no answer: the client waits while the desktop starts."""
    scene.desk.doors.append(Door(waits=4))
    await scene.begun()
    if len(scene.desk.dials) != 1:
        raise Red("dialled again while it was told to wait")


@book.case(rules.DIAL, is_long=True)
async def slowly_starting_desktop(scene: Scene) -> None:
    """Each `wait` gives an answer 25 s more: a desktop that starts slowly is waited for."""
    scene.desk.doors.append(Door(waits=3, wait_s=8.0))
    await scene.begun(limit_s=24 + SLACK_S)
    if len(scene.desk.dials) != 1:
        raise Red("dialled again while it was told to wait")
