"""What bench-abuse sends, and what it holds answers to."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from PIL import Image

from benchmarks.abuse import Tally, find_growth, find_missed
from benchmarks.serving.mischief import Act, Manner, Repertoire, judge, make_huge, make_png
from benchmarks.serving.wire import Answer
from sluice_inference.errors import RequestError
from sluice_inference.imaging.sniff import read_header

ERROR = {"error": {"code": "X", "message": "x", "request_id": "1"}}
GOOD = Act("good", b"")
HUGE = Act("huge", b"", frozenset({413}))


def make_answer(status: int, body: object, **headers: str) -> Answer:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Answer(status, named, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("act", "answer", "verdict"),
    [
        pytest.param(GOOD, make_answer(200, {"embeddings": [[1]]}), "", id="answered"),
        pytest.param(GOOD, make_answer(503, ERROR, retry_after="1"), "", id="refused for room"),
        pytest.param(GOOD, make_answer(503, ERROR), "503 without Retry-After", id="till when?"),
        pytest.param(GOOD, make_answer(422, ERROR), "422 where 200 was right", id="good refused"),
        pytest.param(GOOD, make_answer(500, ERROR), "500 where 200 was right", id="our fault"),
        pytest.param(GOOD, make_answer(200, {}), "200 without embeddings", id="empty answer"),
        pytest.param(HUGE, make_answer(413, ERROR), "", id="huge refused"),
        pytest.param(
            HUGE,
            make_answer(413, {"detail": "no"}),
            "413 without our error body",
            id="foreign body",
        ),
        pytest.param(
            HUGE, make_answer(200, {"embeddings": [[1]]}), "200 where 413 was right", id="let in"
        ),
        pytest.param(HUGE, Answer(413, {}, b"<html>"), "413 whose body is no JSON", id="HTML"),
    ],
)
def test_an_answer_is_held_to_what_is_owed(act: Act, answer: Answer, verdict: str) -> None:
    assert judge(act, answer) == verdict


def test_what_blames_the_server_is_counted() -> None:
    tally = Tally()
    for status in (200, 500, 503, 504, 413):
        tally.note(GOOD, make_answer(status, ERROR), 0.1)
    assert tally.http_500 == 2
    assert (tally.refused, tally.refused_share) == (0, 0), "all of these are improper"
    assert tally.statuses["good"] == Counter({"200": 1, "500": 1, "503": 1, "504": 1, "413": 1})


def test_a_server_that_only_refuses_misses_the_goals() -> None:
    tally = Tally()
    for _ in range(3):
        tally.note(GOOD, make_answer(503, ERROR, retry_after="1"), 0.1)
    drain = {"lost": 0, "refused": 0, "exit_s": 1, "exit_code": 0}
    report = {"lost": 0, "http_500": 0, "improper": 0, "rss_growth": 1.0, "afterwards": ""}
    report |= {"refused_share": tally.refused_share, "drain": drain}
    assert find_missed(report) == ["more than 0.01 of the good requests were refused"]
    assert find_missed({**report, "refused_share": None}), "nor is one that answers nothing good"
    assert not find_missed({**report, "refused_share": 0.01})


def test_most_is_good_and_every_kind_of_mischief_comes() -> None:
    repertoire = Repertoire([b"\xff\xd8" + bytes(100)], seed=1)
    acts = [repertoire.choose() for _ in range(20_000)]
    shares = Counter(act.name.partition(":")[0] for act in acts)
    for kind in ("corrupt", "huge", *(manner.value for manner in Manner if manner != Manner.ASK)):
        assert shares[kind] / len(acts) == pytest.approx(0.01, abs=0.003), kind
    assert shares["good"] / len(acts) > 0.9
    assert acts[0] == Repertoire([b"\xff\xd8" + bytes(100)], seed=1).choose(), "by its seed alone"


def test_the_bomb_is_refused_by_its_header_alone() -> None:
    with pytest.raises(RequestError, match="50000x50000"):
        read_header(make_png(50_000, 50_000, is_whole=False), max_bytes=10**6, max_pixels=10**8)


def test_a_whole_png_can_be_opened() -> None:
    assert Image.open(io.BytesIO(make_png(64, 48))).size == (64, 48)


def test_an_untold_length_is_framed_in_chunks() -> None:
    picture = b"\xff\xd8"
    request = next(act.request for act in make_huge(picture) if "untold" in act.name)
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"content-length" not in head.lower()
    assert body.startswith(b"10000\r\n" + picture)
    assert body.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("samples", "growth"),
    [
        pytest.param([100.0] * 8, 1.0, id="flat"),
        pytest.param([100, 100, 150, 150, 180, 180, 200, 200], 2.0, id="twice as much"),
        pytest.param([100.0], None, id="too few"),
    ],
)
def test_growth_is_the_last_quarter_by_the_first(
    samples: list[float], growth: float | None
) -> None:
    assert find_growth(samples) == growth
