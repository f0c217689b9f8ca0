"""Models that answer a question about a picture in words: captions, answers, text that was read.

Through transformers' image-text-to-text classes, greedily, so that equal questions get equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sluice_inference.artifact.config import WordsConfig
from sluice_inference.engine.backend import Prompt
from sluice_inference.errors import LoadError
from sluice_inference.models.pretrained import load_network, load_processor, read_family


class WordModel:
    """A processor and a network that generates."""

    def __init__(
        self,
        folder: Path,
        config: WordsConfig | None,
        tasks: Sequence[str],
        dtype: torch.dtype,
        device: str,
    ) -> None:
        if config is None or not set(tasks) <= set(config.prompts):
            raise LoadError(
                f"config.json: words.prompts needs a prompt for each of {', '.join(tasks)}"
            )
        read_family(folder)
        self._config = config
        self._device = device
        self._dtype = dtype
        self._processor = load_processor(folder)
        self._network = load_network("AutoModelForImageTextToText", folder, dtype, device)
        tokenizer = self._processor.tokenizer
        # Answers grow at the right end, so that is where the prompts of a batch must line up.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._marks = _list_marks(self._processor)

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer for each prompt, without the prompt and without special tokens."""
        inputs = self._prepare(
            [Image.fromarray(one.pixels) for one in prompts], [self._phrase(one) for one in prompts]
        ).to(self._device)
        for name, value in inputs.items():
            if torch.is_floating_point(value):
                inputs[name] = value.to(self._dtype)
        tokens = self._network.generate(
            **inputs,
            max_new_tokens=self._config.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._processor.tokenizer.pad_token_id,
        )
        asked = inputs.get("input_ids")
        # Some families give the prompt back before the answer, others the answer alone.
        length = 0 if asked is None else asked.shape[1]
        if asked is not None and torch.equal(tokens[:, :length], asked):
            tokens = tokens[:, length:]
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [str(text).strip() for text in texts]

    def _phrase(self, prompt: Prompt) -> str:
        """The prompt of the task around the client's text, which can't bring a mark of its own."""
        text = prompt.text
        for mark in self._marks:
            text = text.replace(mark, " ")
        return self._config.prompts[prompt.task].replace("{question}", text.strip())

    def _prepare(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Any:
        if getattr(self._processor, "chat_template", None) is None:
            return self._processor(
                images=list(images), text=list(texts), padding=True, return_tensors="pt"
            )
        talks = [
            [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": image}, {"type": "text", "text": text}],
                }
            ]
            for image, text in zip(images, texts, strict=True)
        ]
        return self._processor.apply_chat_template(
            talks,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )


def _list_marks(processor: Any) -> list[str]:
    """Texts that mean something to the model (an image's place, a turn's end), longest first."""
    tokenizer = processor.tokenizer
    marks = {str(one) for one in tokenizer.all_special_tokens}
    marks |= {str(one) for one in tokenizer.added_tokens_decoder.values() if one.special}
    marks |= {str(mark) for mark in [getattr(processor, "image_token", None)] if mark}
    return sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
