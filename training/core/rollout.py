"""Prompts x policy x rewards -> Rollout: completions, scores, log-probabilities, values and token rewards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from training.core import batches, data, models, sampling, tensors
from training.core.configs import PPOConfig
from training.core.rewards import RewardModelScore
from training.core.types import Completions, Failure, Job, Note, Prompt, Rollout


class Team(NamedTuple):
    """The models of a PPO run: the first and the third learn, the others never change."""

    policy: models.Policy
    reference: models.Policy
    critic: nn.Module
    scorer: RewardModelScore


def load(job: Job) -> tuple[Team, list[Prompt], list[Note]]:
    config = cast(PPOConfig, job.config)
    policy = models.Policy(job.inputs["policy"])
    reference = models.Policy(job.inputs["reference"])
    if not policy.chat.same_ids(reference.chat):
        told = "policy and reference have different tokenizers or templates"
        raise Failure("bad_input", told, "Choose a reference that the policy descends from.")
    scorer = RewardModelScore(
        models.RewardModel(job.inputs["reward_model"]),
        policy.chat,
        microbatch_tokens=config.microbatch_tokens,
    )
    notes: list[Note] = []
    critic: nn.Module
    if config.critic == "shared":
        critic = models.SharedCritic(policy)
    elif scorer.same_ids:
        critic = models.SeparateCritic(models.RewardModel(job.inputs["reward_model"]))
    else:
        start = models.RewardModel(job.inputs["policy"], fresh_head_seed=job.seed)
        nn.init.zeros_(start.head.weight)
        critic = models.SeparateCritic(start)
        told = "The reward model reads other tokens: the critic starts from the policy instead."
        notes.append(Note("log", told))
    for frozen in (reference.model, scorer.model.model):
        frozen.requires_grad_(False)
    limit = min(policy.context, reference.context)
    prompts, more = data.prompts(
        job.inputs["prompts"], policy.chat, limit=limit, new_tokens=config.max_new_tokens
    )
    return Team(policy, reference, critic, scorer), prompts, [*notes, *more]


def collect(
    team: Team,
    prompts: Sequence[Prompt],
    config: PPOConfig,
    *,
    beta: float,
    generator: torch.Generator,
    safe_point: Callable[[], None],
) -> Rollout:
    """Let the policy answer, and look at the answers with all four models, once.

    Log-probabilities are computed again by the forward pass that training uses, so that the first ratio of an
    update is 1, and at the sampling temperature, for policy and reference alike.
    """
    started = time.monotonic()
    completions = sampling.decode(
        team.policy,
        [prompt.ids for prompt in prompts],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        generator=generator,
        rows_at_once=rows_at_once(prompts, config),
        safe_point=safe_point,
    )
    decoded = time.monotonic()
    texts = [team.policy.chat.text(ids) for ids in completions.ids]
    scores = team.scorer(prompts, completions.ids, texts)
    paid = pay(scores, torch.tensor(completions.finished), config)
    mask, logprobs, ref_logprobs, values, entropy = look(team, prompts, completions, config, safe_point)
    kl = tensors.kl_k1(logprobs, ref_logprobs)
    return Rollout(
        prompts=list(prompts),
        completions=completions,
        texts=texts,
        scores=scores,
        paid=paid,
        completion_mask=mask,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        entropy=entropy,
        rewards=tensors.token_rewards(paid, kl, mask, beta=beta),
        seconds={"time/rollout": decoded - started, "time/score": time.monotonic() - decoded},
    )


def rows_at_once(prompts: Sequence[Prompt], config: PPOConfig) -> int:
    """A cached token is cheaper than one that gradients flow through: twice as many may stand together."""
    longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
    return max(1, 2 * config.microbatch_tokens // longest)


def pay(scores: Tensor, finished: Tensor, config: PPOConfig) -> Tensor:
    """What a completion earns before the KL penalty: the clipped score, less that for a missing end."""
    clipped = scores.clamp(-config.score_clip, config.score_clip)
    return clipped - torch.where(finished, 0.0, config.missing_eos_penalty)


@torch.no_grad()
def look(
    team: Team,
    prompts: Sequence[Prompt],
    completions: Completions,
    config: PPOConfig,
    safe_point: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """completion_mask, logprobs, ref_logprobs, values and entropy, each B x longest completion."""
    lengths = torch.tensor([len(ids) for ids in completions.ids])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    found = [torch.zeros(mask.shape) for _ in range(4)]
    total = [len(prompt.ids) + len(ids) for prompt, ids in zip(prompts, completions.ids, strict=True)]
    for group in batches.by_tokens(total, config.microbatch_tokens):
        safe_point()
        batch = batches.rows(
            [prompts[row].ids for row in group],
            [completions.ids[row] for row in group],
            team.policy.chat.pad_id,
        )
        tokens = batch.tokens[batch.completion_mask]
        hidden, logits = team.policy.outputs(batch)
        logits = logits / config.temperature
        flat = (
            tensors.token_logprobs(logits, tokens),
            team.reference.logprobs(batch, temperature=config.temperature),
            team.critic(batch, hidden).float(),
            tensors.entropy(logits),
        )
        for whole, part in zip(found, flat, strict=True):
            block = torch.zeros(len(group), whole.shape[1])
            block[mask[group]] = part.cpu()
            whole[group] = block
    return mask, found[0], found[1], found[2], found[3]


def describe(found: Rollout, beta: float) -> dict[str, float]:
    """Metrics of a rollout. reward/objective = reward/mean - kl/coefficient x kl/reference, exactly."""
    mask = found.completion_mask
    kl = torch.where(mask, tensors.kl_k1(found.logprobs, found.ref_logprobs), 0.0).sum(1)
    tokens = int(mask.sum())
    return {
        "reward/mean": float(found.paid.mean()),
        "reward/std": float(found.paid.std(correction=0)),
        "reward/score": float(found.scores.mean()),
        "reward/objective": float(found.rewards.sum() / len(found.paid)),
        "kl/reference": float(kl.mean()),
        "kl/per_token": float(kl.sum() / tokens),
        "kl/coefficient": beta,
        "policy/entropy": float(tensors.masked_mean(found.entropy, mask)),
        "value/mean": float(tensors.masked_mean(found.values, mask)),
        "completion/length": tokens / len(mask),
        "completion/eos_rate": sum(found.completions.finished) / len(mask),
        "speed/tokens_per_second": tokens / found.seconds["time/rollout"],
        **found.seconds,
    }
