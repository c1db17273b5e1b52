"""Paths away from the reference, of several seeds, as figures and as a drawing: points in, numbers out."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import plots

EQUAL_KL = (0.5, 1.0, 2.0, 4.0)
"""Nats at which the paths are compared: never at equal steps."""
NAMES = {"ppo": "PPO", "reinforce": "REINFORCE", "trpo": "TRPO", "best_of": "best of n"}


class Point(NamedTuple):
    """A policy: its distance in nats, and its texts' means in deviations of the reference's texts."""

    kl: float
    proxy: float
    golds: tuple[float, float]  # of each half of the texts

    @property
    def gold(self) -> float:
        return statistics.mean(self.golds)


START = Point(0.0, 0.0, (0.0, 0.0))
"""The reference."""


def at(path: Sequence[Point], kl: float) -> Point | None:
    """Between the first two neighbours that have this distance between them, in the root of KL."""
    for before, after in itertools.pairwise(path):
        if before.kl <= kl <= after.kl:
            low, high = (math.sqrt(max(0.0, one.kl)) for one in (before, after))
            part = (math.sqrt(kl) - low) / (high - low) if high > low else 0.0
            first, second = (
                start + part * (end - start) for start, end in zip(before.golds, after.golds, strict=True)
            )
            return Point(kl, before.proxy + part * (after.proxy - before.proxy), (first, second))
    return None


class Mean(NamedTuple):
    mean: float
    low: float
    high: float


def mean(values: Sequence[float]) -> Mean:
    """With a 95 % bootstrap interval over the seeds (percentiles of 2,000 draws)."""
    random_ = random.Random(0)
    drawn = sorted(statistics.fmean(random_.choices(values, k=len(values))) for _ in range(2000))
    return Mean(statistics.mean(values), drawn[50], drawn[1949])


def curve(paths: Sequence[Sequence[Point]], roots: Sequence[float], part: str) -> list[tuple[float, Mean]]:
    """Mean over the seeds at each distance that all of them reached."""
    found = []
    for root in roots:
        here = [at(path, root * root) for path in paths]
        known = [getattr(one, part) for one in here if one is not None]
        if len(known) == len(paths):
            found.append((root, mean(known)))
    return found


def fall(path: Sequence[Point]) -> float:
    """What is gone of the highest gold where the path ends.

    The highest of many measured values is too high by luck. So one half of the texts says where the peak is,
    the other what was lost, and the other way round: 0 is expected of a path that stays level.
    """
    lost = []
    for chosen_by, told_by in ((0, 1), (1, 0)):
        peak = max(path, key=lambda point: point.golds[chosen_by])
        lost.append(peak.golds[told_by] - path[-1].golds[told_by])
    return statistics.mean(lost)


def summary(paths: Sequence[Sequence[Point]]) -> dict[str, Any]:
    """Gold and proxy at equal distances, peak and end of the means as far as all paths go, and the falls."""
    roots = [place / 20 for place in range(1, 100)]
    golds, proxies = curve(paths, roots, "gold"), curve(paths, roots, "proxy")
    peak = max(golds, key=lambda found: found[1].mean)
    return {
        "at_kl": {
            str(kl): {part: [round(v, 3) for v in found[0][1]] for part in ("proxy", "gold")
                      if (found := curve(paths, [kl**0.5], part))}
            for kl in EQUAL_KL
        },
        "gold_peak": {"kl": round(peak[0] ** 2, 2), "gold": round(peak[1].mean, 3)},
        "end": {
            "kl": round(golds[-1][0] ** 2, 2), "gold": round(golds[-1][1].mean, 3),
            "proxy": round(proxies[-1][1].mean, 3),
        },
        "fall": [round(v, 3) for v in mean([fall(path) for path in paths])],
    }  # fmt: skip


def drawn(found: dict[int, dict[str, list[list[Point]]]]) -> str:
    roots = [place / 20 for place in range(1, 100)]
    panels = []
    for pairs, by_path in found.items():
        lines = [
            plots.Line(NAMES[name], part == "proxy", [(x, *y) for x, y in curve(by_path[name], roots, part)])
            for name in NAMES
            for part in ("gold", "proxy")
        ]
        panels.append(plots.Panel(f"Reward model of {pairs:,} judgements, one in ten turned round", lines))
    return plots.svg(
        panels,
        across="root of KL(policy || reference), nats",
        up="gain over the reference, deviations",
        notes="solid: gold reward, dashed: proxy reward; bands: 95 % of the mean over the seeds",
    )
