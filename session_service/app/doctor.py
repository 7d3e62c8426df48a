"""Looks at the machine, the settings and the running service, and says what each finding means and what
to do.

Not a repair: it changes nothing but objects of its own in the store's probe. A finding is a fact, `ok`,
words and an action.
"""

import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from session_service.app import room
from session_service.app.keys import key_sources
from session_service.app.settings import Settings
from session_service.base import errors
from session_service.base.layout import Layout
from session_service.checkpoints import keyring
from session_service.checkpoints.key_sources import recovery_name
from session_service.client.api import Api
from session_service.client.models import SecondStore, Storage
from session_service.client.transport import Transport
from session_service.host import look as templates
from session_service.host import selftest
from session_service.host.selftest import Finding
from session_service.registry.connection import SQLITE_NEEDED
from session_service.registry.sqlite import sqlite_version

DESCRIPTORS_LEAST: Final = 4096
"""Each link takes two; a small machine with a thousand users needs about this many."""
STOPPED: Final = ("refused", "diverged", "damaged")
"""States of a second copy that a person has to look at."""
WRONG_SECRET: Final = "wrong_secret"
"""The check that a store may fail and be used, and that concerns everybody who can reach it."""
YEAR_LEAST: Final = 2024


async def look(settings: Settings) -> list[Finding]:
    """Return every finding, the machine's first."""
    layout = Layout(settings.state_folder)
    return [
        *await selftest.look(),
        _templates(settings),
        _python(),
        _sqlite(),
        _clock(),
        _descriptors(),
        *_space(settings, layout),
        *await _service(settings, layout),
        _key(settings, layout),
    ]


def _templates(settings: Settings) -> Finding:
    """Say what desktops can be made from here, and whether the usual one is among it."""
    offered, usual = templates.templates(templates.TEMPLATES), settings.desktops.template
    ok = usual in offered
    action = "" if ok else f"Install what {usual} needs, or correct the setting desktops.template."
    words = f"{', '.join(sorted(offered))}; usually {usual}"
    return Finding(name="templates", ok=ok, words=words, action=action)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11) and __debug__
    action = "" if ok else "Use Python 3.11 or newer, without -O: assertions guard what must never happen."
    return Finding(name="python", ok=ok, words=f"Python {version}", action=action)


def _sqlite() -> Finding:
    version = sqlite_version()
    ok = version >= SQLITE_NEEDED
    action = "" if ok else "Install the versions of requirements.lock: older ones can lose a commit."
    return Finding(name="sqlite", ok=ok, words="SQLite " + ".".join(map(str, version)), action=action)


def _clock() -> Finding:
    wall = time.gmtime()
    asleep_s = abs(time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC))
    ok = wall.tm_year >= YEAR_LEAST
    words = (
        f"wall clock {time.strftime('%Y-%m-%d %H:%M:%S', wall)} UTC; asleep for {asleep_s:.0f} s since boot"
    )
    action = "" if ok else "Set the clock: times shown to people would be wrong (holds do not depend on it)."
    return Finding(name="clock", ok=ok, words=words, action=action)


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS_LEAST
    action = (
        ""
        if ok
        else f"Allow at least {DESCRIPTORS_LEAST} open files (LimitNOFILE= in the unit, or ulimit -n)."
    )
    return Finding(name="descriptors", ok=ok, words=f"{soft} open files, {hard} at most", action=action)


def _space(settings: Settings, layout: Layout) -> list[Finding]:
    folder = next(path for path in (layout.root, *layout.root.parents) if path.exists())
    free, needed = room.disk_free_mb(folder), settings.room.disk_free_mb_min
    disk = Finding(
        name="disk",
        ok=free >= needed,
        words=f"{free} MB free for {layout.root}; {needed} MB must stay free",
        action="" if free >= needed else "Free space: no new desktop is started below that.",
    )
    free, needed = room.memory_available_mb(), settings.room.memory_free_mb_min
    memory = Finding(
        name="memory",
        ok=free >= needed,
        words=f"{free} MB available; {needed} MB must stay so",
        action="" if free >= needed else "End desktops or add memory: no new one is started below that.",
    )
    return [disk, memory]


async def _service(settings: Settings, layout: Layout) -> list[Finding]:
    """Ask the running service about itself and its object store."""
    try:
        async with Transport.over_socket(layout.api_socket) as transport:
            status = await Api(transport).status()
            alarms = await Api(transport).alarms() if status.setup_needed is False else []
            second = await Api(transport).second_store() if status.setup_needed is False else None
    except errors.PartUnavailable:
        words = f"no service runs in {layout.root}, so its store could not be asked"
        return [
            Finding(name="service", ok=True, words=words, action="Start it with ./deploy/up and look again.")
        ]
    except errors.SessionError as exc:
        return [Finding(name="service", ok=False, words=exc.detail, action=exc.action)]
    ready = "settled and ready" if status.ready else "not ready yet"
    found = [
        Finding(
            name="service",
            ok=status.ready and not alarms,
            words=f"version {status.version}, {ready}, {len(alarms)} open alarm{'s' * (len(alarms) != 1)}",
            action="; ".join(alarm.action for alarm in alarms[:3]),
        )
    ]
    store = status.storage
    found += [*store_findings(store), _line(settings)]
    if store.watching:
        found.append(_watching(store.watching))
    found.append(
        _upkeep(settings, [alarm.detail for alarm in alarms if alarm.kind in ("upkeep", "clocks_apart")])
    )
    # The service knows whether there is one: it may have been told by a flag or its environment.
    return found if second is None or not second.configured else [*found, _second_store(second)]


