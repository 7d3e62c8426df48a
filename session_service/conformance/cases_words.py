"""Cases of what the server says: refusals, takeovers, resyncs, redirects, logins, and each close code.

Not the network (`cases_lines.py`). Only a `no` or `taken` decides; a code alone is the network, except where
it says that the client itself broke the protocol.
"""

import asyncio
from typing import Final

from session_service.conformance import rules
from session_service.conformance.casework import Book, Scene
from session_service.conformance.desk import Red
from session_service.conformance.doors import OPEN, Door, refused
from session_service.conformance.server import OTHER
from session_service.core.close_codes import ENDINGS, Close
from session_service.core.continuity import proof, serving
from session_service.core.continuity.limits import DIAL_S
from session_service.core.continuity.messages import Open, Resume, say

book = Book()
BROKEN: Final = (Close.PROTOCOL, Close.NOT_UTF8, Close.TOO_BIG, Close.BAD_MESSAGE, Close.MESSAGE_TOO_BIG)
RETRY_MS: Final = 800
JITTER_S: Final = 0.25
_ON_NO_LINK: Final = {Close.NORMAL, Close.GOING_AWAY, Close.NO_STATUS, Close.ABNORMAL, Close.RESTART}
SLACK_S: Final = 3.0
"""For a client on a busy machine, where the rule is an exact time."""


def _alone(code: Close) -> None:
    async def script(scene: Scene) -> None:
        await scene.begun()
        scene.desk.newest.close(int(code))
        await scene.back(2)
        await scene.goes_on()

    promise = f"Close code {int(code)} without a word is the network: resume with the same key."
    book.add(f"code_{int(code)}_alone", script, rules.ONLY_A_NO, promise=promise)


def _broken(code: Close) -> None:
    async def script(scene: Scene) -> None:
        await scene.begun()
        scene.desk.newest.close(int(code))
        first = await scene.back(2, replay=False)
        if first.leg != proof.NO_LEG:
            raise Red("went on with a stream of which the server says that the client broke it: resync")
        await scene.goes_on()
        scene.desk.newest.close(int(code))
        await scene.stays_away(f"a second {int(code)}")

    promise = f"Close code {int(code)}: one resync, and the second time it is told to the user."
    book.add(f"code_{int(code)}_twice", script, rules.ONLY_A_NO, promise=promise)


def _final(code: Close) -> None:
    async def script(scene: Scene) -> None:
        await scene.begun()
        scene.desk.doors.append(refused(code))
        scene.desk.cut()
        await scene.dialled(2)
        await scene.stays_away(f"{int(code)} {ENDINGS[code].why}")

    promise = (
        f"`no` with {int(code)} ({ENDINGS[code].why}) ends it: nothing more is dialled without its user."
    )
    book.add(f"refused_{int(code)}", script, rules.NEXT, promise=promise)


def _passing(code: Close) -> None:
    async def script(scene: Scene) -> None:
        desk = scene.desk
        await scene.begun()
        desk.doors.append(refused(code, retry_ms=RETRY_MS))
        desk.cut()
        first = await scene.dialled(2)
        again = await scene.dialled(3)
        if again - first < RETRY_MS / 1000 - 0.05:
            raise Red(f"came back after {again - first:.2f} s; {RETRY_MS / 1000} s were asked for")
        if again - first > 1.5 * RETRY_MS / 1000 + SLACK_S:
            raise Red(f"came back after {again - first:.2f} s; at most 1.5 times {RETRY_MS} ms is right")
        await scene.back(2)
        await scene.goes_on()

    promise = f"`no` with {int(code)} ({ENDINGS[code].why}): come back by itself after `retry`, key in hand."
    book.add(f"refused_{int(code)}", script, rules.RETRY, promise=promise)


for _code in Close:
    if _code in BROKEN:
        _broken(_code)
        continue
    if _code != Close.ABNORMAL:
        _alone(_code)
    if _code in _ON_NO_LINK or _code in {Close.LOGIN, Close.MOVED}:
        continue
    (_passing if ENDINGS[_code].by_itself else _final)(_code)


@book.case(rules.NEXT)
async def refused_while_attached(scene: Scene) -> None:
    """A `no` on an open line decides as well as one at a dial."""
    await scene.begun()
    said = refused(Close.ENDED).refusal
    assert said is not None
    scene.desk.newest.text(say(**said))
    scene.desk.newest.close(int(Close.ENDED))
    await scene.stays_away("the session was ended")


@book.case(rules.NEXT)
async def taken_over(scene: Scene) -> None:
    """`taken` means stay down: two devices never steal a desktop from each other."""
    await scene.begun()
    scene.desk.newest.text(serving.taken("the laptop"))
    scene.desk.newest.close(int(Close.TAKEN))
    await scene.stays_away("another device took over")


