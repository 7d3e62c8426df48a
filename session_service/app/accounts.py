"""Which system account each part runs as, and the `setpriv` line that gets it there.

Not user accounts of the service. As root the internet-facing part and the part that parses hostile files
lose root before they
start; as a plain user all parts share that user. The accounts are made by deploy/up.
"""

import os
import pwd
import shutil
from dataclasses import dataclass
from typing import Final

from session_service.app.refused import ConfigurationRefused

SERVICE_ACCOUNT: Final = "session-service"
WORKER_ACCOUNT: Final = "session-worker"
GATEWAY_ACCOUNT: Final = "session-gateway"
"""Its group is that of gateway processes; needed only where there are some."""
GATEWAY_FIRST_UID: Final = 2_100_100_000
"""Of the process of shard 0, which there is none of; each has one of its own, so that none can end another.
Not accounts: above the numbers of desktops (`host/owners.py`), and no file is ever theirs.
"""
WORKER_CAPABILITIES: Final = ("chown", "dac_override", "dac_read_search", "fowner", "fsetid")
"""Homes belong to the desktops' uids: the worker reads and makes files for them, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """uid and gid of each part; equal, and our own, for a plain user."""

    root: bool
    service_uid: int
    service_gid: int
    worker_uid: int
    worker_gid: int
    gateway_gid: int | None = None
    """The group of gateway processes. None: the account is missing."""

    def gateway_uid(self, shard: str) -> int:
        """Return who the gateway process of a shard is."""
        return GATEWAY_FIRST_UID + int(shard) if self.root else self.service_uid


def find() -> Accounts:
    """Look the accounts up as the parent. Raises ConfigurationRefused when we are root and they are
    missing.
    """
    return _named() if os.geteuid() == 0 else _ours()


def find_parts(*, root: bool) -> Accounts:
    """Look the accounts up inside a part that may have lost root already; `root` is what the parent was."""
    return _named() if root else _ours()


def _ours() -> Accounts:
    uid, gid = os.geteuid(), os.getegid()
    return Accounts(
        root=False, service_uid=uid, service_gid=gid, worker_uid=uid, worker_gid=gid, gateway_gid=gid
    )


def _named() -> Accounts:
    try:
        service, worker = pwd.getpwnam(SERVICE_ACCOUNT), pwd.getpwnam(WORKER_ACCOUNT)
    except KeyError as exc:
        raise ConfigurationRefused(
            f"the system accounts {SERVICE_ACCOUNT} and {WORKER_ACCOUNT} are missing: run ./deploy/up once, "
            "or make them with useradd --system"
        ) from exc
    try:
        gateway_gid = pwd.getpwnam(GATEWAY_ACCOUNT).pw_gid
    except KeyError:
        gateway_gid = None
    return Accounts(
        root=True,
        service_uid=service.pw_uid,
        service_gid=service.pw_gid,
        worker_uid=worker.pw_uid,
        worker_gid=worker.pw_gid,
        gateway_gid=gateway_gid,
    )


def command_prefix(part: str, accounts: Accounts) -> tuple[str, ...]:
    """Return the words before a part's command, by its whole name: it gets a TERM when its parent dies, and
    only its own rights.
    """
    setpriv = shutil.which("setpriv") or "/usr/bin/setpriv"
    ended_with_parent = (setpriv, "--pdeathsig", "TERM")
    if not accounts.root or part == "host":
        return (*ended_with_parent, "--")
    groups = "--clear-groups"
    if part == "service":
        uid, gid, caps = accounts.service_uid, accounts.service_gid, ""
        if accounts.gateway_gid is not None:
            # So that it can give its two private sockets to that group, which opens nothing else.
            groups = f"--groups={accounts.gateway_gid}"
    elif part.startswith("gateway-"):
        assert accounts.gateway_gid is not None
        uid, gid, caps = accounts.gateway_uid(part.removeprefix("gateway-")), accounts.gateway_gid, ""
    else:
        uid, gid = accounts.worker_uid, accounts.worker_gid
        caps = "".join(f",+{name}" for name in WORKER_CAPABILITIES)
    rights = (f"--bounding-set=-all{caps}", f"--inh-caps=-all{caps}", f"--ambient-caps=-all{caps}")
    who = (f"--reuid={uid}", f"--regid={gid}", groups, "--no-new-privs")
    return (*ended_with_parent, *who, *rights, "--")
