"""Proximal policy optimisation (Schulman et al. 2017) of a language model against a reward model.

    reward        score - beta x sum over tokens of (log pi - log ref)       Ziegler et al. 2019, eq. 2
    advantages    GAE(gamma, lambda), whitened over the rollout's tokens     Schulman et al. 2016, eq. 16
    policy loss   mean max(-A r, -A clip(r, 1-e, 1+e)), r = pi / pi_old      Schulman et al. 2017, eq. 7
    value loss    half the larger squared error of value and clipped value   Huang et al. 2024

Details follow Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO". Where this differs: the
score stands on the last real token, a completion without an end loses `missing_eos_penalty`,
log-probabilities of the rollout come from the forward pass that trains. Left out: PPO-ptx, reward whitening,
several processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from training.core import batches, data, losses, rollout, state, tensors
from training.core.configs import PPOConfig
from training.core.types import (
    Checkpoint,
    Event,
    Failure,
    Job,
    Metrics,
    Note,
    Phase,
    Prompt,
    Rollout,
    Sample,
    Saved,
)

SAMPLES = 4
NON_FINITE_LIMIT = 3


def train(job: Job) -> Iterator[Event]:
    """Yield metrics and sample texts of each step; leave the policy in `job.output`."""
    config = cast(PPOConfig, job.config)
    team, prompts, notes = rollout.load(job)
    yield from notes
    policy, critic = team.policy, team.critic
    weights = [*policy.model.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate, eps=1e-5)
    step, beta, skipped = 0, config.kl_coefficient, 0
    # The last weights whose KL was measured within the limit.
    good = state.named_weights(policy.model, "good.")
    if job.saved is not None:
        step, beta, skipped = job.saved.step, job.saved.facts["beta"], job.saved.facts["skipped"]
        good = {
            name: held.to(policy.device)
            for name, held in job.saved.tensors.items()
            if name.startswith("good.")
        }
        state.restore_weights(policy.model, job.saved.tensors, "policy.")
        state.restore_weights(critic, job.saved.tensors, "critic.")
        state.restore_optimizer(optimizer, job.saved.tensors, "optimizer.")
    yield Phase("training", step, config.steps)
    if step == 0:
        yield from show(job, team, prompts, 0)

    while step < config.steps:
        step += 1
        drawn = [prompts[row] for row in draw_prompts(len(prompts), config.rollout_prompts, job.seed, step)]
        found = rollout.collect(
            team,
            drawn,
            config,
            beta=beta,
            generator=state.generator(job.seed, 5, step),
            safe_point=job.safe_point,
        )
        values = rollout.describe(found, beta)
        kl = values["kl/reference"]
        if kl > config.kl_limit:
            state.restore_weights(policy.model, good, "good.")
            yield Note("warning", f"Stopped at step {step}: {too_far(kl, config)}")
            break
        good = state.named_weights(policy.model, "good.")

        started = time.monotonic()
        advantages, returns = tensors.gae(
            found.rewards, found.values, found.completion_mask, gamma=config.gamma, lam=config.gae_lambda
        )
        advantages = tensors.whiten(advantages, found.completion_mask)
        explained = tensors.explained_variance(found.values, returns, found.completion_mask)
        rate = config.learning_rate * (1.0 - (step - 1) / config.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        done: list[dict[str, float]] = []
        for epoch in range(config.epochs):
            order = data.order(len(drawn), job.seed, 6, step, epoch)
            for chosen in torch.tensor(order).tensor_split(config.minibatches):
                facts = minibatch(team, optimizer, found, advantages, returns, chosen, config, job)
                if facts is None:
                    skipped += 1
                    yield Note(
                        "warning", f"Step {step}: an update was skipped, its loss or gradient is not finite."
                    )
                    if skipped >= NON_FINITE_LIMIT:
                        hint = "Lower learning_rate, or raise kl_coefficient."
                        raise Failure("non_finite", "losses are not numbers any more", hint)
                else:
                    done.append(facts)
            last = done[-config.minibatches :]
            if last and sum(facts["policy/approx_kl"] for facts in last) / len(last) > config.epoch_kl_stop:
                break
        values |= {name: sum(facts[name] for facts in done) / len(done) for name in (done[0] if done else {})}
        seconds = time.monotonic() - started
        values |= {
            "value/explained_variance": float(explained),
            "policy/learning_rate": rate,
            "policy/updates": float(len(done)),
            "time/update": seconds,
        }
        if done:
            values["policy/first_ratio_error"] = done[0]["policy/first_ratio_error"]
        if config.kl_target:
            beta = tensors.adapt_kl_coefficient(
                beta, kl, target=config.kl_target, horizon=config.kl_horizon, episodes=len(drawn)
            )
        yield Metrics(step, config.steps, values)
        if step % config.sample_every == 0 or step == config.steps:
            yield from show(job, team, prompts, step)
        if step % config.checkpoint_every == 0 or job.stopping():
            held = (
                state.named_weights(policy.model, "policy.") | state.named_weights(critic, "critic.") | good
            )
            held |= state.optimizer_tensors(optimizer, "optimizer.")
            yield Checkpoint(Saved(step, held, {"beta": beta, "skipped": skipped}))
    else:
        yield from last_look(job, team, prompts, good, beta)
    yield Phase("saving", step, config.steps)
    policy.save(job.output)


# --- one step's prompts ----------------------------------------------------------------------


def draw_prompts(count: int, wanted: int, seed: int, step: int) -> list[int]:
    """The prompts of one step: all are seen once, in a new random order, before any is seen again."""
    first = (step - 1) * wanted
    passes = range(first // count, (first + wanted - 1) // count + 1)
    line = [row for number in passes for row in data.order(count, seed, 4, number)]
    start = first - passes[0] * count
    return line[start : start + wanted]


# --- one optimiser step -----------------------------------------------------------------------------


def minibatch(
    team: rollout.Team,
    optimizer: torch.optim.Optimizer,
    found: Rollout,
    advantages: Tensor,
    returns: Tensor,
    chosen: Tensor,
    config: PPOConfig,
    job: Job,
) -> dict[str, float] | None:
    """One optimiser step on the rows `chosen`; None when it was skipped because something is not finite.

    Every mean is over the tokens of the whole minibatch, so the split into micro-batches changes nothing.
    """
    rows = chosen.tolist()
    tokens = found.completion_mask[chosen].sum()
    facts = dict.fromkeys(
        ("policy/loss", "value/loss", "policy/clip_fraction", "policy/approx_kl", "policy/first_ratio_error"),
        0.0,
    )
    optimizer.zero_grad()
    lengths = [len(found.prompts[row].ids) + len(found.completions.ids[row]) for row in rows]
    for group in batches.by_tokens(lengths, config.microbatch_tokens):
        job.safe_point()
        part = [rows[place] for place in group]
        batch = batches.rows(
            [found.prompts[row].ids for row in part],
            [found.completions.ids[row] for row in part],
            team.policy.chat.pad_id,
        )
        mask = found.completion_mask[part]

        def flat(whole: Tensor, part: Sequence[int] = part, mask: Tensor = mask) -> Tensor:
            return whole[list(part)][mask].to(team.policy.device)

        hidden, logits = team.policy.outputs(batch)
        logits = logits / config.temperature
        logprobs = tensors.token_logprobs(logits, batch.tokens[batch.completion_mask])
        old, gain = flat(found.logprobs), flat(advantages)
        policy_loss = losses.ppo(logprobs, old, gain, clip=config.clip).sum() / tokens
        value_loss = (
            losses.value(
                team.critic(batch, hidden).float(), flat(found.values), flat(returns), clip=config.value_clip
            ).sum()
            / tokens
        )
        loss = policy_loss + config.value_coefficient * value_loss
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * tensors.entropy(logits).sum() / tokens
        loss.backward()
        logprobs = logprobs.detach()
        facts["policy/loss"] += float(policy_loss.detach())
        facts["value/loss"] += float(value_loss.detach())
        hit = losses.clipped_fraction(logprobs, old, gain, clip=config.clip)
        facts["policy/clip_fraction"] += float(hit.sum() / tokens)
        facts["policy/approx_kl"] += float(tensors.kl_k3(old, logprobs).sum() / tokens)
        error = (torch.exp(losses.clipped_log_ratio(logprobs, old)) - 1.0).abs().max()
        facts["policy/first_ratio_error"] = max(facts["policy/first_ratio_error"], float(error))
    weights: list[Any] = [weight for group in optimizer.param_groups for weight in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
    if not math.isfinite(norm + facts["policy/loss"] + facts["value/loss"]):
        return None
    optimizer.step()
    return {**facts, "policy/grad_norm": norm}


# --- what people see --------------------------------------------------------------------------------


def too_far(kl: float, config: PPOConfig) -> str:
    return (
        f"the mean KL from the reference is {kl:.2f} nats, beyond kl_limit = {config.kl_limit:g}. Weights "
        "of the last rollout within it are kept. A higher kl_coefficient or lower learning_rate goes further."
    )


def show(job: Job, team: rollout.Team, prompts: Sequence[Prompt], step: int) -> Iterator[Sample]:
    """The same few prompts and the same random numbers each time, with score and KL."""
    config = cast(PPOConfig, job.config)
    shown = [prompts[row] for row in data.order(len(prompts), job.seed, 7)[:SAMPLES]]
    found = rollout.collect(
        team, shown, config, beta=0.0, generator=state.generator(job.seed, 8), safe_point=job.safe_point
    )
    kl = torch.where(found.completion_mask, found.logprobs - found.ref_logprobs, 0.0).sum(1)
    for index, prompt in enumerate(shown):
        yield Sample(
            step, index, prompt.messages, found.texts[index], float(found.scores[index]), float(kl[index])
        )


def last_look(
    job: Job, team: rollout.Team, prompts: Sequence[Prompt], good: dict[str, Tensor], beta: float
) -> Iterator[Event]:
    """The last update is measured too: what it led to is kept only within the KL limit."""
    config = cast(PPOConfig, job.config)
    drawn = [
        prompts[row] for row in draw_prompts(len(prompts), config.rollout_prompts, job.seed, config.steps + 1)
    ]
    found = rollout.collect(
        team, drawn, config, beta=beta, generator=state.generator(job.seed, 9), safe_point=job.safe_point
    )
    values = rollout.describe(found, beta)
    final = {f"final/{name}": values[name] for name in ("reward/mean", "reward/objective", "kl/reference")}
    yield Metrics(config.steps, config.steps, final)
    if values["kl/reference"] > config.kl_limit:
        state.restore_weights(team.policy.model, good, "good.")
        yield Note("warning", f"The last update was taken back: {too_far(values['kl/reference'], config)}")