@book.case(rules.NEXT)
async def taken_over_while_away(scene: Scene) -> None:
    """A code 4409 alone is asked about; the answer `taken` ends it."""
    await scene.begun()
    scene.desk.doors.append(refused(Close.TAKEN))
    scene.desk.newest.close(int(Close.TAKEN))
    await scene.dialled(2)
    await scene.stays_away("another device took over")


@book.case(rules.NEXT)
async def used_ticket(scene: Scene) -> None:
    """A ticket that was used, or has expired, is not tried again: its user is asked."""
    scene.desk.doors.append(refused(Close.PROOF_USED))
    await scene.dialled(1, limit_s=scene.patience.start_s)
    await scene.stays_away("its ticket was refused as used or expired")


@book.case(rules.RETRY)
async def retry_before_the_first_stream(scene: Scene) -> None:
    """`retry` at an open: come back later, with a fresh ticket."""
    scene.desk.doors.append(refused(Close.RETRY, retry_ms=RETRY_MS, next="open"))
    await scene.begun()
    if scene.desk.dials[1] - scene.desk.dials[0] < RETRY_MS / 1000 - 0.05:
        raise Red(f"came back before the {RETRY_MS} ms that were asked for")


@book.case(rules.LOGIN)
async def login_at_a_return(scene: Scene) -> None:
    """After `login` the client signs in and goes on with its key, its stream and a fresh ticket in `auth`."""
    desk = scene.desk
    await scene.begun()
    desk.doors.append(refused(Close.LOGIN))
    desk.cut()
    first = await scene.back(2)
    if not first.ticket:
        raise Red("resumed without a fresh ticket in `auth`, which proves the login")
    await scene.goes_on()


@book.case(rules.LOGIN_TWICE)
async def login_twice(scene: Scene) -> None:
    """Told `login` again after a proved one, the key is void: it is never offered again."""
    desk = scene.desk
    await scene.begun()
    desk.doors.extend([refused(Close.LOGIN), refused(Close.LOGIN)])
    desk.cut()
    await scene.dialled(3)
    count = len(desk.firsts)
    await asyncio.sleep(scene.patience.quiet_s)
    later = desk.firsts[max(3, count) :]
    if any(isinstance(first, Resume) for first in later):
        raise Red("offered a void key again")
    scene.check()


@book.case(rules.RESYNC)
async def resync(scene: Scene) -> None:
    """At a resync the client forgets the old stream, begins with ProtocolVersion, and keeps its key."""
    desk = scene.desk
    await scene.begun()
    desk.doors.append(Door(resync=True))
    desk.cut()
    await scene.back(2, replay=False)
    await scene.goes_on()
    desk.cut()
    await scene.back(3)
    await scene.goes_on()


@book.case(rules.RESYNC)
async def input_is_not_sent_again_after_a_resync(scene: Scene) -> None:
    """Unacknowledged input of an old stream is never sent into a new one."""
    desk = scene.desk
    await scene.begun()
    desk.holds_acks = True
    had = desk.stream.received
    await desk.until(lambda: desk.stream.received > had, scene.patience.back_s, "nothing was sent")
    desk.doors.append(Door(resync=True))
    desk.cut()
    await scene.back(2, replay=False)
    desk.holds_acks = False
    await scene.goes_on()


@book.case(rules.EXACTLY_ONCE)
async def copied_client(scene: Scene) -> None:
    """A checksum that differs means that this memory is a copy: send nothing, stay down, ask the user."""
    desk = scene.desk
    await scene.begun()
    desk.doors.append(Door(wrong_checksum=True))
    received = desk.stream.received
    desk.cut()
    await desk.until(lambda: desk.attachments >= 2, scene.patience.back_s, "the client did not come back")
    at = desk.stream.received
    await scene.stays_away("a checksum that differs")
    if desk.stream.received != at or at < received:
        raise Red("sent bytes into a stream of which its own history differs")


@book.case(rules.NO_SERVER)
async def answer_about_another_stream(scene: Scene) -> None:
    """`resumed` that names another stream is not believed: ask for a resync."""
    desk = scene.desk
    await scene.begun()
    desk.doors.append(Door(foreign_leg=True))
    desk.cut()
    await desk.until(lambda: len(desk.firsts) >= 3, scene.patience.back_s, "the client did not come back")
    last = desk.firsts[-1]
    if isinstance(last, Open) or last.leg != proof.NO_LEG:
        raise Red("went on after an answer about another stream")


@book.case(rules.NO_SERVER)
async def bytes_before_the_answer(scene: Scene) -> None:
    """Bytes before the answer are nobody's: they are not handed on, and the line is left."""
    desk = scene.desk
    await scene.begun()
    desk.doors.append(Door(early_bytes=True, mute=True))
    desk.cut()
    await scene.dialled(3, limit_s=DIAL_S - 3)
    await scene.back(2, replay=False)
    await scene.goes_on()


