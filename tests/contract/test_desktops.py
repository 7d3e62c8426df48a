"""The contract of `ports/desktops.py`, on real desktops: every provider behind it must pass."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from session_service.base import errors
from session_service.host import census, display, identity
from session_service.host.x11 import Display
from session_service.ports.desktops import DesktopSpec, Handle, Presence
from tests.fakes.desktop_world import DesktopWorld, appears, fresh_id, home_file, run_in_terminal
from tests.fakes.rfb_client import RfbClient
from tests.fakes.until import until

pytestmark = pytest.mark.slow


@pytest.fixture
async def world() -> AsyncIterator[DesktopWorld]:
    async with DesktopWorld() as made:
        yield made


def belonging(handle: Handle) -> list[int]:
    """Return every process that bears a mark of this desktop, looked for without the host's help."""
    marks = (f"{census.MARK}={handle.session_id}".encode(), handle.session_id.encode())
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            texts = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cgroup", "cmdline")]
        except OSError:
            continue
        if pid != os.getpid() and any(mark in text for mark in marks for text in texts):
            found.append(pid)
    return found


async def test_a_launched_desktop_is_there_and_shows_a_picture(world: DesktopWorld) -> None:
    """Ready means that somebody who attaches now sees a window manager's screen."""
    result = await world.launch()
    assert not result.adopted
    seen = await world.provider.observe(result.handle)
    assert seen.presence is Presence.RUNNING
    assert seen.processes >= 5
    async with RfbClient(result.handle.socket) as client:
        picture = await client.picture()
    assert (picture.width, picture.height) == (1280, 800)


async def test_a_second_launch_finds_the_same_desktop(world: DesktopWorld) -> None:
    """A launch may be repeated after a lost answer."""
    spec = await world.spec()
    first, second = await asyncio.gather(world.provider.launch(spec), world.provider.launch(spec))
    assert first.handle == second.handle
    assert sorted((first.adopted, second.adopted)) == [False, True]


async def test_another_fence_of_the_same_session_is_refused(world: DesktopWorld) -> None:
    spec = await world.spec()
    await world.provider.launch(spec)
    with pytest.raises(errors.Conflict):
        await world.provider.launch(msgspec.structs.replace(spec, fence=2))


async def test_a_desktop_outlives_a_killed_host_with_its_shell_and_pixels(world: DesktopWorld) -> None:
    """The next host finds it by pidfd, start time and boot id."""
    handle = (await world.launch()).handle
    await run_in_terminal(handle, "mark=$$; tput civis; clear; echo $mark > ~/first")
    first = await appears(home_file(handle, "first"))
    await until_still(handle)
    async with RfbClient(handle.socket) as client:
        before = await client.picture()
    await world.kill_host()
    await world.start_host()
    seen = await world.provider.observe(handle)
    assert (seen.presence, seen.handle) == (Presence.RUNNING, handle)
    async with RfbClient(handle.socket) as client:
        assert (await client.picture()).differing(before) == 0
    await run_in_terminal(handle, "echo $mark > ~/second")
    assert await appears(home_file(handle, "second")) == first
    again = await world.provider.launch(await spec_of(world, handle))
    assert again.adopted
    assert again.handle == handle


async def spec_of(world: DesktopWorld, handle: Handle) -> DesktopSpec:
    wish = await world.spec()
    return msgspec.structs.replace(
        wish, session_id=handle.session_id, workspace_id=handle.workspace_id, home=handle.home
    )


async def until_still(handle: Handle) -> None:
    """Wait until two pictures in a row are the same."""
    async with RfbClient(handle.socket) as client, asyncio.timeout(20):
        last = await client.picture()
        while True:
            await asyncio.sleep(0.1)
            fresh = await client.picture()
            if fresh.differing(last) == 0:
                return
            last = fresh


