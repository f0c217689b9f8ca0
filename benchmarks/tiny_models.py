"""Tiny models of the public families, with random weights, as folders of transformers' own format.

For parity checks and tests: seconds on a CPU. The weights are scaled up from their usual start, because
untrained networks otherwise give nearly the same embedding to everything, and any two agree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SIZE = 64
WORDS = [
    *("a", "the", "photo", "of", "pizza", "olive", "tomato", "cheese", "left", "right"),
    *("above", "below", "what", "is", "on", "red", "green", "two"),
]
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *WORDS]
_MEAN, _STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
_TEXT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": 16,
}


def make_clip(folder: Path) -> None:
    config = transformers.CLIPConfig(
        text_config={**_TEXT, "max_position_embeddings": 20},
        vision_config={**_VISION, "projection_dim": 24},
        projection_dim=24,
    )
    _save(folder, transformers.CLIPModel(config), _make_tokenizer(20), _make_cropping())


def make_siglip(folder: Path) -> None:
    config = transformers.SiglipConfig(
        text_config={**_TEXT, "max_position_embeddings": 16, "projection_size": 48},
        vision_config=_VISION,
    )
    size = {"height": SIZE, "width": SIZE}
    processor = transformers.SiglipImageProcessorPil(size=size)
    model = transformers.SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.0)
    _save(folder, model, _make_tokenizer(16), processor)


def make_vision_text(folder: Path) -> None:
    vision = transformers.ViTModel(transformers.ViTConfig(**_VISION))
    text = transformers.BertModel(
        transformers.BertConfig(**_TEXT, max_position_embeddings=40, type_vocab_size=2)
    )
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=24
    )
    model = transformers.VisionTextDualEncoderModel(config, vision, text)
    size = {"height": SIZE, "width": SIZE}
    _save(folder, model, _make_tokenizer(40), transformers.ViTImageProcessorPil(size=size))


def make_resnet(folder: Path) -> None:
    config = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        **_name_labels(),
    )
    processor = transformers.ConvNextImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_pct=0.875, image_mean=_MEAN, image_std=_STD
    )
    _save(folder, transformers.ResNetForImageClassification(config), None, processor)


def make_vit(folder: Path) -> None:
    config = transformers.ViTConfig(**_VISION, **_name_labels())
    size = {"height": SIZE, "width": SIZE}
    processor = transformers.ViTImageProcessorPil(size=size)
    _save(folder, transformers.ViTForImageClassification(config), None, processor)


def make_llava(folder: Path) -> None:
    """A picture's patches and a question to words, by a chat template."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_VISION),
        text_config=transformers.LlamaConfig(
            **_TEXT, num_key_value_heads=4, max_position_embeddings=128
        ),
        image_token_index=VOCABULARY.index("<image>"),
        vision_feature_layer=-1,
    )
    tokenizer = _make_tokenizer(128)
    processor = transformers.LlavaProcessor(
        image_processor=_make_cropping(),
        tokenizer=tokenizer,
        patch_size=_VISION["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{% for message in messages %}{% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
            "{% endfor %}{% endfor %}"
        ),
    )
    model = transformers.LlavaForConditionalGeneration(config)
    _enlarge(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


DUAL_ENCODERS: dict[str, Callable[[Path], None]] = {
    "CLIP": make_clip,
    "SigLIP": make_siglip,
    "VisionTextDualEncoder": make_vision_text,
}
CLASSIFIERS: dict[str, Callable[[Path], None]] = {"ResNet": make_resnet, "ViT": make_vit}


def _name_labels() -> dict[str, Any]:
    names = {at: f"class {at}" for at in range(12)}
    return {"id2label": names, "label2id": {name: at for at, name in names.items()}}


def _make_cropping() -> Any:
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )


def _make_tokenizer(longest: int) -> Any:
    pad, start, end, unknown, image = VOCABULARY[:5]
    ids = {word: at for at, word in enumerate(VOCABULARY)}
    words = Tokenizer(WordLevel(ids, unk_token=unknown))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 1), (end, 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=longest,
        bos_token=start,
        eos_token=end,
        unk_token=unknown,
        pad_token=pad,
        extra_special_tokens={"image_token": image},
    )


def _save(folder: Path, model: Any, tokenizer: Any, processor: Any) -> None:
    _enlarge(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _enlarge(model: Any) -> None:
    """Weights of matrices to a size at which inputs are told apart; seeded."""
    seed = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                fan_in = weight[0].numel()
                weight.copy_(torch.randn(weight.shape, generator=seed) * 1.6 * fan_in**-0.5)
