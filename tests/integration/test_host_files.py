"""The host's own files and its eyes: state file, owners, logs, processes, control groups; no desktop."""

import asyncio
import os
import resource
import signal
import socket
import struct
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from session_service.base import errors
from session_service.base.layout import Layout
from session_service.host import (
    control_groups,
    identity,
    launch,
    log_keeper,
    look,
    owners,
    selftest,
    state_file,
)
from session_service.host.desktops import Desktops
from session_service.host.state_file import DesktopState
from session_service.host.x11 import Display, open_socket
from session_service.ports.desktops import DesktopSpec, Handle, Presence
from tests.fakes.desktop_world import fresh_id


def a_state(session_id: str) -> DesktopState:
    handle = Handle(
        provider="local",
        session_id=session_id,
        workspace_id=fresh_id(),
        fence=1,
        pid=os.getpid(),
        start_time=1,
        boot_id="b",
        uid=1,
        home="/h",
        run_folder="/r",
        socket="/r/s",
    )
    return DesktopState(handle=handle, user_id="u", registry_epoch=1, helpers=((1, 2),), init_pid=7)


def test_a_state_is_read_back_as_written_and_the_next_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / fresh_id()
    folder.mkdir()
    first = a_state(folder.name)
    state_file.write(folder, first)
    assert state_file.read(folder) == first
    second = msgspec.structs.replace(first, ready=True)
    state_file.write(folder, second)
    assert state_file.read_all(tmp_path) == [second]
    assert [path.name for path in folder.iterdir()] == ["state.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"handle": 1}', b"\xff" * 100])
def test_a_damaged_state_counts_as_none_and_is_left_as_it_is(tmp_path: Path, damage: bytes) -> None:
    folder = tmp_path / fresh_id()
    folder.mkdir()
    (folder / "state.json").write_bytes(damage)
    assert state_file.read(folder) is None
    assert (folder / "state.json").read_bytes() == damage


def test_a_state_of_another_session_counts_as_none(tmp_path: Path) -> None:
    """A file that was copied to another folder says nothing about that one."""
    folder = tmp_path / fresh_id()
    folder.mkdir()
    state_file.write(folder, a_state(fresh_id()))
    assert state_file.read(folder) is None


def test_a_write_that_fails_in_its_middle_leaves_the_last_good_state(tmp_path: Path) -> None:
    """The size of files is limited for a moment, as a full disk would limit it."""
    folder = tmp_path / fresh_id()
    folder.mkdir()
    good = a_state(folder.name)
    state_file.write(folder, good)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError):
            state_file.write(folder, msgspec.structs.replace(good, ready=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert state_file.read(folder) == good
    state_file.write(folder, msgspec.structs.replace(good, ready=True))


def test_owners_are_stable_unique_and_given_again_late(tmp_path: Path) -> None:
    file = tmp_path / "owners.json"
    first = owners.Owners(file, root=True)
    a, b = first.of("A", 1), first.of("B", 1)
    assert a != b
    again = owners.Owners(file, root=True)
    assert (again.of("A", 1), again.of("B", 1)) == (a, b)
    again.forget("A", 1)
    assert again.of("C", 1) not in (a, b)
    assert again.of("A", 2) != again.of("C", 1)
    assert owners.Owners(tmp_path / "none", root=False).of("A", 1) is None


def test_owners_of_what_is_no_longer_there_are_freed_when_the_pool_runs_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = owners.Owners(tmp_path / "owners.json", root=True)
    kept = table.of("A", 1)
    table.of("B", 2)
    table.retain(lambda *_: False)
    assert table.of("A", 1) == kept
    monkeypatch.setattr(owners, "POOL_SIZE", 4)
    table.retain(lambda workspace_id, fence: (workspace_id, fence) == ("A", 1))
    again = owners.Owners(tmp_path / "owners.json", root=True)
    assert again.of("A", 1) == kept
    assert "B" not in (tmp_path / "owners.json").read_text()


def test_a_used_up_pool_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "POOL_SIZE", 2)
    table = owners.Owners(tmp_path / "owners.json", root=True)
    table.of("A", 1)
    table.of("B", 1)
    with pytest.raises(errors.NoRoom):
        table.of("C", 1)
    table.forget("A", 1)
    assert table.of("C", 1) is not None


def test_a_process_of_another_start_time_is_never_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        found = identity.facts(child.pid)
        assert found is not None
        assert identity.open_process(child.pid, found.start_time + 1) is None
        assert not identity.send(child.pid, found.start_time + 1, signal.SIGTERM)
        assert child.poll() is None
        child.kill()
        child.wait()
        assert identity.open_process(child.pid, found.start_time) is None


def test_last_words_are_clean_and_short(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * 90_000 + b"\nsecond \x1b[31mred\x07 \xff line\n")
    (tmp_path / "new").write_bytes(b"last\n")
    words = log_keeper.last_words(tmp_path)
    assert words.endswith("second [31mred � line\nlast")
    assert len(words) <= log_keeper.WORDS_BYTES_MAX
    assert log_keeper.last_words(tmp_path / "none") == ""


def test_the_look_is_copied_once_per_version(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "one").mkdir(parents=True)
    (source / "one" / "start").write_text("exec true\n")
    first = look.install(tmp_path / "look", source=source)
    assert look.install(tmp_path / "look", source=source) == first
    (source / "one" / "start").write_text("exec false\n")
    second = look.install(tmp_path / "look", source=source)
    assert second != first
    assert (first / "one" / "start").read_text() == "exec true\n"
    assert look.templates(second) == {"one"}


MOUNTS = """30 20 0:26 / {v1}/memory rw - cgroup cgroup rw,memory
31 20 0:27 / {v1}/freezer rw - cgroup cgroup rw,freezer
32 20 0:28 / {v2} rw - cgroup2 cgroup2 rw
33 20 0:29 / /proc rw - proc proc rw
"""


def test_groups_of_both_versions_are_used_side_by_side(tmp_path: Path) -> None:
    """Version 2 freezes and kills, version 1 limits where version 2 has no controllers."""
    for name in ("v1/memory", "v1/freezer", "v2"):
        (tmp_path / name).mkdir(parents=True)
    text = MOUNTS.format(v1=tmp_path / "v1", v2=tmp_path / "v2").replace(" world", "\\040world")
    found = control_groups.find(mountinfo=text, membership="5:memory:/\n0::/\n")
    assert (found.mode, found.freezer, found.limits) == ("hybrid", "cgroup2", frozenset({"memory"}))
    only_old = "\n".join(line for line in text.splitlines() if "cgroup2" not in line)
    found = control_groups.find(mountinfo=only_old, membership="")
    assert (found.mode, found.freezer) == ("v1", "cgroup1")
    found = control_groups.find(mountinfo="", membership="0::/\n")
    assert (found.mode, found.freezer, found.limits) == ("none", "sigstop", frozenset())


def test_a_group_that_belongs_to_us_goes_before_the_top(tmp_path: Path) -> None:
    """Our own part of the program may have stepped aside into `parts`: the place stays the same."""
    own = tmp_path / "v2" / "user.slice" / "ours.service"
    own.mkdir(parents=True)
    os.setxattr(own, "user.delegate", b"1")
    text = f"32 20 0:28 / {tmp_path / 'v2'} rw - cgroup2 cgroup2 rw"
    for membership in ("0::/user.slice/ours.service\n", "0::/user.slice/ours.service/parts\n"):
        found = control_groups.find(mountinfo=text, membership=membership)
        assert found.unified == own / control_groups.FOLDER


async def test_the_machine_says_what_it_can_do() -> None:
    """Every fact has words; what does not work says what to do."""
    found = {finding.name: finding for finding in await selftest.look()}
    assert found["user_namespaces"].ok
    assert found["xvnc"].ok
    assert all(finding.words and (finding.ok or finding.action) for finding in found.values())


class HostileServer:
    """Listens where an X server would and answers as it is told."""

    def __init__(self, path: Path, *answers: bytes) -> None:
        self._path = path
        self._answers = answers

    async def __aenter__(self) -> "HostileServer":
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in self._answers:
            await reader.read(1000)
            writer.write(answer)
        await reader.read(1000)
        writer.close()


GREETING = struct.pack("<BxHHH", 1, 11, 0, 9) + bytes(36)
TOO_LONG = struct.pack("<BBHI", 1, 32, 0, 0xFFFFFFFF) + bytes(24)
NO_ITEMS = struct.pack("<BBHI", 1, 32, 0, 0) + struct.pack("<III", 0, 0, 0xFFFFFFFF) + bytes(12)


@pytest.mark.parametrize(
    "answers",
    [
        (struct.pack("<BxHHH", 0, 11, 0, 1) + bytes(4),),
        (struct.pack("<BxHHH", 1, 11, 0, 1) + bytes(4),),
        (struct.pack("<BxHHH", 1, 11, 0, 9) + bytes(16) + b"\xff\xff" + bytes(18),),
        (GREETING, TOO_LONG),
        (GREETING, b"\x01"),
    ],
    ids=["refuses", "short", "vendor", "long", "cut"],
)
async def test_a_display_that_lies_about_lengths_is_refused(
    tmp_path: Path, answers: tuple[bytes, ...]
) -> None:
    """Whoever listens there belongs to the desktop: no answer makes us read without end."""
    path = tmp_path / "X1"
    async with HostileServer(path, *answers):
        with pytest.raises((errors.PartRefused, OSError, EOFError)):
            screen = await Display.connect(path, cookie=bytes(16), uid=os.geteuid())
            try:
                await screen.windows()
            finally:
                await screen.close()


async def test_a_count_without_items_is_read_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "X1"
    async with HostileServer(path, GREETING, NO_ITEMS, NO_ITEMS):
        screen = await Display.connect(path, cookie=bytes(16), uid=os.geteuid())
        assert not await screen.has_window_manager()
        await screen.close()


def test_a_socket_that_is_none_or_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with pytest.raises(errors.PartRefused):
            open_socket(tmp_path / name, uid=os.geteuid())
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(tmp_path / "socket"))
        ours.listen()
        with pytest.raises(errors.PartRefused):
            open_socket(tmp_path / "socket", uid=os.geteuid() + 1)
        open_socket(tmp_path / "socket", uid=os.geteuid()).close()


