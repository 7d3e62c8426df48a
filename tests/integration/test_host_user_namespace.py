"""A uid that a container borrowed is no mark of a desktop: real processes in real user namespaces."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from session_service.host import census, identity, user_namespace
from session_service.host.owners import FIRST_UID, Owners
from session_service.host.state_file import DesktopState
from session_service.ports.desktops import Handle
from tests.fakes.until import until

SESSION = "01J0000000000000000000000A"
OTHERS_UID = os.geteuid() + 4_711
HERE: list[str] = []
INSIDE = ["unshare", "--user", "--map-root-user"]


@contextmanager
def sleeper(wrapped: list[str], **environment: str) -> Iterator[int]:
    """A process that waits, perhaps in a user namespace that we make."""
    command = [*wrapped, "sleep", "1000"]
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"], **environment}) as child:
        try:
            yield child.pid
        finally:
            child.kill()


async def runs(pid: int) -> None:
    """Wait until what was asked for runs, in its namespace."""
    await until(lambda: Path(f"/proc/{pid}/comm").read_text(encoding="ascii") == "sleep\n")


def state(uid: int) -> DesktopState:
    """A desktop of some uid, none of whose processes is known by birth or group."""
    handle = Handle(
        provider="local",
        session_id=SESSION,
        workspace_id="01J0000000000000000000000B",
        fence=1,
        pid=0,
        start_time=0,
        boot_id=identity.boot_id(),
        uid=uid,
        home="/nowhere/homes/b/1",
        run_folder="",
        socket="",
        cgroup="",
        network="none",
        template="plain",
    )
    return DesktopState(handle=handle, user_id="", registry_epoch=1, ready=True)


def seen_as(pid: int, uid: int) -> census.Table:
    facts = identity.facts(pid)
    assert facts is not None
    return census.Table([census.Process(facts=facts, uid=uid, sessions=frozenset())])


@pytest.mark.parametrize("depth", [1, 2])
async def test_a_namespace_is_of_who_made_its_outermost(depth: int) -> None:
    """Ours count for us; what is nested in them, too."""
    with sleeper(INSIDE * depth) as pid:
        await runs(pid)
        assert user_namespace.made_by(pid, os.geteuid())
        assert not user_namespace.made_by(pid, OTHERS_UID)


async def test_what_lives_in_our_own_namespace_has_the_uid_that_it_shows() -> None:
    with sleeper(HERE) as pid:
        await runs(pid)
        assert user_namespace.made_by(pid, OTHERS_UID)


def test_what_has_ended_is_nobodys() -> None:
    assert not user_namespace.made_by(2**22 + 1, os.geteuid())


@pytest.mark.parametrize("thorough", [False, True])
async def test_a_borrowed_uid_without_a_second_mark_is_not_of_the_desktop(thorough: bool) -> None:
    """S23: a container of another user whose numbers hold the desktop's."""
    with sleeper(INSIDE) as pid:
        await runs(pid)
        assert census.members(state(OTHERS_UID), seen_as(pid, OTHERS_UID), thorough=thorough) == {}


async def test_a_second_mark_makes_it_the_desktops() -> None:
    """S22: the session in its environment; and a uid that nobody borrowed needs no other."""
    with sleeper(INSIDE, **{census.MARK: SESSION}) as pid:
        await runs(pid)
        assert list(census.members(state(OTHERS_UID), seen_as(pid, OTHERS_UID))) == [pid]
    with sleeper(HERE) as pid:
        await runs(pid)
        assert list(census.members(state(OTHERS_UID), seen_as(pid, OTHERS_UID))) == [pid]
    with sleeper(HERE, **{census.MARK: "01J0000000000000000000000C"}) as pid:
        await runs(pid)
        assert census.members(state(OTHERS_UID), seen_as(pid, OTHERS_UID)) == {}


def test_given_uids_lie_beyond_everybodys_and_old_ones_stay(tmp_path: Path) -> None:
    """A table of the last release goes on; only new desktops get new numbers."""
    file = tmp_path / "owners.json"
    file.write_text('{"next": 200500, "given": {"w/1": 200499}}', encoding="ascii")
    owners = Owners(file, root=True)
    assert owners.of("w", 1) == (200_499, 200_499)
    given = owners.of("w", 2)
    assert given is not None
    assert 2_000_200_000 < FIRST_UID <= given[0] < 2**31
