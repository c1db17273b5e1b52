"""REINFORCE: what a return is compared with, by hand, and the update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core import drive, tiny
from tests.core.teams import Remembering, job, make_team, prompts
from training.core import configs, reinforce, rollout, state, tensors
from training.core.types import Completion, Prompt, Rollout

MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
REWARDS = torch.tensor([[0.0, 1.0, 9.0], [1.0, 0.0, 1.0], [3.0, 9.0, 9.0], [1.0, 5.0, 9.0]])
"""Returns 1, 2, 3 and 6; the nines lie in the padding."""


def found(groups: list[int], values: Tensor | None = None) -> Rollout:
    empty = torch.zeros(4, 3)
    return Rollout(
        prompts=[Prompt([], [2], 0)] * 4,
        groups=torch.tensor(groups),
        completions=[Completion([7] * int(row.sum()), "", True) for row in MASK],
        parts={}, scores=empty[:, 0], paid=empty[:, 0], unscored=0,
        completion_mask=MASK, logprobs=empty, decoded_logprobs=empty[:, 0], ref_logprobs=empty,
        values=empty if values is None else values,
        entropy=empty, rewards=torch.where(MASK, REWARDS, 0.0), seconds={},
    )  # fmt: skip


def compare(baseline: str, groups: list[int], **named: Any) -> tuple[Tensor, Tensor]:
    settings = configs.REINFORCEConfig(baseline=baseline)
    mean = named.pop("mean", None)
    return reinforce.compare(found(groups, **named), settings, mean)


def spread(values: list[float]) -> Tensor:
    return torch.where(MASK, torch.tensor(values).unsqueeze(1), 0.0)


@pytest.mark.parametrize(
    ("baseline", "mean", "expected"),
    [
        ("none", 5.0, [1.0, 2.0, 3.0, 6.0]),
        ("running_mean", None, [1.0, 2.0, 3.0, 6.0]),
        ("running_mean", 2.0, [-1.0, 0.0, 1.0, 4.0]),
        # one prompt: 1 - 11/3, 2 - 10/3, 3 - 3, 6 - 2
        ("leave_one_out", None, [-8 / 3, -4 / 3, 0.0, 4.0]),
    ],
)
def test_advantages_by_hand(baseline: str, mean: float | None, expected: list[float]) -> None:
    returns, advantages = compare(baseline, [0] * 4, mean=mean)
    assert torch.allclose(returns, spread([1.0, 2.0, 3.0, 6.0]))
    assert torch.allclose(advantages, spread(expected))


def test_leave_one_out_sums_to_zero_over_a_prompt_and_one_alone_learns_nothing() -> None:
    """Item 46; a completion whose companions could not be scored has nothing to be compared with."""
    _returns, advantages = compare("leave_one_out", [0, 2, 2, 5])
    assert torch.allclose(advantages, spread([0.0, -1.0, 1.0, 0.0]))
    assert tensors.leave_one_out_mean(torch.tensor([4.0]), torch.tensor([3])).tolist() == [4.0]


def test_leave_one_out_needs_two_completions_of_a_prompt() -> None:
    with pytest.raises(configs.ConfigError, match="at least 2"):
        configs.parse("reinforce", {"completions_per_prompt": 1})
    configs.parse("reinforce", {"completions_per_prompt": 1, "baseline": "none"})


def test_a_value_head_is_compared_with_what_is_earned_from_each_token_on() -> None:
    values = torch.full((4, 3), 0.5)
    returns, advantages = compare("value_head", [0] * 4, values=values)
    to_go = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0], [3.0, 0.0, 0.0], [6.0, 5.0, 0.0]])
    assert torch.equal(returns, to_go)
    assert torch.equal(advantages, torch.where(MASK, to_go - 0.5, 0.0))


def test_a_discount_counts_from_the_first_token() -> None:
    settings = configs.REINFORCEConfig(baseline="none", gamma=0.5)
    returns, _advantages = reinforce.compare(found([0] * 4), settings, None)
    assert torch.allclose(returns, spread([0.5, 1.25, 3.0, 3.5]))


# --- the update -------------------------------------------------------------------------------------


def gradients(team: rollout.Team, rows: Rollout, settings: configs.REINFORCEConfig) -> list[Tensor]:
    returns, advantages = reinforce.compare(rows, settings, None)
    weights = list(team.policy.model.parameters())
    optimizer = Remembering(weights, lr=0.0)
    assert reinforce.update(team, optimizer, rows, advantages, returns, settings, job(settings)) is not None
    assert all(weight.grad is None for weight in weights), "they would live through the next rollout"
    return optimizer.seen


def test_the_split_into_micro_batches_changes_nothing(gpt2: Path, reward_model: Path) -> None:
    """Item 39, and the loss is the literal one: - sum of A log pi over tokens, mean over completions."""
    team = make_team(gpt2, reward_model)._replace(critic=None)
    settings = configs.REINFORCEConfig(completions_per_prompt=3, max_new_tokens=8, max_grad_norm=1e6)
    team.policy.chat.stop_ids = set(range(0, 300, 8))
    rows = rollout.collect(
        team, prompts()[:4], settings, beta=0.1, generator=state.generator(1), safe_point=lambda: None,
        per_prompt=3,
    )  # fmt: skip
    assert rows.groups.tolist() == [group for group in range(4) for _ in range(3)]
    whole = gradients(team, rows, settings)
    small = gradients(team, rows, configs.REINFORCEConfig(microbatch_tokens=32, max_grad_norm=1e6))
    for one, other in zip(whole, small, strict=True):
        assert torch.allclose(one, other, atol=1e-5)

    team.policy.model.zero_grad()
    _returns, advantages = reinforce.compare(rows, settings, None)
    loss = torch.zeros(())
    for row, prompt in enumerate(rows.prompts):
        ids = rows.completions[row].ids
        logits = team.policy.model(torch.tensor([prompt.ids + ids])).logits[0, len(prompt.ids) - 1 : -1]
        chosen = torch.log_softmax(logits, -1)[torch.arange(len(ids)), ids]
        loss = loss - (chosen * advantages[row, : len(ids)]).sum() / 12
    loss.backward()
    for one, weight in zip(whole, team.policy.model.parameters(), strict=True):
        assert weight.grad is None or torch.allclose(one, weight.grad, atol=1e-4)


def test_a_run_with_each_baseline_learns_and_says_what_it_compared_with(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    for baseline in ("none", "running_mean", "leave_one_out", "value_head"):
        settings = {"steps": 2, "rollout_prompts": 4, "completions_per_prompt": 2, "max_new_tokens": 6}
        made = tiny.run_dir(tmp_path / baseline, "reinforce", {**settings, "baseline": baseline}, inputs)
        assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
        rows = drive.metrics(made)
        assert ("value/loss" in rows[1]) is (baseline == "value_head")
        assert rows[1]["policy/first_ratio_error"] < 1e-5
    # At the first step the KL is 0, so the second baseline is the first step's mean reward.
    mean = drive.metrics(tmp_path / "running_mean")
    assert mean[1]["policy/baseline"] == pytest.approx(0.0, abs=1e-6)
    assert mean[2]["policy/baseline"] == pytest.approx(mean[1]["reward/mean"], abs=1e-5)