async def test_a_machine_without_room_refuses_another_desktop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started or written for it; what runs is not touched."""
    monkeypatch.setattr(launch, "MEMORY_FREE_BYTES_MIN", 1 << 60)
    layout = Layout(tmp_path)
    host = Desktops(layout, hierarchies=control_groups.find(), root=False)
    workspace_id = fresh_id()
    home = layout.home(workspace_id, 1)
    home.mkdir(parents=True)
    spec = DesktopSpec(
        session_id=fresh_id(),
        workspace_id=workspace_id,
        user_id="u",
        fence=1,
        registry_epoch=1,
        home=str(home),
        template="bare",
    )
    with pytest.raises(errors.NoRoom) as refused:
        await host.launch(spec)
    assert "memory" in refused.value.detail
    assert [seen.handle.session_id for seen in await host.census()] == [""], "its home is there, and nobody's"
    await host.close()


TEMPLATES = sorted(path for path in look.TEMPLATES.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(look.TEMPLATES)))
def test_every_file_of_the_templates_is_well_formed(path: Path) -> None:
    """Scripts parse, markup parses; a desktop that does not start because of a typing error is found here."""
    content = path.read_bytes()
    if content.startswith(b"<?xml"):
        ET.fromstring(content)
    elif path.name in ("start", "furnish", "open", "menu", "leader", "supervise"):
        subprocess.run(["/bin/sh", "-n", str(path)], check=True)
    assert content


async def test_a_wipe_that_a_crash_cut_short_is_finished_at_the_next_start(tmp_path: Path) -> None:
    """The home is in the seed area and the state is there: nobody would ever forget it. Others stay."""
    layout = Layout(tmp_path)
    layout.desktops.mkdir()
    layout.homes.mkdir()
    wiped, alive, unready = (fresh_id() for _ in range(3))
    for session_id in (wiped, alive, unready):
        state = a_state(session_id)
        home = layout.home(state.handle.workspace_id, 1)
        handle = msgspec.structs.replace(state.handle, uid=os.geteuid(), home=str(home))
        (layout.desktops / session_id / "log").mkdir(parents=True)
        state_file.write(
            layout.desktops / session_id,
            msgspec.structs.replace(state, handle=handle, ready=session_id != unready, init_pid=0),
        )
        if session_id == alive:
            home.mkdir(parents=True)
    for missing in (True, False):
        if missing:
            layout.homes.rename(tmp_path / "unmounted")
        else:
            (tmp_path / "unmounted").rename(layout.homes)
        host = Desktops(layout, hierarchies=control_groups.find(), root=False)
        host.adopt_all()
        await host.close()
        left = {state.handle.session_id for state in state_file.read_all(layout.desktops)}
        assert left == ({wiped, alive, unready} if missing else {alive, unready})
    assert not (layout.desktops / wiped).exists()


async def test_the_census_names_homes_whose_desktop_nobody_remembers(tmp_path: Path) -> None:
    """Made before a crash, or their state file is lost. Drafts, links and what is not ours are no homes."""
    layout = Layout(tmp_path)
    host = Desktops(layout, hierarchies=control_groups.find(), root=False)
    assert await host.census() == []
    alone, state = fresh_id(), a_state(fresh_id())
    known = layout.home(state.handle.workspace_id, 1)
    for home in (layout.home(alone, 3), known, layout.home(alone, 4).with_name("4.new-12ab")):
        home.mkdir(parents=True)
    (layout.home(alone, 5)).symlink_to(known)
    (layout.homes / "lost+found" / "7").mkdir(parents=True)
    (layout.desktops / state.handle.session_id).mkdir()
    handle = msgspec.structs.replace(state.handle, home=str(known))
    state_file.write(
        layout.desktops / handle.session_id, msgspec.structs.replace(state, handle=handle, ready=True)
    )
    seen = {(one.handle.session_id, one.handle.workspace_id): one for one in await host.census()}
    assert set(seen) == {("", alone), (handle.session_id, handle.workspace_id)}
    found = seen["", alone]
    assert (found.handle.fence, found.handle.home) == (3, str(layout.home(alone, 3)))
    assert found.presence is Presence.PROCESSES_ENDED
    named = msgspec.structs.replace(found.handle, session_id=fresh_id())
    assert (await host.observe(named)).presence is Presence.PROCESSES_ENDED
    await host.close()
