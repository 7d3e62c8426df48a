"""Put what desktops start with (scripts, settings, wallpaper) where their users can read it.

One folder per version. Not bound from the installed package: that may lie in a home folder that another uid
cannot enter, and an upgrade would change it under running desktops. A version is copied once, under its
fingerprint, and never changed.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from session_service.host import sandbox

TEMPLATES: Final = Path(__file__).with_name("templates")


def install(place: Path, *, source: Path = TEMPLATES) -> Path:
    """Return the folder of this version under `place`, made if it is not there."""
    files = [file for file in sorted(source.rglob("*")) if file.is_file()]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(source)).encode() + b"\0" + file.read_bytes() + b"\0")
    target = place / digest.hexdigest()[:16]
    if target.is_dir():
        return target
    place.mkdir(mode=0o755, exist_ok=True)
    place.chmod(0o755)
    fresh = place / f"{target.name}.{os.getpid()}"
    for file in files:
        copy = fresh / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755)  # scripts are started by their interpreter or directly; none of this is secret
    try:
        fresh.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(fresh)
    return target


def templates(look: Path) -> frozenset[str]:
    """Return the names of the templates in a version whose programs are installed here now; `needs` beside a
    template's `start` names those that are not part of every installation.
    """
    return frozenset(start.parent.name for start in look.glob("*/start") if _can_start(start.parent))


def _can_start(template: Path) -> bool:
    try:
        needed = (template / "needs").read_text("ascii").split()
    except FileNotFoundError:
        return True
    return all(shutil.which(name, path=sandbox.SEARCH) for name in needed)
