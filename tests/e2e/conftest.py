"""What the end-to-end tests share: one real service for each test that asks for it."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.running_service import RunningService


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    """A running service with a hold of 30 seconds; its desktops are ended afterwards."""
    async with RunningService(hold_s=30) as running:
        yield running
