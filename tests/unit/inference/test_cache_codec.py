"""An answer as bytes comes back the same, and bytes that are no answer are seen as such."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_inference.caching.codec import decode_output, encode_output
from sluice_inference.engine.backend import Output
from sluice_inference.imaging.quality import Quality

KEY = bytes(range(20))
VECTOR = np.array([0.1, -2.5, 3e38], dtype=np.float32)
QUALITY = Quality(123.25, 0.5, 0.25, 0.125, 640, 480, 2**64 - 1)


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(Output(VECTOR, None), id="an embedding"),
        pytest.param(Output(None, VECTOR[:1]), id="scores"),
        pytest.param(Output(None, None, "a pizza, grüne Oliven"), id="words"),
        pytest.param(Output(None, None, ""), id="no words"),
        pytest.param(Output(None, None), id="nothing"),
        pytest.param(Output(VECTOR, VECTOR, "all", QUALITY), id="all of them"),
    ],
)
def test_an_answer_comes_back_the_same(output: Output) -> None:
    back = decode_output(KEY, encode_output(KEY, output))
    assert back is not None
    for one, other in ((back.embedding, output.embedding), (back.scores, output.scores)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == np.float32
            assert one.tobytes() == other.tobytes()
    assert (back.text, back.quality) == (output.text, output.quality)


def test_a_value_is_hardly_larger_than_its_numbers() -> None:
    assert len(encode_output(KEY, Output(np.zeros(512, dtype=np.float32), None))) == 2048 + 33


@pytest.mark.parametrize("cut", range(len(encode_output(KEY, Output(VECTOR, None, "ab", QUALITY)))))
def test_a_value_that_was_cut_off_is_none(cut: int) -> None:
    value = encode_output(KEY, Output(VECTOR, None, "ab", QUALITY))
    assert decode_output(KEY, value[:cut]) is None


def test_another_keys_value_is_none() -> None:
    assert decode_output(KEY[::-1], encode_output(KEY, Output(VECTOR, None))) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_it(tail: bytes) -> None:
    output = decode_output(KEY, KEY + tail)
    assert output is None or encode_output(KEY, output) == KEY + tail
