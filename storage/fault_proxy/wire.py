"""As much of HTTP as S3 servers and their clients use: lengths, chunks, and the 100 before a body.

Not a parser for other traffic: bytes are passed on as they came, because requests are signed.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 128 * 1024 * 1024
WITHOUT_BODY: Final = (b" 204 ", b" 304 ")


class BadMessage(Exception):
    """No HTTP that is understood here, or more than the limits allow."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer, as it came."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> list[str]:
        """Return method, path and version, or version, status and words."""
        parts = self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if len(parts) != 3:
            raise BadMessage("no first line")
        return parts


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message | None:
    """Return the next request, or None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if not exc.partial:
            return None
        raise
    if header(head, b"expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Message(head, await _read_body(reader, head))


async def read_answer(reader: asyncio.StreamReader, method: str) -> Message:
    """Return the final answer to a request."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 1"):
            break
    without = method == "HEAD" or any(status in head[:20] for status in WITHOUT_BODY)
    return Message(head, b"" if without else await _read_body(reader, head))


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    try:
        if b"chunked" in header(head, b"transfer-encoding").lower():
            return await _read_chunks(reader)
        length = int(header(head, b"content-length") or b"0")
    except ValueError as exc:
        raise BadMessage("a length that is no number") from exc
    if not 0 <= length <= BODY_BYTES_MAX:
        raise BadMessage(f"a body of {length} bytes")
    return await reader.readexactly(length)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    left = BODY_BYTES_MAX
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        left -= size
        if size < 0 or left < 0:
            raise BadMessage("a chunked body that is too long")
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


def header(head: bytes, name: bytes) -> bytes:
    """Return the value of a header, or nothing."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return b""


def plain(status: int, body: bytes, method: str, *, kind: str = "application/xml", more: str = "") -> bytes:
    """Return an answer of our own."""
    head = f"HTTP/1.1 {status} Planned\r\nContent-Length: {len(body)}\r\nContent-Type: {kind}\r\n{more}\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)


def s3_error(code: str) -> bytes:
    """Return the body of an S3 error."""
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>planned</Message></Error>'.encode()
