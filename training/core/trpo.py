"""Trust region policy optimisation (Schulman et al. 2015) of a language model against a reward model.

    reward        score - beta x sum over tokens of (log pi - log ref)       Ziegler et al. 2019, eq. 2
    advantages    GAE(gamma, lambda), whitened over the rollout's tokens     Schulman et al. 2016, eq. 16
    direction s   F s = g by conjugate gradient; g: gradient of mean A pi / pi_old, F: Fisher matrix + damping
    step          sqrt(2 step_kl / s'F s) s, halved until KL(old || new) <= 1.5 step_kl and the gain is >= 0;
                  taken back to the bit when no halving does                 Schulman et al. 2015, appendix C

F v is the second derivative of the exact KL over the vocabulary: its attention must be differentiable twice.
The line search's KL is that of sampled tokens (k3). Adam fits the critic; a shared one moves no trunk.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.core import data, lora, losses, models, monitor, rewards, rollout, state, tensors
from training.core.configs import TRPOConfig
from training.core.last_good import LastGood
from training.core.types import Checkpoint, Event, Failure, Job, Metrics, Note, Phase, Rollout, Saved

NON_FINITE_LIMIT = 3


def train(job: Job) -> Iterator[Event]:
    """Yield metrics and sample texts of each step; leave the policy in `job.output`."""
    config = cast(TRPOConfig, job.config)
    team, prompts, notes = rollout.load(job, critic=config.critic)
    yield from notes
    policy, critic = team.policy, cast(torch.nn.Module, team.critic)
    if config.trained_layers:
        policy.train_last_layers(config.trained_layers)
    weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(critic.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
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
        advantages, returns = tensors.gae(
            found.rewards, found.values, found.completion_mask, gamma=config.gamma, lam=config.gae_lambda
        )
        advantages = tensors.whiten(advantages, found.completion_mask)
        explained = tensors.explained_variance(found.values, returns, found.completion_mask)
        seen = data.order(len(found.prompts), job.seed, 6, step)
        seen = seen[: max(1, round(config.fisher_share * len(seen)))]
        done = update(team, weights, found, advantages, seen, config, job)
        read = states_for_critic(team, found, job)
        fits = [
            fit_critic(team, optimizer, found, read, returns, config, job) for _ in range(config.value_epochs)
        ]
        if done is None or None in fits:
            skipped += 1
            yield Note("warning", f"Step {step}: an update was skipped, its loss or gradient is not finite.")
            if skipped >= NON_FINITE_LIMIT:
                hint = "Lower step_kl, or raise cg_damping."
                raise Failure("non_finite", "losses are not numbers any more", hint)
        good.made += bool(done and done["policy/halvings"] <= config.backtracks)
        values |= {"value/explained_variance": float(explained), **(done or {}), **(fits[-1] or {})}
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


# --- one step of the policy -------------------------------------------------------------------------


def update(
    team: rollout.Team,
    weights: Sequence[Tensor],
    found: Rollout,
    advantages: Tensor,
    seen: Sequence[int],
    config: TRPOConfig,
    job: Job,
) -> dict[str, float] | None:
    """Natural gradient and line search; None, and no step, when something is not finite."""
    rows = range(len(found.prompts))
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    gain, _kl, ratio_error = surrogate(team, found, advantages, rows, config, job, differentiate=True)
    job.processes.add_gradients(weights)
    gradient = tensors.flatten([cast(Tensor, weight.grad) for weight in weights])
    for weight in weights:
        weight.grad = None

    product = functools.partial(fisher_product, team, weights, found, seen, config, job)
    direction, residual = tensors.conjugate_gradient(product, gradient, config.cg_iterations)
    curvature = float(direction @ product(direction))
    if not math.isfinite(gain + curvature + residual) or curvature < 0.0:
        return None
    full = (2.0 * config.step_kl / max(curvature, 1e-30)) ** 0.5 * direction  # 0 without a gradient
    start = [weight.detach().clone() for weight in weights]
    facts = {"policy/loss": -gain, "policy/grad_norm": float(gradient.norm()), "policy/cg_residual": residual}
    facts["policy/first_ratio_error"] = ratio_error
    for halvings in range(config.backtracks + 1):
        state.move(weights, start, full * 0.5**halvings)
        new_gain, kl, _error = surrogate(team, found, advantages, rows, config, job, differentiate=False)
        if math.isfinite(new_gain) and kl <= 1.5 * config.step_kl and new_gain >= gain:
            facts |= {"policy/approx_kl": kl, "policy/gain": new_gain - gain, "policy/halvings": halvings}
            return facts
    state.move(weights, start, torch.zeros_like(full))
    return facts | {"policy/approx_kl": 0.0, "policy/gain": 0.0, "policy/halvings": config.backtracks + 1}


def surrogate(
    team: rollout.Team,
    found: Rollout,
    advantages: Tensor,
    rows: Sequence[int],
    config: TRPOConfig,
    job: Job,
    *,
    differentiate: bool,
) -> tuple[float, float, float]:
    """Mean over tokens of A pi / pi_old and of KL(old || new) (k3), and the largest |ratio - 1|.

    `differentiate` adds the gradient of the first to the weights' `grad`.
    """
    tokens = found.completion_mask[list(rows)].sum()
    gain, kl, error = 0.0, 0.0, 0.0
    with torch.set_grad_enabled(differentiate):
        for part in rollout.parts(job, team, found, rows):
            old = part.flat(found.logprobs)
            logprobs = team.policy.logprobs(part.batch, temperature=config.temperature)
            ratio = torch.exp(losses.clipped_log_ratio(logprobs, old))
            part_gain = (ratio * part.flat(advantages)).sum() / tokens
            if differentiate:
                part_gain.backward()
            gain += float(part_gain.detach())
            kl += float(tensors.kl_k3(old, logprobs.detach()).sum() / tokens)
            error = max(error, float((ratio.detach() - 1.0).abs().max()))
    whole = job.processes.join({"gain": gain, "kl": kl, "policy/first_ratio_error": error})
    return whole["gain"], whole["kl"], whole["policy/first_ratio_error"]


def fisher_product(
    team: rollout.Team,
    weights: Sequence[Tensor],
    found: Rollout,
    rows: Sequence[int],
    config: TRPOConfig,
    job: Job,
    vector: Tensor,
) -> Tensor:
    """(F + damping) v: second derivative at the present weights of the mean KL per token, times v."""
    tokens = found.completion_mask[list(rows)].sum()
    whole = torch.zeros_like(vector)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        for part in rollout.parts(job, team, found, rows):
            whole += team.policy.fisher_along(part.batch, weights, vector, temperature=config.temperature)
    return job.processes.add(whole / tokens) + config.cg_damping * vector


# --- one pass of the critic -------------------------------------------------------------------------


def states_for_critic(team: rollout.Team, found: Rollout, job: Job) -> list[Tensor | None]:
    """What a shared critic reads of each micro-batch: it moves no trunk. One with its own reads nothing."""
    shared = isinstance(team.critic, models.SharedCritic)
    with torch.no_grad():
        parts = rollout.parts(job, team, found, range(len(found.prompts)))
        return [team.policy.hidden(part.batch) if shared else None for part in parts]


def fit_critic(
    team: rollout.Team,
    optimizer: torch.optim.Optimizer,
    found: Rollout,
    read: Sequence[Tensor | None],
    returns: Tensor,
    config: TRPOConfig,
    job: Job,
) -> dict[str, float] | None:
    """One optimiser step of the critic on the rollout; None, and no step, when something is not finite."""
    critic, tokens, total = cast(torch.nn.Module, team.critic), found.completion_mask.sum(), 0.0
    parts = rollout.parts(job, team, found, range(len(found.prompts)))
    for part, hidden in zip(parts, read, strict=True):
        loss = 0.5 * ((critic(part.batch, hidden).float() - part.flat(returns)) ** 2).sum() / tokens
        loss.backward()
        total += float(loss.detach())
    job.processes.add_gradients(critic.parameters())
    facts = job.processes.join({"value/loss": total})
    norm = float(torch.nn.utils.clip_grad_norm_(critic.parameters(), config.max_grad_norm))
    finite = math.isfinite(norm + facts["value/loss"])
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return facts if finite else None
