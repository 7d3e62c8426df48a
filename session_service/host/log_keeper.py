"""Keep the last words of a desktop without letting it fill the disk: a tiny process turns two files over.

Not in Python: one runs per desktop for days, and a shell with `dd` takes a megabyte. Not a file that the
desktop holds open: it could write without end. Not `head`: a writer would be killed by the closed pipe. It
ends by itself when the last writer is gone.
"""

from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 1024
BLOCKS: Final = 128
"""Reads per file: between a few kB (short lines) and 128 kB, twice."""
WORDS_BYTES_MAX: Final = 4000
SCRIPT: Final = (
    f'cd "$1" && umask 077 && while :; do dd bs={BLOCK_BYTES} count={BLOCKS} of=new status=none; '
    "[ -s new ] || break; mv new old; done"
)


def command(folder: str) -> list[str]:
    """Return the command that keeps what arrives on its standard input in `folder`."""
    return ["/bin/sh", "-c", SCRIPT, "session-service-log", folder]


def last_words(folder: Path) -> str:
    """Return the end of what was kept, cleaned of control signs and capped; "" when there is nothing."""
    text = b""
    for name in ("old", "new"):
        try:
            with (folder / name).open("rb") as file:
                text += file.read(BLOCK_BYTES * BLOCKS)
        except FileNotFoundError:
            continue
    lines = text[-WORDS_BYTES_MAX:].decode("utf-8", "replace").splitlines()
    return "\n".join("".join(sign for sign in line if sign.isprintable()) for line in lines).strip()
