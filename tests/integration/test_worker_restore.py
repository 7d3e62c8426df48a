"""The worker's restores on a real store: a home that is taken up, files beside what is there, a tar."""

import asyncio
import io
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

import storage
from session_service.base import errors, rpc
from session_service.base.layout import Layout
from session_service.checkpoints import homes, messages
from session_service.checkpoints.key_sources import KeySources
from session_service.checkpoints.worker import Worker, WorkerSettings
from session_service.ports.checkpoints import SavePlan, WorkspaceName

MINE = WorkspaceName(tenant_id="01J0000000000000000000000T", workspace_id="01J0000000000000000000000A")
SESSION = "01J0000000000000000000000S"


class World:
    """One worker with a folder for its store, asked as the service asks it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        for folder in (self.layout.homes, self.layout.cache):
            folder.mkdir(parents=True, exist_ok=True)
        self.worker = Worker(
            WorkerSettings(
                layout=self.layout,
                number=0,
                store_url=f"file://{root}/objects",
                own_store=True,
                credentials_file=None,
                keys=KeySources(file=root / "master.key"),
                service_uid=os.geteuid(),
                service_gid=os.getegid(),
            )
        )
        self.events: list[Any] = []

    async def ask(self, call: str, params: Any) -> Any:
        async def take(value: Any) -> None:
            self.events.append(value)

        raw = msgspec.Raw(msgspec.msgpack.encode(params))
        return await self.worker.handlers()[call](rpc.Call(raw, take, 0))

    async def saved(self) -> tuple[Path, int]:
        """A home under fence 1 that was saved once."""
        take = messages.TakeOver(
            workspace=MINE, fence_at_least=1, node_id="n", session_id=SESSION, registry_epoch=1
        )
        await self.ask("take_over", take)
        await self.ask("new_home", messages.NewHome(workspace=MINE, fence=1, seq=None, owner=None))
        home = self.layout.home(MINE.workspace_id, 1)
        (home / "docs").mkdir()
        for number in range(50):
            (home / "docs" / f"letter{number}").write_bytes(os.urandom(3_000))
        plan = SavePlan(
            workspace=MINE, session_id=SESSION, fence=1, home=str(home), reason="demand", frozen=False
        )
        return home, (await self.ask("save", messages.Save(plan=plan))).info.seq


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_files_come_back_beside_what_is_there(world: World) -> None:
    home, seq = await world.saved()
    (home / "docs" / "letter1").write_text("newer")
    ask = messages.BringBack(workspace=MINE, seq=seq, path=b"docs", home=str(home), owner=None)
    report = await world.ask("bring_back", ask)
    assert (home / "docs" / "letter1").read_text() == "newer"
    assert len(list((home / report.home / "docs").iterdir())) == 50
    assert report.seeded_bytes == 49 * 3_000, "what is the same in the running home was not fetched"
    assert list(home.parent.iterdir()) == [home], "no draft is left"
    lost = messages.BringBack(workspace=MINE, seq=seq, path=b"not there", home=str(home), owner=None)
    with pytest.raises(Exception, match="no such path"):
        await world.ask("bring_back", lost)
    assert list(home.parent.iterdir()) == [home]


async def test_a_damaged_object_costs_files_that_come_back_and_no_home_is_made_of_the_rest(
    world: World,
) -> None:
    """Beside what is there the rest comes back, and what is missing is named. A home that lacked something
    would be saved as if its user had deleted it.
    """
    home, first = await world.saved()
    (home / "docs" / "large").write_bytes(os.urandom(2_000_000))
    plan = SavePlan(
        workspace=MINE, session_id=SESSION, fence=1, home=str(home), reason="demand", frozen=False
    )
    seq = (await world.ask("save", messages.Save(plan=plan))).info.seq
    (home / "docs" / "large").unlink()
    [pack] = (world.layout.root / "objects").rglob("p/*")
    whole = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(whole[:500_000] + bytes([whole[500_000] ^ 1]) + whole[500_001:])
    report = await world.ask(
        "bring_back", messages.BringBack(workspace=MINE, seq=seq, path=b"docs", home=str(home), owner=None)
    )
    assert [(one.path, one.kind, one.object) for one in report.left_out] == [
        ("docs/large", "file", f"p/{pack.name}")
    ]
    assert report.left_out_count == 1
    assert len(list((home / report.home / "docs").iterdir())) == 50
    for call, ask in (
        (
            "bring_back",
            messages.BringBack(workspace=MINE, seq=seq, path=b"docs/large", home=str(home), owner=None),
        ),
        ("new_home", messages.NewHome(workspace=MINE, fence=2, seq=seq, owner=None)),
        ("read", messages.AtPath(workspace=MINE, seq=seq, path=b"docs/large")),
    ):
        with pytest.raises(errors.FilesDamaged, match=pack.name):
            await world.ask(call, ask)
    assert [path.name for path in home.parent.iterdir() if not path.name.startswith("2.new")] == ["1"]
    assert len(list((home / "Restored").iterdir())) == 1, "an empty folder would look like a restore"
    older = await world.ask("new_home", messages.NewHome(workspace=MINE, fence=2, seq=first, owner=None))
    assert len(list(Path(older.home, "docs").iterdir())) == 50


async def test_a_home_that_stands_here_under_an_earlier_fence_saves_the_fetching(world: World) -> None:
    """Its files are believed only byte by byte, and it is left as it is."""
    home, seq = await world.saved()
    wanted = {path.name: path.read_bytes() for path in (home / "docs").iterdir()}
    facts = (home / "docs" / "letter7").stat()
    (home / "docs" / "letter7").write_bytes(os.urandom(3_000))
    os.utime(home / "docs" / "letter7", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert homes.earlier(home) is None
    ask = messages.NewHome(workspace=MINE, fence=12, seq=seq, owner=None)
    report = await world.ask("new_home", ask)
    assert {path.name: path.read_bytes() for path in Path(report.home, "docs").iterdir()} == wanted
    assert report.seeded_bytes == 49 * 3_000
    assert sorted(path.name for path in home.parent.iterdir()) == ["1", "12"]
    assert (home / "docs" / "letter7").read_bytes() != wanted["letter7"]


async def test_files_that_come_back_during_a_close_are_found_by_the_last_look_and_saved_again(
    world: World,
) -> None:
    """A restore that was let in before the close ends after its final checkpoint."""
    home, first = await world.saved()
    world.layout.seal_key.parent.mkdir(parents=True, exist_ok=True)
    world.layout.seal_key.write_bytes(bytes(32))
    plan = SavePlan(
        workspace=MINE,
        session_id=SESSION,
        fence=1,
        home=str(home),
        reason="close",
        frozen=True,
        final=True,
    )

    async def closed() -> Any:
        saved = (await world.ask("save", messages.Save(plan=plan))).info
        return messages.Look(
            workspace=MINE, session_id=SESSION, fence=1, seq=saved.seq, hash=saved.hash, home=str(home)
        )

    look = await closed()
    assert (await world.ask("last_look", look)).same
    back = messages.BringBack(workspace=MINE, seq=first, path=b"docs", home=str(home), owner=None)
    report = await world.ask("bring_back", back)
    found = await world.ask("last_look", look)
    assert (found.same, found.proof) == (False, None), "nothing may be wiped on it"
    assert any(report.home.split("/")[0] in path for path in found.differences)
    again = await world.ask("last_look", await closed())
    assert again.same
    assert again.proof is not None


async def test_files_that_come_back_after_the_wipe_make_no_home_again(world: World) -> None:
    home, seq = await world.saved()
    home.rename(world.layout.root / "wiped")
    back = messages.BringBack(workspace=MINE, seq=seq, path=b"docs", home=str(home), owner=None)
    with pytest.raises(errors.DesktopGone):
        await world.ask("bring_back", back)
    assert list(world.layout.homes.rglob("letter*")) == []
    assert not home.exists()


async def test_a_home_is_taken_up_and_what_cannot_be_is_begun_anew(world: World) -> None:
    home, seq = await world.saved()
    later = world.layout.home(MINE.workspace_id, 2)
    draft = homes.draft_of(later, seq)
    draft.mkdir(mode=0o700)
    (draft / "of nobody knows whom").write_text("x")
    report = await world.ask("new_home", messages.NewHome(workspace=MINE, fence=2, seq=seq, owner=None))
    assert report.home == str(later)
    assert sorted(path.name for path in later.iterdir()) == ["docs"]
    assert sorted(home.parent.iterdir()) == [home, later], "neither draft nor note is left"
    third = world.layout.home(MINE.workspace_id, 3)
    calls = messages.NewHome(workspace=MINE, fence=3, seq=seq, owner=None)
    working = asyncio.ensure_future(world.ask("new_home", calls))
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await world.ask("new_home", calls)
    assert len(list((third / "docs").iterdir())) == 50
    assert not storage.is_being_filled(homes.draft_of(third, seq))


async def test_a_home_that_is_being_made_is_made_by_one_caller_to_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is cut off while its home is put in place, and tried again at once: the second one must neither
    fill nor remove what the first one's thread is about to rename.
    """
    _, seq = await world.saved()
    ask = messages.NewHome(workspace=MINE, fence=2, seq=seq, owner=None)
    home = world.layout.home(MINE.workspace_id, 2)
    arrived, go = threading.Event(), threading.Event()
    publish = homes.publish

    def slow(*args: Any) -> None:
        arrived.set()
        assert go.wait(30)
        publish(*args)

    monkeypatch.setattr(homes, "publish", slow)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(world.ask("new_home", ask))
        assert await asyncio.to_thread(arrived.wait, 30)
        first.cancel()
        with pytest.raises(errors.SessionError) as refused:
            await world.ask("new_home", ask)
        assert refused.value.retryable
        go.set()
    assert first.cancelled()
    assert len(list((home / "docs").iterdir())) == 50
    assert (await world.ask("new_home", ask)).home == str(home)
    assert not list(home.parent.glob("*.new-*"))


async def test_a_folder_comes_as_a_tar(world: World) -> None:
    home, seq = await world.saved()
    world.events.clear()
    await world.ask("archive", messages.Archive(workspace=MINE, seq=seq, path=b"docs", kind="tar"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(world.events))) as found:
        one = found.extractfile("docs/letter7")
        assert one is not None
        assert one.read() == (home / "docs" / "letter7").read_bytes()
