"""Completions of one prompt in one row: what a rollout and an update find is what one text a row gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.core import tiny
from tests.core.teams import Remembering, config, make_team, prompts, scorer_of
from tests.core.test_shared_prompt import by_distance
from training.core import configs, models, reinforce, rollout, shared_prompt, state, trpo
from training.core.types import Job, Rollout, Rows

PER_PROMPT = 4
TEMPERATURE = 0.7


def collect(team: rollout.Team, microbatch_tokens: int = 100) -> Rollout:
    team.policy.chat.stop_ids = set(range(0, 300, 8))  # completions of many lengths
    scorer_of(team).microbatch_tokens = microbatch_tokens
    return rollout.collect(
        team,
        prompts()[:3],
        config(microbatch_tokens=microbatch_tokens, temperature=TEMPERATURE),
        beta=0.1,
        generator=state.generator(0),
        safe_point=lambda: None,
        per_prompt=PER_PROMPT,
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Rows]:
    """All batches whose rows hold several completions of a prompt."""
    batches: list[Rows] = []
    plain = shared_prompt.rows

    def rows(lines: Any, pad_id: int) -> Rows:
        batch = plain(lines, pad_id)
        if lines is not shared_prompt.PROBE:  # the question whether a model can
            batches.append(batch)
        return batch

    monkeypatch.setattr(shared_prompt, "rows", rows)
    return batches


def distribution(model: Any, found: Rollout, row: int) -> Tensor:
    """Oracle: log-probabilities before each token of a completion by the whole transformers model: T x V."""
    prompt, completion = found.prompts[row].ids, found.completions[row].ids
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / TEMPERATURE, -1)


def alone(model: Any, found: Rollout, row: int) -> Tensor:
    """Of the completion's own tokens: T."""
    completion = torch.tensor(found.completions[row].ids)
    return distribution(model, found, row).gather(1, completion.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("folder", ["gpt2", "llama"])
def test_a_rollout_says_of_each_text_what_it_would_say_of_it_alone(
    folder: str, critic: str, reward_model: Path, request: pytest.FixtureRequest, made: list[Rows]
) -> None:
    team = make_team(request.getfixturevalue(folder), reward_model, critic)
    assert isinstance(team.reference, models.Policy) and team.critic is not None
    assert team.shared_hidden_size == 32
    policy, reference = team.policy.model, team.reference.model
    reader, valuer = scorer_of(team).model, team.critic
    torch.manual_seed(0)
    with torch.no_grad():
        valuer.head.weight.normal_()
        for weight in reference.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    found = collect(team)
    lines = [len(batch.input_ids) for batch in made]
    assert sum(lines) < 2 * 12 and sum(len(batch.ends) for batch in made) == 2 * 12, (
        "reward model, then policy"
    )
    with torch.no_grad():
        for row, (prompt, completion) in enumerate(zip(found.prompts, found.completions, strict=True)):
            ids = torch.tensor([[*prompt.ids, *completion.ids]])
            mask = found.completion_mask[row]
            assert torch.allclose(found.logprobs[row][mask], alone(policy, found, row), atol=1e-5)
            assert torch.allclose(found.ref_logprobs[row][mask], alone(reference, found, row), atol=1e-5)
            every = distribution(policy, found, row)
            assert torch.allclose(found.entropy[row][mask], -(every.exp() * every).sum(1), atol=1e-4)
            score = reader.head(reader.model.base_model(ids)[0][0, -1]).item()
            assert found.scores[row].item() == pytest.approx(score, abs=1e-5)
            trunk = valuer.model if isinstance(valuer, models.SeparateCritic) else policy.base_model
            values = valuer.head(trunk(ids)[0][0, len(prompt.ids) - 1 : -1]).squeeze(-1)
            assert torch.allclose(found.values[row][mask], values, atol=1e-4)
        other = (found.logprobs - found.ref_logprobs)[found.completion_mask]
        assert float(other.abs().max()) > 0.01, "a swap of policy and reference would be seen"


@pytest.mark.parametrize("microbatch_tokens", [1, 100, 10_000])
@pytest.mark.parametrize("folder", ["gpt2", "llama"])
def test_the_gradient_is_that_of_each_text_alone(
    folder: str, microbatch_tokens: int, reward_model: Path, request: pytest.FixtureRequest, made: list[Rows]
) -> None:
    """The last layer runs where somebody reads; all completions begin at the same place."""
    team = make_team(request.getfixturevalue(folder), reward_model)._replace(critic=None)
    found = collect(team)
    made.clear()
    settings = configs.REINFORCEConfig(
        microbatch_tokens=microbatch_tokens, temperature=TEMPERATURE, baseline="leave_one_out"
    )
    returns, advantages = reinforce.compare(found, settings, None)
    weights = list(team.policy.model.parameters())
    loss = torch.zeros(())
    for row in range(len(found.prompts)):
        gain = advantages[row][found.completion_mask[row]]
        loss = loss - (gain * alone(team.policy.model, found, row)).sum() / len(found.prompts)
    wanted = torch.autograd.grad(loss, weights, allow_unused=True)

    optimizer = Remembering(weights, lr=0.0)
    job = Job(settings, 0, {}, Path(), None, lambda: None, lambda: False)
    loose = dataclasses.replace(settings, max_grad_norm=1e9)
    assert reinforce.update(team, optimizer, found, advantages, returns, loose, job) is not None
    assert bool(made) == (microbatch_tokens > 1), "where there is no room, one text a batch"
    for seen, expected in zip(optimizer.seen, wanted, strict=True):
        wanted_gradient = torch.zeros(()) if expected is None else expected
        assert torch.allclose(seen, wanted_gradient, atol=1e-5 * float(wanted_gradient.abs().max()) + 1e-7)


@pytest.mark.parametrize("folder", ["gpt2", "llama"])
def test_a_fisher_product_is_that_of_one_text_a_row(
    folder: str, reward_model: Path, request: pytest.FixtureRequest, made: list[Rows]
) -> None:
    team = make_team(request.getfixturevalue(folder), reward_model)._replace(critic=None)
    found = collect(team)
    weights = list(team.policy.model.parameters())
    direction = torch.randn(sum(weight.numel() for weight in weights), generator=torch.manual_seed(0))
    settings = configs.TRPOConfig(microbatch_tokens=100, temperature=TEMPERATURE)
    job = Job(settings, 0, {}, Path(), None, lambda: None, lambda: False)

    def product() -> Tensor:
        made.clear()
        return trpo.fisher_product(team, weights, found, range(12), settings, job, direction)

    shared = product()
    assert made
    team = team._replace(shared_hidden_size=0)
    plain = product()
    assert not made and torch.allclose(shared, plain, atol=1e-5 * float(plain.abs().max()))


def test_a_model_that_cannot_share_reads_one_text_a_row(
    tmp_path: Path, reward_model: Path, made: list[Rows]
) -> None:
    torch.manual_seed(0)
    folder = tiny.folder(tmp_path / "m", model=by_distance().eval())
    team = make_team(folder, reward_model)
    found = collect(team)
    assert scorer_of(team).model.keeps_texts_apart and not team.shared_hidden_size and made
    made.clear()
    settings = config(microbatch_tokens=100)
    for part in rollout.parts(
        Job(settings, 0, {}, Path(), None, lambda: None, lambda: False), team, found, range(12)
    ):
        assert len(part.batch.ends) == len(part.batch.input_ids)
    assert not made
    with torch.no_grad():
        for row in range(len(found.prompts)):
            mask = found.completion_mask[row]
            assert torch.allclose(found.logprobs[row][mask], alone(team.policy.model, found, row), atol=1e-5)


# --- which texts stand together ---------------------------------------------------------------------


def test_how_many_completions_pay_by_hand() -> None:
    """Width 512. A prompt of 64 and completions of 48: 1 costs 112 x (6144 + 224) = 713,216 each, 4 cost
    64 x (6144 + 512) = 425,984, 9 cost 55.1 x (6144 + 992) = 393,273, 16 cost 52 x (6144 + 1664) = 406,016.
    A prompt of 50, completions of 500: 550 x (6144 + 1100) = 3,984,200 and 525 x (6144 + 2100) = 4,328,100.
    """
    assert shared_prompt.best_count(64, 48, 4, 512) == 4
    assert shared_prompt.best_count(64, 48, 16, 512) == 9
    assert shared_prompt.best_count(50, 500, 8, 512) == 1


texts = st.lists(
    st.tuples(
        st.sampled_from([[1], [1, 2], [3, 4, 5, 6, 7, 8, 9]]),
        st.lists(st.integers(1, 9), min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=20,
)


@given(texts=texts, budget=st.integers(1, 60), hidden_size=st.sampled_from([0, 16, 512]))
def test_each_text_stands_in_one_batch_that_keeps_its_budget(
    texts: Sequence[tuple[list[int], list[int]]], budget: int, hidden_size: int
) -> None:
    seen: list[int] = []
    for numbers, batch in shared_prompt.in_batches(texts, budget, 0, hidden_size):
        assert batch.input_ids.numel() <= budget or len(numbers) == 1
        written = batch.tokens[batch.completion_mask].tolist()
        assert written == [token for number in numbers for token in texts[number][1]]
        last = batch.input_ids.flatten()[batch.ends].tolist()
        assert last == [texts[number][1][-1] for number in numbers]
        first = batch.input_ids.gather(1, batch.states)[batch.completion_mask].tolist()
        before = [token for number in numbers for token in [texts[number][0][-1], *texts[number][1][:-1]]]
        assert first == before, "a token is decided by what stands before it"
        assert hidden_size or len(batch.input_ids) == len(numbers)
        seen += numbers
    assert sorted(seen) == list(range(len(texts)))
