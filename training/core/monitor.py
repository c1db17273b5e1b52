"""What people see of a run while it goes: metrics of its rollouts, sample texts, and the last measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from training.core import data, rewards, state, tensors
from training.core.configs import PolicyConfig
from training.core.last_good import LastGood
from training.core.rollout import Team, collect
from training.core.types import Event, Failure, Job, Metrics, Note, Prompt, Rollout, Sample

SAMPLES = 4
CHANCE, FEW = 4.0, 8
"""Standard errors below 0 from which a negative mean KL is no accident of sampling any more; and the fewest
completions whose standard error says so."""


def kl_per_completion(found: Rollout) -> Tensor:
    """Log-ratio to the reference, summed over each completion: B, in nats."""
    return torch.where(found.completion_mask, tensors.kl_k1(found.logprobs, found.ref_logprobs), 0.0).sum(1)


def describe(found: Rollout, beta: float) -> dict[str, float]:
    """Metrics of a rollout. reward/objective = reward/mean - kl/coefficient x kl/reference, exactly."""
    mask = found.completion_mask
    kl = kl_per_completion(found)
    tokens = int(mask.sum())
    values = {
        "reward/mean": float(found.paid.mean()),
        "reward/std": float(found.paid.std(correction=0)),
        "reward/score": float(found.scores.mean()),
        "reward/objective": float(found.rewards.sum() / len(found.paid)),
        "kl/reference": float(kl.mean()),
        "kl/standard_error": standard_error(kl),
        "kl/per_token": float(kl.sum() / tokens),
        "kl/coefficient": beta,
        "policy/decoding_error": float((found.logprobs.sum(1) - found.decoded_logprobs).abs().sum() / tokens),
        "policy/entropy": float(tensors.masked_mean(found.entropy, mask)),
        "value/mean": float(tensors.masked_mean(found.values, mask)),
        "completion/length": tokens / len(mask),
        "completion/eos_rate": sum(row.finished for row in found.completions) / len(mask),
        "speed/tokens_per_second": tokens / found.seconds["time/rollout"],
        **found.seconds,
    }
    if len(found.parts) > 1:
        values |= {f"reward/part/{name}": sum(part) / len(part) for name, part in found.parts.items()}
    if found.unscored:
        values["reward/unscored"] = float(found.unscored)
    return values


def standard_error(values: Tensor) -> float:
    """Of their mean; 0 of a single one."""
    return float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0


def doubts(found: Rollout, step: int) -> Iterator[Note]:
    """A KL divergence is never negative: a mean far below 0 says that two log-probabilities do not match."""
    kl = kl_per_completion(found)
    if len(kl) >= FEW and (mean := float(kl.mean())) < -CHANCE * standard_error(kl) - 1e-3:
        told = f"Step {step}: the mean KL is {mean:.3f} nats, which chance does not explain."
        yield Note("warning", told)


# --- what people see --------------------------------------------------------------------------------


def show(job: Job, team: Team, prompts: Sequence[Prompt], step: int) -> Iterator[Sample | Note]:
    """The same few prompts and the same random numbers each time, with score and KL."""
    config = cast(PolicyConfig, job.config)
    shown = [prompts[row] for row in data.order(len(prompts), job.seed, 7)[:SAMPLES]]
    try:
        found = collect(
            team,
            shown,
            config,
            beta=0.0,
            generator=state.generator(job.seed, 8),
            safe_point=job.safe_point,
            processes=job.processes,
        )
    except Failure as failure:
        if failure.code != "no_scores":
            raise
        yield Note("warning", f"Step {step}: none of the sample texts could be scored, so none is shown.")
        return
    kl = kl_per_completion(found).tolist()
    for row, (place, prompt) in enumerate(zip(found.groups.tolist(), found.prompts, strict=True)):
        text, score = found.completions[row].text, float(found.scores[row])
        yield Sample(step, place, prompt.messages, text, score, kl[row])


def last_look(
    job: Job,
    team: Team,
    prompts: Sequence[Prompt],
    good: LastGood,
    beta: float,
    deviation: rewards.RunningDeviation,
    step: int,
) -> Iterator[Event]:
    """Measure the weights that are saved. An update that led beyond the KL limit is taken back first."""
    config = cast(PolicyConfig, job.config)
    drawn = [
        prompts[row] for row in data.draw_prompts(len(prompts), config.rollout_prompts, job.seed, step + 1)
    ]

    def measured() -> dict[str, float]:
        found = collect(
            team,
            drawn,
            config,
            beta=beta,
            generator=state.generator(job.seed, 9),
            safe_point=job.safe_point,
            processes=job.processes,
            deviation=deviation,
        )
        return describe(found, beta)

    values = measured()
    if values["kl/reference"] > config.kl_limit and good.made > good.kept:
        yield good.go_back(values["kl/reference"])
        values = measured()
    if (kl := values["kl/reference"]) > config.kl_limit:
        told = f"The mean KL of a last rollout is {kl:.2f} nats, beyond kl_limit = {config.kl_limit:g}"
        yield Note("warning", f"{told}; the same weights were within it on another one.")
    final = {f"final/{name}": values[name] for name in ("reward/mean", "reward/objective", "kl/reference")}
    yield Metrics(step, config.steps, final)
