"""The program's link to a desktop, through the real gateway to a real Xvnc."""

import asyncio
import os
from pathlib import Path

import pytest

from session_service.base import errors
from session_service.client.desktop_link import DesktopLink, LinkLost, LinkRefused, audience, open_link
from session_service.client.framebuffer import Framebuffer, NotRfb, keys_of
from session_service.core.records import LossCause
from tests.fakes.gateway_world import World, running, xvnc
from tests.fakes.until import until


async def paint(folder: Path, colour: str) -> None:
    """Make the screen's background another colour, as a program on the desktop would."""
    display = (folder / "display").read_text().strip()
    process = await asyncio.create_subprocess_exec(
        "xsetroot", "-solid", colour, env=os.environ | {"DISPLAY": f":{display}"}
    )
    assert await process.wait() == 0


async def link_to(world: World, session_id: str, **more: object) -> DesktopLink:
    ticket = world.control.ticket(session_id)
    return await open_link(world.origin, path="/s/0/ws", ticket=ticket, **more)  # type: ignore[arg-type]  # by name


async def test_a_program_sees_and_cuts_and_comes_back(tmp_path: Path) -> None:
    """The picture is there, a cut is noticed as a cut, and the same desktop is found again."""
    async with running() as world, xvnc(tmp_path) as socket:
        world.control.add_session("s1", str(socket))
        link = await link_to(world, "s1")
        assert (link.screen.width, link.screen.height) == (640, 480)
        before = await link.settled(quiet_s=0.2, limit_s=20)
        await paint(tmp_path, "#3060c0")
        after = await link.until(lambda picture: picture.differing(before) > 0, limit_s=20)
        await link.type("ls\n")
        link.cut()
        await until(lambda: world.control.ends)
        assert world.control.ends[0].cause == LossCause.RESET
        with pytest.raises(LinkLost):
            await link.picture()
        again = await link_to(world, "s1")
        assert (await again.settled(quiet_s=0.2, limit_s=20)).differing(after) == 0
        await again.close()
        await until(lambda: len(world.control.ends) == 2)
        assert world.control.ends[1].cause == LossCause.TAB_CLOSED


async def test_a_refusal_says_what_to_do_next(tmp_path: Path) -> None:
    """A used ticket, and nobody at the address."""
    async with running() as world, xvnc(tmp_path) as socket:
        world.control.add_session("s1", str(socket), progress=["restoring 40 %"])
        ticket, told = world.control.ticket("s1"), []
        link = await open_link(
            world.origin, path="/s/0/ws", ticket=ticket, on_wait=lambda why, pct: told.append(why)
        )
        await link.close()
        with pytest.raises(LinkRefused) as refused:
            await open_link(world.origin, path="/s/0/ws", ticket=ticket)
        assert refused.value.facts["next"]
    with pytest.raises(errors.PartUnavailable):
        await open_link(world.origin, path="/s/0/ws", ticket=ticket)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080"),
        ("https://Desk.Example/", "wss://desk.example:443"),
        ("http://[::1]", "ws://[::1]:80"),
    ],
)
def test_the_audience_is_the_address_as_dialled(url: str, told: str) -> None:
    """Lower case, the port always there."""
    assert audience(url) == told


def test_a_screen_takes_rectangles_only_inside_of_itself() -> None:
    """And copies parts of itself, overlapping ones too."""
    screen = Framebuffer(4, 2)
    screen.put(0, 0, 2, 1, b"abcdefgh")
    screen.copy(1, 0, 2, 1, 0, 0)
    assert screen.picture().pixels[:12] == b"abcdabcdefgh"
    assert screen.picture().part(1, 0, 9, 1).width == 3
    for x, y, width, height in ((3, 0, 2, 1), (0, 1, 1, 2)):
        with pytest.raises(NotRfb):
            screen.put(x, y, width, height, bytes(width * height * 4))
    with pytest.raises(NotRfb):
        screen.resize(0, 5)


def test_letters_are_pressed_and_released() -> None:
    """Letters beyond Latin-1 by their number."""
    pressed = list(keys_of("a\n€"))
    assert [each[4:8].hex() for each in pressed] == ["00000061", "0000ff0d", "010020ac"]
    assert all(each[1] == 1 and each[9] == 0 for each in pressed)
