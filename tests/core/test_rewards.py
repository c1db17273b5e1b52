"""Reward functions and their sum, by hand."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.core import configs, models, rewards
from training.core.types import Completion, Failure, Prompt, Rows

PROMPT = Prompt([{"role": "user", "content": "hello"}], [5], 0)
COMPLETIONS = [
    Completion([7, 8, 1], "order 12", True),
    Completion([7], "no number", False),
    Completion([7, 8, 9, 1], "order 3", True),
]


def score(*scores: float | None) -> rewards.RewardFunction:
    return lambda prompts, completions: list(scores)


def test_length_and_pattern_by_hand() -> None:
    asked = [PROMPT] * 3
    assert rewards.length(asked, COMPLETIONS) == [3.0, 1.0, 4.0]
    assert rewards.Contains(r"\d{2}")(asked, COMPLETIONS) == [1.0, 0.0, 0.0]


def test_a_pattern_that_would_take_years_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more ways to read the letters than a computer counts; digits are found at once."""
    monkeypatch.setattr(rewards, "PATTERN_SECONDS", 0.05)
    long = [Completion([7], "x" * 60 + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", True)]
    assert rewards.Contains(r"\d+")([PROMPT], long) == [0.0]
    with pytest.raises(Failure, match=r"took over 0\.05 s on a completion of 107 characters") as failed:
        rewards.Contains(r"(a|aa)+\$")([PROMPT], long)
    assert failed.value.code == "bad_config"


def test_the_sum_keeps_its_parts_and_what_cannot_be_scored_has_none() -> None:
    whole = rewards.WeightedSum({"one": (2.0, score(1.0, None, 3.0)), "length": (-0.5, rewards.length)})
    sums, parts = whole([PROMPT] * 3, COMPLETIONS)
    assert sums == [2.0 - 1.5, None, 6.0 - 2.0]
    assert parts == {"one": [1.0, None, 3.0], "length": [3.0, 1.0, 4.0]}


def test_settings_choose_the_parts_and_one_without_weight_is_not_computed() -> None:
    def never(prompts: object, completions: object) -> rewards.Scores:
        raise AssertionError("computed in vain")

    settings = configs.PPOConfig(
        reward_model_weight=0.0, length_weight=-1.0, pattern="order", pattern_weight=2.0
    )
    sums, parts = rewards.configured(settings, never)([PROMPT] * 3, COMPLETIONS)  # type: ignore[arg-type]
    assert (sums, list(parts)) == ([-1.0, -1.0, -2.0], ["length", "pattern"])


def test_an_ensemble_s_doubt_is_taken_off_and_shown(
    tmp_path: Path, gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the members alone, in plain arithmetic; mean and doubt come from one pass of each member."""
    members = [models.RewardModel(gpt2, fresh_head_seed=seed) for seed in (1, 2, 3)]
    for number, member in enumerate(members, start=1):
        path = models.member_folder(tmp_path / "ensemble", number)
        path.mkdir(parents=True)
        member.save(path)
    chat = members[0].chat
    together = rewards.RewardModelScore(models.RewardEnsemble(tmp_path / "ensemble"), chat)
    settings = configs.PPOConfig(caution=0.5, reward_model_weight=2.0)
    passes, score = [0], models.RewardModel.scores

    def counted(self: models.RewardModel, batch: Rows) -> Tensor:
        passes[0] += 1
        return score(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(models.RewardModel, "scores", counted)
        sums, parts = rewards.configured(settings, together)([PROMPT], COMPLETIONS[:1])
    assert passes[0] == len(members)
    alone = [rewards.RewardModelScore(member, chat)([PROMPT], COMPLETIONS[:1])[0] for member in members]
    scores = [float(score or "missing") for score in alone]
    mean, doubt = statistics.fmean(scores), statistics.pstdev(scores)
    assert parts["reward_model"][0] == pytest.approx(mean, abs=1e-5)
    assert parts["disagreement"][0] == pytest.approx(doubt, abs=1e-5)
    assert sums[0] == pytest.approx(2.0 * (mean - 0.5 * doubt), abs=1e-5)
    turned = dataclasses.replace(settings, reward_model_weight=-2.0)
    sums, _parts = rewards.configured(turned, together)([PROMPT], COMPLETIONS[:1])
    assert sums[0] == pytest.approx(-2.0 * mean - 2.0 * 0.5 * doubt, abs=1e-5), "doubt is never a gain"
    _sums, parts = rewards.configured(
        settings, rewards.RewardModelScore(models.RewardEnsemble(tmp_path / "ensemble" / "member-2"), chat)
    )([PROMPT], COMPLETIONS[:1])
    assert list(parts) == ["reward_model"]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"pattern": "("}, "pattern"),
        ({"pattern_weight": 1.0}, "pattern_weight"),
        ({"reward_model_weight": 0.0}, "reward_model_weight"),
    ],
)
def test_sums_that_make_no_sense_are_refused(changed: dict[str, object], name: str) -> None:
    with pytest.raises(configs.ConfigError) as refused:
        configs.parse("ppo", changed)
    assert list(refused.value.problems) == [name]


def test_the_running_deviation_is_that_of_all_scores_at_once() -> None:
    """Item 25: batches of uneven size; the mean is not shifted away."""
    generator = torch.Generator().manual_seed(0)
    parts = [3.0 + 2.0 * torch.randn(size, generator=generator) for size in (5, 1, 40)]
    running = rewards.RunningDeviation()
    assert running.value == 1.0
    for part in parts:
        running = running.after(part)
    assert running.value == pytest.approx(torch.cat(parts).double().std(correction=0).item(), rel=1e-6)
    assert running.after(torch.full((3,), 2.0)).value != running.value
    settings = configs.PPOConfig(score_scaling=True, score_clip=1.5, missing_eos_penalty=0.25)
    paid = rewards.pay(torch.tensor([1.0, 8.0]), torch.tensor([True, False]), settings, 2.0)
    assert paid.tolist() == [0.5, 1.25]


def test_equal_scores_are_not_blown_up() -> None:
    assert rewards.RunningDeviation().after(torch.full((6,), 0.3)).value == 1.0


def test_what_is_no_number_is_no_score(gpt2: Path) -> None:
    model = models.RewardModel(gpt2, fresh_head_seed=1)
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    assert rewards.RewardModelScore(model, model.chat)([PROMPT], COMPLETIONS[:1]) == [None]
