"""The HTTP side on a real port, for every test of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.fakes.http_world import HttpWorld, http_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[HttpWorld]:
    """An application over the registry's twin."""
    async with http_world(tmp_path) as made:
        yield made
