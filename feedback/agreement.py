"""How far annotators agree, and whether a side attracts them: numbers in, numbers out.

A figure that the data do not define comes back as None with the reason, never as 0 or 1: perfect agreement on
a single category, for instance, says nothing about chance.

Judgements must be on completions (candidate 0 or 1), not on the sides they were shown at; only
`position_bias` looks at sides.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import sqrt
from operator import mul
from statistics import quantiles
from typing import Any, NamedTuple

Z95 = 1.959963984540054


def gettext_noop(words: str) -> str:
    """Mark words for translators, who find them by this name; whoever shows them translates them."""
    return words


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
    return RAW.of(RAW.facts(units))


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Figure:
    """Two annotators on the same units, chance-corrected by each one's own habits (Cohen 1960)."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} answers against {len(second)}")
    return COHEN.of(COHEN.facts(list(zip(first, second, strict=True))))


def fleiss_kappa(units: Sequence[Sequence[Hashable]]) -> Figure:
    """Any annotators, the same number of judgements for each unit (Fleiss 1971)."""
    if not units or min(map(len, units)) < 2:
        return Figure(None, gettext_noop("every comparison needs two judgements or more"))
    if len({len(answers) for answers in units}) > 1:
        return Figure(None, gettext_noop("the comparisons have different numbers of judgements"))
    return FLEISS.of(FLEISS.facts(units))


def krippendorff_alpha(units: Sequence[Sequence[float]], *, scale: str = "ordinal") -> Figure:
    """Any annotators, any number of judgements per unit (Krippendorff 2011).

    scale: "nominal" (any difference counts 1), "ordinal" (how many answers lie between) or "interval".
    """
    return _alpha(_coincidences(units), SCALES[scale])


def kendall_tau_b(first: Sequence[float], second: Sequence[float]) -> Figure:
    """How alike two orders of the same things are, ties allowed: 1 the same, -1 reversed (Kendall 1945).

    first, second: a score for each thing; only the order of the scores counts.
    """
    signs = list(zip(directions(first), directions(second), strict=True))
    decided = [sum(one != 0 for one in side) for side in zip(*signs, strict=True)] if signs else [0, 0]
    if not all(decided):
        return Figure(None, gettext_noop("one of the orders ties everything"))
    return Figure(sum(one * other for one, other in signs) / sqrt(decided[0] * decided[1]))


def directions(scores: Sequence[float]) -> list[int]:
    """Of every two things, the first before the second: 1 where its score is higher, -1 lower, 0 equal."""
    if len(scores) == 2:  # by far the most
        one, other = scores
        return [(one > other) - (one < other)]
    return [(one > other) - (one < other) for one, other in combinations(scores, 2)]


# --- what can be added up ---------------------------------------------------------------------------

Facts = Mapping[Any, float]
"""Sums from which a figure follows: those of two groups of prompts together are their sums."""


def sums() -> defaultdict[Any, float]:
    return defaultdict(float)


Units = Sequence[Sequence[Any]]
"""For each comparison, the answers of its annotators."""


class Measure(NamedTuple):
    """A figure in two steps, so that it can be taken again of any sample of prompts."""

    facts: Callable[[Units], Facts]
    of: Callable[[Facts], Figure]


