"""Reward model: a language model with one score a text, fitted to pairs by Bradley and Terry's likelihood.

    P(chosen is preferred) = sigmoid(score(chosen) - score(rejected) - margin)        losses.bradley_terry

Then scores are moved and scaled to mean 0 and standard deviation 1 over the training completions, inside the
saved weights (Ziegler et al. 2019, section 2.1). With held-out pairs, the weights of the epoch with the least
held-out loss are kept: small data overfits within a few epochs. Left out: ensembles, annotator weights of our
own making.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from training.core import batches, data, losses, models, state
from training.core.configs import RewardModelConfig
from training.core.types import Checkpoint, Event, Failure, Job, Metrics, Note, Pair, Phase, Saved

NON_FINITE_LIMIT = 3


def train(job: Job) -> Iterator[Event]:
    """Yield losses and held-out accuracy; leave the reward model in `job.output`."""
    config = cast(RewardModelConfig, job.config)
    model = models.RewardModel(job.inputs["policy"], fresh_head_seed=job.seed)
    limit = min(config.max_length, model.context)
    pairs, held_out, counts = data.pairs(job.inputs["snapshot"], model.chat, limit)
    yield from counts.notes(limit)
    if not held_out:
        yield Note(
            "warning",
            "There are no held-out pairs: accuracy is that on pairs it has seen, which says little.",
        )

    lengths = [len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in pairs]
    plan = [
        batch
        for epoch in range(config.epochs)
        for batch in data.pair_batches(lengths, config.batch_pairs, seed=job.seed, epoch=epoch)
    ]
    per_epoch = len(plan) // config.epochs
    optimizer = torch.optim.AdamW(
        model.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    step, skipped, best = 0, 0, Best(math.inf, 0, {})
    if job.saved is not None:
        step, skipped = job.saved.step, job.saved.facts["skipped"]
        best = Best.restored(job.saved)
        state.restore_weights(model.model, job.saved.tensors, "model.")
        state.restore_optimizer(optimizer, job.saved.tensors, "optimizer.")
    yield Phase("training", step, len(plan))
    if step == 0 and held_out:
        yield Metrics(0, len(plan), evaluate(job, model, held_out))

    while step < len(plan):
        step += 1
        started = time.monotonic()
        share = data.learning_rate_share(step, len(plan), config.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        batch = [pairs[row] for row in plan[step - 1]]
        weight = sum(pair.weight for pair in batch)
        values = dict.fromkeys(("train/loss", "train/accuracy", "train/margin"), 0.0)
        optimizer.zero_grad()
        for rows in batches.by_tokens([2 * lengths[row] for row in plan[step - 1]], config.microbatch_tokens):
            job.safe_point()
            part = [batch[row] for row in rows]
            chosen, rejected = pair_scores(model, part)
            loss = (pair_losses(chosen, rejected, part, config) * weights(part)).sum() / weight
            loss.backward()
            values["train/loss"] += float(loss.detach())
            values["train/accuracy"] += float(right(chosen, rejected).sum()) / len(batch)
            values["train/margin"] += float((chosen - rejected).detach().sum()) / len(batch)
        norm = torch.nn.utils.clip_grad_norm_(model.model.parameters(), config.max_grad_norm)
        if not math.isfinite(float(norm) + values["train/loss"]):
            skipped += 1
            yield Note("warning", f"Step {step} was skipped: its loss or gradient is not finite.")
            if skipped >= NON_FINITE_LIMIT:
                raise Failure("non_finite", "the loss is not a number any more", "Lower learning_rate.")
            continue
        optimizer.step()
        values["train/grad_norm"] = float(norm)
        values["train/learning_rate"] = config.learning_rate * share
        values["speed/pairs_per_second"] = len(batch) / (time.monotonic() - started)
        if held_out and step % per_epoch == 0:
            values |= evaluate(job, model, held_out)
            if values["held_out/loss"] < best.loss:
                best = Best(values["held_out/loss"], step, state.named_weights(model.model, "best."))
        yield Metrics(step, len(plan), values)
        if step % config.checkpoint_every == 0 or job.stopping():
            held = state.named_weights(model.model, "model.") | best.tensors
            held |= state.optimizer_tensors(optimizer, "optimizer.")
            yield Checkpoint(Saved(step, held, {"skipped": skipped, **best.facts()}))

    if best.tensors:
        state.restore_weights(model.model, best.tensors, "best.")
        yield Note(
            "log",
            f"Kept the weights of step {best.step}, whose held-out loss of {best.loss:.4f} is the least.",
        )
    if held_out:
        yield from last_look(job, model, held_out, len(plan))
    yield from normalise(job, model, pairs)
    yield Phase("saving", len(plan), len(plan))
    model.save(job.output)


class Best(NamedTuple):
    """The weights with the least held-out loss so far."""

    loss: float
    step: int
    tensors: dict[str, Tensor]

    def facts(self) -> dict[str, Any]:
        return {"best_loss": self.loss if self.tensors else None, "best_step": self.step}

    @classmethod
    def restored(cls, saved: Saved) -> Best:
        found = {name: tensor for name, tensor in saved.tensors.items() if name.startswith("best.")}
        loss = saved.facts["best_loss"]
        return cls(math.inf if loss is None else loss, saved.facts["best_step"], found)


# --- a pair -----------------------------------------------------------------------------------------


def pair_scores(model: models.RewardModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Scores of all chosen and all rejected completions, N each, from one forward pass."""
    batch = batches.rows(
        [pair.prompt_ids for pair in pairs] * 2,
        [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs],
        model.chat.pad_id,
    )
    chosen, rejected = model.scores(batch).chunk(2)
    return chosen, rejected


