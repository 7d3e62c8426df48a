"""Run a piece of a test as a plain user, in a child process, whoever runs the tests.

Root may read everything, so what happens to a plain user cannot be seen as root. The child gets no
privileges back; its answer comes back as JSON, its failure as the text of its traceback.
"""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65_534


def as_plain_user(folder: Path, call: Callable[[], Any]) -> Any:
    """Give `folder` to a plain user, run `call` as that user, and return what it returned."""
    if os.geteuid() == 0:
        for parent in [folder, *folder.parents]:
            if parent.stat().st_uid == 0 and parent != Path("/") and parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o001)
        for base, folders, files in os.walk(folder):
            for name in [".", *folders, *files]:
                os.chown(Path(base) / name, NOBODY, NOBODY, follow_symlinks=False)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Threads of the runner do not exist in the child, which calls nothing of theirs and ends by _exit.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(writing, call)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        raw = stream.read()
    os.waitpid(child, 0)
    worked, answer = json.loads(raw)
    assert worked, answer
    return answer


def _answer(writing: int, call: Callable[[], Any]) -> NoReturn:
    """In the child: nothing of the test runner may run on, whatever happens."""
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            told: tuple[bool, Any] = (True, call())
        except BaseException:  # noqa: BLE001 # whatever it was goes to the parent as text
            told = (False, traceback.format_exc())
        os.write(writing, json.dumps(told).encode())
    finally:
        sys.stdout.flush()
        os._exit(0)
