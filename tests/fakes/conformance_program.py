"""A client for the conformance kit that is a program: the Python SDK, started from a command line."""

import asyncio
import sys

from session_service.base import errors
from session_service.client.api import Api
from session_service.client.desktop import Desktop
from session_service.client.resumable_stream import ResumableStream
from session_service.client.transport import Transport


async def main(url: str, session: str, token: str) -> None:
    """Look at the session's desktop until it ends."""
    async with Transport(url, token=token) as transport:
        stream = ResumableStream(url, lambda: Api(transport).ticket(session))
        async with Desktop(stream) as desktop:
            async for _ in desktop.events():
                pass


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except errors.SessionError as exc:
        sys.exit(exc.detail)