async def test_sixteen_started_at_once_never_mix(world: DesktopWorld) -> None:
    """Each has its own socket, processes and home, and what is typed into one arrives in that one alone."""
    results = await asyncio.gather(*(world.launch() for _ in range(16)))
    handles = [result.handle for result in results]
    assert len({handle.socket for handle in handles}) == 16
    assert len({handle.pid for handle in handles}) == 16
    if os.geteuid() == 0:
        assert len({handle.uid for handle in handles}) == 16
    for number, handle in enumerate(handles[:4]):
        await run_in_terminal(handle, f"echo {number} > ~/number")
        assert await appears(home_file(handle, "number")) == str(number)
    assert not any(home_file(handle, "number").exists() for handle in handles[4:])


async def test_a_frozen_desktop_does_nothing_and_goes_on_after_the_thaw(world: DesktopWorld) -> None:
    """A counter in its terminal stands still, and goes on from the same number."""
    handle = (await world.launch()).handle
    counter = home_file(handle, "counter")
    await run_in_terminal(handle, "i=0; while :; do i=$((i+1)); echo $i > ~/counter; done")
    await appears(counter)
    receipt = await world.provider.freeze(handle)
    assert receipt.processes >= 5
    assert not receipt.display_running
    stopped = counter.read_text()
    assert (await world.provider.observe(handle)).frozen
    assert await world.provider.freeze(handle) == receipt
    assert counter.read_text() == stopped
    await world.provider.thaw(handle)
    await world.provider.thaw(handle)
    await until(lambda: counter.read_text() not in ("", stopped))
    assert not (await world.provider.observe(handle)).frozen


async def test_with_frozen_applications_a_viewer_still_gets_a_picture(world: DesktopWorld) -> None:
    """X server and sandbox are in a group of their own from the first moment."""
    handle = (await world.launch()).handle
    counter = home_file(handle, "counter")
    await run_in_terminal(handle, "i=0; while :; do i=$((i+1)); echo $i > ~/counter; done")
    await appears(counter)
    receipt = await world.provider.freeze(handle, applications_only=True)
    assert receipt.display_running
    stopped = counter.read_text()
    async with RfbClient(handle.socket) as client:
        await client.picture()
    assert counter.read_text() == stopped
    everything = await world.provider.freeze(handle)
    assert everything.processes > receipt.processes
    await world.provider.thaw(handle)
    await until(lambda: counter.read_text() not in ("", stopped))


async def test_a_desktop_of_another_start_time_is_gone(world: DesktopWorld) -> None:
    """A handle's numbers are compared with the machine's own, never believed."""
    handle = (await world.launch()).handle
    for change in ({"start_time": handle.start_time + 1}, {"pid": 1}, {"boot_id": "another"}, {"fence": 9}):
        with pytest.raises(errors.DesktopGone):
            await world.provider.freeze(msgspec.structs.replace(handle, **change))
    with pytest.raises(errors.DesktopGone):
        await world.provider.freeze(msgspec.structs.replace(handle, session_id=fresh_id()))
    assert (await world.provider.observe(handle)).presence is Presence.RUNNING


async def test_asking_names_the_window_that_stays(world: DesktopWorld) -> None:
    """Unsaved work keeps its window open; everything else closes, and nothing is pressed for the user."""
    handle = (await world.launch()).handle
    await run_in_terminal(handle, "mousepad & sleep 1; exec sleep 1000")
    async with RfbClient(handle.socket) as client, asyncio.timeout(30):
        while not any(title.startswith("*") for title in await titles(world, handle)):
            await client.type("words that nobody has saved")
            await asyncio.sleep(0.2)
    report = await world.provider.ask_close(handle, hook=True)
    assert report.hook == "none"
    assert any("*" in title or "Save" in title for title in report.refused_windows), report


async def titles(world: DesktopWorld, handle: Handle) -> list[str]:
    """Return the titles of the open windows, asked of the X server itself."""
    base = world.layout.desktops / handle.session_id
    cookie = display.cookie_of((base / "etc" / "xauth").read_bytes())
    screen = await Display.connect(base / "display" / "x11" / "X1", cookie=cookie, uid=handle.uid)
    try:
        return [window.title for window in await screen.windows()]
    finally:
        await screen.close()


