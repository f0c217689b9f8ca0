"""The forwarder: bytes both ways, half-close, a dead target, many at once."""

import asyncio
import contextlib
import os
import socket

import pytest

from testbed import forwarder


@contextlib.asynccontextmanager
async def forwarding(port):
    """The port of a forwarder to ``port`` of this machine."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    address = listener.getsockname()[1]
    task = asyncio.create_task(forwarder.forward(listener, "127.0.0.1", port))
    try:
        yield address
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)  # lets the transports that were just aborted close


@contextlib.asynccontextmanager
async def echo_at_end():
    """A server that answers only once the client has closed its half."""

    async def answer(reader, writer):
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def ask(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
async def test_an_answer_that_comes_after_the_half_close_arrives_whole(size):
    data = bytes(size)
    async with echo_at_end() as target, forwarding(target) as port:
        assert await ask(port, data) == data


async def test_many_connections_at_once():
    async with echo_at_end() as target, forwarding(target) as port:
        wanted = [f"client {i}".encode() for i in range(300)]
        assert await asyncio.gather(*(ask(port, data) for data in wanted)) == wanted


async def test_connections_that_are_over_are_given_back():
    async with echo_at_end() as target, forwarding(target) as port:
        before = len(os.listdir("/proc/self/fd"))
        await asyncio.gather(*(ask(port, b"x") for _ in range(50)))
        async with asyncio.timeout(5):
            while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110 - the kernel has no event
                await asyncio.sleep(0.01)


async def test_a_target_that_is_not_there_is_a_broken_connection_not_a_hanging_one():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with forwarding(unused.getsockname()[1]) as port:
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(ask(port, b"x"), 5)
