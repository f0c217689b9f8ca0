"""Fetches `/metrics/rollout` from pods: many at once, each within a time and a size, none trusted.

Every pod gives a Scrape or a ScrapeError; one that hangs, lies or talks too much costs the others
nothing.  Must not add up or judge what it fetched.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import aiohttp

from sluice.analysis.exposition import MAX_BYTES, Scrape, ScrapeError, parse_scrape

PATH: Final = "/metrics/rollout"
CONCURRENCY: Final = 32
"""Pods asked at once, whatever their number."""

Found = TypeVar("Found")

_CHUNK: Final = 16 * 1024


async def scrape_pods(
    session: aiohttp.ClientSession,
    targets: Mapping[str, tuple[str, int]],
    timeout: float = 2.0,  # noqa: ASYNC109 - per pod, from its turn on: not of the whole call
) -> dict[str, Scrape | ScrapeError]:
    """What the servers' pods have counted, or why one gave nothing; see ``ask_pods``."""
    return await ask_pods(session, targets, parse_scrape, timeout)


async def ask_pods(
    session: aiohttp.ClientSession,
    targets: Mapping[str, tuple[str, int]],
    parse: Callable[[str], Found],
    timeout: float = 2.0,  # noqa: ASYNC109 - as above
) -> dict[str, Found | ScrapeError]:
    """What ``parse`` makes of the pods' text (by name: IP address and port), or why one gave nothing.

    ``timeout`` is in seconds, for each pod from when it is asked; with more than CONCURRENCY pods the
    whole takes as many times that at worst.
    """
    turns = asyncio.Semaphore(CONCURRENCY)

    async def scrape(address: str, port: int) -> Found | ScrapeError:
        async with turns:
            try:
                async with asyncio.timeout(timeout):
                    return parse(await _fetch(session, address, port))
            except ScrapeError as error:
                return error
            except TimeoutError:
                return ScrapeError(
                    "Timeout", f"{address}:{port} gave no answer within {timeout:g} s"
                )
            except (aiohttp.ClientError, OSError) as error:
                return ScrapeError(
                    "Unreachable", f"{address}:{port}: {error or type(error).__name__}"
                )

    results = await asyncio.gather(*(scrape(*target) for target in targets.values()))
    return dict(zip(targets, results, strict=True))


async def _fetch(session: aiohttp.ClientSession, address: str, port: int) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise ScrapeError("Unreachable", f"{address[:60]!r} is no IP address") from None
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    # A pod must not send the operator elsewhere, nor make it unpack more than it reads.
    async with session.get(
        f"http://{host}:{port}{PATH}",
        allow_redirects=False,
        headers={"Accept": "text/plain", "Accept-Encoding": "identity"},
    ) as answer:
        if answer.status != 200:
            raise ScrapeError("BadStatus", f"{host}:{port}{PATH} answered {answer.status}, not 200")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ScrapeError(
                "Malformed", f"{host}:{port}{PATH} is compressed, which wasn't asked for"
            )
        body = bytearray()
        async for chunk in answer.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > MAX_BYTES:
                raise ScrapeError(
                    "TooLarge",
                    f"{host}:{port}{PATH} is longer than the {MAX_BYTES} bytes that are read",
                )
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise ScrapeError("Malformed", f"{host}:{port}{PATH} is no ASCII text") from None
