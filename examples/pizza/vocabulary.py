"""The text side's tokenizer: whole words of the captions, in the format of ``tokenizers``.

Responsible for making the tokenizer and for turning texts into padded ids. Must not know how texts
are written (``scenes``) or encoded (the text tower).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

MAX_LENGTH = 32  # tokens
PAD_ID = 0
PAD, UNKNOWN = "[PAD]", "[UNK]"


def make_tokenizer(captions: Iterable[str]) -> Tokenizer:
    """A word-level tokenizer of the words in ``captions``; their order and counts don't matter.

    Encoding cuts at MAX_LENGTH; a batch is padded to its longest text with PAD_ID.
    """
    words = sorted({word for caption in captions for word in caption.lower().split()})
    vocabulary = {word: number for number, word in enumerate([PAD, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(pad_id=PAD_ID, pad_token=PAD)
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """Texts to ids int64 [N,L], L being the longest text's number of tokens."""
    return np.array([line.ids for line in tokenizer.encode_batch(list(texts))], np.int64)
