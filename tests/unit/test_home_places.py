"""Where homes lie on a machine: which paths are ours, and what interrupted restores leave."""

import fcntl
from pathlib import Path

import pytest

import storage
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


def test_the_draft_of_the_same_checkpoint_stays_to_be_taken_up(tmp_path: Path) -> None:
    """With the note beside it; another checkpoint's draft goes, and so does its note, but not while it is
    written.
    """
    layout = Layout(tmp_path)
    home = layout.home(WORKSPACE, 4)
    layout.homes.mkdir()
    mine, other, busy = (homes.draft_of(home, seq) for seq in (12, 11, 10))
    assert homes.draft_of(home, 12) == mine
    for draft in (mine, other, busy):
        draft.mkdir()
        storage.note_beside(draft).write_bytes(b"note")
    with open(storage.note_beside(busy), "rb") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        homes.drop_drafts(home, but=mine)
    left = {busy, storage.note_beside(busy), mine, storage.note_beside(mine)}
    assert set(home.parent.iterdir()) == left
    homes.drop_drafts(home)
    assert list(home.parent.iterdir()) == []


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


def test_what_was_restored_lies_beside_what_is_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.homes.mkdir()
    home = layout.home(WORKSPACE, 4)
    homes.make_empty(home, None)
    places = []
    for number in range(2):
        draft = homes.draft_of(home)
        draft.mkdir(mode=0o700)
        (draft / "letter").write_text(f"{number}")
        places.append(homes.put_restored(draft, home, None))
    assert len(set(places)) == 2
    assert [(home / place / "letter").read_text() for place in places] == ["0", "1"]
    assert {Path(place).parts[0] for place in places} == {"Restored"}


def test_a_link_in_the_place_of_the_folder_for_restores_is_not_followed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.homes.mkdir()
    home, outside = layout.home(WORKSPACE, 4), tmp_path / "outside"
    outside.mkdir()
    homes.make_empty(home, None)
    (home / "Restored").symlink_to(outside)
    draft = homes.draft_of(home)
    draft.mkdir()
    with pytest.raises(errors.BadInput):
        homes.put_restored(draft, home, None)
    homes.drop_draft(draft)
    assert list(outside.iterdir()) == []
    assert list(home.parent.iterdir()) == [home]


def test_a_folder_of_homes_that_goes_while_a_home_is_begun_means_trying_again(
    tmp_path: Path, monkeypatch
) -> None:
    """The host removes a workspace's folder with its last home: before it is opened, or locked."""
    home = Layout(tmp_path).home(WORKSPACE, 4)
    home.parent.parent.mkdir()

    def removed(*_: object) -> None:
        home.parent.rmdir()

    for when, what in ((homes.os, "open"), (homes.fcntl, "flock")):
        real = getattr(when, what)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(when, what, lambda *args, real=real: (removed(), real(*args))[1])
            with pytest.raises(storage.RestoreRunning), homes.sole_maker(home):
                raise AssertionError("nobody is kept out of the next folder of that name")
        assert not home.parent.exists()
    with homes.sole_maker(home):
        assert home.parent.is_dir()
