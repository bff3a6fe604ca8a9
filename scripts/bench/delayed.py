"""Relay on loopback that delays what it passes on, as a network does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from bench.client import HOST


@contextlib.contextmanager
def delayed(address: str, delay: float) -> Iterator[str]:
    """Yield the address of a relay to HOST:PORT with `delay` seconds in each direction, until the block ends.

    The throughput is not limited. Without a delay, the address itself is yielded.
    """
    if not delay:
        yield address
        return
    loop = asyncio.new_event_loop()
    host, _, port = address.partition(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_pass_on(reader, back, delay), _pass_on(there, writer, delay))

    server = loop.run_until_complete(asyncio.start_server(relay, HOST, 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float
) -> None:
    """Pass each piece on after the delay; close the other side when this one is closed."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 20):
            loop.call_later(delay, writer.write, data)
    loop.call_later(delay, writer.close)
