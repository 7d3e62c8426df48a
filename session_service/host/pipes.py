"""Read what a program that we started tells us through a pipe, once, at its start.

Not a protocol: each pipe carries one short word and is closed. The reader takes the descriptor over and
closes it.
"""

import asyncio
import os
from typing import Final

WORD_BYTES_MAX: Final = 4096


async def read_until(descriptor: int, end: bytes) -> bytes:
    """Return what arrives up to and including `end`, or b"" when the pipe closes (or overflows) before that.

    The whole word is waited for, since a program may write it in two pieces (Xvnc does) and would die of a
    pipe closed between.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()
    found = bytearray()
    os.set_blocking(descriptor, False)

    def readable() -> None:
        try:
            piece = os.read(descriptor, WORD_BYTES_MAX)
        except BlockingIOError:
            return
        found.extend(piece)
        if not done.done() and (end in found or not piece or len(found) > WORD_BYTES_MAX):
            done.set_result(bytes(found) if end in found else b"")

    loop.add_reader(descriptor, readable)
    try:
        return await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
