"""Two stores that were told of each other by a process that died: the next one goes on from any step."""

import pytest

from storage.objects.memory import MemoryBucket, MemoryStore
from storage.replica import marks
from tests.fakes.faulty_store import Crashed

STEPS = 4
"""Creates of a pairing: an identity and a mark on each store."""


class _Mortal(MemoryStore):
    """Dies at one create of several stores together."""

    def __init__(self, bucket: MemoryBucket, left: list[int]) -> None:
        super().__init__(bucket)
        self._left = left

    async def create(self, name: str, data: bytes | bytearray) -> None:
        if not self._left[0]:
            raise Crashed
        self._left[0] -= 1
        await super().create(name, data)


def fresh(count: int) -> bytes:
    fresh.number += 1
    return bytes([fresh.number]) * count


fresh.number = 0


@pytest.mark.parametrize("lived", range(STEPS))
async def test_a_pairing_that_died_is_finished_by_the_next(lived):
    one, two = MemoryBucket(), MemoryBucket()
    left = [lived]
    with pytest.raises(Crashed):
        await marks.pair(_Mortal(one, left), _Mortal(two, left), witness=None, fresh=fresh, at_ms=1)
    main, second = MemoryStore(one), MemoryStore(two)
    mark = await marks.pair(main, second, witness=None, fresh=fresh, at_ms=2)
    assert (mark.number, mark.main) == (1, await marks.Marks(main).id())
    assert await marks.Marks(main).newest() == await marks.Marks(second).newest() == mark


@pytest.mark.parametrize("lived", range(2))
async def test_a_promotion_that_died_names_the_second_store_when_it_is_repeated(lived):
    one, two = MemoryBucket(), MemoryBucket()
    main, second = MemoryStore(one), MemoryStore(two)
    await marks.pair(main, second, witness=None, fresh=fresh, at_ms=1)
    told = {"witness": None, "fresh": fresh, "actor": "t", "reason": "t"}
    left = [lived]
    with pytest.raises(Crashed):
        await marks.promote(_Mortal(two, left), _Mortal(one, left), at_ms=2, **told)
    mark = await marks.promote(second, main, at_ms=3, **told)
    assert (mark.number, mark.main) == (2, await marks.Marks(second).id())
    assert await marks.Marks(main).newest() == await marks.Marks(second).newest() == mark
