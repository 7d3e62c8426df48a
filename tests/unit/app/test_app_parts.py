"""The small parts of app: who may run what, folders and their modes, room, alarms that reach people."""

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import BaseModel

from session_service.app import accounts, folders, parent, room
from session_service.app.notices import Notices
from session_service.app.parent import running_parent, start_time
from session_service.app.settings import Alarms, Gateway, Room, Settings
from session_service.base import errors
from session_service.base.layout import Layout
from session_service.core.views import Alarm
from session_service.host import owners
from tests.fakes.until import until

ALARM = Alarm(id="a", kind="close_stuck", since_ms=1, detail="the store is away", action="bring it back")


def test_the_part_that_faces_the_network_keeps_no_capability() -> None:
    who = accounts.Accounts(root=True, service_uid=901, service_gid=902, worker_uid=903, worker_gid=904)
    words = accounts.command_prefix("service", who)
    assert {"--reuid=901", "--regid=902", "--clear-groups", "--no-new-privs", "--bounding-set=-all"} <= set(
        words
    )


def test_each_gateway_process_is_a_user_of_its_own_in_a_group_that_opens_no_desktop() -> None:
    """So that the registry is closed to it, and none can end another."""
    who = accounts.Accounts(
        root=True, service_uid=901, service_gid=902, worker_uid=903, worker_gid=904, gateway_gid=905
    )
    first, second = (set(accounts.command_prefix(f"gateway-{shard}", who)) for shard in (1, 2))
    assert {"--regid=905", "--clear-groups", "--no-new-privs", "--bounding-set=-all"} <= first & second
    assert first ^ second == {f"--reuid={accounts.GATEWAY_FIRST_UID + shard}" for shard in (1, 2)}
    assert accounts.GATEWAY_FIRST_UID >= owners.FIRST_UID + owners.POOL_SIZE
    assert "--groups=905" in accounts.command_prefix("service", who)


def test_there_is_a_gateway_for_each_core_where_that_is_wanted() -> None:
    names = {
        chosen: len([part for part in parts_for(chosen) if part.startswith("gateway-")])
        for chosen in (1, 3, "auto")
    }
    assert names == {1: 0, 3: 2, "auto": len(os.sched_getaffinity(0)) - 1}


def parts_for(processes: int | str) -> list[str]:
    settings = Settings(gateway=Gateway(processes=processes))
    return [
        part.name for part in parent._parts(settings, Layout(Path("/x")), accounts.find_parts(root=False))
    ]


def test_the_worker_keeps_the_rights_on_files_and_nothing_else() -> None:
    who = accounts.Accounts(root=True, service_uid=901, service_gid=902, worker_uid=903, worker_gid=904)
    (ambient,) = [
        word for word in accounts.command_prefix("worker-0", who) if word.startswith("--ambient-caps=")
    ]
    assert ambient == "--ambient-caps=-all,+chown,+dac_override,+dac_read_search,+fowner,+fsetid"


def test_every_part_is_told_when_its_parent_dies() -> None:
    for part in ("host", "worker-0", "service"):
        words = accounts.command_prefix(part, accounts.find_parts(root=False))
        assert words[1:3] == ("--pdeathsig", "TERM")


def test_folders_are_closed_to_others_and_the_seal_key_is_new_at_each_start(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    who = accounts.find_parts(root=False)
    folders.prepare(layout, who)
    first = layout.seal_key.read_bytes()
    os.chmod(layout.keys, 0o777)
    folders.prepare(layout, who)
    assert layout.seal_key.read_bytes() != first
    for folder in (layout.keys, layout.registry, layout.objects, layout.cache, layout.seeds):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_note_of_another_process_is_not_our_parent(tmp_path: Path) -> None:
    """The number is used again by the kernel: the start time tells."""
    layout = Layout(tmp_path)
    layout.run.mkdir()
    note = {"pid": os.getpid(), "start_time": (start_time(os.getpid()) or 0) + 1}
    (layout.run / "parent.json").write_text(json.dumps(note))
    assert running_parent(layout) is None
    note["start_time"] = start_time(os.getpid()) or 0
    (layout.run / "parent.json").write_text(json.dumps(note))
    assert running_parent(layout) == os.getpid()


def test_no_room_says_how_much_is_missing(tmp_path: Path) -> None:
    with pytest.raises(errors.NoRoom, match=r"room\.memory_free_mb_min"):
        room.check(Room(memory_free_mb_min=1 << 40, disk_free_mb_min=0), tmp_path)
    with pytest.raises(errors.NoRoom, match=r"room\.disk_free_mb_min"):
        room.check(Room(memory_free_mb_min=0, disk_free_mb_min=1 << 40), tmp_path)
    room.check(Room(memory_free_mb_min=0, disk_free_mb_min=0), tmp_path)


async def test_an_alarm_reaches_the_command(tmp_path: Path) -> None:
    sink = tmp_path / "alarm.json"
    script = f"import sys, pathlib; pathlib.Path({str(sink)!r}).write_bytes(sys.stdin.buffer.read())"
    notices = Notices(Alarms(command=(sys.executable, "-c", script)))
    notices.changed(ALARM, raised=True)
    await until(lambda: sink.exists() and sink.read_text().endswith("}"))
    told = json.loads(sink.read_text())
    assert (told["kind"], told["raised"], told["action"]) == ("close_stuck", True, "bring it back")
    await until(lambda: len(notices) == 0)  # the command has ended, too
    await notices.close()


async def test_an_alarm_command_that_hangs_is_ended_with_us(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = (
        f"import os, pathlib as p, time; p.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(3600)"
    )
    notices = Notices(Alarms(command=(sys.executable, "-c", script)))
    notices.changed(ALARM, raised=True)
    await until(lambda: note.exists() and note.read_text())
    await notices.close()
    assert start_time(int(note.read_text())) is None


async def test_an_alarm_reaches_the_webhook_and_a_dead_one_harms_nothing() -> None:
    heard: list[dict[str, object]] = []

    async def hook(request: web.Request) -> web.Response:
        heard.append(await request.json())
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/alarm", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    notices = Notices(Alarms(webhook=f"http://127.0.0.1:{port}/alarm"))
    notices.changed(ALARM, raised=False)
    await until(lambda: heard)
    assert heard[0]["raised"] is False
    await runner.cleanup()
    notices.changed(ALARM, raised=True)
    await until(lambda: len(notices) == 0)
    await asyncio.sleep(0)
    await notices.close()


def test_two_parents_that_start_in_one_moment_do_not_both_run(tmp_path: Path) -> None:
    """The pid file alone would be missing for both."""
    layout = Layout(tmp_path / "state")
    first = parent._lock(layout)
    with pytest.raises(parent.AlreadyRunning):
        parent._lock(layout)
    os.close(first)
    os.close(parent._lock(layout))


def test_a_part_gets_everything_that_a_group_of_settings_can_be_asked_for() -> None:
    """It gets the values alone: a property would be there in a unit test, and missing in a real part."""
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            own = {each for each, kind in vars(group).items() if isinstance(kind, property)}
            assert not own, (name, own)
