"""Carries TCP connections from a socket of the host into an instance's network namespace.

A socket belongs to the namespace it was made in.  The launcher makes the listening socket outside
and this program, started inside, inherits it: it accepts outside and connects inside, with no
privileges needed. Run as a program of its own; uses the standard library only.  It does not look at
what it carries.
"""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from typing import cast


class Leg(asyncio.Protocol):
    """One side of a carried connection; what it reads, its peer writes."""

    def __init__(self, alive: "set[Leg]") -> None:
        self._alive = alive
        self.peer: Leg | None = None
        self.transport: asyncio.Transport | None = None
        self._early = bytearray()
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._alive.add(self)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def join(self, peer: "Leg") -> None:
        """Tie both sides together and pass on what came before there was a peer."""
        self.peer, peer.peer = peer, self
        if peer.transport is None or self.transport is None:
            return
        if self._early:
            peer.transport.write(bytes(self._early))
            self._early.clear()
        if self._has_ended:
            peer.transport.write_eof()
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.peer is None or self.peer.transport is None:
            self._early += data
        else:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self._has_ended = True
        if self.peer is not None and self.peer.transport is not None:
            if self.peer._has_ended:
                # Both sides have said all they had to say; closing still delivers what is buffered.
                self.peer.transport.close()
                return False
            if not self.peer.transport.is_closing():
                self.peer.transport.write_eof()
        # Half-closed: the other direction may still have an answer to deliver.
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._alive.discard(self)
        if self.peer is not None and self.peer.transport is not None:
            # A reset is carried as a reset, so that a client sees a broken server as broken.
            if exc is not None:
                self.peer.transport.abort()
            else:
                self.peer.transport.close()


class Inlet(Leg):
    """The accepted side: connects inside as soon as it is made."""

    def __init__(
        self, host: str, port: int, dials: "set[asyncio.Task[None]]", alive: set[Leg]
    ) -> None:
        super().__init__(alive)
        self._target = (host, port)
        self._dials = dials

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is not None:
            self.transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._dial())
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self) -> None:
        try:
            _, outlet = await asyncio.get_running_loop().create_connection(
                lambda: Leg(self._alive), *self._target
            )
        except OSError:
            if self.transport is not None:
                self.transport.abort()
            return
        if self.transport is None or self.transport.is_closing():
            if outlet.transport is not None:
                outlet.transport.close()
            return
        self.join(outlet)


async def forward(listener: socket.socket, host: str, port: int) -> None:
    """Carry every connection accepted on ``listener`` to ``host:port`` until SIGTERM."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    dials: set[asyncio.Task[None]] = set()
    alive: set[Leg] = set()
    server = await loop.create_server(
        lambda: Inlet(host, port, dials, alive), sock=listener, backlog=4096
    )
    try:
        await over.wait()
    finally:
        server.close()
        for leg in alive:
            if leg.transport is not None:
                leg.transport.abort()


def main() -> int:
    """``forwarder.py --fd N --to HOST:PORT``: N is an inherited listening socket."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--to", required=True)
    arguments = parser.parse_args()
    host, _, port = arguments.to.rpartition(":")
    asyncio.run(forward(socket.socket(fileno=arguments.fd), host, int(port)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
