"""The network of one desktop: its own namespace, a user-mode router, and rules against private networks.

Not a firewall of the machine. Everything is set from outside while the display starts and before the first
program of the user runs, and nothing in the sandbox has the right to change it. What cannot be set up becomes
"none", which is said on the page; "host" is an explicit choice.

The namespace belongs to bubblewrap's first user namespace, not to the one its processes end in: both router
and rules enter through the namespace's own owner (ioctl NS_GET_USERNS), else they are refused.
"""

import asyncio
import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.host import pipes, sandbox
from session_service.host.identity import reap
from session_service.host.spawn import spawn

ADDRESS, GATEWAY, RESOLVER = "10.0.2.100", "10.0.2.2", "10.0.2.3"
SET_UP_S: Final = 5.0
_NS_GET_USERNS: Final = 0xB701
_NET_FD, _OWNER_FD, _EXIT_FD, _READY_FD = 3, 4, 5, 6
_ROUTER: Final = (
    "--configure",
    "--mtu=65520",
    "--disable-host-loopback",
    f"--exit-fd={_EXIT_FD}",
    f"--ready-fd={_READY_FD}",
)
"""slirp4netns for root and plain users alike: it failed for the latter only until it was told which user
namespace owns the network. pasta is not used: it needs the same device, and tells nobody when it is ready."""
_PRIVATE_4: Final = (
    "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, "
    "192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3"
)
_PRIVATE_6: Final = "::ffff:0:0/96, 64:ff9b::/96, fc00::/7, fe80::/10, ff00::/8"
RULES: Final = f"""table inet desktop {{
  chain out {{
    type filter hook output priority 0; policy accept;
    oifname "lo" accept
    ip daddr {RESOLVER} udp dport 53 accept
    ip daddr {RESOLVER} tcp dport 53 accept
    meta l4proto 58 accept
    ip daddr {{ {_PRIVATE_4} }} reject
    ip6 daddr {{ {_PRIVATE_6} }} reject
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What became of the wish for a network."""

    kind: str
    """isolated or none."""
    helper: int = 0
    """Pid of the router, 0 without one."""
    reason: str = ""
    cause: str = ""
    """What to look at, where there is a reason: program, rules, router, time or namespace."""


async def set_up(init_pid: int, *, exit_fd: int, groups: Sequence[Path]) -> Network:
    """Give the network namespace of `init_pid` a way out; never raises for what this machine cannot do.

    Args:
        exit_fd: the router ends by itself when the other end of this pipe closes, that is with its sandbox.
        groups: control groups that the router joins.
    """
    try:
        net = os.open(f"/proc/{init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        return Network(kind="none", reason=str(exc), cause="namespace")
    owner = fcntl.ioctl(net, _NS_GET_USERNS)
    try:
        async with asyncio.timeout(SET_UP_S):
            # Before its ids are mapped, what enters the namespace as a plain user loses every right at exec.
            while not Path(f"/proc/{init_pid}/uid_map").read_bytes():  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.001)
            if reason := await _rules(net, owner):
                return Network(kind="none", reason=reason, cause="rules")
            return await _router(net, owner, exit_fd=exit_fd, groups=groups)
    except errors.PartUnavailable as exc:
        return Network(kind="none", reason=exc.detail, cause="program")
    except TimeoutError:
        reason = f"it was not ready within {SET_UP_S:.0f} s"
        return Network(kind="none", reason=reason, cause="time")
    except OSError as exc:
        return Network(kind="none", reason=str(exc), cause="namespace")
    finally:
        os.close(net)
        os.close(owner)


async def _rules(net: int, owner: int) -> str:
    """Load the rules; returns why not, or "" when they stand."""
    enter = [f"--net=/proc/self/fd/{net}"]
    if os.geteuid() != 0:
        enter = [f"--user=/proc/self/fd/{owner}", *enter, "--preserve-credentials"]
    process = await asyncio.create_subprocess_exec(
        sandbox.program("nsenter"),
        *enter,
        sandbox.program("nft"),
        *("-f", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(net, owner),
    )
    _, words = await process.communicate(RULES.encode("ascii"))
    if process.returncode == 0:
        return ""
    return f"the rules could not be set: {words.decode('utf-8', 'replace').strip()[-300:]}"


async def _router(net: int, owner: int, *, exit_fd: int, groups: Sequence[Path]) -> Network:
    """Start the router and return when it is ready, or when it has said that it cannot."""
    command = [sandbox.program("slirp4netns"), *_ROUTER, *_way_in()]
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = spawn(
            sandbox.in_groups(command, groups),
            descriptors={_NET_FD: net, _OWNER_FD: owner, _EXIT_FD: exit_fd, _READY_FD: write},
            environment={"PATH": f"{sandbox.SEARCH}:/usr/sbin:/sbin", "HOME": "/"},
        )
    finally:
        os.close(write)
    if await pipes.read_until(read, b"1"):
        return Network(kind="isolated", helper=pid)
    reap(pid)
    return Network(kind="none", reason="slirp4netns, the router of a desktop, does not work", cause="router")


def _way_in() -> list[str]:
    inside = ["--enable-sandbox"] if os.geteuid() == 0 else [f"--userns-path=/proc/self/fd/{_OWNER_FD}"]
    return [*inside, "--netns-type=path", f"/proc/self/fd/{_NET_FD}", "tap0"]
