"""The single module of `storage` that may delete an object.

So far it deletes nothing of a repository: objects of repositories go by entries F and R of the commit log,
which come with garbage collection. What it may remove are the objects that a probe of the store made for
itself, below a prefix of their own that no repository can have.
"""

from typing import Final

from storage.errors import StoreRefused
from storage.objects.store import ObjectStore

PROBE_PREFIX: Final = "probe/"


async def remove_probe_object(store: ObjectStore, name: str) -> None:
    """Delete an object of a probe; anything else is refused."""
    if not name.startswith(PROBE_PREFIX):
        raise StoreRefused(name=name, reason="only a removal entry of the log allows this")
    await store.delete(name)