async def test_asking_runs_the_users_hook_inside_the_desktop(world: DesktopWorld) -> None:
    """It runs as the desktop's user, sees its display, and its result is told."""
    handle = (await world.launch()).handle
    lines = "printf '#!/bin/sh\\nid -u > ~/hook; echo $DISPLAY >> ~/hook; exit 3\\n' > $d/before-close"
    await run_in_terminal(
        handle, f"d=~/.config/session-service; mkdir -p $d; {lines}; chmod 755 $d/before-close; touch ~/made"
    )
    await until(lambda: home_file(handle, "made").exists())
    report = await world.provider.ask_close(handle, hook=True)
    assert report.hook == "failed"
    assert home_file(handle, "hook").read_text().split() == ["1000", ":1"]


async def test_nothing_is_ended_or_wiped_without_a_good_proof(world: DesktopWorld) -> None:
    """Wrong seal, kind, session, fence, home and age are each refused, and the desktop lives."""
    handle = (await world.launch()).handle
    good = world.proof(handle, "verified")
    bad = [
        msgspec.structs.replace(good, seal=bytes(32)),
        msgspec.structs.replace(good, seal=b""),
        msgspec.structs.replace(good, seq=8),
        world.proof(handle, "same"),
        world.proof(handle, "verified", session_id=fresh_id()),
        world.proof(handle, "verified", workspace_id=fresh_id()),
        world.proof(handle, "verified", fence=2),
        world.proof(handle, "verified", seq=0),
        world.proof(handle, "verified", home=str(world.layout.home(fresh_id(), 1))),
        world.proof(handle, "verified", made_at_boot_ms=good.made_at_boot_ms - 601_000),
        world.proof(handle, "verified", made_at_boot_ms=good.made_at_boot_ms + 3_600_000),
    ]
    for proof in bad:
        with pytest.raises(errors.ProofRequired):
            await world.provider.end(handle, proof)
    for proof in (good, msgspec.structs.replace(world.proof(handle, "same"), seal=bytes(32))):
        with pytest.raises(errors.ProofRequired):
            await world.provider.wipe(handle, proof)
    assert (await world.provider.observe(handle)).presence is Presence.RUNNING


async def test_a_running_desktop_is_not_wiped_even_with_proof(world: DesktopWorld) -> None:
    handle = (await world.launch()).handle
    with pytest.raises(errors.ProofRequired):
        await world.provider.wipe(handle, world.proof(handle, "same"))
    assert Path(handle.home).is_dir()


async def test_an_end_leaves_no_process_even_of_a_daemon_that_ignores_signals(world: DesktopWorld) -> None:
    """Double-forked, its own session, deaf to TERM, HUP and INT, environment cleared: it goes, too."""
    handle = (await world.launch()).handle
    deaf = "trap : TERM HUP INT; touch ~/deaf; while :; do sleep 1; done"
    await run_in_terminal(handle, f"(setsid env -i HOME=$HOME /bin/bash -c '{deaf}' &)")
    await until(lambda: home_file(handle, "deaf").exists())
    await world.provider.freeze(handle)
    await world.provider.end(handle, world.proof(handle, "verified"))
    assert belonging(handle) == []
    assert (await world.provider.observe(handle)).presence is Presence.PROCESSES_ENDED
    assert home_file(handle, "deaf").exists()
    await world.provider.end(handle, world.proof(handle, "verified"))
    await world.provider.wipe(handle, world.proof(handle, "same"))
    assert (await world.provider.observe(handle)).presence is Presence.ABSENT
    assert not Path(handle.home).exists()
    assert len(list(world.layout.seeds.iterdir())) == 1
    await world.provider.wipe(handle, world.proof(handle, "same"))
    assert await world.provider.census() == []
    assert not handle.cgroup or not Path(handle.cgroup).exists()


