"""Scores of mean 0 and standard deviation 1, by changing the head's weights only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.core import batches, models
from training.core.types import Failure, Job, Pair


@torch.no_grad()
def normalise(job: Job, model: models.RewardModel, pairs: Sequence[Pair], tokens: int) -> str:
    """Give the training completions' scores mean 0 and standard deviation 1 (Ziegler et al. 2019, 2.1).

    Returns what was done to them, in words.
    """
    hidden = torch.zeros(2, len(pairs), model.head.in_features, dtype=torch.float64)
    for rows in batches.by_tokens([model.pair_tokens(pair) for pair in pairs], tokens):
        job.safe_point()
        chosen, rejected = model.pair_hidden([pairs[row] for row in rows])
        hidden[:, rows] = torch.stack([chosen, rejected]).double().cpu()
    hidden = hidden.flatten(0, 1)
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
    return told + f"exact to {change:.1e} of their deviation."


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
