"""What others on the machine find of us: folders that are ours, and processes that nobody looks into."""

import asyncio
import ctypes
import os
import socket
from pathlib import Path

import pytest

from session_service.app import closed_memory, folders, parent
from session_service.app.refused import ConfigurationRefused
from session_service.app.settings import Settings
from session_service.gateway.leg import open_desktop_socket
from session_service.gateway.limits import GatewayLimits
from tests.fakes.unprivileged import as_plain_user


def test_a_state_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Whoever owns it could put a program in the place of the one that is to follow, which root runs."""
    folders.check_owner(tmp_path)
    folders.check_owner(tmp_path / "not-there-yet")
    if os.geteuid() == 0:
        os.chown(tmp_path, 12_345, -1)
        theirs = tmp_path
    else:
        theirs = Path("/")
    with pytest.raises(ConfigurationRefused, match="belongs to uid"):
        folders.check_owner(theirs)
    service = parent.Parent(Settings(state_folder=theirs))
    with pytest.raises(ConfigurationRefused, match="belongs to uid"):
        asyncio.run(service.run())


def test_each_part_is_told_what_it_needs_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts us takes words from the whole unit: which process is the main one, and sockets to keep."""
    for name in ("NOTIFY_SOCKET", "AWS_SECRET_ACCESS_KEY", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, "x")
    service = parent.Parent(Settings())
    seen = {part: service._environment(part) for part in ("service", "gateway-1", "worker-0", "host")}
    assert [part for part, words in seen.items() if "NOTIFY_SOCKET" in words] == ["service"]
    assert [part for part, words in seen.items() if "AWS_SECRET_ACCESS_KEY" in words] == ["worker-0"]
    assert not [part for part, words in seen.items() if "SOMETHING_ELSE" in words]


def test_a_process_of_the_same_account_cannot_look_into_a_part(tmp_path: Path) -> None:
    assert as_plain_user(tmp_path, _look_twice) == [True, False]


def test_a_part_still_reaches_a_desktop_through_its_own_descriptors(tmp_path: Path) -> None:
    """The socket is connected by /proc/self/fd, which belongs to root from then on."""

    def reach() -> bool:
        closed_memory.close()
        path = tmp_path / "rfb.sock"
        with socket.socket(socket.AF_UNIX) as desktop:
            desktop.bind(str(path))
            desktop.listen()
            connected = asyncio.run(open_desktop_socket(str(path), None, GatewayLimits()))
            connected.close()
        return True

    assert as_plain_user(tmp_path, reach)


def _look_twice() -> list[bool]:
    """Into a process of our account as any program is, and after it closed itself."""
    from_child, to_us = os.pipe()
    from_us, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(closed_memory.PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.write(to_us, b"1")
        os.read(from_us, 1)
        closed_memory.close()
        os.write(to_us, b"2")
        os.read(from_us, 1)
        os._exit(0)
    seen = []
    for _ in range(2):
        os.read(from_child, 1)
        seen.append(_is_readable(child))
        os.write(to_child, b"x")
    os.waitpid(child, 0)
    return seen


def _is_readable(pid: int) -> bool:
    try:
        Path(f"/proc/{pid}/environ").read_bytes()
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return False
    return True