def pair_losses(chosen: Tensor, rejected: Tensor, pairs: Sequence[Pair], config: RewardModelConfig) -> Tensor:
    margin = config.margin_scale * torch.tensor([pair.margin for pair in pairs], device=chosen.device)
    tie = torch.tensor([pair.tie for pair in pairs], device=chosen.device)
    fit = losses.bradley_terry(
        chosen - rejected, margin=margin, tie=tie, label_smoothing=config.label_smoothing
    )
    return fit + config.centring * losses.centring(chosen, rejected)


def weights(pairs: Sequence[Pair]) -> Tensor:
    return torch.tensor([pair.weight for pair in pairs], device=batches.device())


def right(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where the chosen completion scores higher, a half where both score the same."""
    return (chosen > rejected).float() + 0.5 * (chosen == rejected).float()


# --- how good it is ---------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(job: Job, model: models.RewardModel, held_out: Sequence[Pair]) -> dict[str, float]:
    """Held-out loss (no margin, smoothing or penalty), accuracy on decided pairs, calibration error."""
    config = cast(RewardModelConfig, job.config)
    decided = [pair for pair in held_out if not pair.tie] or list(held_out)
    differences: list[float] = []
    lengths = [
        2 * (len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))) for pair in decided
    ]
    for rows in batches.by_tokens(lengths, config.microbatch_tokens):
        job.safe_point()
        chosen, rejected = pair_scores(model, [decided[row] for row in rows])
        differences.extend((chosen - rejected).tolist())
    difference = torch.tensor(differences)
    return {
        "held_out/loss": float(torch.nn.functional.softplus(-difference).mean()),
        "held_out/accuracy": float(right(difference, torch.zeros_like(difference)).mean()),
        "held_out/calibration_error": calibration_error(difference),
    }


def last_look(job: Job, model: models.RewardModel, held_out: Sequence[Pair], steps: int) -> Iterator[Event]:
    """Held-out figures of the weights that are kept, before their scores are scaled."""
    found = evaluate(job, model, held_out)
    count = sum(not pair.tie for pair in held_out) or len(held_out)
    low, high = wilson(found["held_out/accuracy"] * count, count)
    found |= {"held_out/accuracy_low": low, "held_out/accuracy_high": high}
    yield Metrics(steps, steps, found)
    told = f"Held-out accuracy {found['held_out/accuracy']:.1%} ({low:.1%} to {high:.1%}) on {count} pairs."
    yield Note("log", told)


def calibration_error(difference: Tensor, bins: int = 10) -> float:
    """Mean gap between stated and found probability that the higher score is preferred, over `bins`."""
    confidence = torch.sigmoid(difference.abs())
    correct = (difference > 0).float()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gap = 0.0
    for bin in range(bins):
        inside = place == bin
        if inside.any():
            gap += float((confidence[inside].mean() - correct[inside].mean()).abs() * inside.float().mean())
    return gap


def wilson(successes: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = successes / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return middle - half, middle + half


# --- mean 0, standard deviation 1 -------------------------------------------------------------------


@torch.no_grad()
def normalise(job: Job, model: models.RewardModel, pairs: Sequence[Pair]) -> Iterator[Event]:
    """Give the training completions' scores mean 0 and standard deviation 1, by changing weights only."""
    config = cast(RewardModelConfig, job.config)
    texts = [(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    hidden = torch.zeros(len(texts), model.head.in_features, dtype=torch.float64)
    for group in batches.by_tokens(
        [len(prompt) + len(ids) for prompt, ids in texts], config.microbatch_tokens
    ):
        job.safe_point()
        batch = batches.rows(
            [texts[row][0] for row in group], [texts[row][1] for row in group], model.chat.pad_id
        )
        hidden[group] = model.last_hidden(batch).double().cpu()
    weight = model.head.weight[0].double().cpu()
    scores = hidden @ weight
    deviation = float(scores.std())
    if not deviation > 1e-6:
        told = "all training completions have the same score"
        raise Failure("no_signal", told, "Raise epochs or learning_rate, or collect more judgements.")
    moved = shifted_head(hidden, weight, -float(scores.mean()))
    model.head.weight.copy_((moved / float((hidden @ moved).std())).unsqueeze(0))
    change = float(((hidden @ moved) - (scores - scores.mean())).abs().max()) / deviation
    told = f"Scores were moved by {-float(scores.mean()):.3f} and divided by {deviation:.3f}, "
    yield Note("log", told + f"exact to {change:.1e} of their deviation.")


def shifted_head(hidden: Tensor, weight: Tensor, shift: float) -> Tensor:
    """A head with the scores of `weight` plus `shift` on average, and else as little changed as can be.

    Heads of sequence classifiers have no bias, so the constant must come out of the hidden states (N x d): of
    all d with mean(hidden) . d = shift, this is the one with the least variance of hidden . d (plus a trace
    of ridge).
    """
    mean = hidden.mean(0)
    centred = hidden - mean
    covariance = centred.T @ centred / len(hidden)
    ridge = 1e-6 * covariance.diagonal().mean() + 1e-12
    direction = torch.linalg.solve(covariance + ridge * torch.eye(len(mean), dtype=hidden.dtype), mean)
    return weight + direction * (shift / float(mean @ direction))
