"""Requests as the worst of clients send them, and what a server owes to each. Pure."""

from __future__ import annotations

import enum
import functools
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.serving.contestants import encode_native
from benchmarks.serving.wire import Answer, make_request

PATH = "/embed"
_HUGE_BYTES = 11 * 1024 * 1024  # over MAX_IMAGE_MB's default
_PNG = b"\x89PNG\r\n\x1a\n"


class Manner(enum.StrEnum):
    """How a client behaves around its request."""

    ASK = "asks and waits"
    LEAVE_MID_REQUEST = "leaves in the middle of its request"
    LEAVE_BEFORE_ANSWER = "leaves while it is worked on"
    LEAVE_MID_ANSWER = "leaves when the answer begins"


@dataclass(frozen=True, slots=True)
class Act:
    """One request. `expected`: the statuses that are right for it, beside a refusal for lack of room."""

    name: str
    request: bytes
    expected: frozenset[int] = frozenset({200})
    manner: Manner = Manner.ASK


@dataclass(slots=True)
class Repertoire:
    """What clients do: good things mostly, and of each kind of mischief about one in a hundred."""

    pictures: Sequence[bytes]
    seed: int = 0
    corrupt_share: float = 0.01
    huge_share: float = 0.01
    leave_share: float = 0.01
    _random: random.Random = field(init=False)
    _makers: list[tuple[float, Callable[[], Act]]] = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._makers = [
            (self.corrupt_share, self._make_corrupt),
            (self.huge_share, lambda: self._random.choice(make_huge(self.pictures[0]))),
            (self.leave_share, lambda: self._make_leaving(Manner.LEAVE_MID_REQUEST)),
            (self.leave_share, lambda: self._make_leaving(Manner.LEAVE_BEFORE_ANSWER)),
            (self.leave_share, lambda: self._make_leaving(Manner.LEAVE_MID_ANSWER)),
            (0.02, self._make_form),
        ]

    def choose(self) -> Act:
        """The next thing that somebody does."""
        dice = self._random.random()
        for share, make in self._makers:
            if dice < share:
                return make()
            dice -= share
        return self.make_good()

    def make_good(self) -> Act:
        return Act("good", encode_native([self._pick()]))

    def _pick(self) -> bytes:
        return self._random.choice(self.pictures)

    def _make_form(self) -> Act:
        """Several pictures; in half of the forms one is damaged, which must not harm the others."""
        images = [self._pick() for _ in range(3)]
        if self._random.random() < 0.5:
            images[1] = images[1][: len(images[1]) // 2]
            return Act("form, one damaged", encode_native(images))
        return Act("form", encode_native(images))

    def _make_leaving(self, manner: Manner) -> Act:
        return Act(manner.value, encode_native([self._pick()]), manner=manner)

    def _make_corrupt(self) -> Act:
        whole = self._pick()
        at = self._random.randrange(len(whole) // 4, len(whole) - 2)
        corrupt: list[tuple[str, bytes, str, frozenset[int]]] = [
            ("cut off", whole[:at], "image/jpeg", frozenset({422})),
            # Some damage is only seen as noise in the picture.
            ("bytes flipped", _flip(whole, at, 64), "image/jpeg", frozenset({200, 422})),
            ("noise", self._random.randbytes(2000), "image/jpeg", frozenset({415, 422})),
            ("nothing", b"", "image/jpeg", frozenset({422})),
            ("GIF", b"GIF89a" + bytes(64), "image/gif", frozenset({415})),
            ("damaged PNG", make_png(64, 64)[:-20], "image/png", frozenset({422})),
            ("no JSON", b'{"inputs":[', "application/json", frozenset({400})),
            ("no base64", b'{"inputs":[{"image":"!"}]}', "application/json", frozenset({400})),
            ("tiny", make_png(1, 1), "image/png", frozenset({422})),
        ]
        name, body, content_type, expected = self._random.choice(corrupt)
        return Act(f"corrupt: {name}", make_request(PATH, body, content_type), expected)


@functools.cache
def make_huge(picture: bytes) -> tuple[Act, ...]:
    """Everything that is over a limit. The same bytes for all clients: together they would fill memory."""
    too_large = frozenset({413})
    body = picture + bytes(_HUGE_BYTES)
    bomb = make_png(50_000, 50_000, is_whole=False)
    return (
        Act("huge: bytes", make_request(PATH, body, "image/jpeg"), too_large),
        Act("huge: untold length", make_chunked(body), too_large),
        Act("huge: bomb", make_request(PATH, bomb, "image/png"), too_large),
        Act("huge: many", encode_native([picture] * 11), too_large),
    )


def make_png(width: int, height: int, *, is_whole: bool = True) -> bytes:
    """A grey PNG; not whole: its header alone is true, as in a decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = (b"\x00" + bytes(width)) * height if is_whole else bytes(1000)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return _PNG + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def make_chunked(body: bytes, size: int = 65536) -> bytes:
    """A request that does not tell how long its body is."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked"
    )
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks)
    return head.encode() + b"\r\n\r\n" + framed + b"0\r\n\r\n"


def judge(act: Act, answer: Answer) -> str:
    """What is wrong with the answer, or an empty string.

    A refusal for lack of room (429, 503) is right for everything if it says when to come back. Every
    other answer must have the status that fits, and every error our error body.
    """
    status = answer.status
    if status in (429, 503):
        if not answer.headers.get(b"retry-after", b"").isdigit():
            return f"{status} without Retry-After"
    elif status not in act.expected:
        return f"{status} where {', '.join(map(str, sorted(act.expected)))} was right"
    try:
        body = json.loads(answer.body)
    except ValueError:
        return f"{status} whose body is no JSON"
    if status == 200:
        return "" if body.get("embeddings") else "200 without embeddings"
    error = body.get("error")
    if not isinstance(error, dict) or not all(
        error.get(key) for key in ("code", "message", "request_id")
    ):
        return f"{status} without our error body"
    return ""


def _flip(data: bytes, at: int, count: int) -> bytes:
    damaged = bytearray(data)
    for position in range(at, min(at + count, len(data))):
        damaged[position] ^= 0x55
    return bytes(damaged)
