"""Files over the API: whose they are, how they are sent, and what happens when the store fails on the way."""

import asyncio
import gzip
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import msgspec
import pytest

from session_service.base import errors
from session_service.base.ids import WorkspaceId
from session_service.client.api import FOLDER_PAGE_ENTRIES
from session_service.core.changes import PutDesktop, Unit
from session_service.core.explain import in_words
from session_service.core.records import Desktop, State
from session_service.http import cursors, limits, paths, uploads
from session_service.ports.damage import LeftOut
from storage.format.limits import NAME_BYTES_MAX
from storage.ops.browse import FOLDER_PAGE_ENTRIES_MAX
from tests.fakes.http_files import HOSTILE_NAME
from tests.fakes.http_world import Browser, HttpWorld, http_world
from tests.fakes.until import until


async def home_of(browser: Browser) -> str:
    listed = (await browser.get("/api/v1/workspaces")).body["items"]
    return f"/api/v1/workspaces/{listed[0]['id']}"


async def test_checkpoints_are_listed_newest_first_with_a_cursor(world: HttpWorld) -> None:
    """Pages of two out of five."""
    ada = await world.signed_in("ada")
    path = await home_of(ada) + "/checkpoints?limit=2&cursor="
    found, cursor = [], ""
    while cursor is not None:
        page = (await ada.get(path + cursor)).body
        found += [item["seq"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == [5, 4, 3, 2, 1]


async def test_a_folder_is_read_and_every_name_leads_to_its_file(world: HttpWorld) -> None:
    """Bytes that are no text, quotes and newlines included."""
    ada = await world.signed_in("ada")
    home = await home_of(ada) + "/checkpoints/5"
    top = (await ada.get(home + "/files")).body["items"]
    assert [(item["name"], item["kind"]) for item in top] == [("docs", "folder"), ("notes.txt", "file")]
    inside = (await ada.get(home + "/files", params={"path": "/docs/"})).body["items"]
    odd = next(item for item in inside if item["size"] == 3)
    assert paths.raw(odd["path"]) == b"docs/" + HOSTILE_NAME
    seen = await ada.get(home + "/content", params={"path": odd["path"]})
    assert (seen.status, seen.raw) == (200, b"odd")
    assert "\n" not in seen.headers["Content-Disposition"]


async def test_a_users_file_is_never_a_page_of_ours(world: HttpWorld) -> None:
    """Attachment, no sniffing, sandboxed, whatever is in it."""
    ada = await world.signed_in("ada")
    home = await home_of(ada) + "/checkpoints/5"
    seen = await ada.get(home + "/content", params={"path": "docs/plan.txt"})
    assert seen.raw == b"<script>alert(1)</script>"
    assert seen.headers["Content-Type"] == "application/octet-stream"
    assert seen.headers["Content-Disposition"].startswith("attachment;")
    assert seen.headers["X-Content-Type-Options"] == "nosniff"
    assert seen.headers["Content-Security-Policy"].startswith("sandbox;")
    archive = await ada.get(home + "/archive")
    assert archive.headers["Content-Type"] == "application/zip"
    assert 'filename="Home.zip"' in archive.headers["Content-Disposition"]


@pytest.mark.parametrize(
    "path", ["../etc/passwd", "docs/../../x", "./x", "a\\x00b", "a" * 5000, "\\x2e\\x2e"]
)
async def test_a_path_that_leads_nowhere_is_refused(world: HttpWorld, path: str) -> None:
    """It is looked up in a tree, but nobody has to rely on that."""
    ada = await world.signed_in("ada")
    home = await home_of(ada) + "/checkpoints/5"
    assert (await ada.get(home + "/content", params={"path": path})).code == "bad_input"
    assert (await ada.get(home + "/files", params={"path": path})).code == "bad_input"


async def test_files_of_others_are_read_by_administrators_only_and_that_is_recorded(world: HttpWorld) -> None:
    """Strangers do not even learn that there is a workspace; operators see checkpoints, not files."""
    ada = await world.signed_in("ada")
    home = await home_of(ada)
    content = home + "/checkpoints/5/content?path=notes.txt"
    bob = await world.signed_in("bob")
    assert (await bob.get(content)).code == "not_found"
    assert (await bob.get(home + "/checkpoints")).code == "not_found"
    olga = await world.signed_in("olga", "operator")
    assert (await olga.get(home + "/checkpoints")).status == 200
    for path in ("/checkpoints/5/files", "/checkpoints/5/content?path=notes.txt", "/checkpoints/5/archive"):
        assert (await olga.get(home + path)).code == "not_allowed"
    root = await world.signed_in("root", "administrator")
    assert (await root.get(content)).raw == b"hello world"
    assert (await root.get(home + "/checkpoints/5/files?path=docs")).status == 200
    read = [
        r.entry for r in await world.registry.audit() if r.entry.kind in {"file.downloaded", "folder.listed"}
    ]
    assert [entry.actor for entry in read] == [f"operator:{root.user_id}"] * 2
    assert dict(read[0].facts)["path"] == "notes.txt"
    assert {entry.user_id for entry in read} == {ada.user_id}
    told = (await ada.get("/api/v1/events")).body["items"]
    assert "file.downloaded" in {event["kind"] for event in told}


async def test_a_download_that_cannot_be_recorded_is_not_sent(world: HttpWorld) -> None:
    """Audit first."""
    ada = await world.signed_in("ada")
    content = await home_of(ada) + "/checkpoints/5/content?path=notes.txt"
    world.registry.refuse_commits(1)
    assert (await ada.get(content)).code == "registry_unavailable"


async def test_a_missing_file_or_checkpoint_is_a_problem_document(world: HttpWorld) -> None:
    """The first part is awaited before the status is sent."""
    ada = await world.signed_in("ada")
    home = await home_of(ada)
    assert (await ada.get(home + "/checkpoints/5/content?path=none")).code == "not_found"
    assert (await ada.get(home + "/checkpoints/99/files")).code == "not_found"
    assert (await ada.get(home + "/checkpoints/x/files")).code == "not_found"
    world.files.failure = errors.StorageUnavailable()
    for path in ("/checkpoints", "/checkpoints/5/files", "/checkpoints/5/content?path=notes.txt"):
        seen = await ada.get(home + path)
        assert (seen.status, seen.code) == (503, "storage_unavailable")


async def test_half_a_file_never_looks_whole(world: HttpWorld) -> None:
    """A failure after the first bytes cuts the link."""
    ada = await world.signed_in("ada")
    content = await home_of(ada) + "/checkpoints/5/content?path=notes.txt"
    world.files.fails_after = 8
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        await ada.get(content)
    await until(lambda: world.files.reading == 0)


async def test_a_store_that_hangs_is_told_as_away(world: HttpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the status page says "unknown" without waiting for it."""
    ada = await world.signed_in("ada")
    home = await home_of(ada)
    monkeypatch.setattr(limits, "STORE_S", 0.05)
    monkeypatch.setattr(limits, "STATUS_S", 0.05)
    world.files.hangs = True
    for path in ("/checkpoints", "/checkpoints/5/files", "/checkpoints/5/content?path=notes.txt"):
        assert (await ada.get(home + path)).code == "storage_unavailable"
    assert (await ada.get("/api/v1/status")).body["storage"]["usable"] is None
    assert (await ada.get("/readyz")).status == 200


async def with_desktop(world: HttpWorld, browser: Browser) -> str:
    session = await world.session_of(browser)
    record = await world.registry.session(session)
    assert record is not None
    desktop = Desktop(
        workspace_id=WorkspaceId(record.workspace_id),
        fence=record.fence,
        node_id=record.node_id,
        session_id=record.id,
        handle=b"{}",
        home="/homes/ada",
    )
    await world.registry.commit(Unit(writes=(PutDesktop(desktop=desktop),)))
    return f"/api/v1/sessions/{session}"


async def test_an_uploaded_file_is_handed_to_the_worker_and_leaves_nothing_behind(world: HttpWorld) -> None:
    """With the owner that the provider names."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    body = b"x" * (600 << 10)
    seen = await ada.ask("POST", session + "/uploads?name=a%20b.bin", data=body)
    assert seen.status == 201, seen.raw
    assert seen.body == {"path": "Uploads/a b.bin", "bytes": len(body)}
    assert world.files.uploaded == [("/homes/ada", "a b.bin", body, (1234, 1235))]
    assert list(world.settings.uploads.iterdir()) == []
    assert "file.uploaded" in {r.entry.kind for r in await world.registry.audit()}


async def test_saved_files_come_back_beside_what_is_there(world: HttpWorld) -> None:
    """Recorded before it is done; refused while the desktop closes."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    ask = {"seq": 1, "path": "docs"}
    seen = await ada.ask("POST", session + "/restores", json=ask)
    assert seen.status == 201, seen.raw
    assert seen.body["path"].startswith("Restored/")
    assert "file.restored" in {r.entry.kind for r in await world.registry.audit()}
    await world.control.change(session.rpartition("/")[2], state=State.CLOSING)
    assert (await ada.ask("POST", session + "/restores", json=ask)).code == "transition_refused"


async def test_files_that_a_damaged_object_kept_from_coming_back_are_named(world: HttpWorld) -> None:
    """In the answer, and in the audit log beside what was asked for."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    lost = LeftOut(path="docs/letter", kind="file", object="p/1-abc", reason="missing")
    world.files.left_out.append(lost)
    seen = await ada.ask("POST", session + "/restores", json={"seq": 1, "path": "docs"})
    assert seen.status == 201, seen.raw
    assert (seen.body["complete"], seen.body["left_out_count"]) == (False, 1)
    assert seen.body["left_out"] == [msgspec.to_builtins(lost)]
    assert seen.body["differs"] == [{"path": "docs/tool", "what": "setuid"}], "left off on purpose, and told"
    [record] = [r.entry for r in await world.registry.audit() if r.entry.kind == "file.restored_in_part"]
    assert {("path", "docs/letter"), ("object", "p/1-abc"), ("left_out", 1)} <= set(record.facts)
    assert "1 could not be given" in in_words(record)


async def test_no_file_goes_into_a_closing_desktop(world: HttpWorld) -> None:
    """Neither at the beginning nor when it began to close while the file was on its way."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    begun = asyncio.Event()

    async def slowly():
        yield b"first"
        begun.set()
        await until(lambda: list(world.settings.uploads.iterdir()))
        await world.control.change(session.rpartition("/")[2], state=State.CLOSING)
        yield b"second"

    assert (await ada.ask("POST", session + "/uploads?name=a", data=slowly())).code == "transition_refused"
    assert begun.is_set()
    assert (await ada.ask("POST", session + "/uploads?name=a", data=b"x")).code == "transition_refused"
    assert world.files.uploaded == []
    assert list(world.settings.uploads.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\x00", "é" * 200])
async def test_an_upload_has_a_name_that_a_file_can_have(world: HttpWorld, name: str) -> None:
    """255 bytes, no slash."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    seen = await ada.ask("POST", session + "/uploads", params={"name": name}, data=b"x")
    assert seen.code == "bad_input"


async def test_an_upload_over_the_limit_or_over_the_disk_is_refused(
    world: HttpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known from its length, or found on the way; nothing is left on the disk."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    monkeypatch.setattr(limits, "UPLOAD_BYTES_MAX", 1000)
    assert (await ada.ask("POST", session + "/uploads?name=a", data=b"x" * 1001)).code == "too_large"

    async def unannounced():
        for _ in range(11):
            yield b"x" * 100

    assert (await ada.ask("POST", session + "/uploads?name=a", data=unannounced())).code == "too_large"
    monkeypatch.setattr(limits, "UPLOAD_FREE_BYTES_MIN", 1 << 60)
    assert (await ada.ask("POST", session + "/uploads?name=a", data=b"x")).code == "no_room"
    monkeypatch.setattr(limits, "UPLOADS_AT_ONCE_MAX", 0)
    assert (await ada.ask("POST", session + "/uploads?name=a", data=b"x")).code == "too_many_attempts"
    assert list(world.settings.uploads.iterdir()) == []


async def test_an_upload_of_unknown_length_leaves_free_disk_too(
    world: HttpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was announced was looked at, so that whoever announced nothing could fill the disk."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    place = world.settings.uploads
    monkeypatch.setattr(limits, "UPLOAD_LOOK_BYTES", 1000)
    monkeypatch.setattr(limits, "UPLOAD_CHUNK_BYTES", 100)

    def usage(folder: Path) -> object:
        used = sum(path.stat().st_size for path in folder.glob("*.part"))
        return SimpleNamespace(free=limits.UPLOAD_FREE_BYTES_MIN + 5000 - used)

    monkeypatch.setattr(uploads.shutil, "disk_usage", usage)

    async def unannounced():
        for _ in range(100):
            yield b"x" * 100

    assert (await ada.ask("POST", session + "/uploads?name=a", data=unannounced())).code == "no_room"
    assert list(place.iterdir()) == []
    assert (await ada.ask("POST", session + "/uploads?name=a", data=b"x" * 4000)).status == 201


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
async def test_a_packed_body_is_refused_before_it_is_unpacked(world: HttpWorld, encoding: str) -> None:
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)
    packed, headers = gzip.compress(bytes(1 << 20)), {"Content-Encoding": encoding}
    for path in (session + "/uploads?name=a", "/api/v1/workspaces"):
        seen = await ada.ask("POST", path, data=packed, headers=headers)
        assert seen.code == "unsupported_media_type", path
    assert world.files.uploaded == []


async def test_what_an_earlier_run_left_half_way_is_swept_away(tmp_path: Path) -> None:
    """Only what has a name of ours."""
    (tmp_path / "uploads").mkdir()
    for name in ("01M8A16DYTDBAZ98Z8EXEFSF0P.part", "backup-x.sqlite", "other.txt"):
        (tmp_path / "uploads" / name).write_bytes(b"x")
    async with http_world(tmp_path):
        assert [path.name for path in (tmp_path / "uploads").iterdir()] == ["other.txt"]


async def test_an_upload_whose_sender_vanishes_leaves_nothing_behind(world: HttpWorld) -> None:
    """The temporary file goes with it."""
    ada = await world.signed_in("ada")
    session = await with_desktop(world, ada)

    async def cut():
        yield b"first"
        await until(lambda: list(world.settings.uploads.iterdir()))
        raise ConnectionResetError

    with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
        await ada.ask("POST", session + "/uploads?name=a", data=cut())
    await until(lambda: not list(world.settings.uploads.iterdir()))
    assert world.files.uploaded == []


async def test_slow_downloads_of_one_account_leave_turns_to_the_others(world: HttpWorld) -> None:
    """Each has a worker read and unpack for it, as long as its reader likes; they had no number."""
    ada, bob = await world.signed_in("ada"), await world.signed_in("bob")
    mine, his = await home_of(ada), await home_of(bob)
    path = "/checkpoints/5/content?path=" + next(iter(world.files.files)).decode()
    world.files.hangs = True
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(ada.get(mine + path)) for _ in range(limits.DOWNLOADS_PER_USER_MAX)]
        await until(lambda: world.files.reading == len(slow))
        assert (await ada.get(mine + path)).code == "too_many_attempts"
        assert (await ada.get(mine + "/checkpoints/5/archive")).code == "too_many_attempts"
        slow.append(group.create_task(bob.get(his + path)))
        await until(lambda: world.files.reading == len(slow))
        for each in slow:
            each.cancel()
    await until(lambda: world.files.reading == 0)
    world.files.hangs = False
    assert (await ada.get(mine + path)).status == 200


async def test_slow_uploads_of_one_account_leave_turns_to_the_others(world: HttpWorld) -> None:
    """A byte now and then holds a turn for hours; so each account has its own few."""
    ada, bob = await world.signed_in("ada"), await world.signed_in("bob")
    mine, his = await with_desktop(world, ada), await with_desktop(world, bob)
    begun: list[asyncio.Event] = [asyncio.Event() for _ in range(limits.UPLOADS_PER_USER_MAX)]
    go = asyncio.Event()

    async def trickle(number: int):
        yield b"x"
        begun[number].set()
        await go.wait()

    async with asyncio.TaskGroup() as group:
        slow = [
            group.create_task(ada.ask("POST", mine + f"/uploads?name=s{number}", data=trickle(number)))
            for number in range(limits.UPLOADS_PER_USER_MAX)
        ]
        for each in begun:
            await each.wait()
        await until(lambda: len(list(world.settings.uploads.glob("*.part"))) == limits.UPLOADS_PER_USER_MAX)
        assert (await ada.ask("POST", mine + "/uploads?name=a", data=b"x")).code == "too_many_attempts"
        assert (await bob.ask("POST", his + "/uploads?name=b", data=b"x")).status == 201
        go.set()
    assert [each.result().status for each in slow] == [201] * limits.UPLOADS_PER_USER_MAX
    assert (await ada.ask("POST", mine + "/uploads?name=a", data=b"x")).status == 201


async def test_a_folder_comes_page_by_page_whatever_its_names_are(world: HttpWorld) -> None:
    """The cursor is the last name, of any bytes and of full length; nothing is told twice or left out."""
    names = [b"\xff\xfe" * 100, b"\n", b"a", b"A" * 255, b"\\x41", "é\u202e".encode(), b"%2f", b"name:61"]
    world.files.files |= {b"odd/" + name: b"x" for name in names}
    ada = await world.signed_in("ada")
    place = await home_of(ada) + "/checkpoints/5/files"
    found, cursor = [], ""
    while cursor is not None:
        page = (await ada.get(place, params={"path": "odd", "limit": "1", "cursor": cursor})).body
        found += [paths.raw(item["path"]) for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == [b"odd/" + name for name in sorted(names)]


async def test_names_that_begin_alike_are_found_without_the_others(world: HttpWorld) -> None:
    """Bytes that are no text are asked for as they are shown."""
    ada = await world.signed_in("ada")
    place = await home_of(ada) + "/checkpoints/5/files"
    shown = (await ada.get(place, params={"path": "docs", "prefix": "pl"})).body["items"]
    assert [item["name"] for item in shown] == ["plan.txt"]
    shown = (await ada.get(place, params={"path": "docs", "prefix": paths.shown(HOSTILE_NAME[:7])})).body
    assert [paths.raw(item["path"]) for item in shown["items"]] == [b"docs/" + HOSTILE_NAME]
    for nothing in ("a/b", "\\x00", "n" * 256):
        assert (await ada.get(place, params={"prefix": nothing})).code == "bad_input"


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        cursors.write(3),
        cursors.write("name:"),
        cursors.write("name:6g"),
        cursors.write("name:6 1"),
        cursors.write("name:" + "61" * 256),
    ],
)
async def test_a_cursor_of_a_folder_that_we_never_wrote_is_refused(world: HttpWorld, cursor: str) -> None:
    """Numbers of other lists, too."""
    ada = await world.signed_in("ada")
    seen = await ada.get(await home_of(ada) + "/checkpoints/5/files", params={"cursor": cursor})
    assert seen.code == "bad_input"


def test_a_page_of_a_folder_is_as_large_as_the_storage_gives() -> None:
    """And the program that reads all of it asks for no more."""
    assert limits.FOLDER_PAGE_ENTRIES_MAX == FOLDER_PAGE_ENTRIES_MAX == FOLDER_PAGE_ENTRIES
    assert limits.NAME_BYTES_MAX == NAME_BYTES_MAX
