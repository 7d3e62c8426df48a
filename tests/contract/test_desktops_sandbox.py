"""What a desktop can see, reach and use up: looked at from inside a real one, and from outside."""

import asyncio
import contextlib
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session_service.base import errors
from session_service.host import state_file
from session_service.ports.desktops import Handle, Presence
from tests.fakes.desktop_world import DesktopWorld, appears, home_file, run_in_terminal, run_to_file
from tests.fakes.rfb_client import RfbClient
from tests.fakes.unprivileged import NOBODY
from tests.fakes.until import until

pytestmark = pytest.mark.slow

ROOT = os.geteuid() == 0
PUBLIC = "203.0.113.7"
"""An address that is private to nobody (kept for documentation): the outside, in a network of its own."""


@pytest.fixture
async def world() -> AsyncIterator[DesktopWorld]:
    async with DesktopWorld() as made:
        yield made


async def test_a_plain_user_gets_whole_desktops_too() -> None:
    """In a user namespace alone: launch, adopt after kill -9, freeze by SIGSTOP, thaw, end, wipe."""
    async with DesktopWorld(plain_uid=NOBODY if ROOT else None) as world:
        handle = (await world.launch()).handle
        counter = home_file(handle, "counter")
        await run_in_terminal(handle, "i=0; while :; do i=$((i+1)); echo $i > ~/counter; done")
        await appears(counter)
        await world.kill_host()
        await world.start_host()
        shown = await world.provider.freeze(handle, applications_only=True)
        stopped = counter.read_text()
        async with RfbClient(handle.socket) as client:
            await client.picture()
        everything = await world.provider.freeze(handle)
        assert everything.processes > shown.processes
        assert counter.read_text() == stopped
        assert (await world.provider.observe(handle)).frozen
        await world.provider.thaw(handle)
        await until(lambda: counter.read_text() not in ("", stopped))
        await world.end(handle)
        assert (await world.provider.observe(handle)).presence is Presence.ABSENT
        assert not Path(handle.home).exists()


async def test_a_desktop_sees_only_itself(world: DesktopWorld) -> None:
    """Not the other desktop's processes and home, not /root, not our state, no socket of the host."""
    other = (await world.launch()).handle
    handle = (await world.launch()).handle
    script = f"""
ls -d /root {world.layout.root} {other.home} 2>/dev/null
ls /home
ps -e -o comm= | grep -c '^Xvnc$'
grep -c '@/tmp/.X11' /proc/net/unix
env | grep -c -e SUDO -e SSH -e PYTHON
cat /etc/hostname
touch /usr/x /etc/x /run/look/x 2>/dev/null && echo writable
id -u
"""
    seen = await run_to_file(handle, "seen", script)
    assert seen.split() == ["user", "1", "0", "0", "desktop", "1000"]


async def test_nothing_of_a_desktop_listens_but_its_unix_socket(world: DesktopWorld) -> None:
    """Looked at from outside, in its own network namespace."""
    handle = (await world.launch()).handle
    state = state_file.read(world.layout.desktops / handle.session_id)
    assert state is not None
    for name in ("tcp", "tcp6"):
        lines = Path(f"/proc/{state.init_pid}/net/{name}").read_text().splitlines()[1:]
        assert not [line for line in lines if line.split()[3] == "0A"]
    assert os.listdir(handle.run_folder) == ["rfb.sock"]
    assert Path(handle.socket).is_socket()
    assert Path(handle.socket).stat().st_mode & 0o7 == 0


async def test_wishes_for_keyboard_language_and_time_are_kept(world: DesktopWorld) -> None:
    handle = (
        await world.launch(
            keyboard_layout="de", time_zone="Asia/Tokyo", locale="xx_XX.UTF-8", title="my-desk"
        )
    ).handle
    told = await run_to_file(handle, "told", "setxkbmap -query | grep layout; date +%Z; echo $LANG; hostname")
    assert told.split() == ["layout:", "de", "JST", "C.UTF-8", "my-desk"]


