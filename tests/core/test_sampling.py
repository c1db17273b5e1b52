"""The decode loop against full forward passes and the exact distribution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core import tiny
from training.core import batches, models, sampling, state
from training.core.types import Completions

PROMPTS = [[5, 9, 40], [7, 8, 9, 10, 11, 12], [3], [5, 9, 40]]


def decode(policy: models.Policy, prompts: list[list[int]] = PROMPTS, **changes: object) -> Completions:
    settings: dict[str, object] = {
        "max_new_tokens": 12,
        "temperature": 1.0,
        "generator": state.generator(0),
        "rows_at_once": 64,
        "safe_point": lambda: None,
    }
    return sampling.decode(policy, prompts, **{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["gpt2", "llama"])
def policy(request: pytest.FixtureRequest) -> models.Policy:
    return models.Policy(request.getfixturevalue(request.param))


def eager_to_stop(policy: models.Policy) -> models.Policy:
    """Many stop tokens, so that rows end at different times."""
    policy.chat.stop_ids = set(range(0, 300, 8))
    return policy


def test_cached_left_padded_decoding_has_the_logprobs_of_a_full_forward(policy: models.Policy) -> None:
    """Items 1, 4 and 9: at temperature 0.7, with rows that end early and leave the batch."""
    written = decode(eager_to_stop(policy), temperature=0.7)
    assert len({len(ids) for ids in written.ids}) > 1
    for prompt, ids, logprob in zip(PROMPTS, written.ids, written.logprobs, strict=True):
        with torch.no_grad():
            logits = policy.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        exact = torch.log_softmax(logits, -1)[torch.arange(len(ids)), ids].sum()
        assert logprob == pytest.approx(exact.item(), abs=1e-3)


def test_a_row_says_the_same_whatever_stands_beside_it(policy: models.Policy) -> None:
    together = decode(eager_to_stop(policy))
    apart = decode(policy, rows_at_once=1)
    assert together.ids == apart.ids and together.finished == apart.finished


def test_decoding_ends_with_the_first_stop_token_which_is_kept(policy: models.Policy) -> None:
    """Item 14: nothing follows the stop token, and nothing is cut before it."""
    policy = eager_to_stop(policy)
    for ids, finished in zip(*(decode(policy)[place] for place in (0, 2)), strict=True):
        assert not any(token in policy.chat.stop_ids for token in ids[:-1])
        assert finished is (ids[-1] in policy.chat.stop_ids)
        assert finished or len(ids) == 12


def test_seeds_differ_and_repeat(policy: models.Policy) -> None:
    """Item 9: sampled, not greedy, although the folder's generation config asks for greedy decoding."""
    policy.model.generation_config.do_sample = False
    first = decode(policy)
    assert decode(policy, generator=state.generator(0)).ids == first.ids
    assert decode(policy, generator=state.generator(1)).ids != first.ids
    assert first.ids[0] != first.ids[3]  # the same prompt twice


def test_the_first_token_follows_the_softmax(gpt2: Path) -> None:
    """Item 2: chi-square of 50,000 draws from a real model's first distribution, nothing cut off."""
    policy = models.Policy(gpt2)
    with torch.no_grad():
        logits = policy.model(torch.tensor([[5, 9, 40]])).logits[0, -1] * 4 / 0.8
    draws = sampling.draw(
        logits.expand(50_000, -1), torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    )
    expected = torch.softmax(logits.double(), -1) * 50_000
    found = torch.bincount(draws, minlength=300).double()
    chi_square = ((found - expected) ** 2 / expected).sum().item()
    freedom = 299
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5
    greedy_or_cut = torch.softmax(logits.topk(50).values.double(), -1)
    assert len(greedy_or_cut) < (found > 0).sum()


def test_draws_at_the_ends_of_the_unit_interval_are_tokens_that_can_occur() -> None:
    logits = torch.tensor([[-1e9, 0.0, 0.0, -1e9]]).expand(2, -1)
    assert sampling.draw(logits, torch.tensor([0.0, 1.0 - 1e-7])).tolist() == [1, 2]


def test_stopping_is_possible_between_any_two_tokens(gpt2: Path) -> None:
    class Stop(Exception):
        pass

    calls = []

    def safe_point() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stop

    with pytest.raises(Stop):
        decode(models.Policy(gpt2), safe_point=safe_point)


def test_a_model_with_absolute_positions_is_not_shifted_by_padding(tmp_path: Path) -> None:
    """Item 4: large position embeddings would show a missing position id at once."""
    model = tiny.gpt2()
    model.transformer.wpe.weight.data *= 50
    policy = models.Policy(tiny.folder(tmp_path / "m", model=model))
    written = decode(policy, prompts=[[9], [8] * 40])
    with torch.no_grad():
        alone = policy.logprobs(batches.rows([[9]], [written.ids[0]], 0)).sum()
    assert written.logprobs[0] == pytest.approx(alone.item(), abs=1e-3)
