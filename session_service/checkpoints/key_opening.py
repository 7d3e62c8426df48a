"""The way back when every copy of the master key is gone: the recovery code opens the store for a new one.

Runs in the command, beside no service: the code is typed there and goes nowhere else. Also the exchange of
the master key's file for a new one. Every step may be repeated after a crash at any point.
"""

import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

import storage
from session_service.base import errors
from session_service.checkpoints import keyring, translate
from session_service.checkpoints.key_sources import KeySources


def read_code(text: str) -> bytes:
    """Return the private half of a typed recovery code. Raises BadInput."""
    try:
        return storage.private_of(text)
    except storage.StorageError as exc:
        raise errors.BadInput(f"this is no recovery code: {exc}", field="code") from exc


async def open_by_code(
    sources: KeySources, *, url: str, credentials: Path | None, private: bytes, cache: Path
) -> tuple[str, storage.Rewrapped]:
    """Make a master key if there is none, and give it a slot for every tenant that the code opens.

    Returns the public name of the master key, and what was done.

    Raises:
        StorageRefused: the code opens nothing there.
    """
    present = await sources.ways()
    draft = secrets.token_bytes(keyring.KEY_BYTES) if present is None else present.master
    ways = storage.KeyWays(master=draft, recovery_private=private)
    if present is not None:
        ways = replace(present, recovery_private=private, recovery_public=None)
    opened = await storage.Storage.open(
        storage.StoreSpec(url=url, credentials_file=credentials),
        master_key=ways,
        cache_folder=cache,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )
    try:
        async with opened:
            report = await opened.key_check()
            if not report.opened:
                raise errors.StorageRefused(
                    f"the recovery code opens none of the {len(report.refused)} tenants in {url}"
                )
            if present is None:
                keyring.put(sources.file, draft)
            done = await opened.rewrap()
            sources.put_recovery_public(
                storage.public_half(private), at=time.strftime("%FT%TZ", time.gmtime())
            )
            return keyring.name_of(draft), done
    except storage.StorageError as exc:
        raise translate.error(exc) from exc


def exchange(sources: KeySources) -> tuple[str, str]:
    """Put a new master key in the place of the present one, which stays beside it until it is re-wrapped.

    Returns the public names of both. The caller made sure that no earlier exchange is unfinished.
    """
    if sources.command:
        raise errors.BadInput(
            "the master key comes from store.master_key_command: let that print a new key, and give the old "
            "one with store.previous_master_key_command or _file",
            field="new",
        )
    present = keyring.read(sources.file)
    if present is None:
        raise errors.NotFound(f"there is no master key at {sources.file} yet")
    aside = keyring.read(sources.aside)
    if aside is not None and aside != present:
        os.replace(sources.aside, _former(sources.aside, aside))
        aside = None
    if aside is None:
        os.link(sources.file, sources.aside)
    fresh = secrets.token_bytes(keyring.KEY_BYTES)
    draft = sources.file.with_name(f"{sources.file.name}.new-{secrets.token_hex(4)}")
    keyring.put(draft, fresh)
    owner = sources.file.stat()
    if os.geteuid() == 0:
        os.chown(draft, owner.st_uid, owner.st_gid)
    os.replace(draft, sources.file)
    keyring.sync_folder(sources.file)
    return keyring.name_of(present), keyring.name_of(fresh)


def _former(aside: Path, key: bytes) -> Path:
    """Where a key lies that opens nothing here any more, but copies of the store from its time."""
    return aside.with_name(f"{aside.name}-{keyring.name_of(key)}")
