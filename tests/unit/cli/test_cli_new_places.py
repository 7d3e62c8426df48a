"""Where a command may make a new file or folder, and what it says where it may not."""

from pathlib import Path

from session_service.cli.console import why_not_here


def test_who_names_a_folder_that_is_not_there_is_told_to_make_it_first(tmp_path: Path):
    assert why_not_here(tmp_path / "new") == ""
    assert (
        why_not_here(tmp_path / "no" / "new") == f"the folder {tmp_path / 'no'} is not there: make it first"
    )
    (tmp_path / "file").touch()
    assert "make it first" in why_not_here(tmp_path / "file" / "new")


def test_what_is_there_is_never_replaced(tmp_path: Path):
    (tmp_path / "there").mkdir()
    assert why_not_here(tmp_path / "there") == f"{tmp_path / 'there'} exists: choose a new name"
    (tmp_path / "broken").symlink_to("nowhere")
    assert "exists" in why_not_here(tmp_path / "broken")
