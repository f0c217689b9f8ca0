"""Work for a client is given up when the client leaves: nobody decodes or runs what nobody will read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def work_while_wanted(receive: Receive, work: Awaitable[T]) -> T:
    """The work's result. The request's body must have been read.

    Raises what the work raises, and ClientDisconnect, once it is cancelled, where the client left first.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not has_left:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        watcher.cancel()
