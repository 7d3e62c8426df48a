"""Two or three machines save one workspace at once, in orders drawn by a seed; the rules of the commit log
hold.

The real front door runs on a store in memory whose every call takes a drawn number of steps of the event
loop, and answers of some calls get lost. What is checked does not depend on who wins: what a machine was told
is verified is in the log for ever, numbers are dense, a lower fence adds nothing that counts, and a cold
reader sees what a warm one sees.
"""

import asyncio
import random
from pathlib import Path

import pytest

import storage
from storage.errors import AmbiguousWrite
from storage.objects.memory import MemoryBucket, MemoryStore
from tests.fakes.storage_rig import REF, Node, objects, write

LIVES = 3
SAVES = 3


class Unsteady(MemoryStore):
    """Takes its time, differently each time, and loses some answers of creates."""

    def __init__(self, bucket: MemoryBucket, draw: random.Random) -> None:
        super().__init__(bucket)
        self._draw = draw

    async def _steps(self) -> None:
        for _ in range(self._draw.randrange(6)):
            await asyncio.sleep(0)

    async def create(self, name: str, data: bytes) -> None:
        await self._steps()
        if self._draw.random() < 0.05:
            raise AmbiguousWrite(name=name, reason="never arrived")
        await super().create(name, data)
        await self._steps()
        if self._draw.random() < 0.05:
            raise AmbiguousWrite(name=name, reason="lost answer")

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        await self._steps()
        return await super().get(name, start=start, length=length)

    async def head(self, name: str) -> int | None:
        await self._steps()
        return await super().head(name)


async def live(
    node: Node, home: Path, name: str, told: list[storage.CheckpointInfo], fences: list[int]
) -> None:
    """Take over and save, again and again; stop for good when another fence is told."""
    opened = node.open()
    for life in range(LIVES):
        try:
            head = await opened.take_over(
                REF, fence_at_least=1, node=name, session=f"{name} {life}", registry_epoch=1
            )
            fences.append(head.fence)
            for number in range(SAVES):
                write(home, state=f"{name} {life} {number}")
                saved = await opened.checkpoint(
                    REF, home=home, fence=head.fence, session=f"{name} {life}", reason="sim"
                )
                assert saved.info.fence <= head.fence
                told.append(saved.info)
        except (storage.FenceMoved, storage.CommitUncertain, storage.CommitContended):
            continue
    await opened.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.mark.parametrize("seed", [*range(12), pytest.param(range(12, 400), marks=pytest.mark.soak)])
def test_whoever_wins_nothing_that_was_told_is_lost(seed, tmp_path):
    for one in seed if isinstance(seed, range) else [seed]:
        asyncio.run(race(one, tmp_path / str(one)))


async def race(seed: int, base: Path) -> None:
    draw = random.Random(seed)
    bucket = MemoryBucket()
    told: list[storage.CheckpointInfo] = []
    fences: list[int] = []
    lives = []
    for number in range(2 + seed % 2):
        node = Node(bucket, base / f"cache {number}")
        node.store = Unsteady(bucket, draw)
        home = base / f"home {number}"
        home.mkdir(parents=True)
        lives.append(live(node, home, f"node {number}", told, fences))
    await asyncio.gather(*lives)
    reader = Node(bucket, base / "cold").open()
    listed = await reader.list(REF)
    assert {info.seq: info for info in told}.items() <= {info.seq: info for info in listed}.items(), seed
    assert len(fences) == len(set(fences)), f"seed {seed}: two owners of one fence"
    entries = objects(bucket, "c/")
    assert entries == [f"c/{number:016d}" for number in range(1, len(entries) + 1)]
    order = [(info.seq, info.fence) for info in listed]
    assert order == sorted(order), "fences grow with numbers"
    assert (await reader.verify(REF, "full")).faults == ()
    await reader.close()