async def test_the_default_desktop_is_furnished_and_leaves_the_home_nearly_empty(world: DesktopWorld) -> None:
    """Wallpaper and panel are there; what they need lies outside of the home."""
    handle = (await world.launch(template="openbox")).handle
    async with RfbClient(handle.socket) as client, asyncio.timeout(30):
        picture = await client.picture()
        while picture.pixel(100, 100) != (236, 236, 230) or picture.pixel(900, 780) != (245, 245, 241):
            picture = await client.picture()
    home = Path(handle.home)
    files = [path for path in home.rglob("*") if path.is_file()]
    kept = [path for path in files if path.relative_to(home).parts[0] != ".cache"]
    assert sum(path.stat().st_size for path in kept) < 20_000
    assert sum(path.stat().st_size for path in files) < 200_000, (
        "font and menu caches are made where the system has none"
    )
    assert {path.name for path in Path(handle.home).iterdir()} <= {".cache", ".config", "Desktop"}


async def test_limits_hold_and_the_display_lives_on(world: DesktopWorld) -> None:
    """An application that wants more memory than is allowed dies; the desktop does not."""
    result = await world.launch(memory_mb_max=300, processes_max=150)
    if not {"memory", "processes"} & set(result.limits):
        script = """
python3 -c 'x = bytearray(600 << 20)'; echo memory $?
python3 -c 'import os
for n in range(400):
    if os.fork() == 0:
        import time; time.sleep(5); os._exit(0)' 2>&1 | grep -c BlockingIOError
"""
        told = await run_to_file(result.handle, "told", script)
        assert "memory 137\n" in told
        assert told.endswith("\n1\n")
    async with RfbClient(result.handle.socket) as client:
        await client.picture()


async def test_without_a_network_there_is_only_loopback(world: DesktopWorld) -> None:
    handle = (await world.launch(network="none")).handle
    assert handle.network == "none"
    told = await run_to_file(handle, "told", "cat /proc/net/dev | grep -c :; cat /etc/resolv.conf")
    assert told.split() == ["1"]


async def test_the_applications_start_when_their_network_is_there(world: DesktopWorld) -> None:
    """The first program of the desktop sees the way out, though the display did not wait for it."""
    template = world.add_template(
        "early", 'cat /proc/net/route >"$HOME/part"; mv "$HOME/part" "$HOME/route"; . "$LOOK/bare/start"'
    )
    result = await world.launch(template=template, network="isolated")
    assert (result.handle.network == "isolated") == ("network" not in result.limits)
    routes = home_file(result.handle, "route").read_text()
    assert ("tap0" in routes) == (result.handle.network == "isolated")


async def test_where_memory_runs_out_applications_go_first_whatever_protects_the_service() -> None:
    """The display is as likely to go as any program, an application more, the service as it was set."""
    # Upwards, which needs no privilege; a service is protected by a score below 0.
    scored = ("sh", "-c", 'echo 100 >/proc/self/oom_score_adj; exec "$@"', "scored")
    async with DesktopWorld(within=scored) as world:
        handle = (await world.launch()).handle
        hook = home_file(handle, ".config/session-service/before-close")
        hook.parent.mkdir(parents=True)
        hook.write_text("#!/bin/sh\ncat /proc/self/oom_score_adj >~/hook\n")
        hook.chmod(0o755)
        state = state_file.read(world.layout.desktops / handle.session_id)
        assert state is not None
        before = await run_to_file(handle, "told", "cat /proc/self/oom_score_adj")
        await world.provider.ask_close(handle, hook=True)
        scores = {
            pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text())
            for pid, _ in (*state.display_side, *state.helpers)
        }
        assert set(scores.values()) == {0}, scores
        assert (int(before), int(home_file(handle, "hook").read_text())) == (500, 500)
        assert int(Path(f"/proc/{world.host_pid}/oom_score_adj").read_text()) == 100


