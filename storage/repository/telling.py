"""How far long work over a whole repository is, told to whoever wants to know. Nothing decides by it."""

from typing import Protocol


class Tell(Protocol):
    """Told of each stage: how many of how many things are done."""

    def __call__(self, stage: str, done: int, total: int | None, unit: str) -> None: ...


def tell_nobody(stage: str, done: int, total: int | None, unit: str) -> None:
    """Nobody wants to know."""
