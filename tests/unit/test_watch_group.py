"""The group that the parent opens is the one that storage reads."""

import os

from session_service.app import watch_group
from storage.watch import fanotify, kernel
from storage.watch.dirt import Atlas, HomeDirt
from storage.watch.source import MASK


def can_open(folder) -> bool:
    group = fanotify.open_group(folder)
    if group is not None:
        os.close(group)
    return group is not None


def test_the_parent_asks_for_the_events_that_storage_knows():
    assert watch_group.EVENTS == MASK | kernel.IN_ISDIR


def test_what_the_parent_opens_tells_storage_of_changes(tmp_path):
    group = watch_group.open_group(tmp_path)
    assert (group is None) == (not can_open(tmp_path))
    if group is None:
        return  # only root can have one
    source = fanotify.Fanotify(group, marked=tmp_path)
    atlas, home = Atlas(), HomeDirt()
    home.lost = None
    fd = os.open(tmp_path, os.O_RDONLY)
    atlas.enter(home, b"", source.watch(fd))
    os.close(fd)
    (tmp_path / "file").touch()
    source.read(atlas)
    assert home.take() == {b""}
    source.close()


def test_a_descriptor_is_inherited_once_and_not_passed_on():
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    variables = {watch_group.PART_VARIABLE: str(reading)}
    assert watch_group.inherited(variables) == reading
    assert not os.get_inheritable(reading)
    assert not variables
    assert watch_group.inherited(variables) is None
    os.close(reading)
    os.close(writing)
    assert watch_group.inherited({watch_group.PART_VARIABLE: str(reading)}) is None