class Outside:
    """A network of the test's own, in which the host runs: an outside address, a private one, loopback."""

    def __init__(self, pid: int) -> None:
        self._enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        self.listeners: list[subprocess.Popen[bytes]] = []

    def build(self, port: int) -> None:
        for command in (
            "ip link set lo up",
            f"ip addr add {PUBLIC}/32 dev lo",
            "ip addr add 192.168.77.1/32 dev lo",
        ):
            subprocess.run([*self._enter, *command.split()], check=True)
        serve = (
            f"import socket; s = socket.create_server(('', {port}))\nwhile 1: s.accept()[0].sendall(b'hello')"
        )
        self.listeners.append(subprocess.Popen([*self._enter, "python3", "-c", serve]))

    def close(self) -> None:
        for listener in self.listeners:
            listener.kill()
            listener.wait()


PROBE = """
from_desktop() { timeout 3 bash -c "head -c 5 < /dev/tcp/$1/$2" 2>/dev/null || echo closed; echo; }
for address in %s; do from_desktop $address %d; done
"""


async def test_an_isolated_network_reaches_the_outside_and_neither_host_nor_private_addresses() -> None:
    """The router runs as root here; rules in the namespace keep private ranges out, loopback included."""
    if not ROOT:
        async with DesktopWorld() as world:
            handle = (await world.launch(network="isolated")).handle
            assert handle.network in ("isolated", "none")
        return
    async with DesktopWorld(within=("unshare", "--net")) as world:
        outside = Outside(world.host_pid)
        try:
            outside.build(8099)
            result = await world.launch(network="isolated")
            assert result.handle.network == "isolated", result.limits
            places = f"{PUBLIC} 10.0.2.2 127.0.0.1 192.168.77.1"
            told = await run_to_file(result.handle, "told", PROBE % (places, 8099))
            assert told.split() == ["hello", "closed", "closed", "closed"]
            helpers = state_file.read(world.layout.desktops / result.handle.session_id)
            assert helpers is not None
            router = helpers.helpers[-1][0]
            await world.end(result.handle)
            await until(lambda: not Path(f"/proc/{router}").exists())
        finally:
            outside.close()


async def test_the_host_never_follows_a_link_in_place_of_a_socket(world: DesktopWorld) -> None:
    """A desktop puts links in place of its sockets that lead to one of ours; nobody connects to it."""
    handle = (await world.launch()).handle
    trap_path = world.layout.run / "trap"
    with socket.socket(socket.AF_UNIX) as trap:
        trap.bind(str(trap_path))
        trap.listen()
        trap.setblocking(False)
        steps = ("cd /tmp/.X11-unix", "rm X1", f"ln -s '{trap_path}' X1", "cd /run/desk", "rm rfb.sock")
        await run_in_terminal(handle, "; ".join((*steps, f"ln -s '{trap_path}' rfb.sock", "touch ~/led")))
        await until(lambda: home_file(handle, "led").exists())
        report = await world.provider.ask_close(handle, hook=False)
        assert report.refused_windows == ()
        with pytest.raises(BlockingIOError):
            trap.accept()


async def test_where_no_sandbox_can_be_made_the_reason_is_told() -> None:
    """User namespaces are forbidden around this host; nothing is started without a sandbox instead."""
    forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all"
    mapping = ("--map-current-user", "--keep-caps")
    within = ("unshare", "--user", *mapping, "/bin/sh", "-c", f'{forbid} -- "$@"', "sh")
    async with DesktopWorld(plain_uid=NOBODY if ROOT else None, within=within) as world:
        with pytest.raises(errors.SandboxImpossible) as refused:
            await world.launch()
        assert "namespace" in refused.value.detail
        (left,) = await world.provider.census()
        assert left.presence is Presence.PROCESSES_ENDED


async def test_without_a_sandbox_desktops_run_when_that_was_chosen() -> None:
    """Explicit, and still with a display number that nobody shares."""
    async with DesktopWorld(arguments=("--sandbox", "off")) as world:
        results = await asyncio.gather(*(world.launch(network="isolated") for _ in range(3)))
        assert all(result.handle.network == "host" and "network" in result.limits for result in results)
        displays = set()
        for result in results:
            async with RfbClient(result.handle.socket) as client:
                await client.picture()
            state = state_file.read(world.layout.desktops / result.handle.session_id)
            assert state is not None
            displays.add(state.display)
        assert len(displays) == 3
        await world.provider.freeze(results[0].handle)
        await world.end(results[0].handle)
        assert (await world.provider.observe(results[0].handle)).presence is Presence.ABSENT
        await _frozen_without_its_first_process(world, results[1].handle)


