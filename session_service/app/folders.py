"""Makes the state folder and gives each part its own: run by the parent before anything else starts.

Not the contents. Modes are set on every start, so a folder that was opened by accident is closed again.
"""

import os
import secrets
from pathlib import Path

from session_service.app.accounts import Accounts
from session_service.app.refused import ConfigurationRefused
from session_service.base.layout import Layout

SEAL_KEY_BYTES = 32


def _folder(path: Path, mode: int, uid: int, gid: int, *, root: bool) -> None:
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    if root:
        os.chown(path, uid, gid)
    path.chmod(mode)


def _secret(path: Path, uid: int, gid: int, *, root: bool) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secrets.token_bytes(SEAL_KEY_BYTES))
        if root:
            os.fchown(fd, uid, gid)
            os.fchmod(fd, 0o440)
    finally:
        os.close(fd)
    draft.replace(path)


def check_owner(root: Path) -> None:
    """Refuse a state folder that is somebody else's: they could put their own folders in the place of ours,
    and with them keys, sockets and the program that is to follow.

    Raises:
        ConfigurationRefused: it exists and does not belong to us.
    """
    try:
        owner = root.stat().st_uid
    except FileNotFoundError:
        return
    if owner != os.geteuid():
        raise ConfigurationRefused(
            f"the state folder {root} belongs to uid {owner} and not to us (uid {os.geteuid()}): "
            "start as its owner, or give another one with --state-folder"
        )


def prepare(layout: Layout, accounts: Accounts) -> None:
    """Make every folder of the layout with its owner and mode, and a fresh seal key for this start."""
    root = accounts.root
    service = (accounts.service_uid, accounts.service_gid)
    worker = (accounts.worker_uid, accounts.worker_gid)
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.root.chmod(0o711 if root else 0o700)
    host = (0, 0) if root else service
    _folder(layout.registry, 0o700, *service, root=root)
    _folder(layout.uploads, 0o750, service[0], worker[1], root=root)
    _folder(layout.objects, 0o700, *worker, root=root)
    _folder(layout.keys, 0o700, *worker, root=root)
    _folder(layout.cache, 0o700, *worker, root=root)
    _folder(layout.homes, 0o711, *worker, root=root)
    _folder(layout.seeds, 0o700, *host, root=root)
    _folder(layout.desktops, 0o711, *host, root=root)
    _folder(layout.run, 0o711 if root else 0o700, *host, root=root)
    _folder(layout.host_socket.parent, 0o711, *host, root=root)
    _folder(layout.worker_socket(0).parent, 0o711, *worker, root=root)
    _folder(layout.api_socket.parent, 0o711, *service, root=root)
    _secret(layout.seal_key, 0, worker[1], root=root)
