"""Proximal policy optimisation (Schulman et al. 2017) of a language model against a reward model.

    reward        score - beta x sum over tokens of (log pi - log ref)       Ziegler et al. 2019, eq. 2
    advantages    GAE(gamma, lambda), whitened over the rollout's tokens     Schulman et al. 2016, eq. 16
    policy loss   mean max(-A r, -A clip(r, 1-e, 1+e)), r = pi / pi_old      Schulman et al. 2017, eq. 7
    value loss    half the larger squared error of value and clipped value   Huang et al. 2024

Details follow Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO". Where this differs: the
score stands on the last real token, a completion without an end loses `missing_eos_penalty`,
log-probabilities of the rollout come from the forward pass that trains. Demonstrations may be mixed in
(PPO-ptx, Ouyang et al. 2022, equation 2).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from training.core import data, lora, losses, monitor, rewards, rollout, shared_prompt, state, tensors
from training.core.configs import PPOConfig
from training.core.last_good import LastGood
from training.core.types import (
    Checkpoint,
    Demonstration,
    Event,
    Failure,
    Job,
    Metrics,
    Note,
    Phase,
    Rollout,
    Saved,
)

NON_FINITE_LIMIT = 3


def train(job: Job) -> Iterator[Event]:
    """Yield metrics and sample texts of each step; leave the policy in `job.output`."""
    config = cast(PPOConfig, job.config)
    team, prompts, notes = rollout.load(job, critic=config.critic)
    yield from notes
    demonstrations, notes = rollout.load_demonstrations(job, team.policy, config.ptx_coefficient)
    yield from notes
    policy, critic = team.policy, cast(torch.nn.Module, team.critic)
    weights = [
        weight for model in (policy.model, critic) for weight in model.parameters() if weight.requires_grad
    ]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate, eps=1e-5, fused=True)
    step, beta, skipped, deviation = 0, config.kl_coefficient, 0, rewards.RunningDeviation()
    good = LastGood(policy, config, job.saved)
    if job.saved is not None:
        known = job.saved.facts
        step, beta, skipped = job.saved.step, known["beta"], known["skipped"]
        deviation = rewards.RunningDeviation(*known["deviation"])
        state.restore_weights(policy.model, job.saved.tensors, "policy.")
        state.restore_weights(critic, job.saved.tensors, "critic.")
        state.restore_optimizer(optimizer, job.saved.tensors, "optimizer.")
    yield Phase("training", step, config.steps)
    if step == 0:
        yield from monitor.show(job, team, prompts, 0)

    while step < config.steps:
        step += 1
        drawn = data.draw_prompts(len(prompts), config.rollout_prompts, job.seed, step)
        found = rollout.collect(
            team,
            [prompts[row] for row in drawn],
            config,
            beta=beta,
            generator=state.generator(job.seed, 5, step),
            safe_point=job.safe_point,
            processes=job.processes,
            per_prompt=config.completions_per_prompt,
            deviation=deviation,
        )
        values = monitor.describe(found, beta)
        yield from monitor.doubts(found, step)
        kl = values["kl/reference"]
        if kl > config.kl_limit:
            yield good.go_back(kl)
            break
        good.keep()
        deviation = deviation.after(found.scores)

        started = time.monotonic()
        rate = config.learning_rate * (1.0 - (step - 1) / config.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        paid = found.rewards
        if config.whiten_rewards:
            paid = tensors.whiten(paid, found.completion_mask, shift_mean=False)
        advantages, returns = tensors.gae(
            paid, found.values, found.completion_mask, gamma=config.gamma, lam=config.gae_lambda
        )
        advantages = tensors.whiten(advantages, found.completion_mask)
        explained = tensors.explained_variance(found.values, returns, found.completion_mask)
        done: list[dict[str, float]] = []
        for epoch in range(config.epochs):
            order = data.order(len(found.prompts), job.seed, 6, step, epoch)
            for chosen in torch.tensor(order).tensor_split(min(config.minibatches, len(order))):
                mixed = data.order(len(demonstrations), job.seed, 10, step, epoch, int(chosen[0]))
                shown = [demonstrations[row] for row in mixed[: len(chosen)]]
                facts = minibatch(team, optimizer, found, advantages, returns, chosen, shown, config, job)
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
        good.made += bool(done)
        values |= {"value/explained_variance": float(explained), "policy/updates": float(len(done))}
        if done:
            values["policy/first_ratio_error"] = done[0]["policy/first_ratio_error"]
        values |= {"policy/learning_rate": rate, "time/update": time.monotonic() - started}
        if config.kl_target:
            beta = tensors.adapt_kl_coefficient(
                beta, kl, target=config.kl_target, horizon=config.kl_horizon, episodes=len(found.prompts)
            )
        yield Metrics(step, config.steps, values)
        if step % config.sample_every == 0 or step == config.steps:
            yield from monitor.show(job, team, prompts, step)
        if step % config.checkpoint_every == 0 or job.stopping():
            held = good.weights | state.optimizer_tensors(optimizer, "optimizer.")
            held |= state.named_weights(policy.model, "policy.") | state.named_weights(critic, "critic.")
            known = {"beta": beta, "skipped": skipped, "deviation": list(deviation)}
            yield Checkpoint(Saved(step, held, known | {"updates": [good.kept, good.made]}))
    yield from monitor.last_look(job, team, prompts, good, beta, deviation, step)
    yield Phase("saving", step, config.steps)
    if config.lora_rank:
        lora.merge(policy.model)
    policy.save(job.output)


# --- one optimiser step -----------------------------------------------------------------------------


def minibatch(
    team: rollout.Team,
    optimizer: torch.optim.Optimizer,
    found: Rollout,
    advantages: Tensor,
    returns: Tensor,
    chosen: Tensor,
    shown: Sequence[Demonstration],
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
    critic = cast(torch.nn.Module, team.critic)
    optimizer.zero_grad()
    for part in rollout.parts(job, team, found, rows):
        hidden, logprobs, entropy = team.policy.facts(
            part.batch, temperature=config.temperature, entropy=config.entropy_coefficient > 0
        )
        old, gain = part.flat(found.logprobs), part.flat(advantages)
        policy_loss = losses.ppo(logprobs, old, gain, clip=config.clip).sum() / tokens
        read = hidden if config.value_trains_trunk else hidden.detach()
        values, old_values = critic(part.batch, read).float(), part.flat(found.values)
        value_loss = (
            losses.value(values, old_values, part.flat(returns), clip=config.value_clip).sum() / tokens
        )
        loss = policy_loss + config.value_coefficient * value_loss
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * entropy.sum() / tokens
        loss.backward()
        logprobs = logprobs.detach()
        facts["policy/loss"] += float(policy_loss.detach())
        facts["value/loss"] += float(value_loss.detach())
        hit = losses.clipped_fraction(logprobs, old, gain, clip=config.clip)
        facts["policy/clip_fraction"] += float(hit.sum() / tokens)
        facts["policy/approx_kl"] += float(tensors.kl_k3(old, logprobs).sum() / tokens)
        error = (torch.exp(losses.clipped_log_ratio(logprobs, old)) - 1.0).abs().max()
        facts["policy/first_ratio_error"] = max(facts["policy/first_ratio_error"], float(error))
    if shown:
        facts["policy/ptx_loss"] = imitate(team, shown, config, job)
    weights: list[Any] = [weight for group in optimizer.param_groups for weight in group["params"]]
    job.processes.add_gradients(weights)
    facts = job.processes.join(facts)
    norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
    finite = math.isfinite(norm + facts["policy/loss"] + facts["value/loss"])
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # or gradients would take their room through the next rollout
    return {**facts, "policy/grad_norm": norm} if finite else None


def imitate(team: rollout.Team, shown: Sequence[Demonstration], config: PPOConfig, job: Job) -> float:
    """Add the gradient of `ptx_coefficient` x mean loss per token of demonstrations; returns that loss."""
    tokens = sum(len(row.completion_ids) for row in shown)
    shown = job.processes.share(shown)
    texts = [(row.prompt_ids, row.completion_ids) for row in shown]
    pad_id, total = team.policy.chat.pad_id, 0.0
    for _rows, batch in shared_prompt.in_batches(texts, config.microbatch_tokens, pad_id, hidden_size=0):
        job.safe_point()
        loss = -team.policy.logprobs(batch).sum() / tokens
        (config.ptx_coefficient * loss).backward()
        total += float(loss.detach())
    return total
