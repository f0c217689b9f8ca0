"""Training on a handful of scenes: it learns, it repeats, and it can leave the text tower alone."""

from __future__ import annotations

import pytest
import torch

from examples.pizza.dataset import Dataset, make_dataset
from examples.pizza.scenes import LABELS, Split, write_prompt
from examples.pizza.training import make_config, measure_accuracy, reproducible, train_model
from examples.pizza.versions import TRAINED, Budget
from examples.pizza.vocabulary import encode_texts, make_tokenizer
from sluice_inference.models.spatial import SpatialDualEncoder

BUDGET = Budget(scenes=24, epochs=1, batch=12, learning_rate=3e-3, seed=4)
PROMPTS = [write_prompt(label) for label in LABELS]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return make_dataset(Split.TRAIN, BUDGET.scenes)


def train(
    data: Dataset, epochs: int = 1, text_frozen: bool = False
) -> tuple[SpatialDualEncoder, list[float]]:
    tokenizer = make_tokenizer([*data.captions, *PROMPTS])
    losses: list[float] = []
    with reproducible(BUDGET.seed):
        model = SpatialDualEncoder.from_config(make_config(tokenizer.get_vocab_size()))
        train_model(
            model,
            data,
            encode_texts(tokenizer, data.captions),
            encode_texts(tokenizer, PROMPTS),
            Budget(BUDGET.scenes, epochs, BUDGET.batch, BUDGET.learning_rate, BUDGET.seed),
            text_frozen=text_frozen,
            report=lambda epoch, loss: losses.append(loss),
        )
    return model, losses


def test_the_loss_falls_with_the_epochs(data: Dataset) -> None:
    _, losses = train(data, epochs=4)
    assert len(losses) == 4
    assert losses[-1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_weights(data: Dataset) -> None:
    one, other = train(data)[0].state_dict(), train(data)[0].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_frozen_text_tower_stays_and_the_images_move(data: Dataset) -> None:
    tokenizer = make_tokenizer([*data.captions, *PROMPTS])
    with reproducible(BUDGET.seed):
        before = SpatialDualEncoder.from_config(make_config(tokenizer.get_vocab_size()))
    after, _ = train(data, text_frozen=True)
    start, end = before.state_dict(), after.state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert not {name for name in moved if name.startswith("text.")}
    assert "classify.weight" in moved


def test_settings_of_torch_are_given_back() -> None:
    threads = torch.get_num_threads()
    with reproducible(1):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads


def test_accuracy_counts_right_answers(data: Dataset) -> None:
    model, _ = train(data)
    tokens = encode_texts(make_tokenizer([*data.captions, *PROMPTS]), PROMPTS)
    with torch.inference_mode():
        _, logits = model.encode_image(torch.from_numpy(data.pixels))
    answers = Dataset(data.pixels, data.depth, logits.argmax(dim=1).numpy(), data.captions)
    assert measure_accuracy(model, answers, tokens).accuracy == 1.0
    wrong = Dataset(data.pixels, data.depth, (answers.labels + 1) % len(LABELS), data.captions)
    assert measure_accuracy(model, wrong, tokens).accuracy == 0.0


def test_later_recipes_descend_from_earlier_ones_and_get_more() -> None:
    (first, small), (second, large) = TRAINED
    assert (first.parent, second.parent) == (None, first.version)
    assert small.scenes < large.scenes
    assert small.seed != large.seed
