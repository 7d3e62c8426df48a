"""What a child process of a test needs to import both the product that is tested and the tests' own modules.

`deploy/test` keeps the source tree off the path, so that the installed copy is what is tested; a child has no
conftest that puts `tests` in place.
"""

import os
from pathlib import Path

import storage


def child_environment() -> dict[str, str]:
    """Return our environment, with the product in front of the source tree on the path."""
    paths = Path(storage.__file__).parents[1], Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
