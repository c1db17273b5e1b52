"""Two completions in one row: the scores and gradients of two rows, or else two rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tests.core import tiny
from training.core import models, shared_prompt, starter
from training.core.types import Pair

PAIRS = [
    Pair([5, 9, 40], [20, 21, 1], [9, 1], 0.0, False, 1.0),
    Pair([7, 8, 9, 10, 11, 12], [30], [31, 32, 33, 34, 1], 0.0, False, 1.0),
    Pair([3], [40, 41, 42, 43, 1], [41, 40, 1], 0.0, False, 1.0),
]


@pytest.fixture(params=["gpt2", "llama", "starter"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> models.RewardModel:
    if request.param == "starter":
        starter.build(tmp_path / "m", ["the cup is red"] * 9, seed=0, width=32, layers=2, heads=2, context=64)
        return models.RewardModel(tmp_path / "m", fresh_head_seed=0)
    return models.RewardModel(request.getfixturevalue(request.param), fresh_head_seed=0)


def alone(model: models.RewardModel, ids: list[int]) -> torch.Tensor:
    """Oracle: the whole transformers model, one text, no mask and no padding."""
    return model.model(input_ids=torch.tensor([ids])).logits[0, 0]


def gradients(model: models.RewardModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.model.zero_grad()
    loss.backward()
    return {name: weight.grad for name, weight in model.model.named_parameters() if weight.grad is not None}


def test_scores_and_gradients_are_those_of_each_text_alone(model: models.RewardModel) -> None:
    assert model.keeps_texts_apart
    chosen, rejected = model.pair_scores(PAIRS)
    wanted = torch.stack([alone(model, pair.prompt_ids + pair.chosen_ids) for pair in PAIRS])
    others = torch.stack([alone(model, pair.prompt_ids + pair.rejected_ids) for pair in PAIRS])
    assert torch.allclose(chosen, wanted, atol=1e-5) and torch.allclose(rejected, others, atol=1e-5)
    found = gradients(model, -torch.nn.functional.logsigmoid(chosen - rejected).sum())
    expected = gradients(model, -torch.nn.functional.logsigmoid(wanted - others).sum())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name


def test_the_plain_path_gives_the_same_scores(model: models.RewardModel) -> None:
    packed = model.pair_scores(PAIRS)
    vars(model)["keeps_texts_apart"] = False
    plain = model.pair_scores(PAIRS)
    for one, other in zip(packed, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert model.pair_tokens(PAIRS[1]) == 2 * (6 + 5)


def test_a_completion_does_not_see_the_other(gpt2: Path) -> None:
    model = models.RewardModel(gpt2, fresh_head_seed=0)
    changed = [pair._replace(chosen_ids=[50, *pair.chosen_ids, 60]) for pair in PAIRS]
    assert torch.allclose(model.pair_scores(PAIRS)[1], model.pair_scores(changed)[1], atol=1e-5)


def test_a_row_by_hand() -> None:
    packed = shared_prompt.rows([([5, 6], [[7], [8, 9]]), ([3], [[40, 41, 42, 43, 1], [41, 40, 1]])], 0)
    assert packed.positions is not None
    assert packed.input_ids[0].tolist() == [5, 6, 7, 8, 9, 0, 0, 0, 0]
    assert packed.positions[0].tolist() == [0, 1, 2, 2, 3, 0, 0, 0, 0]
    assert packed.ends.tolist() == [2, 4, 9 + 5, 9 + 8]
    assert packed.tokens[0].tolist() == [7, 8, 9, 0, 0, 0, 0, 0]
    assert packed.states.tolist() == [[1, 1, 3, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 0, 6, 7]]
    assert packed.completion_mask.sum(1).tolist() == [3, 8]
    seen = ["1", "11", "111", "11 1", "11 11"]
    for row, columns in enumerate(seen):
        wanted = [mark == "1" for mark in columns.ljust(9)]
        assert packed.attention_mask[0, 0, row].tolist() == wanted
    assert packed.attention_mask.any(-1).all(), "a token that sees nothing would be NaN"


SHAPE = {"vocab_size": 300, "hidden_size": 32, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}


def windowed() -> Any:
    return MistralForCausalLM(MistralConfig(**SHAPE, **LAYERS, sliding_window=8))


def local() -> Any:
    kinds = [[["global", "local"], 1]]
    return GPTNeoForCausalLM(GPTNeoConfig(**SHAPE, num_layers=2, num_heads=2, attention_types=kinds))


def by_distance() -> Any:
    return BloomForCausalLM(BloomConfig(**SHAPE, n_layer=2, n_head=2))


@pytest.mark.parametrize("make", [windowed, local, by_distance])
def test_models_that_count_columns_take_two_rows(make: Any, tmp_path: Path) -> None:
    """Local attention and ALiBi measure distance along the row, which the other completion would stretch."""
    torch.manual_seed(0)
    model = models.RewardModel(tiny.folder(tmp_path / "m", model=make().eval()), fresh_head_seed=0)
    assert not model.keeps_texts_apart
    chosen, _rejected = model.pair_scores(PAIRS)
    wanted = torch.stack([alone(model, pair.prompt_ids + pair.chosen_ids) for pair in PAIRS])
    assert torch.allclose(chosen, wanted, atol=1e-5)


def adding() -> Any:
    """GPT-J has only an attention that adds its mask to the scores: true would be 1, false 0."""
    return GPTJForCausalLM(
        GPTJConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=2, rotary_dim=8, n_positions=64)
    )


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("make", [windowed, local, by_distance, adding])
def test_models_that_cannot_are_refused_in_bfloat16_too(make: Any, learns: bool, tmp_path: Path) -> None:
    """Weights that are only read are rounded to it, and hidden values by up to a hundredth."""
    torch.manual_seed(0)
    folder = tiny.folder(tmp_path / "m", model=make().eval())
    assert not models.Policy(folder, dtype="bfloat16", learns=learns).keeps_texts_apart


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("folder", ["gpt2", "llama"])
def test_models_that_can_are_not_refused_in_bfloat16(
    folder: str, learns: bool, request: pytest.FixtureRequest
) -> None:
    made = models.Policy(request.getfixturevalue(folder), dtype="bfloat16", learns=learns)
    assert made.keeps_texts_apart


def test_rounding_of_deep_and_loud_models_is_no_mistake(tmp_path: Path) -> None:
    """Sixteen layers whose hidden values reach 20, as in large models: sums differ in their last places."""
    model = tiny.llama(num_hidden_layers=16, hidden_size=256, intermediate_size=512)
    with torch.no_grad():
        model.model.norm.weight.fill_(5.0)
    made = models.RewardModel(tiny.folder(tmp_path / "deep", model=model), fresh_head_seed=0)
    assert made.keeps_texts_apart
    chosen, _rejected = made.pair_scores(PAIRS)
    wanted = torch.stack([alone(made, pair.prompt_ids + pair.chosen_ids) for pair in PAIRS])
    assert torch.allclose(chosen, wanted, rtol=1e-3, atol=1e-3)
