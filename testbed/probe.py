"""Waits, inside an instance's network namespace, for an address to answer.

Run as a program of its own (``Cluster.wait_for`` starts it), because the launcher lives outside the
namespace.  Uses the standard library only, and imports nothing of the testbed, to start quickly.
"""

import argparse
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit


def make_opener(url: str) -> urllib.request.OpenerDirector:
    """What asks ``url``: directly, whatever proxy the environment names."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        # Readiness only: who answers on an address inside our own namespace is not in doubt.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def answer(url: str, opener: urllib.request.OpenerDirector) -> str:
    """Empty where ``url`` answers (tcp: accepts; else a status below 400), or why not."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "tcp":
            with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2):
                return ""
        with opener.open(url, timeout=2) as response:
            return "" if response.status < 400 else f"status {response.status}"
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read(300).decode(errors='replace')}"
    except (OSError, urllib.error.URLError) as error:
        return str(error)


def main() -> int:
    """Poll until the address answers (0), time is over (1) or the watched process is gone (2)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pid", type=int, default=0)
    arguments = parser.parse_args()
    opener = make_opener(arguments.url)
    deadline = time.monotonic() + arguments.seconds
    while True:
        why = answer(arguments.url, opener)
        if not why:
            return 0
        if arguments.pid and not os.path.exists(f"/proc/{arguments.pid}/exe"):
            sys.stderr.write("the process is gone")
            return 2
        if time.monotonic() > deadline:
            sys.stderr.write(f"no answer within {arguments.seconds:g} s; the last: {why}")
            return 1
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
