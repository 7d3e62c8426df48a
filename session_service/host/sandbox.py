"""The sandbox of a desktop: the command line of bubblewrap, or none where that was chosen.

Not the decision whether there must be one, and no privileges of its own: bubblewrap works with user
namespaces alone, as root (under the desktop's uid) and as a plain user. A desktop sees its home, its own
processes, and the programs of the machine read-only; no other home, no /root, no state of ours (desktops.md
1).
"""

import functools
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_service.base import errors

INNER_UID: Final = 1000
USER: Final = "user"
HOME: Final = "/home/user"
RUN: Final = "/run/desk"
LOOK: Final = "/run/look"
ETC: Final = "/run/desk-etc"
SEARCH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/games"
APPLICATION_OOM_SCORE: Final = 500
"""As templates/leader sets it: where memory runs out, an application goes before the display does."""
TMP_BYTES_MAX: Final = 4 << 30
"""A tmpfs is memory: this is a last resort where no control group counts it."""

DISPLAY_FD, GO_FD, INFO_FD, BLOCK_FD, SYNC_FD, ARGUMENTS_FD, HERE_FD = 3, 4, 5, 6, 7, 8, 9
"""Descriptors that the command inherits: see `launch.py`."""

_ENTER: Final = (
    'echo "$1" 2>/dev/null >/proc/self/oom_score_adj; shift; '
    'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 72; shift; done; shift; exec "$@"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The folders of one desktop on the host."""

    home: Path
    base: Path
    look: Path

    @property
    def run(self) -> Path:
        """The RFB socket; writable by the desktop, entered by the service."""
        return self.base / "run"

    @property
    def x11(self) -> Path:
        """The X socket; writable by the desktop. Its parent is closed: the X server opens this to all."""
        return self.base / "display" / "x11"

    @property
    def etc(self) -> Path:
        """passwd, group, hostname, hosts, resolv.conf, xauth: ours, read-only for the desktop."""
        return self.base / "etc"

    @property
    def log(self) -> Path:
        """Last words; not visible inside."""
        return self.base / "log"


def program(name: str) -> str:
    """Return the path of a program of the machine. Raises PartUnavailable when it is not installed."""
    found = shutil.which(name, path=f"{SEARCH}:/usr/sbin:/sbin")
    if found is None:
        raise errors.PartUnavailable(f"{name} is not installed", program=name)
    return found


def etc_files(*, host_name: str, resolver: str) -> dict[str, str]:
    """Return the small files that a sandbox has of its own in /etc."""
    return {
        "passwd": "root:x:0:0:root:/:/usr/sbin/nologin\n"
        f"{USER}:x:{INNER_UID}:{INNER_UID}:User:{HOME}:/bin/bash\n",
        "group": f"root:x:0:\n{USER}:x:{INNER_UID}:\n",
        "hostname": f"{host_name}\n",
        "hosts": f"127.0.0.1 localhost {host_name}\n::1 localhost {host_name}\n",
        "resolv.conf": f"nameserver {resolver}\n" if resolver else "",
    }


def command(
    inner: Sequence[str],
    *,
    folders: Folders,
    environment: Mapping[str, str],
    host_name: str,
    own_network: bool,
) -> tuple[list[str], bytes]:
    """Return bubblewrap's command line, and the arguments that it reads from ARGUMENTS_FD.

    Those go through a pipe, so that a list of processes does not show where things lie on this machine.
    """
    told = [
        *("--unshare-user", "--uid", str(INNER_UID), "--gid", str(INNER_UID)),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", host_name, "--unshare-cgroup-try"),
        *(("--unshare-net",) if own_network else ()),
        "--new-session",
        *("--ro-bind", "/usr", "/usr"),
        *top_links(),
        *("--ro-bind", "/etc", "/etc"),
        *_own_etc(folders.etc),
        *("--proc", "/proc", "--dev", "/dev"),
        *(part for place in ("/tmp", "/var/tmp", "/run") for part in (*_size_limit(), "--tmpfs", place)),
        *("--ro-bind-try", "/var/lib/dbus", "/var/lib/dbus"),
        *("--ro-bind-try", "/var/cache/fontconfig", "/var/cache/fontconfig"),
        *("--ro-bind-try", "/opt", "/opt"),
        *("--perms", "0700", "--dir", f"/run/user/{INNER_UID}"),
        *("--bind", str(folders.run), RUN),
        *("--bind", str(folders.x11), "/tmp/.X11-unix"),
        *("--ro-bind", str(folders.etc), ETC),
        *("--ro-bind", str(folders.look), LOOK),
        *_defaults(folders.look),
        *("--bind", str(folders.home), HOME, "--chdir", HOME),
        "--clearenv",
        *(part for name, value in environment.items() for part in ("--setenv", name, value)),
        *("--info-fd", str(INFO_FD), "--sync-fd", str(SYNC_FD)),
    ]
    line = [program("bwrap"), "--args", str(ARGUMENTS_FD), "--", *inner]
    return line, b"".join(part.encode() + b"\0" for part in told)


@functools.cache
def bubblewrap_version() -> tuple[int, ...]:
    """Return the version of the installed bubblewrap, (0,) when it does not say."""
    try:
        said = subprocess.run(
            [program("bwrap"), "--version"], capture_output=True, timeout=5, check=True, text=True
        )
        return tuple(int(part) for part in said.stdout.split()[-1].split(".")[:3])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return (0,)


def _size_limit() -> tuple[str, ...]:
    """Return the limit of the next tmpfs, where bubblewrap can set one (from 0.7)."""
    return ("--size", str(TMP_BYTES_MAX)) if bubblewrap_version() >= (0, 7) else ()


def _own_etc(etc: Path) -> list[str]:
    names = ("passwd", "group", "hostname", "hosts", "resolv.conf")
    return [part for name in names for part in ("--ro-bind", str(etc / name), f"/etc/{name}")]


def as_owner(arguments: Sequence[str], owner: tuple[int, int] | None) -> list[str]:
    """Return the command run under the desktop's uid, without any privilege; unchanged for a plain user."""
    if owner is None:
        return list(arguments)
    drop = ["--reuid", str(owner[0]), "--regid", str(owner[1]), "--clear-groups", "--no-new-privs"]
    return [program("setpriv"), *drop, "--bounding-set=-all", "--", *arguments]


def in_groups(arguments: Sequence[str], groups: Sequence[Path], *, oom_score: int = 0) -> list[str]:
    """Return the command run inside these control groups from its first instruction on.

    Where memory runs out it is as likely to be chosen as any program: what protects the service (systemd's
    OOMScoreAdjust=) is not for desktops. Applications say APPLICATION_OOM_SCORE, and go first.
    """
    return ["/bin/sh", "-c", _ENTER, "enter", str(oom_score), *map(str, groups), "--", *arguments]


def top_links() -> list[str]:
    """Return what /bin, /lib and so on are on this machine: links into /usr, or folders of old systems."""
    found: list[str] = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            found += ["--symlink", str(path.readlink()).lstrip("/"), str(path)]
        elif path.is_dir():
            found += ["--ro-bind", str(path), str(path)]
    return found


def _defaults(look: Path) -> list[str]:
    """Return binds of our defaults over those of programs that look in /usr only: homes stay clean."""
    top = look / "defaults"
    found: list[str] = []
    for file in sorted(top.rglob("*")) if top.is_dir() else ():
        target = Path("/") / file.relative_to(top)
        if file.is_file() and target.is_file():
            found += ["--ro-bind", str(file), str(target)]
    return found
