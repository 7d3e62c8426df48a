"""The command lines of a desktop: what stands in them, and what never does."""

from pathlib import Path

import pytest

from session_service.base import errors
from session_service.host import display, environment, sandbox
from session_service.ports.desktops import DesktopSpec

SPEC = DesktopSpec(
    session_id="S",
    workspace_id="W",
    user_id="U",
    fence=1,
    registry_epoch=1,
    home="/homes/w/1",
    title="a-desk",
)
FOLDERS = sandbox.Folders(home=Path("/homes/w/1"), base=Path("/desktops/S"), look=Path("/look/1"))


def flags(*, shared: bool = False) -> list[str]:
    return display.flags(
        run_folder="/run/desk", cookie_file="/run/x", geometry=(1280, 800), title="t", shared=shared
    )


def test_the_display_opens_no_tcp_port_and_never_ends_by_itself() -> None:
    """Each of these flags was missed once in a trial."""
    line = " ".join(flags())
    for wanted in (
        "-rfbport -1",
        "-nolisten tcp",
        "-extension GLX",
        "-noreset",
        "-AlwaysShared=1",
        "-MaxIdleTime 0",
        "-IdleTimeout 0",
        "-rfbunixmode 0600",
    ):
        assert wanted in line
    assert "-rfbunixmode 0660" in " ".join(flags(shared=True))


def test_a_cookie_fits_every_display_number() -> None:
    cookie = bytes(range(16))
    entry = display.cookie_entry(cookie)
    assert entry == b"\xff\xff\0\0\0\0\0\x12MIT-MAGIC-COOKIE-1\0\x10" + cookie
    assert display.cookie_of(entry) == cookie


def test_the_list_of_processes_shows_no_folder_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bubblewrap is told goes through a pipe."""
    monkeypatch.setattr(sandbox, "program", lambda name: f"/usr/bin/{name}")
    line, told = sandbox.command(
        ["/bin/sh"], folders=FOLDERS, environment={"A": "b"}, host_name="h", own_network=True
    )
    assert not any("/homes" in word or "/desktops" in word for word in line)
    words = told.decode().split("\0")
    assert words[-1] == ""
    for wanted in ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--clearenv", "--new-session"):
        assert wanted in words
    assert "--die-with-parent" not in words
    for source in ("/root", "/home", "/var", "/"):
        assert ["--bind", source] not in [words[place : place + 2] for place in range(len(words))]


def test_without_an_own_network_none_is_unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "program", lambda name: f"/usr/bin/{name}")
    _, told = sandbox.command([], folders=FOLDERS, environment={}, host_name="h", own_network=False)
    assert "--unshare-net" not in told.decode().split("\0")


def test_the_environment_is_only_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the host's own environment reaches a desktop."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(environment, "locales", lambda: frozenset({"de_DE.UTF-8", "C.UTF-8"}))
    made = environment.of(SPEC, home="/h", look="/l", cookie_file="/c", sandboxed=True)
    assert "AWS_SECRET_ACCESS_KEY" not in made
    assert made["LANG"] == "C.UTF-8"
    assert made["SESSION_SERVICE_SESSION"] == "S"


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Argentina/Buenos_Aires", "UTC", "Etc/GMT+5"])
@pytest.mark.parametrize("layout", ["de", "us", "ch(fr)", "us,de(nodeadkeys)"])
def test_real_wishes_are_accepted(zone: str, layout: str) -> None:
    wish = DesktopSpec(
        session_id="S",
        workspace_id="W",
        user_id="U",
        fence=1,
        registry_epoch=1,
        home="/h",
        time_zone=zone,
        keyboard_layout=layout,
    )
    environment.check(wish)


@pytest.mark.parametrize("title", ["a b", "x" * 64, "a\n", "ä", "$(id)"])
def test_a_title_that_is_no_host_name_is_refused(title: str) -> None:
    wish = DesktopSpec(
        session_id="S", workspace_id="W", user_id="U", fence=1, registry_epoch=1, home="/h", title=title
    )
    with pytest.raises(errors.BadInput):
        environment.check(wish)
