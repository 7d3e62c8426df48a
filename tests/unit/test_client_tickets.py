"""Asking for tickets over a line that died in silence: told in time, and asked anew."""

import asyncio

import pytest

from session_service.client import resumable_stream
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream
from session_service.core.continuity.client import Lost


async def test_a_ticket_that_never_comes_is_told_as_a_loss_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The API's connection was cut with the link: its program must hear of it, not sit for a minute."""
    monkeypatch.setattr(resumable_stream, "TICKET_S", 0.05)
    asked: list[bool] = []
    again = asyncio.Event()

    async def tickets() -> Ticket:
        if asked:
            again.set()
        asked.append(True)
        await asyncio.Event().wait()
        raise AssertionError("nobody answers")

    async with asyncio.timeout(30), ResumableStream("http://127.0.0.1:9", tickets) as stream:
        event = await stream.next_event()
        assert isinstance(event, Lost)
        assert event.why == "part_unavailable"
        await again.wait()
