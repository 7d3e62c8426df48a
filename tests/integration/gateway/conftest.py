"""Every test of the gateway runs on uvloop and on plain asyncio: their transports differ where it matters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.fakes.gateway_world import SHORT, World, running
from tests.fakes.rfb_desktop import FakeDesktop

ONE_LOOP = frozenset(
    {
        "test_gateway_cuts.py",
        "test_gateway_herd.py",
        "test_gateway_proxies.py",
        "test_gateway_taken_over.py",
        "test_gateway_two_nodes.py",
    }
)
"""There the loop is not what is tested, and each test is long."""
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    if item.path.name in ONE_LOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Two processes on plain asyncio only in the soak lane: each half is in the other three combinations."""
    if config.getoption("--lane") == "soak":
        return
    here = Path(__file__).parent
    left = [
        item
        for item in items
        if here in item.path.parents and "two processes" in item.name and "asyncio" in item.name
    ]
    config.hook.pytest_deselected(items=left)
    gone = set(left)
    items[:] = [item for item in items if item not in gone]


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def processes(request: pytest.FixtureRequest) -> int:
    """One gateway, or a second one that carries what the first accepted."""
    return int(request.param)


@pytest.fixture
async def world(processes: int) -> AsyncIterator[World]:
    """A gateway with its usual patience."""
    async with running(processes=processes) as started:
        yield started


@pytest.fixture
async def hasty() -> AsyncIterator[World]:
    """A gateway whose seconds are short."""
    async with running(SHORT) as started:
        yield started


@pytest.fixture
async def desktop(tmp_path: Path) -> AsyncIterator[FakeDesktop]:
    async with FakeDesktop(tmp_path / "rfb.sock") as started:
        yield started
