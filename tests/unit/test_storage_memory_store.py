"""The twin in memory is stricter than the stores it stands for."""

import pytest

from storage.errors import StoreRefused
from storage.objects.memory import MemoryStore


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a")])
async def test_a_name_and_a_folder_of_that_name_do_not_live_together(first: str, second: str) -> None:
    """A folder store cannot hold both, and MinIO loses one of them from its listings."""
    store = MemoryStore()
    await store.create(first, b"x")
    with pytest.raises(StoreRefused):
        await store.create(second, b"y")
