"""Each algorithm as a whole, in a world so small that the optimum of reward - beta KL is known exactly."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core import tiny
from training.core import (
    batches,
    configs,
    models,
    monitor,
    ppo,
    reinforce,
    rewards,
    rollout,
    state,
    tensors,
    trpo,
)
from training.core.types import Completion, Job, Metrics, Prompt

WORDS, LONGEST, BETA = (4, 5, 6), 3, 0.3
REGRET_BAR = 0.06


def job(settings: configs.PolicyConfig) -> Job:
    return Job(settings, 0, {}, Path(), None, lambda: None, lambda: False)


class TinyChat(SimpleNamespace):
    def text(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class World:
    """3 words and an end, at most 3 tokens, 2 prompts: 40 completions a prompt, each one looked at."""

    def __init__(self) -> None:
        self.prompts = [Prompt([], [2], 0), Prompt([], [3], 1)]
        self.completions = [
            [*words, 1] for count in range(LONGEST) for words in itertools.product(WORDS, repeat=count)
        ] + [list(words) for words in itertools.product(WORDS, repeat=LONGEST)]
        self.reference = self.policy()

    def policy(self) -> models.Policy:
        made = object.__new__(models.Policy)
        made.model = tiny.gpt2(vocab_size=7, n_positions=8, n_embd=32, n_layer=1, initializer_range=0.3)
        made.device = made.model.device
        made.chat = TinyChat(pad_id=0, stop_ids={1}, eos_id=1)  # type: ignore[assignment]
        made.takes_positions = made.plain_head = True
        made.model.lm_head = nn.Linear(32, 7)  # with a bias that keeps pad and prompt tokens out
        torch.manual_seed(1)
        nn.init.normal_(made.model.lm_head.weight, std=0.1)
        with torch.no_grad():
            made.model.lm_head.bias.copy_(torch.tensor([-40.0, 0.0, -40.0, -40.0, 0.0, 0.0, 0.0]))
        return made

    def reward(self, prompt: Prompt, completion: list[int]) -> float:
        wanted = 4 + prompt.prompt_id
        right = wanted in completion and completion[-1] == 1
        return float(right) - 0.5 * (completion.count(wanted) > 1) - (completion[-1] != 1)

    def __call__(self, prompts: Any, completions: Any) -> rewards.Scores:
        return [self.reward(asked, row.ids) for asked, row in zip(prompts, completions, strict=True)]

    def team(self, policy: models.Policy, critic: str | None) -> rollout.Team:
        scorer = rewards.WeightedSum({"world": (1.0, self)})
        valuer = models.SharedCritic(policy) if critic else None
        size = rollout.shared_hidden_size(policy, self.reference, valuer)
        return rollout.Team(policy, self.reference, valuer, scorer, size)

    def logprobs(self, policy: models.Policy, prompt: Prompt) -> Tensor:
        """Of every completion of a prompt."""
        with torch.no_grad():
            batch = batches.rows([prompt.ids] * len(self.completions), self.completions, 0)
            flat = policy.logprobs(batch)
        whole = torch.zeros(batch.completion_mask.shape)
        whole[batch.completion_mask] = flat
        return whole.sum(1).double()

    def objective(self, policy: models.Policy) -> tuple[float, float, float]:
        """J(policy), J(reference) and the optimum beta log Z, averaged over the prompts, without error."""
        values = []
        for prompt in self.prompts:
            pi, ref = self.logprobs(policy, prompt), self.logprobs(self.reference, prompt)
            reward = torch.tensor([self.reward(prompt, ids) for ids in self.completions]).double()
            best = BETA * torch.logsumexp(ref + reward / BETA, 0)
            regret = BETA * (pi.exp() * (pi - (ref + reward / BETA - best / BETA))).sum()
            gained = (pi.exp() * (reward - BETA * (pi - ref))).sum()
            assert (best - gained).item() == pytest.approx(
                regret.item(), abs=1e-4
            )  # J* - J = beta KL(pi || pi*)
            values.append((gained, (ref.exp() * reward).sum(), best))
        return tuple(torch.tensor(values).mean(0).tolist())  # type: ignore[return-value]


ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (ppo, {"epochs": 4, "minibatches": 2, "value_clip": 10.0, "learning_rate": 1e-2}),
    "leave_one_out": (reinforce, {"completions_per_prompt": 4, "rollout_prompts": 32, "steps": 100}),
    "running_mean": (reinforce, {"baseline": "running_mean", "completions_per_prompt": 1, "steps": 100}),
    "value_head": (reinforce, {"baseline": "value_head", "completions_per_prompt": 1, "steps": 100}),
    "trpo": (trpo, {"step_kl": 0.02, "fisher_share": 1.0, "learning_rate": 1e-2}),
}
CONFIGS: dict[Any, type[configs.PolicyConfig]] = {
    ppo: configs.PPOConfig, reinforce: configs.REINFORCEConfig, trpo: configs.TRPOConfig,
}  # fmt: skip


def learn(
    monkeypatch: pytest.MonkeyPatch, name: str = "ppo", **changes: Any
) -> tuple[float, list[dict[str, float]], World]:
    """Share of the reference's regret that is left after a run, and the metrics of each step."""
    world = World()
    policy = world.policy()
    algorithm, own = ALGORITHMS[name]
    monkeypatch.setattr(
        rollout, "load", lambda job, *, critic: (world.team(policy, critic), world.prompts, [])
    )
    monkeypatch.setattr(monitor, "show", lambda *arguments: iter(()))
    monkeypatch.setattr(models.Policy, "save", lambda *arguments: None)
    settings: dict[str, Any] = {
        "steps": 20, "rollout_prompts": 128, "max_new_tokens": LONGEST, "learning_rate": 1e-2,
        "kl_coefficient": BETA, "missing_eos_penalty": 0.0, "checkpoint_every": 1000,
    }  # fmt: skip
    events = list(algorithm.train(job(CONFIGS[algorithm](**{**settings, **own, **changes}))))
    gained, before, best = world.objective(policy)
    rows = [event.values for event in events if isinstance(event, Metrics)]
    return (best - gained) / (best - before), rows, world


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_comes_close_to_the_exact_optimum(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Regret left: 0 is optimal, 1 is the reference. The bar stands above the worst of five seeds."""
    regret, rows, world = learn(monkeypatch, name)
    assert regret < REGRET_BAR
    _, before, _ = world.objective(world.reference)
    spread = rows[0]["reward/std"] / math.sqrt(128)
    assert abs(rows[0]["reward/mean"] - before) < 4 * spread  # the sampled reward is the enumerated one


def test_the_exact_test_notices_a_missing_kl_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tensors.token_rewards
    monkeypatch.setattr(
        tensors, "token_rewards", lambda scores, kl, mask, *, beta: real(scores, kl, mask, beta=0.0)
    )
    regret, _, _ = learn(monkeypatch)
    assert regret > 4 * REGRET_BAR


def test_the_exact_test_notices_a_score_on_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tensors.token_rewards

    def first(scores: Tensor, kl: Tensor, mask: Tensor, *, beta: float) -> Tensor:
        rewards = real(torch.zeros_like(scores), kl, mask, beta=beta)
        rewards[:, 0] += scores
        return rewards

    monkeypatch.setattr(tensors, "token_rewards", first)
    regret, _, _ = learn(monkeypatch)
    assert regret > 4 * REGRET_BAR


def test_counts_of_sampled_completions_follow_the_enumerated_probabilities() -> None:
    """The rollouts of that world are drawn from the distribution which its optimum is computed with."""
    world = World()
    team = world.team(world.reference, "shared")
    found = rollout.collect(
        team, [world.prompts[0]] * 4000, configs.PPOConfig(max_new_tokens=LONGEST, microbatch_tokens=100_000),
        beta=0.0, generator=state.generator(0), safe_point=lambda: None,
    )  # fmt: skip
    completions: list[Completion] = found.completions
    counts = Counter(tuple(row.ids) for row in completions)
    expected = world.logprobs(world.reference, world.prompts[0]).exp() * 4000
    assert expected.sum().item() == pytest.approx(4000, rel=1e-4)
    seen = torch.tensor([counts[tuple(ids)] for ids in world.completions]).double()
    chi_square = ((seen - expected) ** 2 / expected).sum().item()
    assert chi_square < len(expected) + 4 * math.sqrt(2 * len(expected))
