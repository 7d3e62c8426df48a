"""What this machine can do for desktops, found by trying: the facts behind `doctor`.

Not a guess from version numbers where a trial is possible: the sandbox, its network and the control groups
are made for a moment and go again. Plain data, so that pages and the command line can show it; nothing here
changes the machine.
"""

import asyncio
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.host import control_groups, network, pipes, sandbox
from session_service.host.identity import reap
from session_service.host.owners import FIRST_UID
from session_service.host.spawn import spawn

KERNEL_LEAST: Final = (5, 10)
"""pidfds, clone into namespaces and the files of control groups that are used."""
TRIAL_S: Final = 10.0
TIGERVNC: Final = "Xtigervnc"
"""The program that Debian's alternatives of Xvnc lead to."""
TUN_DEVICE: Final = Path("/dev/net/tun")
_FORBIDDING: Final = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact about the machine."""

    name: str
    """Stable.

    Kernel, user_namespaces, bubblewrap, xvnc, window_manager, control_groups, freezer, network, criu.
    """
    ok: bool
    """False: something that is wanted does not work here."""
    words: str
    """What was found, for people."""
    action: str = ""
    """What to do about it; empty when nothing needs to be done."""


async def look() -> list[Finding]:
    """Try everything that desktops need and return what was found; takes a second or two."""
    trial = await _sandbox_trial()
    hierarchies = control_groups.find()
    return [
        _kernel(),
        trial[0],
        _bubblewrap(),
        await _xvnc(),
        _window_manager(),
        _control_groups(hierarchies),
        _freezer(hierarchies),
        trial[1],
        _criu(),
    ]


def _kernel() -> Finding:
    release = os.uname().release
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    ok = numbers >= KERNEL_LEAST
    least = ".".join(map(str, KERNEL_LEAST))
    return Finding(
        name="kernel",
        ok=ok,
        words=f"Linux {release}",
        action="" if ok else f"Upgrade the system: desktops need Linux {least} or newer.",
    )


async def _sandbox_trial() -> tuple[Finding, Finding]:
    """Make a sandbox as desktops do, give it a network, and let it end by itself."""
    nothing = Finding(name="network", ok=False, words="not tried: no sandbox can be made")
    try:
        bwrap = sandbox.program("bwrap")
    except errors.PartUnavailable as exc:
        action = "Install the package bubblewrap."
        return Finding(name="user_namespaces", ok=False, words=exc.detail, action=action), nothing
    owner = (FIRST_UID, FIRST_UID) if os.geteuid() == 0 else None
    namespaces = (
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-net",
    )
    command = [
        bwrap,
        *namespaces,
        "--ro-bind",
        "/usr",
        "/usr",
        *sandbox.top_links(),
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]
    fds = (
        "--info-fd",
        str(sandbox.INFO_FD),
        "--block-fd",
        str(sandbox.BLOCK_FD),
        "--sync-fd",
        str(sandbox.SYNC_FD),
    )
    words_read, words_write = os.pipe2(os.O_CLOEXEC)
    info_read, info_write = os.pipe2(os.O_CLOEXEC)
    block_read, block_write = os.pipe2(os.O_CLOEXEC)
    sync_read, sync_write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = spawn(
            sandbox.as_owner([*command, *fds, "--", "/usr/bin/true"], owner),
            descriptors={
                2: words_write,
                sandbox.INFO_FD: info_write,
                sandbox.BLOCK_FD: block_read,
                sandbox.SYNC_FD: sync_write,
            },
            environment={"PATH": sandbox.SEARCH},
        )
        for descriptor in (words_write, info_write, block_read, sync_write):
            os.close(descriptor)
        async with asyncio.timeout(TRIAL_S):
            info = await pipes.read_until(info_read, b"}")
            if not info:
                return _no_sandbox(os.read(words_read, 4000).decode("utf-8", "replace")), nothing
            init = int(re.findall(rb'"child-pid": *(\d+)', info)[0])
            made = await network.set_up(init, exit_fd=sync_read, groups=())
    finally:
        for descriptor in (words_read, block_write, sync_read):
            os.close(descriptor)
    reap(pid)
    return Finding(name="user_namespaces", ok=True, words="a sandbox was made and has ended"), _network(made)


def _no_sandbox(words: str) -> Finding:
    remedies = [f"sudo sysctl -w {remedy}" for path, value, remedy in _FORBIDDING if _content(path) == value]
    action = "; ".join(remedies) or (
        "In a container: start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined, "
        "or use a virtual machine. Or set sandbox = off knowingly."
    )
    return Finding(
        name="user_namespaces", ok=False, words=f"no sandbox can be made: {words.strip()}", action=action
    )


def _network(made: network.Network) -> Finding:
    if made.kind == "isolated":
        return Finding(
            name="network", ok=True, words="desktops reach the outside, private addresses are kept out"
        )
    return Finding(
        name="network",
        ok=False,
        words=f"desktops have no network: {made.reason}",
        action=network_advice(made, device=TUN_DEVICE),
    )


def network_advice(made: network.Network, *, device: Path) -> str:
    """Return what to do about a network that cannot be set up, by its cause."""
    match made.cause:
        case "program":
            return "Install the packages slirp4netns, nftables and util-linux."
        case "rules" if "not permitted" in made.reason:
            return (
                "Allow network namespaces their own rules: in a container start it with --cap-add NET_ADMIN "
                "and --security-opt seccomp=unconfined."
            )
        case "rules":
            return (
                "Load the kernel's packet filter: sudo modprobe -a nf_tables nft_reject_inet; "
                "a kernel without them needs to be replaced."
            )
        case "router" if not device.exists():
            return f"Load the tun driver: sudo modprobe tun; in a container add --device {device}."
        case "router" if not os.access(device, os.R_OK | os.W_OK):
            return f"Let this user open {device}: sudo chmod 0666 {device}."
        case "time":
            return "The machine is very busy: look again later."
        case _:
            return (
                "Try slirp4netns by hand, and tell us what it says; or set desktops.network = host knowingly."
            )


def _bubblewrap() -> Finding:
    version = sandbox.bubblewrap_version()
    ok = version > (0,)
    words = f"bubblewrap {'.'.join(map(str, version))}" if ok else "bubblewrap is not installed"
    return Finding(
        name="bubblewrap", ok=ok, words=words, action="" if ok else "Install the package bubblewrap."
    )


async def _xvnc() -> Finding:
    try:
        program = sandbox.program("Xvnc")
        process = await asyncio.create_subprocess_exec(
            program,
            "-version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except errors.PartUnavailable as exc:
        action = "Install the package tigervnc-standalone-server."
        return Finding(name="xvnc", ok=False, words=exc.detail, action=action)
    said, _ = await process.communicate()
    found = re.search(rb"TigerVNC (\d+\.\d+\.\d+)", said)
    if found is not None:
        return Finding(name="xvnc", ok=True, words=f"TigerVNC {found[1].decode()}")
    if Path(program).resolve().name == TIGERVNC:  # Debian 13's says nothing of its version
        return Finding(name="xvnc", ok=True, words="TigerVNC, which does not tell its version")
    action = "Install TigerVNC; another Xvnc has other options."
    return Finding(name="xvnc", ok=False, words="this Xvnc is not TigerVNC's", action=action)


def _window_manager() -> Finding:
    missing = [name for name in ("openbox", "dbus-run-session", "setxkbmap") if shutil.which(name) is None]
    if missing:
        return Finding(
            name="window_manager",
            ok=False,
            words=f"not installed: {', '.join(missing)}",
            action="Install the packages openbox, dbus and x11-xkb-utils.",
        )
    larger = "XFCE, too" if shutil.which("xfce4-session") else "not XFCE"
    return Finding(name="window_manager", ok=True, words=f"openbox is installed, {larger}")


def _control_groups(hierarchies: control_groups.Hierarchies) -> Finding:
    missing = sorted({"memory", "cpu", "processes"} - hierarchies.limits)
    works = ", ".join(sorted(hierarchies.limits)) or "none"
    words = f"control groups: {hierarchies.mode}; limits that work: {works}"
    if not missing:
        return Finding(name="control_groups", ok=True, words=words)
    action = (
        f"Desktops run without a limit of {', '.join(missing)}. "
        "Run the service as root, or from its systemd unit with Delegate=yes."
    )
    return Finding(name="control_groups", ok=False, words=words, action=action)


def _freezer(hierarchies: control_groups.Hierarchies) -> Finding:
    words = {
        "cgroup2": "desktops are frozen by the kernel, all at once",
        "cgroup1": "desktops are frozen by the kernel (control groups of version 1)",
        "sigstop": "desktops are frozen process by process (SIGSTOP), which takes some milliseconds longer",
    }
    return Finding(name="freezer", ok=True, words=words[hierarchies.freezer])


def _criu() -> Finding:
    found = shutil.which("criu") is not None
    words = "CRIU is installed" if found else "CRIU is not installed; desktops are closed, not hibernated"
    return Finding(name="criu", ok=True, words=words)


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
