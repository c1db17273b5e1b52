"""Loss per token or per pair, for the caller to weight and sum. Pure functions, shapes in = shapes out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

MAX_LOG_RATIO = 20.0
"""Beyond e^20 a probability ratio says nothing more, and float32 would soon overflow to 0 x inf = NaN."""


def bradley_terry(difference: Tensor, *, margin: Tensor, tie: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log P(judgement) where P(chosen > rejected) = sigmoid(difference - margin).

    `difference` = score(chosen) - score(rejected), `margin` >= 0, `tie` bool; all of shape N. Label smoothing
    e takes the judgement for a slip with probability e: (1-e) l(d) + e l(-d), least at d = logit(1-e). A tie
    counts as half a win for each side, 0.5 l(d) + 0.5 l(-d), which is least at equal scores; it has no
    margin.

    Sources: Bradley and Terry 1952; margin: Touvron et al. 2023, equation 2; ties: half a win for each side.
    """
    shifted = torch.where(tie, difference, difference - margin)
    slip = torch.where(tie, 0.5, label_smoothing)
    return (1.0 - slip) * softplus(-shifted) + slip * softplus(shifted)


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(score(chosen) + score(rejected))^2 pins the origin, which Bradley-Terry leaves free.

    Source: Eisenstein et al. 2023, "Helping or Herding?".
    """
    return (chosen + rejected) ** 2


def clipped_log_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def reinforce(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A log pi, whose gradient is that of the expected return (Williams 1992, theorem 1)."""
    return -advantages * logprobs


def ppo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """max(-A r, -A clip(r, 1-e, 1+e)) with r = pi/pi_old (Schulman et al. 2017, equation 7, as a loss)."""
    ratio = torch.exp(clipped_log_ratio(logprobs, old_logprobs))
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip, 1.0 + clip))


def clipped_fraction(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """1 where the clip holds the gradient back: A > 0 and r > 1+e, or A < 0 and r < 1-e."""
    ratio = torch.exp(clipped_log_ratio(logprobs, old_logprobs))
    above, below = ratio > 1.0 + clip, ratio < 1.0 - clip
    return ((advantages > 0) & above | (advantages < 0) & below).float()


def value(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> Tensor:
    """Half the larger squared error of the value and of the value clipped around the old one."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