async def test_only_a_desktop_that_never_was_ready_is_discarded(world: DesktopWorld) -> None:
    """A start that failed leaves its last words and may go; one that was ready needs proof."""
    ready = (await world.launch()).handle
    with pytest.raises(errors.ProofRequired):
        await world.provider.discard(ready)
    spec = await world.spec(template=world.add_template("broken", "echo cannot go on >&2; exit 3"))
    with pytest.raises(errors.DesktopStartFailed) as failed:
        await world.provider.launch(spec)
    assert "cannot go on" in failed.value.detail
    (left,) = [seen for seen in await world.provider.census() if seen.handle.session_id == spec.session_id]
    assert left.presence is Presence.PROCESSES_ENDED
    assert "cannot go on" in await world.provider.last_words(left.handle)
    assert belonging(left.handle) == []
    await world.provider.discard(left.handle)
    await world.provider.discard(left.handle)
    assert (await world.provider.observe(left.handle)).presence is Presence.ABSENT


async def test_of_a_desktop_that_was_never_launched_only_an_empty_home_is_discarded(
    world: DesktopWorld,
) -> None:
    """A home that holds a single name may be its user's, whatever a caller believes."""
    for names in ((), (".profile",)):
        spec = await world.spec()
        home = Path(spec.home)
        for name in names:
            (home / name).touch()
        (alone,) = [one for one in await world.provider.census() if one.handle.home == spec.home]
        handle = msgspec.structs.replace(alone.handle, session_id=spec.session_id)
        await world.provider.discard(handle)
        assert home.exists() is bool(names)
        assert home.parent.exists() is bool(names)
        await world.provider.discard(handle)


async def test_a_template_is_offered_while_its_programs_are_installed(world: DesktopWorld) -> None:
    """What is refused names what there is."""
    world.add_template("large", "exec openbox")
    (look,) = world.layout.look.iterdir()
    assert {"bare", "openbox", "large"} <= await world.provider.templates()
    (look / "large" / "needs").write_text("openbox no-such-program\n")
    offered = await world.provider.templates()
    assert "large" not in offered
    with pytest.raises(errors.BadInput, match="'large' here; there are: bare, ") as refused:
        await world.provider.launch(await world.spec(template="large"))
    assert refused.value.facts["templates"] == ", ".join(sorted(offered))


async def test_the_end_of_a_desktop_is_told_with_its_last_words(world: DesktopWorld) -> None:
    """Also when the host was away while it happened."""
    told: list[tuple[str, str]] = []
    world.provider.on_exit(lambda handle, words: told.append((handle.session_id, words)))
    handle = (await world.launch()).handle
    await run_in_terminal(handle, "o=$(pgrep openbox); echo famous last words > /proc/$o/fd/2; kill -TERM $o")
    await until(lambda: told)
    assert told[0][0] == handle.session_id
    assert "famous last words" in told[0][1]
    assert (await world.provider.observe(handle)).presence is Presence.PROCESSES_ENDED
    assert "famous last words" in await world.provider.last_words(handle)
    assert belonging(handle) == []


async def test_an_end_while_the_host_was_away_is_told_by_the_next_one(world: DesktopWorld) -> None:
    handle = (await world.launch()).handle
    await run_in_terminal(handle, "sleep 2; kill -TERM $(pgrep openbox)")
    await world.kill_host()
    await until(lambda: identity.open_process(handle.pid, handle.start_time) is None)
    await world.start_host()
    told: list[str] = []
    world.provider.on_exit(lambda handle, _: told.append(handle.session_id))
    await until(lambda: told)
    assert told == [handle.session_id]


