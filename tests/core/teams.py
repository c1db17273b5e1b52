"""Teams, rollouts and PPO runs of tiny models, for the tests of the algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.core import drive, tiny
from training.core import configs, models, ppo, rewards, rollout, state, tensors
from training.core.types import Demonstration, Job, Prompt, Rollout

CONFIG: dict[str, Any] = {
    "steps": 3, "rollout_prompts": 12, "max_new_tokens": 10, "learning_rate": 1e-3, "minibatches": 3,
    "epochs": 2, "temperature": 0.7, "sample_every": 100,
}  # fmt: skip


def run_dir(path: Path, folder: Path, reward_model: Path, **changes: Any) -> Path:
    prompts = tiny.write_rows(path.with_suffix(".jsonl"), tiny.prompts())
    inputs = {"policy": folder, "reference": folder, "reward_model": reward_model, "prompts": prompts}
    return tiny.run_dir(path, "ppo", {**CONFIG, **changes}, inputs)


def run(path: Path, folder: Path, reward_model: Path, **changes: Any) -> Path:
    made = run_dir(path, folder, reward_model, **changes)
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    return made


def prompts() -> list[Prompt]:
    chat = models.Chat(tiny.tokenizer())
    return [Prompt(row["prompt"], chat.prompt_ids(row["prompt"]), row["prompt_id"]) for row in tiny.prompts()]


def config(**changes: Any) -> configs.PPOConfig:
    return configs.PPOConfig(**{**CONFIG, **changes})


def make_team(folder: Path, reward_model: Path, critic: str = "shared") -> rollout.Team:
    policy, reference = models.Policy(folder), models.Policy(folder)
    start = models.RewardModel(reward_model)
    valuer = models.SharedCritic(policy) if critic == "shared" else models.SeparateCritic(start)
    scorer = rewards.RewardModelScore(models.RewardModel(reward_model), policy.chat)
    size = rollout.shared_hidden_size(policy, reference, valuer)
    return rollout.Team(policy, reference, valuer, rewards.configured(config(), scorer), size)


def scorer_of(team: rollout.Team) -> rewards.RewardModelScore:
    return team.scorer.parts["reward_model"][1]  # type: ignore[return-value]


def collect(team: rollout.Team, settings: configs.PPOConfig, seed: int = 0) -> Rollout:
    team.policy.chat.stop_ids = set(range(0, 300, 8))  # completions of many lengths
    return rollout.collect(
        team, prompts(), settings, beta=0.1, generator=state.generator(seed), safe_point=lambda: None
    )


def job(settings: configs.PPOConfig) -> Job:
    return Job(settings, 0, {}, Path(), None, lambda: None, lambda: False)


class Remembering(torch.optim.SGD):
    """Knows the gradients of its last step: a trainer drops them at once."""

    seen: list[Tensor]

    def step(self, closure: Any = None) -> None:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self.seen = [torch.zeros(()) if weight.grad is None else weight.grad.clone() for weight in weights]
        super().step()


def update(
    team: rollout.Team,
    found: Rollout,
    settings: configs.PPOConfig,
    rows: list[int],
    rate: float = 0.0,
    shown: Sequence[Demonstration] = (),
) -> tuple[dict[str, float] | None, list[Tensor]]:
    """One optimiser step on `rows`; its metrics, and the gradients before they were clipped away."""
    advantages, returns = tensors.gae(found.rewards, found.values, found.completion_mask, gamma=1.0, lam=0.95)
    advantages = tensors.whiten(advantages, found.completion_mask)
    weights = [*team.policy.model.parameters(), *team.critic.parameters()]
    optimizer = Remembering(weights, lr=rate)
    facts = ppo.minibatch(
        team, optimizer, found, advantages, returns, torch.tensor(rows), shown, settings, job(settings)
    )
    assert all(weight.grad is None for weight in weights), "they would live through the next rollout"
    return facts, optimizer.seen if facts else []
