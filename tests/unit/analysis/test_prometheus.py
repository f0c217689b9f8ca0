"""A server that speaks Prometheus' query API, over real sockets: what is asked, and what is made of it."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sluice.analysis.prometheus import MAX_BYTES, Prometheus, QueryError, Subject, fill_in
from sluice.analysis.tally import Tally
from tests.unit.analysis.conftest import Serve

SUBJECT = Subject("vision", "pizza", "aaaaaaaaaa", "bbbbbbbbbb")
AT = 1_700_000_000.5


def vector(*series: tuple[dict[str, str], str]) -> dict[str, Any]:
    result = [{"metric": labels, "value": [AT, value]} for labels, value in series]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def answers(**counts: str) -> dict[str, Any]:
    return vector(*(({"outcome": outcome}, count) for outcome, count in counts.items()))


def buckets(**counts: str) -> dict[str, Any]:
    return vector(*(({"le": bound}, count) for bound, count in counts.items()))


class Server:
    """Answers each query with what was put in for a part of it, and remembers what it was asked."""

    def __init__(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        self._session, self._serve = session, serve
        self.asked: list[tuple[str, str, str]] = []

    async def start(self, by_part: dict[str, Any], status: int = 200) -> Prometheus:
        async def handle(request: web.Request) -> web.StreamResponse:
            query = request.query["query"]
            self.asked.append((request.path, query, request.query["time"]))
            found = next(body for part, body in by_part.items() if part in query)
            text = found if isinstance(found, str) else json.dumps(found)
            return web.Response(text=text, status=status)

        port = await self._serve(handle)
        return Prometheus(self._session, f"http://127.0.0.1:{port}/prefix/", 30.0)


@pytest.fixture
def server(session: aiohttp.ClientSession, serve: Serve) -> Server:
    return Server(session, serve)


LABELS = 'namespace="vision",sluice_dev_service="pizza"'
GOOD = {
    "sum by (outcome) (increase("
    f'sluice_inference_answers_total{{{LABELS},sluice_dev_revision="bb': answers(
        ok="90.5", error="6", fallback="3.5", client_error="50"
    ),
    f'bucket{{{LABELS},sluice_dev_revision="b': vector(
        ({"le": "+Inf"}, "100"), ({"le": "0.1"}, "40.2"), ({"le": "0.2"}, "40.1")
    ),
    f'split_answers_total{{{LABELS},sluice_dev_revision="b': vector(({}, "80")),
    "sum(increase(sluice_inference_answers_total": vector(({}, "125")),
    "(sluice_dev_revision) (count_over_time(": vector(
        ({"sluice_dev_revision": "bbbbbbbbbb"}, "12"), ({"sluice_dev_revision": "aaaaaaaaaa"}, "13")
    ),
    "timestamp(": vector(({"sluice_dev_revision": "bbbbbbbbbb"}, str(AT - 10))),
    "": vector(),
}


async def test_the_window(server: Server) -> None:
    prometheus = await server.start(GOOD)
    window, silence = await prometheus.read_window(SUBJECT, AT, 59.7)

    # Extrapolation made the second bucket fall: cumulative counts never do.
    assert window.candidate == Tally(100, 9.5, (0.1, 0.2), (40.2, 40.2, 100), 64)
    # 100 of the candidate's 125 extrapolated answers count, and so much of all that is compared.
    assert (window.stable, window.seconds) == (Tally(), 48)
    # The candidate's last scrape is younger than three of them take, stable was never scraped.
    assert (window.silence, silence) == (0, 60 - 3 * 60 / 13)
    everything = f"sluice_inference_answers_total{{{LABELS}}}"
    by = "max by (sluice_dev_revision)"
    mine = f'{{{LABELS},sluice_dev_revision="bbbbbbbbbb",outcome!="client_error"}}[60s]'
    queries = {
        f"{by} (count_over_time({everything}[60s]))",
        f"{by} (max_over_time(timestamp({everything})[300s:5s]))",
        f"sum(increase(sluice_inference_answers_total{mine}))",
    }
    for revision in ("aaaaaaaaaa", "bbbbbbbbbb"):
        range_ = f'{{{LABELS},sluice_dev_revision="{revision}"}}[60s]'
        queries.add(f"sum(increase(sluice_inference_split_answers_total{range_}))")
        for label, metric in (("le", "answer_seconds_bucket"), ("outcome", "answers_total")):
            series = f"sluice_inference_{metric}{range_}"
            part = f"(1 - 2.2 / (count_over_time({series}) + 1.2))"
            queries.add(f"sum by ({label}) (increase({series}) * {part})")
    asked = {("/prefix/api/v1/query", query, "1700000000.500") for query in queries}
    assert set(server.asked) == asked
    assert len(server.asked) == len(asked)


async def test_a_split_stays_what_it_was_however_often_either_was_scraped(server: Server) -> None:
    stable = answers(ok="619")  # three scrapes, of which extrapolation made 1300
    by = "sum by (outcome) (increase(sluice_inference_answers_total"
    young = {
        f'{by}{{{LABELS},sluice_dev_revision="bb': answers(ok="406"),  # two of them
        f'{by}{{{LABELS},sluice_dev_revision="aa': stable,
        "sum(increase(sluice_inference_": vector(({}, "1300")),
        "(sluice_dev_revision) (count_over_time(": vector(
            ({"sluice_dev_revision": "aaaaaaaaaa"}, "3"),
            ({"sluice_dev_revision": "bbbbbbbbbb"}, "2"),
        ),
        "": vector(),
    }
    window, _ = await (await server.start(young)).read_window(SUBJECT, AT, 130)

    assert window.candidate.split == window.stable.split == 406
    assert window.candidate.requests / window.seconds == pytest.approx(10)


async def test_a_candidate_without_an_answer_has_its_time(server: Server) -> None:
    mine = f'sum by (outcome) (increase(sluice_inference_answers_total{{{LABELS},sluice_dev_revision="b'
    none = {
        mine: answers(ok="0"),
        "(sluice_dev_revision) (count_over_time(": vector(
            ({"sluice_dev_revision": "bbbbbbbbbb"}, "10")
        ),
        "": vector(),
    }
    window, _ = await (await server.start(none)).read_window(SUBJECT, AT, 112)

    assert window.seconds == pytest.approx(112 * 9 / 11.2)


@pytest.mark.parametrize(
    ("scrapes", "age", "silence"),
    [
        ("10", 17, 0),  # every 6 s
        ("10", 48, 30),
        ("60", 48, 45),
        ("2", 59, 0),  # every 30 s: two of them tell nothing of a third
        ("10", 4000, 42),  # the rollout's whole minute
        (None, 4000, 0),
    ],
)
async def test_how_long_nothing_was_heard(
    server: Server, scrapes: str | None, age: float, silence: float
) -> None:
    counted = (
        vector() if scrapes is None else vector(({"sluice_dev_revision": "aaaaaaaaaa"}, scrapes))
    )
    newest = vector(
        ({"sluice_dev_revision": "aaaaaaaaaa"}, str(AT)),
        ({"sluice_dev_revision": "bbbbbbbbbb"}, str(AT - age)),
        ({"sluice_dev_revision": "cccccccccc"}, str(AT)),
    )
    prometheus = await server.start(
        {**GOOD, "(sluice_dev_revision) (count_over_time(": counted, "timestamp(": newest}
    )
    window, longest = await prometheus.read_window(SUBJECT, AT, 60)

    assert (window.silence, longest) == (silence, silence)


async def test_a_revision_without_a_histogram_yet_whose_image_is_too_old_for_the_split(
    server: Server,
) -> None:
    prometheus = await server.start({"e_answers_total": answers(ok="3"), "": vector()})
    window, _ = await prometheus.read_window(SUBJECT, AT, 60)

    assert window.candidate == Tally(3, 0)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing": ({"": vector()}, "NoData", "it must scrape the server pods"),
    "NaN": ({"": answers(ok="NaN")}, "NaN", "counts nan"),
    "negative": ({"": answers(ok="-1")}, "NaN", "counts -1"),
    "infinite": ({"": answers(ok="+Inf")}, "NaN", "counts inf"),
    "twice": (
        {"": vector(({"outcome": "ok"}, "1"), ({"outcome": "ok"}, "1"))}, "NaN", "twice",
    ),
    "a split that is none": (
        {"e_answers_total": answers(ok="1"), "split": vector(({}, "NaN")), "": vector()}, "NaN", "counts nan",
    ),
    "an unknown outcome": ({"": answers(ok="1", new="1")}, "Malformed", 'outcome="new"'),
    "no last bucket": (
        {"total": answers(ok="1"), "": buckets(**{"0.1": "1"})}, "Malformed", "lacks le",
    ),
    "a bucket that is none": (
        {"total": answers(ok="1"), "": buckets(**{"x": "1", "+Inf": "1"})}, "Malformed", "no number",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("by_part", "reason", "message"), WRONG.values(), ids=WRONG)
async def test_a_window_that_is_none(
    server: Server, by_part: dict[str, Any], reason: str, message: str
) -> None:
    prometheus = await server.start(by_part)

    with pytest.raises(QueryError, match=message) as caught:
        await prometheus.read_window(SUBJECT, AT, 60)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "answer",
    [
        vector(({"any": "label"}, "0.25")),
        {"status": "success", "data": {"resultType": "scalar", "result": [AT, "0.25"]}},
    ],
)
async def test_a_query(server: Server, answer: dict[str, Any]) -> None:
    prometheus = await server.start({"": answer})

    assert await prometheus.ask('lag{revision="{{candidate}}"}', SUBJECT, AT) == 0.25
    assert server.asked == [
        ("/prefix/api/v1/query", 'lag{revision="bbbbbbbbbb"}', "1700000000.500")
    ]


UNUSABLE: dict[str, tuple[Any, int, str, str]] = {
    "nothing": (vector(), 200, "NoData", "no result: lag"),
    "several": (vector(({"a": "1"}, "1"), ({"a": "2"}, "1")), 200, "SeveralSeries", "2 series, not one"),
    "NaN": (vector(({}, "NaN")), 200, "NaN", "gives nan"),
    "infinite": (vector(({}, "+Inf")), 200, "NaN", "gives inf"),
    "refused": (
        {"status": "error", "errorType": "bad_data", "error": "parse error at char 3"}, 400, "Refused",
        "bad_data: parse error at char 3",
    ),
    "a matrix": (
        {"status": "success", "data": {"resultType": "matrix", "result": []}}, 200, "Malformed",
        "gives a matrix, not a vector",
    ),
    "another form": (
        {"status": "success", "data": {"resultType": "vector", "result": [{}]}}, 200, "Malformed",
        "unknown form",
    ),
    "no data": ({"status": "success"}, 200, "Malformed", "unknown form"),
    "a page": ("<html>", 502, "Unreachable", "answered 502, and nothing of Prometheus"),
    "other JSON": ({"code": 404}, 404, "Unreachable", "answered 404, and nothing of Prometheus"),
    "too much": ("#" * (MAX_BYTES + 1), 200, "Malformed", "more than 1048576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "status", "reason", "message"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_query_without_one_number(
    server: Server, answer: Any, status: int, reason: str, message: str
) -> None:
    prometheus = await server.start({"": answer}, status)

    with pytest.raises(QueryError, match=message) as caught:
        await prometheus.ask("lag", SUBJECT, AT)
    assert caught.value.reason == reason


async def test_a_redirect_is_not_followed(session: aiohttp.ClientSession, serve: Serve) -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    prometheus = Prometheus(session, f"http://127.0.0.1:{await serve(redirect)}")
    with pytest.raises(QueryError, match="answered 302, and nothing of Prometheus"):
        await prometheus.ask("lag", SUBJECT, AT)


async def test_a_server_that_hangs(session: aiohttp.ClientSession, serve: Serve) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    prometheus = Prometheus(session, f"http://127.0.0.1:{await serve(hang)}", 0.05)
    with pytest.raises(QueryError, match=r"Unreachable: .* within 0\.05 s"):
        await prometheus.ask("lag", SUBJECT, AT)


async def test_a_server_that_hangs_up(session: aiohttp.ClientSession, serve: Serve) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    prometheus = Prometheus(session, f"http://127.0.0.1:{await serve(hang_up)}", 30.0)
    with pytest.raises(QueryError, match="Unreachable"):
        await prometheus.ask("lag", SUBJECT, AT)


def test_variables() -> None:
    query = 'a{s="{{service}}",n="{{ namespace }}"} / b{r=~"{{stable}}|{{candidate}}"}'

    assert fill_in(query, SUBJECT) == 'a{s="pizza",n="vision"} / b{r=~"aaaaaaaaaa|bbbbbbbbbb"}'
    assert fill_in('sum(up{job="x"})', SUBJECT) == 'sum(up{job="x"})'


def test_an_unknown_variable() -> None:
    with pytest.raises(
        QueryError, match=r"\{\{revision\}\} is unknown: a query may use \{\{service\}\}"
    ):
        fill_in("a{{revision}}", SUBJECT)
