"""Loss per token or per pair, for the caller to weight and sum. Pure functions, shapes in = shapes out."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

MAX_LOG_RATIO = 20.0
"""Beyond e^20 a probability ratio says nothing more, and float32 would soon overflow to 0 x inf = NaN."""


def graded(difference: Tensor, *, tie: Tensor, grade: Tensor, margins: Tensor) -> Tensor:
    """-log P(judgement) where a judge answers by the margins that difference + logistic noise lies between.

    `difference` = score(chosen) - score(rejected); `tie` bool; `grade` j = 1, 2, ... says that chosen is
    better by m_j at least and by less than m_j+1, 0 that it is better by m_1 at least; all of shape N.
    `margins` 0 <= m_1 < m_2 < ..., of shape K; a tie lies between -m_1 and m_1.

    K = 1, m_1 = 0: -log sigmoid(difference) (Bradley and Terry 1952), without ties. K = 1, m_1 = log theta:
    Rao and Kupper 1967. K > 1: cumulative logits (Agresti 1992, "Analysis of ordinal paired comparison
    data").
    """
    ends = torch.cat([margins, margins.new_tensor([math.inf])])
    low = torch.where(tie, -margins[0], margins[(grade - 1).clamp(min=0)])
    high = torch.where(tie, margins[0], torch.where(grade == 0, math.inf, ends[grade]))
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b-a))
    return softplus(low - difference) + softplus(difference - high) - torch.log(-torch.expm1(low - high))


def davidson(difference: Tensor, *, tie: Tensor, nu: Tensor) -> Tensor:
    """-log P(judgement) with P(chosen) : P(rejected) : P(tie) = e^(d/2) : e^(-d/2) : nu (Davidson 1970)."""
    half = difference / 2
    whole = torch.logsumexp(torch.stack([half, -half, nu.log().expand_as(half)]), 0)
    return whole - torch.where(tie, nu.log(), half)


def slipped(loss: Tensor, opposite: Tensor, share: Tensor) -> Tensor:
    """(1-e) loss + e opposite: label smoothing; with e = 1/2 a tie, half a win for each side.

    With Bradley-Terry this is least at a difference of logit(1-e).
    """
    return (1.0 - share) * loss + share * opposite


def unreliable(loss: Tensor, opposite: Tensor, reliability: Tensor) -> Tensor:
    """-log(eta P(judgement) + (1-eta) P(its opposite)): one in 1/(1-eta) judgements is turned round.

    Source: Chen et al. 2013, "Pairwise Ranking Aggregation in a Crowdsourced Setting".
    """
    return -torch.logaddexp(reliability.log() - loss, torch.log1p(-reliability) - opposite)


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
