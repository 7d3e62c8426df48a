"""Run a function of a test module on a real file system of a few megabytes, in a mount namespace of its own.

Works for root and for a plain user (a user namespace), and needs nothing to be undone: the mount ends with
the child.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_SCRIPT = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
_CHILD = """
import importlib, json, pathlib, sys
function = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
print(json.dumps(function(*map(pathlib.Path, sys.argv[3:]))))
"""


def on_small_disk(folder: Path, module: str, function: str, *, options: str) -> Any:
    """Mount a tmpfs on `folder` and call `module.function(folder)` there; its answer comes back as JSON."""
    # The source tree comes last, for `tests` only: what is tested is the installed copy.
    call = [sys.executable, "-P", "-c", _CHILD, module, function, str(folder)]
    script = ["sh", "-c", _SCRIPT, "sh", options, str(folder), *call]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *script],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parents[2])]),
        },
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout.splitlines()[-1])
