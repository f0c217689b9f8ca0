"""A scrape is read whole or not at all."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.analysis.exposition import MAX_BYTES, ScrapeError, parse_scrape
from sluice_inference.samples import BOUNDS_S, Samples
from tests.unit.analysis.scrapes import BOUNDS, Process

PROCESS = (
    Process(1_700_000_000.25)
    .answer("ok", 5, is_split=True)
    .answer("error", 2, 9.0)
    .answer("client_error", 3)
)
TEXT = PROCESS.write()
OK = 'sluice_inference_answers_total{outcome="ok"} 5\n'
SPLIT = "sluice_inference_split_answers_total 5\n"


def test_a_scrape() -> None:
    scrape = parse_scrape(TEXT)

    assert scrape == PROCESS.scrape()
    assert scrape.answers == {"ok": 5, "client_error": 3, "error": 2, "fallback": 0}
    assert (scrape.bounds, scrape.counts) == (BOUNDS, (0, 5, 5, 5, 7))
    assert scrape.split == 5


def test_an_older_image_does_not_count_what_was_split() -> None:
    text = TEXT.replace(SPLIT, "")

    assert text != TEXT
    assert parse_scrape(text) == replace(PROCESS.scrape(), split=0.0)


def test_what_the_model_server_writes() -> None:
    samples = Samples(started=1_700_000_000.5)
    for seconds in (0.0001, 0.176, 0.176, 3.0, 100.0):
        samples.count("ok", seconds)
    samples.count("client_error", 1.0)
    samples.count("fallback", 0.2, is_split=True)

    scrape = parse_scrape(samples.render().decode())

    assert scrape.answers == {"ok": 5, "client_error": 1, "error": 0, "fallback": 1}
    assert scrape.split == 1
    assert scrape.start_time == 1_700_000_000.5
    assert scrape.bounds == BOUNDS_S
    assert (scrape.counts[0], scrape.counts[-2], scrape.counts[-1]) == (1, 5, 6)
    assert scrape.total_seconds == pytest.approx(103.5521)


def swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


ALLOWED: dict[str, Callable[[str], str]] = {
    "other metrics": lambda text: 'other{a="b",c="d"} NaN\n' + text + "python_info 1\n",
    "another order": lambda text: "".join(
        sorted(text.splitlines(keepends=True), key=lambda line: line[::-1])
    ),
    "blank lines, carriage returns and a timestamp": swap(
        OK, "\r\n" + OK[:-1] + " 1700000000000\r\n"
    ),
    "an exponent, and a space in the labels": swap(
        OK, 'sluice_inference_answers_total{ outcome = "ok" , } 5e0\n'
    ),
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED)
def test_what_makes_no_difference(change: Callable[[str], str]) -> None:
    text = change(TEXT)

    assert text != TEXT
    assert parse_scrape(text) == PROCESS.scrape()


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "nothing": (lambda _: "", "cut off"),
    "an empty line": (lambda _: "\n", "is missing"),
    "a page": (lambda _: "<html><body>502</body></html>\n", "line 1 is no sample"),
    "JSON": (lambda _: '{"status": "ok"}\n', "line 1 is no sample"),
    "another program's metrics": (lambda _: "up 1\n", 'outcome="ok"} is missing'),
    "cut off inside a line": (lambda text: text[:-3], "cut off"),
    "cut off between lines": (
        lambda text: text[: text.index("+Inf")].rsplit("\n", 1)[0] + "\n",
        "missing",
    ),
    "an outcome missing": (swap(OK, ""), 'outcome="ok"} is missing'),
    "NaN": (swap(OK, OK.replace("5", "NaN")), "line 3.*'NaN', not a number from 0"),
    "infinite": (swap(OK, OK.replace("5", "+Inf")), "not a number from 0"),
    "negative": (swap(OK, OK.replace("5", "-1")), "'-1', not a number from 0"),
    "beyond 2^53": (swap(OK, OK.replace("5", "1e300")), "not a number from 0"),
    "a number only to Python": (swap(OK, OK.replace("5", "1_0")), "not a number from 0"),
    "other digits": (swap(OK, OK.replace("5", "٣")), "not a number from 0"),
    "hexadecimal": (swap(OK, OK.replace("5", "0x5")), "not a number from 0"),
    "twice": (swap(OK, OK + OK), "line 4.*twice"),
    "an unknown outcome": (
        swap(OK, OK + OK.replace('"ok"', '"new"')),
        'outcome="new"} is not known',
    ),
    "a broken count of what was split": (
        swap(SPLIT, SPLIT.replace("5", "-5")),
        "not a number from 0",
    ),
    "what was split twice": (swap(SPLIT, SPLIT + SPLIT), "is there twice"),
    "what was split by outcome": (
        swap(SPLIT, SPLIT.replace(" 5", '{outcome="ok"} 5')),
        'outcome="ok"} is not known',
    ),
    "another label": (swap(OK, OK.replace("{", '{model="a",')), 'outcome="ok"} is missing'),
    "a broken label": (swap(OK, OK.replace('"ok"', "ok")), "is no label"),
    "buckets that fall": (swap('le="0.4"} 5', 'le="0.4"} 4'), "falls at 0.4: from 5 to 4"),
    "no last bucket": (swap('le="+Inf"', 'le="1"'), r"\+Inf\"} is missing"),
    "a bucket twice": (swap('le="0.4"} 5', 'le="0.20"} 5'), "0.20 is there twice"),
    "a bound that is none": (swap('le="0.4"', 'le="nan"'), "no bound above 0"),
    "a bucket with another label": (
        swap('le="0.4"', 'le="0.4",a="b"'),
        'a="b",le="0.4".* is not known',
    ),
    "a bound of zero": (swap('le="0.4"', 'le="0"'), "no bound above 0"),
    "an endless bound": (swap('le="0.4"', 'le="1e999"'), "no bound above 0"),
    "a count that isn't the sum": (swap("_count 7", "_count 8"), "_count is 8, its buckets 7"),
    "no start time": (swap("sluice_inference_start_time_seconds 1", "start_time 1"), "is missing"),
    "a start time of zero": (
        lambda text: re.sub(r"(start_time_seconds) .*", r"\1 0", text),
        "no Unix time",
    ),
    "only one bucket": (
        lambda text: re.sub(r'.*_bucket\{le="0.*\n', "", text),
        "has 1 bounds",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(change: Callable[[str], str], message: str) -> None:
    text = change(TEXT)

    assert text != TEXT
    with pytest.raises(ScrapeError, match=message) as caught:
        parse_scrape(text)
    assert caught.value.reason == "Malformed"


def test_too_long_a_text_is_not_read() -> None:
    with pytest.raises(ScrapeError, match="at most 262144") as caught:
        parse_scrape(TEXT + "#" * MAX_BYTES + "\n")
    assert caught.value.reason == "TooLarge"


def test_too_many_buckets_are_refused() -> None:
    lines = "".join(
        f'sluice_inference_answer_seconds_bucket{{le="{1 + step / 1e4}"}} 5\n'
        for step in range(1000)
    )
    with pytest.raises(ScrapeError, match="has 1005 bounds"):
        parse_scrape(TEXT + lines)


@given(st.integers(0, len(TEXT) - 1))
def test_a_cut_is_noticed_wherever_it_is(length: int) -> None:
    """But for the last digits of the last line, whose end is its line feed."""
    with pytest.raises(ScrapeError):
        parse_scrape(TEXT[:length])


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="utf-8"))
def test_a_changed_character_gives_a_scrape_or_an_error_and_nothing_else(
    index: int, character: str
) -> None:
    try:
        scrape = parse_scrape(TEXT[:index] + character + TEXT[index + 1 :])
    except ScrapeError:
        return
    assert all(0 <= value < math.inf for value in (*scrape.answers.values(), *scrape.counts))
    assert list(scrape.counts) == sorted(scrape.counts)


@given(
    st.text(alphabet='sluice_inference_answers_total{}"=,.0123456789eE+-NaInf \n#', max_size=200)
)
def test_any_text_gives_an_error(text: str) -> None:
    with pytest.raises(ScrapeError):
        parse_scrape(text)
