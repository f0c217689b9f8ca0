"""The tokenizer, and its file."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from examples.pizza.scenes import LABELS, Split, draw_scene, write_caption, write_prompt
from examples.pizza.vocabulary import MAX_LENGTH, PAD_ID, UNKNOWN, encode_texts, make_tokenizer

CAPTIONS = [write_caption(draw_scene(Split.TRAIN, seed)) for seed in range(200)]


def test_captions_of_held_out_scenes_come_back_word_for_word_also_from_the_file() -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    read = Tokenizer.from_str(tokenizer.to_str())
    for seed in range(50):
        caption = write_caption(draw_scene(Split.HOLDOUT, seed))
        for one in (tokenizer, read):
            ids = one.encode(caption).ids
            assert " ".join(one.id_to_token(number) for number in ids) == caption


def test_ids_do_not_depend_on_the_order_of_the_captions() -> None:
    assert make_tokenizer(CAPTIONS).to_str() == make_tokenizer(CAPTIONS[::-1]).to_str()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("Olive LEFT OF Tomato", ["olive", "left", "of", "tomato"], id="any-case"),
        pytest.param("pineapple over olive", [UNKNOWN, "over", "olive"], id="an-unknown-word"),
    ],
)
def test_words_become_tokens(text: str, tokens: list[str]) -> None:
    tokenizer = make_tokenizer([*CAPTIONS, *map(write_prompt, LABELS)])
    assert tokenizer.encode(text).tokens == tokens


def test_a_batch_is_padded_to_its_longest_text_and_cut_at_the_limit() -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    short = encode_texts(tokenizer, ["olive", "olive over tomato"])
    assert short.shape == (2, 3)
    assert short[0].tolist()[1:] == [PAD_ID, PAD_ID]
    assert PAD_ID not in short[1].tolist()
    assert encode_texts(tokenizer, ["olive " * 100]).shape == (1, MAX_LENGTH)
