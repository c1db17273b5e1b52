"""Win rates and intervals against tables, hand values and a simulation."""

from __future__ import annotations

import random
from math import isclose, sqrt

import pytest

from training.statistics import WinRate, required_prompts, t_quantile, wilson, win_rate


@pytest.mark.parametrize(
    ("degrees", "table"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (5, 2.5706),
        (10, 2.2281),
        (30, 2.0423),
        (99, 1.9842),
    ],
)
def test_t_quantiles_are_those_of_the_printed_table(degrees: int, table: float) -> None:
    assert isclose(t_quantile(0.975, degrees), table, rel_tol=2e-3)


def test_win_rate_by_hand() -> None:
    """Prompt means 1, 0.5, 0.75, 0.25: mean 0.625, sample variance 0.3125 / 3, t(3) = 3.182."""
    rate = win_rate({"a": [1.0], "b": [0.5], "c": [1.0, 0.5], "d": [0.0, 0.5]})
    half = 3.1824 * sqrt(0.3125 / 3) / 2
    assert rate.mean == 0.625
    assert isclose(rate.low, 0.625 - half, abs_tol=2e-3) and rate.high == 1.0


def test_a_prompt_counts_once_however_often_it_is_judged() -> None:
    assert win_rate({1: [1.0] * 50, 2: [0.0]}).mean == 0.5


def test_prompts_without_judgements_do_not_count() -> None:
    assert win_rate({1: [1.0], 2: [0.0], 3: []}) == win_rate({1: [1.0], 2: [0.0]})


@pytest.mark.parametrize("scores", [{}, {1: []}])
def test_nothing_judged_says_nothing(scores: dict[int, list[float]]) -> None:
    assert win_rate(scores) == WinRate(0.5, 0.0, 1.0)


def test_one_prompt_says_nothing() -> None:
    assert win_rate({1: [1.0, 1.0]}) == WinRate(1.0, 0.0, 1.0)


def test_a_clean_sweep_is_not_certainty() -> None:
    """Wilson's interval of 10 of 10, from the textbook: (0.7225, 1)."""
    rate = win_rate({prompt: [1.0] for prompt in range(10)})
    assert rate.mean == 1.0 and isclose(rate.low, 0.7225, abs_tol=1e-4) and rate.high == 1.0
    assert isclose(win_rate({prompt: [0.0] for prompt in range(10)}).high, 1 - 0.7225, abs_tol=1e-4)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],  # the last: Newcombe 1998
)
def test_wilson_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert isclose(found[0], low, abs_tol=1e-4) and isclose(found[1], high, abs_tol=1e-4)


@pytest.mark.parametrize(
    ("rate", "power", "ties", "n"),
    [
        (0.525, 0.8, 0.0, 3138),
        (0.55, 0.8, 0.2, 626),
        (0.6, 0.8, 0.4, 116),
        (0.65, 0.9, 0.0, 113),
        (0.35, 0.9, 0.0, 113),
    ],
)
def test_sample_sizes(rate: float, power: float, ties: float, n: int) -> None:
    assert required_prompts(rate, power=power, ties=ties) == n


def test_no_sample_size_can_show_a_difference_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no sample size"):
        required_prompts(0.5)


def test_coverage_with_several_judgements_of_a_prompt() -> None:
    """Judges agree on a prompt more than across prompts. The interval over prompts holds the truth in about
    95 % of 1,000 reviews (40 prompts x 5 judgements); one that takes judgements as independent does not."""
    draw = random.Random(3)
    held = naive_held = 0
    for _review in range(1000):
        scores = {}
        for prompt in range(40):
            chance = draw.choice((0.1, 0.3, 0.9))  # the prompt's own; the true mean is 13 / 30
            scores[prompt] = [float(draw.random() < chance) for _judge in range(5)]
        rate = win_rate(scores)
        held += rate.low <= 13 / 30 <= rate.high
        low, high = wilson(sum(map(sum, scores.values())), 200)
        naive_held += low <= 13 / 30 <= high
    assert 0.93 <= held / 1000 <= 0.97
    assert naive_held / 1000 < 0.85
