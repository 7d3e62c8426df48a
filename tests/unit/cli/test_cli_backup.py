"""What `backup` says when it is pointed at the wrong place."""

from pathlib import Path

import pytest

from session_service.base import errors
from session_service.cli import backup


def test_a_restore_into_a_folder_that_is_no_state_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="--state-folder"):
        backup.restore(tmp_path / "copy.sqlite", tmp_path / "state")
    assert not (tmp_path / "state").exists()
