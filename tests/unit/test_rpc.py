"""Calls between parts: one caller too many is told so, and takes nothing from the others."""

import asyncio
import os
import socket
import stat
import struct
import time
from pathlib import Path
from typing import cast

import msgspec
import pytest

from session_service.base import errors, private_socket, rpc
from tests.fakes.until import until


async def test_a_call_too_many_is_refused_and_cuts_nobody_off(tmp_path: Path) -> None:
    """Cutting the connection would cancel what the others wait for, such as a desktop's start."""
    go, full, running = asyncio.Event(), asyncio.Event(), 0

    async def wait(call: rpc.Call) -> int:
        nonlocal running
        running += 1
        if running == rpc.CALLS_PER_CONNECTION_MAX:
            full.set()
        await go.wait()
        return call.params(int)

    server = rpc.Server(tmp_path / "part.sock", {"wait": wait}, peer_uids=frozenset({_uid(tmp_path)}))
    await server.start()
    client = rpc.Client(tmp_path / "part.sock", part="test")
    try:
        async with asyncio.TaskGroup() as group:
            early = [
                group.create_task(client.call("wait", number, int))
                for number in range(rpc.CALLS_PER_CONNECTION_MAX)
            ]
            await full.wait()
            with pytest.raises(errors.PartUnavailable):
                await client.call("wait", 1, int)
            go.set()
        assert [task.result() for task in early] == list(range(rpc.CALLS_PER_CONNECTION_MAX))
        assert await client.call("wait", 7, int) == 7
    finally:
        await client.close()
        await server.close()


async def test_what_is_told_comes_in_order_with_what_is_called_and_a_failure_ends_nothing(
    tmp_path: Path,
) -> None:
    heard, last = list[int](), asyncio.Event()

    def note(word: rpc.Word) -> None:
        number = word.params(int)
        if number < 0:
            raise errors.BadInput("below nothing")
        heard.append(number)
        if number == 7:
            last.set()

    async def count(call: rpc.Call) -> int:
        return len(heard)

    server = rpc.Server(
        tmp_path / "part.sock",
        {"count": count},
        peer_uids=frozenset({_uid(tmp_path)}),
        listeners={"note": note},
    )
    await server.start()
    client = rpc.Client(tmp_path / "part.sock", part="test")
    try:
        client.tell("note", 0)  # nobody is connected: nobody is told
        assert await client.call("count", None, int) == 0
        for number in (2, -1, 3):
            client.tell("note", number)
        client.tell("what nobody knows", 4)
        client.tell("count", 5)
        client.tell("note", "six")
        assert await client.call("count", None, int) == 2
        assert heard == [2, 3]
        with pytest.raises(errors.BadInput):
            await client.call("note", 6, int)
        client.tell("note", 7)
    finally:
        await client.close()  # behind what was said
        await asyncio.wait_for(last.wait(), 5)
        await server.close()


async def test_what_is_said_in_one_turn_is_sent_together(tmp_path: Path) -> None:
    """Each call of the kernel wakes the other part up."""
    sent: list[bytes] = []

    class Out:
        def write(self, data: bytes) -> None:
            sent.append(data)

        def is_closing(self) -> bool:
            return False

    writer = rpc._Writer(cast(asyncio.StreamWriter, Out()))
    for number in range(3):
        writer.say(rpc._Frame("call", number))
    assert sent == []
    await asyncio.sleep(0)
    assert len(sent) == 1
    writer.say(rpc._Frame("call", 3, body=rpc._raw(bytes(rpc.TOGETHER_BYTES_MAX))))
    assert len(sent) == 2, "much is not kept back"
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(sent))
    reader.feed_eof()
    reading, numbers = rpc._Reader(reader), list[int]()
    while frames := await reading.some():
        numbers += [frame.call for frame in frames]
    assert numbers == [0, 1, 2, 3]


@pytest.mark.parametrize("end", [struct.pack("<I", 101) + bytes(8), struct.pack("<I", 1) + b"\xc1"])
@pytest.mark.parametrize("piece", [1, 3, 4, 5, 64, 2000])
async def test_messages_are_read_whatever_their_cut_and_one_that_is_none_ends_it(
    piece: int, end: bytes
) -> None:
    """Too long, or no msgpack. What came whole before it is given out first."""
    frames = [rpc._Frame("call", number, "one", rpc._raw("x" * number)) for number in range(40)]
    data = b"".join(_wire(frame) for frame in frames) + end
    reader = asyncio.StreamReader()
    reading, found = rpc._Reader(reader, 100), list[rpc._Frame]()

    async def feed() -> None:
        for at in range(0, len(data), piece):
            reader.feed_data(data[at : at + piece])
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        with pytest.raises((errors.BadInput, msgspec.DecodeError)):
            while some := await reading.some():
                found += some
    assert [(frame.call, frame.body) for frame in found] == [(frame.call, frame.body) for frame in frames]


