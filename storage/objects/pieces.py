"""How much of an object one request of a long read asks for.

Where each request is a journey, they are few and large. In a folder a request is a call of the kernel, and
what costs is memory: the allocator of a worker maps every block of a mebibyte and more anew (`app/heap.py`),
and the kernel clears each of its pages before it is read into. Reading a first checkpoint of 1 GiB back in
pieces of 4 MiB took 190,000 page faults and a third of a second more than in smaller ones.

Not part of the contract of an object store: whoever is asked for more gives more.
"""

from typing import Final, Protocol, runtime_checkable

FAR_PIECE_BYTES: Final = 4 << 20
NEAR_PIECE_BYTES: Final = 960 << 10
"""Less than a mebibyte also with what an interpreter and an allocator put around it."""


@runtime_checkable
class PrefersPieces(Protocol):
    """A store that is better read in pieces of another size."""

    @property
    def piece_bytes(self) -> int:
        """How much to ask for at once, at most FAR_PIECE_BYTES."""


def piece_bytes(store: object) -> int:
    """Ask a store, or the one that it wraps."""
    while not isinstance(store, PrefersPieces):
        store = getattr(store, "inner", None)
        if store is None:
            return FAR_PIECE_BYTES
    return store.piece_bytes
