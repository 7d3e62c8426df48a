"""The environment of a desktop's programs: cleared, then only what is named here.

Not a place for secrets: everything a desktop runs can read it. Wishes that this machine cannot fulfil (a
locale or zone that is not installed) fall back to what always works.
"""

import functools
import re
import subprocess
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.host import sandbox
from session_service.host.census import MARK
from session_service.host.display import SANDBOX_DISPLAY
from session_service.ports.desktops import (
    KEYBOARD_LAYOUT_FORM,
    SCREEN_MAX,
    SCREEN_MIN,
    TEMPLATE_FORM,
    TIME_ZONE_FORM,
    DesktopSpec,
)

FALLBACK_LOCALE: Final = "C.UTF-8"
_LAYOUT: Final = re.compile(KEYBOARD_LAYOUT_FORM)
_ZONE: Final = re.compile(TIME_ZONE_FORM)
_TITLE: Final = re.compile(r"[A-Za-z0-9-]{1,63}")
_TEMPLATE: Final = re.compile(TEMPLATE_FORM)


def check(spec: DesktopSpec) -> None:
    """Refuse what has not the documented form; nothing of it may reach a command line. Raises BadInput."""
    sides = zip(SCREEN_MIN, spec.geometry, SCREEN_MAX, strict=True)
    if not all(least <= side <= most for least, side, most in sides):
        raise errors.BadInput("the size of the screen is out of range", field="geometry")
    for name, value, form in (
        ("keyboard_layout", spec.keyboard_layout, _LAYOUT),
        ("time_zone", spec.time_zone, _ZONE),
        ("title", spec.title, _TITLE),
    ):
        if value and not form.fullmatch(value):
            raise errors.BadInput(f"{name} has not the documented form", field=name)
    if not _TEMPLATE.fullmatch(spec.template):
        raise errors.BadInput("template has not the documented form", field="template")
    if spec.network not in ("isolated", "none", "host"):
        raise errors.BadInput("network is isolated, none or host", field="network")


def host_name(spec: DesktopSpec) -> str:
    """Return the host name that the desktop sees."""
    return spec.title.strip("-") or "desktop"


def of(spec: DesktopSpec, *, home: str, look: str, cookie_file: str, sandboxed: bool) -> dict[str, str]:
    """Return the whole environment of the desktop's first process."""
    locale = spec.locale if spec.locale in locales() else FALLBACK_LOCALE
    wanted = {
        "PATH": sandbox.SEARCH,
        "HOME": home,
        "USER": sandbox.USER,
        "LOGNAME": sandbox.USER,
        "SHELL": "/bin/bash",
        "TERM": "xterm-256color",
        "LANG": locale,
        "XAUTHORITY": cookie_file,
        "LOOK": look,
        "TEMPLATE": spec.template,
        "XDG_CONFIG_DIRS": f"{look}/{spec.template}/xdg:{look}/xdg:/etc/xdg",
        "XDG_DATA_DIRS": f"{look}/share:/usr/local/share:/usr/share",
        "XDG_CURRENT_DESKTOP": "XFCE" if spec.template == "xfce" else "X-Openbox",
        "XENVIRONMENT": f"{look}/xresources",
        "GTK2_RC_FILES": f"{look}/gtkrc-2.0",
        "NO_AT_BRIDGE": "1",
        MARK: spec.session_id,
    }
    if sandboxed:
        wanted["XDG_RUNTIME_DIR"] = f"/run/user/{sandbox.INNER_UID}"
        wanted["DISPLAY"] = f":{SANDBOX_DISPLAY}"
    if spec.keyboard_layout:
        wanted["KEYBOARD_LAYOUT"] = spec.keyboard_layout
    if spec.time_zone and Path("/usr/share/zoneinfo", spec.time_zone).is_file():
        wanted["TZ"] = spec.time_zone
    return wanted


@functools.cache
def locales() -> frozenset[str]:
    """Return the locales of this machine, in the form users write them (de_DE.UTF-8)."""
    try:
        listed = subprocess.run(
            ["locale", "-a"], capture_output=True, timeout=5, check=True, text=True
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return frozenset({FALLBACK_LOCALE})
    found = {line.strip() for line in listed.splitlines()}
    return frozenset(found | {re.sub(r"\.utf8$", ".UTF-8", line) for line in found} | {FALLBACK_LOCALE})