def _wire(frame: rpc._Frame) -> bytes:
    data = msgspec.msgpack.encode(frame)
    return struct.pack("<I", len(data)) + data


def _uid(folder: Path) -> int:
    return folder.stat().st_uid


async def test_the_last_words_before_a_close_are_heard_by_a_part_that_is_busy(tmp_path: Path) -> None:
    """More than the kernel takes at once: the speaker's process may end right behind its close."""
    heard = 0

    def note(word: rpc.Word) -> None:
        nonlocal heard
        heard += 1
        if heard % 100 == 0:
            time.sleep(0.001)  # busy, and not waiting

    async def hello(call: rpc.Call) -> int:
        return 1

    path = tmp_path / "part.sock"
    server = rpc.Server(
        path, {"hello": hello}, peer_uids=frozenset({_uid(tmp_path)}), listeners={"note": note}
    )
    await server.start()

    async def speak() -> None:
        client = rpc.Client(path, part="test")
        await client.call("hello", None, int)
        for _ in range(5000):
            client.tell("note", "x" * 300)
        await client.close()

    await asyncio.to_thread(asyncio.run, speak())
    await until(lambda: heard == 5000)
    await server.close()


async def test_a_part_that_stands_still_holds_no_close_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "CLOSE_S", 0.05)
    with private_socket.bound(tmp_path / "part.sock", socket.SOCK_STREAM) as listening:
        listening.listen()
        client = rpc.Client(tmp_path / "part.sock", part="test")
        calling = asyncio.ensure_future(client.call("wait", "x" * 1_000_000, int))
        await until(lambda: bool(client._waiting))
        await client.close()
        with pytest.raises(errors.PartUnavailable):
            await calling


async def test_a_part_that_never_reads_what_it_is_told_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded, and whoever called it hears that it is away."""
    monkeypatch.setattr(rpc, "TOLD_WAITING_BYTES_MAX", 1_000_000)
    with private_socket.bound(tmp_path / "part.sock", socket.SOCK_STREAM) as listening:
        listening.listen()
        client = rpc.Client(tmp_path / "part.sock", part="test")
        calling = asyncio.ensure_future(client.call("wait", None, int))
        await until(lambda: bool(client._waiting))
        told = 0
        while client._writer is not None and not client._writer.is_closing():
            client.tell("noted", "x" * 10_000)
            told += 1
            assert told < 1_000
            await asyncio.sleep(0)
        with pytest.raises(errors.PartUnavailable):
            await calling
        client.tell("noted", "nobody is there")
        await client.close()


async def test_an_answer_that_is_too_long_is_told_as_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its caller would wait for ever."""

    async def much(call: rpc.Call) -> bytes:
        return bytes(call.params(int))

    monkeypatch.setattr(rpc, "FRAME_BYTES_MAX", 1000)
    server = rpc.Server(tmp_path / "part.sock", {"much": much}, peer_uids=frozenset({_uid(tmp_path)}))
    await server.start()
    client = rpc.Client(tmp_path / "part.sock", part="test")
    try:
        async with asyncio.timeout(10):
            with pytest.raises(errors.PartRefused):
                await client.call("much", 2000, bytes)
            assert await client.call("much", 2, bytes) == bytes(2)
    finally:
        await client.close()
        await server.close()


async def test_servers_that_start_beside_each_other_leave_the_process_as_it_was(tmp_path: Path) -> None:
    """A umask that one of them left behind would make every later folder one that nobody can enter."""
    servers = [
        rpc.Server(tmp_path / f"{number}.sock", {}, peer_uids=frozenset({_uid(tmp_path)}))
        for number in range(8)
    ]
    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(server.start())
    try:
        (tmp_path / "folder").mkdir()
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) & 0o700 == 0o700
        assert {stat.S_IMODE((tmp_path / f"{number}.sock").stat().st_mode) for number in range(8)} == {0o600}
    finally:
        for server in servers:
            await server.close()


def test_a_private_socket_is_private_from_its_first_moment(tmp_path: Path) -> None:
    """Between bind and a chmod anybody could connect."""
    old = os.umask(0)
    try:
        with private_socket.bound(tmp_path / "one.sock", socket.SOCK_STREAM):
            assert stat.S_IMODE((tmp_path / "one.sock").stat().st_mode) == 0o600
    finally:
        os.umask(old)
