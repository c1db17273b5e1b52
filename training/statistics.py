"""Win rates and their intervals: numbers in, numbers out, no Django.

The unit of evidence is the prompt, not the judgement: several judgements of one prompt agree more than
judgements of different prompts do, so they are averaged first (E. Miller, "Adding Error Bars to Evals",
arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, pi, sqrt, tan
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple


class WinRate(NamedTuple):
    """Mean score (win 1, tie 0.5, loss 0) and the ends of its 95 % interval, all between 0 and 1."""

    mean: float
    low: float
    high: float


def t_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t; relative error under 0.2 % for p between 0.9 and 0.99.

    Exact for 1 and 2 degrees of freedom, above by the expansion in 1/degrees (Abramowitz and Stegun 26.7.5).
    """
    if degrees < 1:
        raise ValueError(f"degrees of freedom start at 1, got {degrees}")
    if degrees == 1:
        return tan(pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) * sqrt(2 / (4 * p * (1 - p)))
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / float(degrees) ** power for power, term in enumerate(terms))


def wilson(successes: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) when nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def win_rate(scores_by_prompt: Mapping[Any, Sequence[float]], *, confidence: float = 0.95) -> WinRate:
    """The mean over prompts of each prompt's mean score, with a prompt-clustered t interval.

    When every prompt went the same way the spread is 0 and the t interval would claim certainty;
    Wilson's interval over the prompts takes its place. One prompt, or none, says nothing: (0, 1).
    """
    means = [fmean(scores) for scores in scores_by_prompt.values() if scores]
    if not means:
        return WinRate(0.5, 0.0, 1.0)
    mean = fmean(means)
    if len(means) == 1:
        return WinRate(mean, 0.0, 1.0)
    spread = stdev(means)
    if spread == 0.0 and mean in (0.0, 1.0):
        return WinRate(mean, *wilson(mean * len(means), len(means), confidence=confidence))
    half = t_quantile(0.5 + confidence / 2, len(means) - 1) * spread / sqrt(len(means))
    return WinRate(mean, max(0.0, mean - half), min(1.0, mean + half))


def required_prompts(true_rate: float, *, power: float = 0.8, ties: float = 0.0) -> int:
    """Prompts needed, one judgement each, to tell `true_rate` from 0.5 (two-sided 5 %) with this power.

    `ties` is the share of ties; n = ((1.96 sd0 + z_power sd1) / |true_rate - 0.5|)^2.
    """
    if not 0.0 <= ties < 1.0 or not ties / 2 <= true_rate <= 1 - ties / 2 or true_rate == 0.5:
        raise ValueError(f"no sample size for a win rate of {true_rate} with {ties} ties")
    under_none = sqrt((1 - ties) / 4)
    wins = true_rate - ties / 2
    under_true = sqrt(wins + ties / 4 - true_rate**2)
    z = NormalDist()
    return ceil(((z.inv_cdf(0.975) * under_none + z.inv_cdf(power) * under_true) / (true_rate - 0.5)) ** 2)