@book.case(rules.DRAIN)
async def drain(scene: Scene) -> None:
    """`drain` is followed within its range, before the old line is cut, and the stream goes on."""
    desk = scene.desk
    await scene.begun()
    said = asyncio.get_running_loop().time()
    desk.newest.text(serving.drain((600, 1200)))
    at = await scene.dialled(2, limit_s=1.2 + SLACK_S)
    if at - said < 0.55:
        raise Red(f"came back after {at - said:.2f} s; not before 0.6 s was asked for")
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.PATHS)
async def drain_to_another_path(scene: Scene) -> None:
    """`to` of a `drain` is where the client dials next."""
    desk = scene.desk
    await scene.begun()
    desk.newest.text(serving.drain((0, 300), f"/s/{desk.shard}{OTHER}/ws"))
    await scene.back(2)
    if desk.paths[-1] != f"/s/{desk.shard}{OTHER}/ws":
        raise Red(f"dialled {desk.paths[-1]} and not the path of the drain")
    await scene.goes_on()


@book.case(rules.SECOND)
async def the_older_line_counts_for_nothing(scene: Scene) -> None:
    """Once a second line was dialled, whatever the first one says is ignored, `taken` included."""
    desk = scene.desk
    await scene.begun()
    old = desk.newest
    desk.doors.append(Door(delay_s=0.5))
    desk.newest.text(serving.drain((0, 100)))
    await scene.dialled(2)
    old.text(serving.taken("nobody"))
    old.close(int(Close.TAKEN))
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.PATHS)
async def moved(scene: Scene) -> None:
    """`moved` is followed to a path of the same origin."""
    desk = scene.desk
    await scene.begun()
    desk.doors.append(refused(Close.MOVED, retry_ms=0, to=f"/s/{desk.shard}{OTHER}/ws"))
    desk.cut()
    await scene.back(2)
    if desk.paths[-1] != f"/s/{desk.shard}{OTHER}/ws":
        raise Red(f"dialled {desk.paths[-1]} and not where the session was moved")
    await scene.goes_on()


@book.case(rules.PATHS)
async def moved_to_another_origin(scene: Scene) -> None:
    """A redirect of any other form than /s/<name>/ws is ignored: the old path is dialled."""
    desk = scene.desk
    await scene.begun()
    for to in ("https://other.example/s/0/ws", "//other.example/s/0/ws", f"/portal/{desk.shard}"):
        desk.doors.append(refused(Close.MOVED, retry_ms=200, to=to))
    desk.cut()
    await scene.back(2)
    await scene.goes_on()
    if set(desk.paths) != {f"/s/{desk.shard}/ws"}:
        raise Red(f"followed a redirect of another form: {desk.paths}")


@book.case(rules.PATHS, is_long=True)
async def moved_in_a_circle(scene: Scene) -> None:
    """At most three redirects in a row; then they are an ordinary pause."""
    desk = scene.desk
    await scene.begun()
    paths = (f"/s/{desk.shard}{OTHER}/ws", f"/s/{desk.shard}/ws")
    for number in range(40):
        desk.doors.append(refused(Close.MOVED, retry_ms=0, to=paths[number % 2]))
    desk.cut()
    await scene.dialled(4)
    before = len(desk.dials)
    await asyncio.sleep(scene.patience.quiet_s)
    if len(desk.dials) - before > 12:
        raise Red(f"went round and round: {len(desk.dials) - before} dials in {scene.patience.quiet_s:g} s")
    desk.doors.clear()
    desk.doors.append(OPEN)
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.UNKNOWN)
async def words_of_later_releases(scene: Scene) -> None:
    """Unknown messages and keys are ignored, a planned pause too."""
    desk = scene.desk
    await scene.begun()
    desk.say(t="later", a="text", h=[1, 2])
    desk.say(t="pause", begin=4_000_000_000_000, back=4_000_000_100_000, note="Maintenance", more=1)
    desk.say(x=1)
    await scene.goes_on()
    if len(desk.dials) != 1:
        raise Red("left the line because of a message that it does not know")


@book.case(rules.RETRY)
async def leg_lost_is_a_resync_at_once(scene: Scene) -> None:
    """After 4481 the desktop's own line is new: resume at once, and take the resync."""
    desk = scene.desk
    await scene.begun()
    said = refused(Close.LEG_LOST, retry_ms=0).refusal
    assert said is not None
    desk.doors.append(Door(resync=True))
    desk.newest.text(say(**said))
    desk.newest.close(int(Close.LEG_LOST))
    await scene.back(2, replay=False, limit_s=SLACK_S)
    await scene.goes_on()
