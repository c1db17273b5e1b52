"""What the frontier's figures say of paths, against numbers by hand and paths that do not fall."""

from __future__ import annotations

import random
import statistics

import pytest

from benchmarks.frontier import falls
from benchmarks.frontier_paths import START, Point, at, fall, mean, summary

UP = [START, Point(1.0, 1.0, (0.5, 0.7)), Point(4.0, 2.0, (0.7, 0.9))]
OVER = [START, Point(4.0, 2.0, (0.4, 0.4)), Point(9.0, 3.0, (0.8, 1.0)), Point(16.0, 3.5, (0.3, 0.4))]


def test_points_between_two_lie_on_the_line_in_the_root_of_kl() -> None:
    found = at(UP, 2.25)
    assert found is not None and found.golds == pytest.approx((0.6, 0.8))
    assert (found.kl, found.proxy, found.gold) == pytest.approx((2.25, 1.5, 0.7))
    found = at(OVER, 1.0)
    assert found is not None and (found.proxy, found.gold) == pytest.approx((1.0, 0.2))
    assert at(UP, 4.5) is None


def test_means_end_where_the_shortest_path_does_and_falls_where_each_does() -> None:
    found = summary([UP, OVER])
    assert found["end"] == found["gold_peak"] | {"proxy": 2.0} == {"kl": 4.0, "gold": 0.6, "proxy": 2.0}
    assert found["at_kl"]["1.0"]["gold"][0] == pytest.approx((0.6 + 0.2) / 2)
    assert found["fall"][0] == pytest.approx((0.0 + (0.5 + 0.6) / 2) / 2)


def test_the_peak_is_chosen_by_one_half_and_told_by_the_other() -> None:
    """By the first half it is at 1 nat, where the second has lost 0.2 at the end; by the second at 4, 0.1."""
    path = [START, Point(1.0, 1.0, (0.9, 0.3)), Point(4.0, 2.0, (0.6, 0.8)), Point(9.0, 3.0, (0.5, 0.1))]
    assert fall(path) == pytest.approx((0.2 + 0.1) / 2)


def walked(random_: random.Random, golds: list[float]) -> list[Point]:
    """Each half measured by 512 texts of deviation 1."""
    noisy = [(random_.gauss(gold, 512**-0.5), random_.gauss(gold, 512**-0.5)) for gold in golds]
    return [START, *(Point(place, place, both) for place, both in enumerate(noisy, start=1))]


LEVEL = [min(place / 6, 0.7) for place in range(21)]


def test_of_paths_that_stay_level_no_fall_is_expected() -> None:
    random_ = random.Random(0)
    found = [fall(walked(random_, LEVEL)) for _ in range(2000)]
    assert abs(statistics.mean(found)) < 4 * statistics.stdev(found) / 2000**0.5


def test_what_may_be_chance_is_no_fall() -> None:
    assert falls({"fall": (0.1, 0.01, 0.2)}) and not falls({"fall": (0.1, -0.01, 0.2)})
    random_ = random.Random(2)
    found = [mean([fall(walked(random_, LEVEL)) for _ in range(5)]) for _ in range(100)]
    assert sum(falls({"fall": one}) for one in found) <= 15  # five values make a narrow bootstrap


def test_five_paths_that_lose_what_they_had_count_as_falling() -> None:
    random_ = random.Random(1)
    found = mean([fall(walked(random_, [*LEVEL, 0.6, 0.5])) for _ in range(5)])
    assert falls({"fall": found})
    assert found.mean == pytest.approx(0.2, abs=0.06)
