"""How a worker opens its store, and what it leaves open when that does not come to an end."""

from pathlib import Path

import pytest

import storage
from session_service.base import errors
from session_service.checkpoints import messages
from tests.integration.test_worker_restore import MINE, World


class Doors:
    """Counts which of the opened stores were closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: set[int] = set()
        self.opened = 0
        whole_open, whole_close = storage.Storage.open, storage.Storage.close

        async def opening(*args: object, **more: object) -> storage.Storage:
            found = await whole_open(*args, **more)
            self.open.add(id(found))
            self.opened += 1
            return found

        async def closing(found: storage.Storage) -> None:
            self.open.discard(id(found))
            await whole_close(found)

        monkeypatch.setattr(storage.Storage, "open", opening)
        monkeypatch.setattr(storage.Storage, "close", closing)


@pytest.mark.parametrize("fails_at", ["probe", "require_main"])
async def test_a_store_that_has_no_room_yet_is_opened_again_and_again_and_not_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """Every start and every save tries; each has connections and threads."""
    world, doors = World(tmp_path), Doors(monkeypatch)
    whole = getattr(storage.Storage, fails_at)

    async def full(*_: object) -> None:
        raise storage.StoreUnavailable(reason="no room")

    monkeypatch.setattr(storage.Storage, fails_at, full)
    ask = messages.Named(workspace=MINE)
    for _ in range(3):
        with pytest.raises(errors.SessionError):
            await world.ask("head", ask)
    assert (doors.opened, doors.open) == (3, set())

    monkeypatch.setattr(storage.Storage, fails_at, whole)
    await world.ask("head", ask)
    assert len(doors.open) == 1
    world.worker.close()