async def _frozen_without_its_first_process(world: DesktopWorld, handle: Handle) -> None:
    """What lives on is frozen and ended like the rest: else its close would wait for ever."""
    os.kill(handle.pid, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{handle.pid}/cmdline").exists(), 10)
    if (await world.provider.observe(handle)).presence is Presence.RUNNING:
        assert (await world.provider.freeze(handle)).processes > 0
    await world.end(handle)
    assert (await world.provider.observe(handle)).presence is Presence.ABSENT


async def test_a_host_with_a_narrow_mask_makes_folders_that_its_desktops_can_enter() -> None:
    """The parent starts the parts with a mask that keeps everything to its owner."""
    narrow = ("/bin/sh", "-c", 'umask 077; exec "$@"', "sh")
    async with DesktopWorld(within=narrow) as world:
        handle = (await world.launch(template="openbox")).handle
        assert (await world.provider.observe(handle)).presence is Presence.RUNNING


async def test_two_services_on_one_machine_leave_each_others_desktops_alone() -> None:
    """Even where both have given the same uid: ending one desktop must not end the other service's."""
    async with DesktopWorld() as world, DesktopWorld() as other:
        mine, wish = (await world.launch()).handle, await other.spec()
        if ROOT:
            await other.kill_host()
            other.give_uid(wish, mine.uid)
            await other.start_host()
        theirs = (await other.provider.launch(wish)).handle
        assert theirs.uid == mine.uid
        await world.provider.freeze(mine)
        async with RfbClient(theirs.socket) as client:
            await client.picture()
        await world.end(mine)
        assert (await other.provider.observe(theirs)).presence is Presence.RUNNING
        async with RfbClient(theirs.socket) as client:
            await client.picture()


async def test_a_log_cannot_fill_the_disk(world: DesktopWorld) -> None:
    """A desktop that writes without end to its standard error keeps only its last words."""
    handle = (await world.launch()).handle
    await run_in_terminal(
        handle, "yes nonsense | head -c 20000000 > /proc/$(pgrep openbox)/fd/2; touch ~/written"
    )
    await until(lambda: home_file(handle, "written").exists(), 60)
    folder = world.layout.desktops / handle.session_id / "log"
    assert sum(size_of(path) for path in folder.iterdir()) <= 300_000
    assert "nonsense" in await world.provider.last_words(handle)


def size_of(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


async def test_only_the_services_group_reaches_the_screen_of_a_desktop() -> None:
    """Where the host is root: the RFB socket is for the service, the X server's own socket is not."""
    if not ROOT:
        async with DesktopWorld() as world:
            handle = (await world.launch()).handle
            assert Path(handle.socket).stat().st_mode & 0o777 == 0o600
        return
    async with DesktopWorld(arguments=("--service-user", "nobody")) as world:
        handle = (await world.launch()).handle
        account = pwd.getpwnam("nobody")
        found = Path(handle.socket).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (handle.uid, account.pw_gid, 0o660)
        assert world.layout.host_socket.stat().st_gid == account.pw_gid
        x11 = Path(handle.run_folder).parent / "display" / "x11" / "X1"
        outcome = {}
        for name, uid, gid in (("service", account.pw_uid, account.pw_gid), ("other", 65_000, 65_000)):
            for path in (Path(handle.socket), x11, world.layout.host_socket):
                outcome[name, path.name] = connects(path, uid, gid)
        assert outcome == {
            ("service", "rfb.sock"): True,
            ("service", "X1"): False,
            ("service", "host.sock"): True,
            ("other", "rfb.sock"): False,
            ("other", "X1"): False,
            ("other", "host.sock"): False,
        }


def connects(path: Path, uid: int, gid: int) -> bool:
    """Try to connect as another user."""
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    drop = [
        "setpriv",
        "--reuid",
        str(uid),
        "--regid",
        str(gid),
        "--clear-groups",
        "--bounding-set=-all",
        "--",
    ]
    command = [*drop, "/usr/bin/python3", "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