def _agreeing(units: Sequence[Sequence[Hashable]]) -> Facts:
    facts = sums()
    for answers in units:
        facts["pairs"] += len(answers) * (len(answers) - 1) // 2
        facts["agreeing"] += sum(count * (count - 1) // 2 for count in Counter(answers).values())
    return facts


def _raw(facts: Facts) -> Figure:
    if not facts.get("pairs"):
        return Figure(None, gettext_noop("no comparison has two judgements"))
    return Figure(facts.get("agreeing", 0) / facts["pairs"])


def _cells(units: Sequence[Sequence[Hashable]]) -> Facts:
    """Units of two: the table of what the first said against what the second said."""
    return Counter((first, second) for first, second in units)


def _cohen(cells: Facts) -> Figure:
    total = sum(cells.values())
    if not total:
        return Figure(None, gettext_noop("no comparison was judged by both"))
    first, second = sums(), sums()
    for (one, other), count in cells.items():
        first[one] += count
        second[other] += count
    observed = sum(count for (one, other), count in cells.items() if one == other) / total
    expected = sum(first[answer] * second[answer] for answer in list(first)) / total**2
    if expected == 1:
        return Figure(None, gettext_noop("both always gave the same one answer"))
    return Figure((observed - expected) / (1 - expected))


def _within(units: Sequence[Sequence[Hashable]]) -> Facts:
    """Units of one size."""
    facts = sums()
    for answers in units:
        raters = len(answers)
        counts = Counter(answers)
        facts["units"] += 1
        same = sum(count * (count - 1) for count in counts.values())
        facts["within"] += same / (raters * (raters - 1))
        for answer, count in counts.items():
            facts[("said", answer)] += count
    return facts


def _fleiss(facts: Facts) -> Figure:
    if not facts.get("units"):
        return Figure(None, gettext_noop("every comparison needs two judgements or more"))
    said = [count for name, count in facts.items() if isinstance(name, tuple)]
    total = sum(said)
    expected = sum((count / total) ** 2 for count in said)
    if expected == 1:
        return Figure(None, gettext_noop("everybody always gave the same one answer"))
    return Figure((facts.get("within", 0) / facts["units"] - expected) / (1 - expected))


def _coincidences(units: Sequence[Sequence[float]]) -> Facts:
    """How often two answers met in a unit, the lower first, each unit weighing as much as it has answers."""
    facts = sums()
    for answers in units:
        if len(answers) < 2:
            continue
        weight = 2 / (len(answers) - 1)
        for one, other in combinations(answers, 2):
            facts[(one, other) if one <= other else (other, one)] += weight
    return facts


def _alpha(facts: Facts, scale: Scale) -> Figure:
    if not any(facts.values()):
        return Figure(None, gettext_noop("no comparison has two judgements"))
    counts = sums()
    for (one, other), met in facts.items():
        if met:
            counts[one] += met / 2
            counts[other] += met / 2
    if len(counts) == 1:
        return Figure(None, gettext_noop("everybody always gave the same one answer"))
    distance = scale(counts)
    observed = sum(met * distance(*answers) for answers, met in facts.items() if met)
    apart = sum(counts[a] * counts[b] * distance(a, b) for a, b in combinations(counts, 2))
    return Figure(1 - observed * (sum(counts.values()) - 1) / (2 * apart))


Distance = Callable[[float, float], float]


Scale = Callable[[Mapping[float, float]], Distance]


def nominal(counts: Mapping[float, float]) -> Distance:
    return lambda a, b: float(a != b)


def interval(counts: Mapping[float, float]) -> Distance:
    return lambda a, b: (a - b) ** 2


def ordinal(counts: Mapping[float, float]) -> Distance:
    """Squared count of the answers from a to b, the two ends counted half."""
    middle: dict[float, float] = {}
    below = 0.0
    for value in sorted(counts):
        middle[value] = below + counts[value] / 2
        below += counts[value]
    return lambda a, b: (middle[a] - middle[b]) ** 2


SCALES: dict[str, Scale] = {"nominal": nominal, "ordinal": ordinal, "interval": interval}


def _taus(units: Sequence[Sequence[Sequence[float]]]) -> Facts:
    """Units of orders: the tau-b of every two of them."""
    facts = sums()
    for orders in units:
        for first, second in combinations(orders, 2):
            tau = kendall_tau_b(first, second).value
            if tau is not None:
                facts["sum"] += tau
                facts["pairs"] += 1
    return facts


def _mean_tau(facts: Facts) -> Figure:
    if not facts.get("pairs"):
        return Figure(None, gettext_noop("no comparison has two judgements"))
    return Figure(facts.get("sum", 0) / facts["pairs"])


RAW = Measure(_agreeing, _raw)
COHEN = Measure(_cells, _cohen)
FLEISS = Measure(_within, _fleiss)
ALPHA = Measure(_coincidences, lambda facts: _alpha(facts, ordinal))
TAU = Measure(_taus, _mean_tau)


# --- intervals --------------------------------------------------------------------------------------

REPLICATES = 400
MOST_GROUPS = 120
FEWEST_PROMPTS = 5


class Estimate(NamedTuple):
    """A figure with the ends of its 95 % interval; None where there is none, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def estimate(
    by_prompt: Iterable[Units],
    measure: Measure,
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    most_groups: int = MOST_GROUPS,
) -> Estimate:
    """The figure of all units, with a bootstrap interval over prompts: judgements of one prompt go together.

    by_prompt: the units of each prompt. Beyond `most_groups` prompts, random groups of them are drawn
    instead, which bounds the work. The same seed gives the same interval.
    """
    together = _grouped([units for units in by_prompt if units], most_groups, random.Random(seed))
    groups = [facts for facts in map(measure.facts, together) if any(facts.values())]
    names = sorted({name for facts in groups for name in facts}, key=repr)
    columns = [[facts.get(name, 0) for facts in groups] for name in names]
    figure = measure.of(dict(zip(names, map(sum, columns), strict=True)))
    if figure.value is None:
        return Estimate(None, reason=figure.reason)
    if len(groups) < FEWEST_PROMPTS:
        return Estimate(figure.value, reason=gettext_noop("too few prompts for an interval"))
    values: list[float] = []
    for weights in _weights(len(groups), replicates, seed):
        again_facts = {
            name: sum(map(mul, weights, column)) for name, column in zip(names, columns, strict=True)
        }
        again = measure.of(again_facts).value
        if again is not None:
            values.append(again)
    values.sort()
    if len(values) < replicates / 2 or values[0] == values[-1]:
        return Estimate(figure.value, reason=gettext_noop("the prompts are too much alike for an interval"))
    return Estimate(figure.value, values[int(0.025 * len(values))], values[-1 - int(0.025 * len(values))])


@lru_cache(maxsize=16)
def _weights(groups: int, replicates: int, seed: int) -> list[list[int]]:
    """For each replicate how often each group is drawn: the same draws serve every figure."""
    draw = random.Random(seed)
    found = []
    for _replicate in range(replicates):
        drawn = Counter(draw.choices(range(groups), k=groups))
        found.append([drawn[place] for place in range(groups)])
    return found


def _grouped(found: Sequence[Units], most: int, draw: random.Random) -> Sequence[Units]:
    if len(found) <= most:
        return found
    groups: list[list[Any]] = [[] for _ in range(most)]
    for place, number in enumerate(draw.sample(range(len(found)), len(found))):
        groups[place % most] += found[number]
    return groups


def wilson(successes: int, total: int, *, z: float = Z95) -> Share:
    """A share with its score interval (Wilson 1927), sound for small counts and shares near 0 and 1."""
    if total == 0:
        return Share(None, None, None, 0)
    share = successes / total
    low, high = _wilson_ends(share, total, z)
    return Share(share, low, high, total)


def _wilson_ends(share: float, total: float, z: float = Z95) -> tuple[float, float]:
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered(tallies: Iterable[tuple[int, int]]) -> Share:
    """A share whose cases come in clusters that go together: (successes, cases) of each prompt.

    Wilson's interval for as many independent cases as these are worth (Kish's design effect); with one case
    in each cluster it is Wilson's own.
    """
    found = [(right, count) for right, count in tallies if count]
    successes, total = sum(right for right, _count in found), sum(count for _right, count in found)
    if not total:
        return Share(None, None, None, 0)
    share, number = successes / total, len(found)
    alone = share * (1 - share) / max(1, total - 1)
    worth = float(number)
    if number > 1 and alone:
        spread = sum((right - share * count) ** 2 for right, count in found)
        together = number / (number - 1) * spread / total**2
        worth = total / max(1.0, together / alone)
    low, high = _wilson_ends(share, worth)
    return Share(share, low, high, total)


class Quartiles(NamedTuple):
    """Where the middle half lies."""

    low: float
    median: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles | None:
    """None without values."""
    if len(values) < 2:
        return Quartiles(values[0], values[0], values[0]) if values else None
    return Quartiles(*quantiles(values, n=4, method="inclusive"))


def position_bias(shown_strengths: Sequence[int]) -> Share:
    """How often the left completion is preferred, ties aside. Sides are drawn by a fair coin, so fair is 0.5.

    shown_strengths: as shown, negative where the left one is preferred.
    """
    left = sum(strength < 0 for strength in shown_strengths)
    return wilson(left, sum(strength != 0 for strength in shown_strengths))
