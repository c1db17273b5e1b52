"""How far annotators agree, and whether a side attracts them: numbers in, numbers out.

A figure that the data do not define comes back as None with the reason, never as 0 or 1: perfect agreement on
a single category, for instance, says nothing about chance.

Judgements must be on completions (candidate 0 or 1), not on the sides they were shown at; only
`position_bias` looks at sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import permutations
from math import sqrt
from typing import NamedTuple

Z95 = 1.959963984540054


class Figure(NamedTuple):
    """A number, or why there is none."""

    value: float | None
    reason: str = ""


class Share(NamedTuple):
    """A share of `total` with its 95 % Wilson interval; None where total is 0."""

    value: float | None
    low: float | None
    high: float | None
    total: int


def raw_agreement(units: Sequence[Sequence[Hashable]]) -> Figure:
    """Share of agreeing pairs among all pairs of judgements of one unit, units weighted by their pairs.

    units: for each comparison, the answers of its annotators; those with fewer than two do not count.
    """
    agreeing = pairs = 0
    for answers in units:
        pairs += len(answers) * (len(answers) - 1) // 2
        agreeing += sum(count * (count - 1) // 2 for count in Counter(answers).values())
    return Figure(agreeing / pairs) if pairs else Figure(None, "no comparison has two judgements")


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Figure:
    """Two annotators on the same units, chance-corrected by each one's own habits (Cohen 1960)."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} answers against {len(second)}")
    total = len(first)
    if not total:
        return Figure(None, "no comparison was judged by both")
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / total
    habits, others = Counter(first), Counter(second)
    expected = sum(habits[answer] * others[answer] for answer in habits) / total**2
    if expected == 1:
        return Figure(None, "both always gave the same one answer")
    return Figure((observed - expected) / (1 - expected))


def fleiss_kappa(units: Sequence[Sequence[Hashable]]) -> Figure:
    """Any annotators, the same number of judgements for each unit (Fleiss 1971)."""
    if not units or min(map(len, units)) < 2:
        return Figure(None, "every comparison needs two judgements or more")
    if len({len(answers) for answers in units}) > 1:
        return Figure(None, "the comparisons have different numbers of judgements")
    raters, total = len(units[0]), len(units)
    counts = [Counter(answers) for answers in units]
    within = sum(sum(n * n for n in count.values()) - raters for count in counts) / (raters * (raters - 1))
    shares = Counter(answer for answers in units for answer in answers)
    expected = sum((n / (raters * total)) ** 2 for n in shares.values())
    if expected == 1:
        return Figure(None, "everybody always gave the same one answer")
    return Figure((within / total - expected) / (1 - expected))


def krippendorff_alpha(units: Sequence[Sequence[float]], *, scale: str = "ordinal") -> Figure:
    """Any annotators, any number of judgements per unit (Krippendorff 2011).

    scale: "nominal" (any difference counts 1), "ordinal" (how many answers lie between) or "interval".
    """
    usable = [answers for answers in units if len(answers) >= 2]
    if not usable:
        return Figure(None, "no comparison has two judgements")
    counts: Counter[float] = Counter(answer for answers in usable for answer in answers)
    if len(counts) == 1:
        return Figure(None, "everybody always gave the same one answer")
    distance = {"nominal": nominal, "ordinal": ordinal, "interval": interval}[scale](counts)
    total = sum(counts.values())
    observed = sum(
        sum(distance(a, b) for a, b in permutations(answers, 2)) / (len(answers) - 1) for answers in usable
    )
    expected = sum(counts[a] * counts[b] * distance(a, b) for a in counts for b in counts) / (total - 1)
    return Figure(1 - observed / expected)


Distance = Callable[[float, float], float]


def nominal(counts: Counter[float]) -> Distance:
    return lambda a, b: float(a != b)


def interval(counts: Counter[float]) -> Distance:
    return lambda a, b: (a - b) ** 2


def ordinal(counts: Counter[float]) -> Distance:
    """Squared count of the answers from a to b, the two ends counted half."""
    order = sorted(counts)
    below = {value: sum(counts[other] for other in order if other < value) for value in order}
    middle = {value: below[value] + counts[value] / 2 for value in order}
    return lambda a, b: (middle[a] - middle[b]) ** 2


def wilson(successes: int, total: int, *, z: float = Z95) -> Share:
    """A share with its score interval (Wilson 1927), sound for small counts and shares near 0 and 1."""
    if total == 0:
        return Share(None, None, None, 0)
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    return Share(share, max(0.0, centre - half), min(1.0, centre + half), total)


def position_bias(shown_strengths: Sequence[int]) -> Share:
    """How often the left completion is preferred, ties aside. Sides are drawn by a fair coin, so fair is 0.5.

    shown_strengths: as shown, negative where the left one is preferred.
    """
    left = sum(strength < 0 for strength in shown_strengths)
    return wilson(left, sum(strength != 0 for strength in shown_strengths))