async def test_the_provisional_mark_outlives_the_host(world: DesktopWorld) -> None:
    handle = (await world.launch()).handle
    await world.provider.mark(handle, provisional_loss_epoch=3, revoked_grant=2)
    await world.kill_host()
    await world.start_host()
    seen = await world.provider.observe(handle)
    assert (seen.provisional_loss_epoch, seen.revoked_grant) == (3, 2)
    await world.provider.mark(handle, provisional_loss_epoch=None)
    seen = await world.provider.observe(handle)
    assert (seen.provisional_loss_epoch, seen.revoked_grant) == (None, None)


async def test_without_a_host_every_call_is_retryable(world: DesktopWorld) -> None:
    handle = (await world.launch()).handle
    await world.kill_host()
    with pytest.raises(errors.PartUnavailable) as refused:
        await world.provider.observe(handle)
    assert refused.value.retryable


async def test_a_home_of_somebody_else_is_refused(world: DesktopWorld) -> None:
    """A desktop gets the home of its workspace and fence, or none."""
    spec = await world.spec()
    other = await world.spec()
    for home in (other.home, "/etc", f"{spec.home}/../1", str(world.layout.homes)):
        with pytest.raises(errors.BadInput):
            await world.provider.launch(msgspec.structs.replace(spec, home=home))
    await world.provider.launch(spec)
    with pytest.raises(errors.Conflict):
        await world.provider.launch(msgspec.structs.replace(spec, session_id=fresh_id()))


@pytest.mark.parametrize(
    "wish",
    [
        {"keyboard_layout": "de; touch /tmp/x"},
        {"time_zone": "../../etc/passwd"},
        {"title": "$(id)"},
        {"template": "../openbox"},
        {"template": "nonsense"},
        {"network": "everything"},
        {"geometry": (1, 1)},
        {"geometry": (100_000, 100)},
        {"session_id": "../../x"},
    ],
    ids=str,
)
async def test_a_wish_of_another_form_is_refused(world: DesktopWorld, wish: dict[str, object]) -> None:
    spec = await world.spec()
    with pytest.raises(errors.BadInput):
        await world.provider.launch(msgspec.structs.replace(spec, **wish))


async def test_a_launch_that_was_cut_by_a_crash_is_repeated_without_leftovers(world: DesktopWorld) -> None:
    """The host dies while the desktop starts; the next one clears what never was ready and starts anew."""
    spec = await world.spec()
    state = world.layout.desktops / spec.session_id / "state.json"
    for moment in (lambda: state.exists(), lambda: b'"pid": 0' not in state.read_bytes()):
        async with asyncio.TaskGroup() as group:
            cut = group.create_task(expect_unavailable(world, spec))
            await until(moment)
            await world.kill_host()
            await cut
        await world.start_host()
    result = await world.provider.launch(spec)
    assert not result.adopted
    displays = [pid for pid in belonging(result.handle) if name_of(pid) == "Xvnc"]
    assert len(displays) == 1


async def expect_unavailable(world: DesktopWorld, spec: DesktopSpec) -> None:
    with pytest.raises(errors.PartUnavailable):
        await world.provider.launch(spec)


def name_of(pid: int) -> str:
    found = identity.facts(pid)
    return "" if found is None else found.name


async def test_a_launch_that_nobody_waits_for_leaves_nothing(world: DesktopWorld) -> None:
    """The caller goes away in the middle: what was started is ended, the home is kept for the next try."""
    spec = await world.spec(template=world.add_template("endless", "exec sleep 1000"))
    waiting = asyncio.timeout(1.5)
    with pytest.raises(TimeoutError):
        async with waiting:
            await world.provider.launch(spec)
    await until_absent(world, spec)
    assert Path(spec.home).is_dir()
    again = await world.provider.launch(msgspec.structs.replace(spec, template="bare"))
    assert not again.adopted


async def until_absent(world: DesktopWorld, spec: DesktopSpec) -> None:
    async with asyncio.timeout(20):
        while True:
            seen = {found.handle.session_id: found for found in await world.provider.census()}
            if seen[spec.session_id].presence is Presence.PROCESSES_ENDED:
                return
            await asyncio.sleep(0.05)
