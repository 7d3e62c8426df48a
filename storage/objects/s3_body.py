"""The body of a PUT that is read out of somebody's buffer, piece by piece.

A buffer that is used again cannot be handed to the client as it is (aiohttp takes bytes that may change for a
mistake), and a copy of each pack on its way would be as large as all that a checkpoint holds. Nothing here
keeps a view of the buffer between two pieces, so that its owner may change its length as soon as the PUT
ended.
"""

import io
import os


class BufferBody(io.BytesIO):
    """What client and signer take for a file in memory. The buffer must stay as it is until the PUT ended."""

    def __init__(self, data: bytearray) -> None:
        super().__init__()
        self._data = data
        self._at = 0

    def read(self, size: int | None = -1, /) -> bytes:
        end = len(self._data) if size is None or size < 0 else min(len(self._data), self._at + size)
        with memoryview(self._data) as view:
            piece = bytes(view[self._at : end])
        self._at = max(self._at, end)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def getbuffer(self) -> memoryview:
        return memoryview(self._data)

    def write(self, data: object, /) -> int:
        raise io.UnsupportedOperation("a body is only read")
