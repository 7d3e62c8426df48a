"""What an unexpected failure writes to the log: where it happened, and no value of anybody."""

import subprocess
import sys

import pytest

from tests.fakes.child import child_environment

SECRET = "hunter2hunter2"
PROGRAM = f"""
import sys
import rich, structlog  # by whoever imports us, before us
from session_service.base import log

sys.stderr.isatty = lambda: True
log.configure(json=sys.argv[1] == "json", part="test")

def fail(password):
    raise ValueError("broken")

try:
    fail("".join(reversed("{SECRET[::-1]}")))
except ValueError:
    log.get_logger().error("request.failed", exc_info=True)
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(form: str) -> None:
    """On a terminal each frame would be shown with its locals: passwords, tickets and keys among them."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ValueError" in done.stderr
    assert "fail" in done.stderr
    assert SECRET not in done.stderr
