"""Where homes lie on a machine: which paths are ours, and what interrupted restores leave."""

from pathlib import Path

import pytest

from session_service.base import errors
from session_service.base.layout import Layout
from session_service.checkpoints import homes

WORKSPACE = "01J0000000000000000000000A"


def test_drafts_of_earlier_tries_go_under_whatever_fence_and_homes_stay(tmp_path: Path) -> None:
    """A store that fails in the middle of each restore must not fill the disk."""
    layout = Layout(tmp_path)
    earlier, now = layout.home(WORKSPACE, 3), layout.home(WORKSPACE, 4)
    layout.homes.mkdir()
    homes.make_empty(earlier, None)
    for home in (earlier, now):
        draft = homes.draft_of(home)
        draft.mkdir()
        (draft / "half").write_bytes(b"a file")
    homes.drop_drafts(now)
    assert list(now.parent.iterdir()) == [earlier]


@pytest.mark.parametrize(
    "home",
    ["/etc/1", "homes/../1", "homes/ws/x", "homes/ws/1/2", "homes/ws/../../1", "homes/ws/" + "9" * 5000],
)
def test_only_homes_are_taken_for_homes(tmp_path: Path, home: str) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(errors.BadInput):
        homes.checked(layout, str(tmp_path / home), workspace_id=WORKSPACE)
    mine = layout.home(WORKSPACE, 7)
    assert homes.checked(layout, str(mine), workspace_id=WORKSPACE) == mine
    assert homes.checked(layout, str(mine), workspace_id=WORKSPACE, fence=7) == mine