def store_findings(store: Storage) -> list[Finding]:
    """Say what the store was seen to do, and what it lacks although nothing here relies on it."""
    if not store.usable:
        action = "Correct the setting store.url, its credentials or the store; nothing is lost meanwhile."
        return [Finding(name="object_store", ok=False, words=f"{store.url}: {store.error}", action=action)]
    checks = store.checks or []
    shown = ", ".join(one.name for one in checks if one.passed)
    found = [
        Finding(name="object_store", ok=True, words=f"{store.url} keeps its promises{shown and ': '}{shown}")
    ]
    for one in checks:
        if not one.passed:
            open_to_all = one.name == WRONG_SECRET
            action = (
                "Let nobody else reach this store, or use one that checks who asks." if open_to_all else ""
            )
            found.append(
                Finding(
                    name=f"store_{one.name}",
                    ok=not open_to_all,
                    words=one.words if open_to_all else f"{one.words}; nothing here relies on it",
                    action=action,
                )
            )
    return found


def _line(settings: Settings) -> Finding:
    """Say which limits the line to the store has; none is a choice, too."""
    told = (("up", settings.store.upload_mib_per_s), ("down", settings.store.download_mib_per_s))
    words = ", ".join(f"{way} {f'{limit} MiB/s' if limit else 'without a limit'}" for way, limit in told)
    return Finding(name="store_line", ok=True, words=f"{words}, shared by {settings.store.workers} workers")


def _upkeep(settings: Settings, refused: Sequence[str]) -> Finding:
    """Off is a choice; refused is not: space is never freed then."""
    if refused:
        action = 'docs/running.md, "Upkeep", says what to do; saving goes on.'
        return Finding(name="upkeep", ok=False, words="; ".join(refused), action=action)
    on = settings.store.upkeep == "on"
    words = "once an hour" if on else "off: nothing is forgotten and no space is freed"
    return Finding(name="upkeep", ok=True, words=words, action="" if on else "Set store.upkeep to on.")


def _watching(words: str) -> Finding:
    """Scans cost, and lose nothing: not watching is no failure."""
    action = ""
    if "homes scan only" in words:
        action = "Raise fs.inotify.max_user_watches (half of it is used), or run the service as root."
    return Finding(name="change_notification", ok=True, words=words, action=action)


def _second_store(found: SecondStore) -> Finding:
    """Say whether the second store is usable, and how far it is behind."""
    ok = bool(found.usable) and all(one.state not in STOPPED for one in found.workspaces)
    lag = f"{found.behind_entries} entries, {found.behind_bytes} bytes, {found.behind_seconds:.0f} s behind"
    where = found.url or "the second store"
    words = f"{where}: {'in step' if found.in_step else lag}" if ok else f"{where}: {found.error or lag}"
    if found.spared:
        ok, words = False, f"{words}; {len(found.spared)} objects had to be read from it"
    return Finding(
        name="second_store", ok=ok, words=words, action="" if ok else "session-service replica status"
    )


def _key(settings: Settings, layout: Layout) -> Finding:
    sources = key_sources(settings)
    path = sources.file
    code = sources.recovery_public()
    recovery = f"; recovery code {recovery_name(code)} opens the store, too" if code is not None else ""
    if sources.command:
        words = f"it comes from a command of its operator{recovery}"
        return Finding(name="master_key", ok=True, words=words)
    if os.geteuid() != 0 and not os.access(Path(path).parent, os.X_OK):
        return Finding(name="master_key", ok=True, words=f"{path} cannot be looked at by this user")
    try:
        key = keyring.read(path)
    except errors.SessionError as exc:
        return Finding(
            name="master_key", ok=False, words=exc.detail, action="Put the saved copy of the key back."
        )
    if key is None:
        return Finding(
            name="master_key", ok=True, words="none yet; it is made when the first store is opened"
        )
    copied = keyring.is_backed_up(path, key)
    if copied or code is not None:
        words = (
            f"key {keyring.name_of(key)} {'was copied to a safe place' if copied else 'is here'}{recovery}"
        )
        return Finding(name="master_key", ok=True, words=words)
    return Finding(
        name="master_key",
        ok=False,
        words=f"key {keyring.name_of(key)} at {path} exists once only, and there is no recovery code: "
        "without it no file can be read",
        action="session-service keys recovery, or backup key --to FILE on another medium; keep both apart "
        "from the object store",
    )
