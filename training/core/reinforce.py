"""REINFORCE (Williams 1992) of a language model against a reward model: one gradient step on each rollout.

    reward        score - beta x sum over tokens of (log pi - log ref)       Ziegler et al. 2019, eq. 2
    return        the whole completion's reward: it counts as one action     Ahmadian et al. 2024, section 2
    baseline      none, running mean, the prompt's other completions (leave one out, Kool et al. 2019),
                  or a value head with the return from each token on
    policy loss   - sum over tokens of (return - baseline) log pi, mean over completions

Every baseline leaves the expected gradient as it is: none looks at the action that it judges. Left out:
several passes over a rollout (that is PPO).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from training.core import data, lora, losses, monitor, rewards, rollout, state, tensors
from training.core.configs import REINFORCEConfig
from training.core.last_good import LastGood
from training.core.types import Checkpoint, Event, Failure, Job, Metrics, Note, Phase, Rollout, Saved

NON_FINITE_LIMIT = 3


def train(job: Job) -> Iterator[Event]:
    """Yield metrics and sample texts of each step; leave the policy in `job.output`."""
    config = cast(REINFORCEConfig, job.config)
    team, prompts, notes = rollout.load(job, critic="shared" if config.baseline == "value_head" else None)
    yield from notes
    policy, critic = team.policy, team.critic or torch.nn.Module()
    weights = [
        weight for model in (policy.model, critic) for weight in model.parameters() if weight.requires_grad
    ]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate, eps=1e-5, fused=True)
    step, beta, skipped, deviation = 0, config.kl_coefficient, 0, rewards.RunningDeviation()
    mean: float | None = None  # of the returns so far
    good = LastGood(policy, config, job.saved)
    if job.saved is not None:
        known = job.saved.facts
        step, beta, skipped = job.saved.step, known["beta"], known["skipped"]
        deviation, mean = rewards.RunningDeviation(*known["deviation"]), known["mean"]
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
        returns, advantages = compare(found, config, mean)
        now = float(returns[:, 0].mean())
        mean = now if mean is None else config.baseline_decay * mean + (1.0 - config.baseline_decay) * now
        done = update(team, optimizer, found, advantages, returns, config, job)
        if done is None:
            skipped += 1
            yield Note("warning", f"Step {step}: the update was skipped, its loss or gradient is not finite.")
            if skipped >= NON_FINITE_LIMIT:
                hint = "Lower learning_rate, or raise kl_coefficient."
                raise Failure("non_finite", "losses are not numbers any more", hint)
        good.made += bool(done)
        values |= {"policy/baseline": now - float(advantages[:, 0].mean()), **(done or {})}
        if team.critic is not None:
            explained = tensors.explained_variance(found.values, returns, found.completion_mask)
            values["value/explained_variance"] = float(explained)
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
            known = {"beta": beta, "skipped": skipped, "deviation": list(deviation), "mean": mean}
            yield Checkpoint(Saved(step, held, known | {"updates": [good.kept, good.made]}))
    yield from monitor.last_look(job, team, prompts, good, beta, deviation, step)
    yield Phase("saving", step, config.steps)
    if config.lora_rank:
        lora.merge(policy.model)
    policy.save(job.output)


# --- what a return is compared with -----------------------------------------------------------------


def compare(found: Rollout, config: REINFORCEConfig, mean: float | None) -> tuple[Tensor, Tensor]:
    """Returns and advantages of every token, B x T, 0 beyond the mask.

    With a value head the return of a token is what is earned from it on; otherwise all tokens of a completion
    have its whole return. `mean` is that of earlier rollouts, so that it does not look at this one.
    """
    mask = found.completion_mask
    to_go = tensors.returns_to_go(found.rewards, mask, gamma=config.gamma)
    if config.baseline == "value_head":
        return to_go, torch.where(mask, to_go - found.values, 0.0)
    whole = to_go[:, 0]
    baseline = torch.zeros_like(whole)
    if config.baseline == "running_mean":
        baseline += 0.0 if mean is None else mean
    if config.baseline == "leave_one_out":
        baseline = tensors.leave_one_out_mean(whole, found.groups)
    returns = torch.where(mask, whole.unsqueeze(1), 0.0)
    return returns, torch.where(mask, (whole - baseline).unsqueeze(1), 0.0)


# --- one optimiser step -----------------------------------------------------------------------------


def update(
    team: rollout.Team,
    optimizer: torch.optim.Optimizer,
    found: Rollout,
    advantages: Tensor,
    returns: Tensor,
    config: REINFORCEConfig,
    job: Job,
) -> dict[str, float] | None:
    """One optimiser step on the rollout; None when it was skipped because something is not finite.

    Every mean is over the whole rollout, so the split into micro-batches changes nothing.
    """
    tokens, count = found.completion_mask.sum(), len(found.prompts)
    facts = {"policy/loss": 0.0, "policy/first_ratio_error": 0.0}
    if team.critic is not None:
        facts["value/loss"] = 0.0
    optimizer.zero_grad()
    for part in rollout.parts(job, team, found, range(count)):
        hidden, logprobs, entropy = team.policy.facts(
            part.batch, temperature=config.temperature, entropy=config.entropy_coefficient > 0
        )
        old, gain = part.flat(found.logprobs), part.flat(advantages)
        policy_loss = losses.reinforce(logprobs, gain).sum() / count
        loss = policy_loss
        if team.critic is not None:
            values = team.critic(part.batch, hidden).float()
            value_loss = 0.5 * ((values - part.flat(returns)) ** 2).sum() / tokens
            facts["value/loss"] += float(value_loss.detach())
            loss = loss + config.value_coefficient * value_loss
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * entropy.sum() / tokens
        loss.backward()
        facts["policy/loss"] += float(policy_loss.detach())
        error = (torch.exp(losses.clipped_log_ratio(logprobs.detach(), old)) - 1.0).abs().max()
        facts["policy/first_ratio_error"] = max(facts["policy/first_ratio_error"], float(error))
    weights: list[Any] = [weight for group in optimizer.param_groups for weight in group["params"]]
    job.processes.add_gradients(weights)
    facts = job.processes.join(facts)
    norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
    finite = math.isfinite(norm + sum(facts.values()))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # or gradients would take their room through the next rollout
    return {**facts, "policy/grad_norm": norm} if finite else None
