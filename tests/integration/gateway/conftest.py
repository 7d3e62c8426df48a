"""Every test of the gateway runs on uvloop and on plain asyncio: their transports differ where it matters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.fakes.gateway_world import SHORT, World, running
from tests.fakes.rfb_desktop import FakeDesktop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A gateway with its usual patience."""
    async with running() as started:
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
