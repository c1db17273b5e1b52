"""Agreement against published tables and small cases worked by hand."""

from __future__ import annotations

import ast
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from feedback import agreement


def test_raw_agreement_by_hand() -> None:
    # aab: 1 of 3 pairs; cc: 1 of 1; a lone judgement has no pair.
    assert agreement.raw_agreement(["aab", "cc", "d"]).value == 2 / 4
    assert agreement.raw_agreement(["a", ""]) == (None, "no comparison has two judgements")


def test_cohen_kappa_by_hand() -> None:
    # Of 50: both yes 20, both no 15, split 5 and 10. po = 0.7, pe = 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    first = "y" * 20 + "y" * 5 + "n" * 10 + "n" * 15
    second = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert agreement.cohen_kappa(first, second).value == pytest.approx(0.4)
    assert agreement.cohen_kappa("aaa", "aaa").value is None
    assert agreement.cohen_kappa("", "").value is None
    with pytest.raises(ValueError):
        agreement.cohen_kappa("ab", "a")


def test_fleiss_kappa_of_the_published_table() -> None:
    """The worked example of 10 subjects, 14 raters and 5 categories: kappa 0.210 (P 0.378, Pe 0.213)."""
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    units = [[category for category, count in enumerate(row) for _ in range(count)] for row in table]
    assert agreement.fleiss_kappa(units).value == pytest.approx(0.210, abs=5e-4)


@pytest.mark.parametrize(
    ("units", "word"), [([], "two"), (["aa", "aab"], "different"), (["aa", "aa"], "same")]
)
def test_fleiss_kappa_says_why_it_is_undefined(units: list[str], word: str) -> None:
    figure = agreement.fleiss_kappa(units)
    assert figure.value is None and word in figure.reason


KRIPPENDORFF = [
    [1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4],
    [4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [5, 5, 5], [1, 1], [3],
]  # fmt: skip
"""Four observers, twelve units, some answers missing: "Computing Krippendorff's Alpha-Reliability" (2011)."""


@pytest.mark.parametrize(
    ("scale", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_krippendorff_alpha_of_the_published_example(scale: str, published: float) -> None:
    figure = agreement.krippendorff_alpha(KRIPPENDORFF, scale=scale)
    assert figure.value == pytest.approx(published, abs=5e-4)


def test_krippendorff_alpha_undefined_and_perfect() -> None:
    assert agreement.krippendorff_alpha([[2, 2], [2, 2]]).value is None
    assert agreement.krippendorff_alpha([[2], []]).value is None
    assert agreement.krippendorff_alpha([[-3, -3], [3, 3]]).value == 1


def test_opposite_answers_on_completions_are_not_agreement() -> None:
    # Both preferred the left side, shown in opposite orders: canonical strengths 2 and -2.
    assert agreement.raw_agreement([[2, -2]]).value == 0
    figure = agreement.krippendorff_alpha([[2, -2], [-2, 2], [2, -2]])
    assert figure.value is not None and figure.value < 0


def test_wilson_against_published_values() -> None:
    # Newcombe (1998), table I.
    for successes, total, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ]:
        share = agreement.wilson(successes, total)
        assert share[1:3] == pytest.approx((low, high), abs=5e-5)
    assert agreement.wilson(0, 0) == (None, None, None, 0)


def test_position_bias_leaves_ties_aside() -> None:
    share = agreement.position_bias([-3, -1, 0, 0, 2])
    assert (share.value, share.total) == (2 / 3, 3)


# --- orders -----------------------------------------------------------------------------------------


def test_kendall_tau_b_of_published_examples() -> None:
    # SciPy's documentation of kendalltau.
    figure = agreement.kendall_tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0])
    assert figure.value == pytest.approx(-0.47140452079103173)
    assert agreement.kendall_tau_b([1, 2, 3], [1, 2, 3]).value == 1
    assert agreement.kendall_tau_b([1, 2, 3], [3, 2, 1]).value == -1
    # By hand: pairs (1,1), (1,0), (0,1): one agrees of sqrt(2 * 2).
    assert agreement.kendall_tau_b([3, 2, 2], [3, 3, 2]).value == pytest.approx(0.5)
    for orders in (([1, 1], [1, 2]), ([1], [1])):
        assert agreement.kendall_tau_b(*orders).value is None


# --- intervals --------------------------------------------------------------------------------------


def test_an_estimate_is_the_figure_of_all_units() -> None:
    """However the units lie in prompts, and however prompts are put into groups."""
    for most_groups in (3, 250):
        by_prompt = [[unit] for unit in KRIPPENDORFF]
        figure = agreement.estimate(by_prompt, agreement.ALPHA, most_groups=most_groups)
        assert figure.value == pytest.approx(0.815, abs=5e-4)
    together = agreement.estimate([KRIPPENDORFF[:6], KRIPPENDORFF[6:]], agreement.ALPHA)
    assert together.value == pytest.approx(0.815, abs=5e-4)
    assert (together.low, together.reason) == (None, "too few prompts for an interval")


def test_the_bootstrap_against_every_resample_there_is() -> None:
    """Five prompts have 3,125 resamples: their quantiles are what drawing some must come near to."""
    by_prompt = [["aab"], ["aa", "bb"], ["ab"], ["ab", "aa", "bb"], ["bbb"]]
    values = sorted(
        agreement.raw_agreement([unit for place in drawn for unit in by_prompt[place]]).value or 0.0
        for drawn in product(range(5), repeat=5)
    )
    low, high = values[int(0.025 * len(values))], values[int(0.975 * len(values))]
    found = agreement.estimate(by_prompt, agreement.RAW, replicates=4000)
    assert found.low == pytest.approx(low, abs=0.03) and found.high == pytest.approx(high, abs=0.03)
    assert agreement.estimate(by_prompt, agreement.RAW, replicates=4000) == found


def test_a_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Two judges of 60 prompts with two comparisons each, who agree by prompt: 0.7 in all."""
    draw = random.Random(7)
    covered = 0
    for _study in range(150):
        by_prompt = []
        for _prompt in range(60):
            agreeing = draw.betavariate(2.1, 0.9)  # mean 0.7
            by_prompt.append(["aa" if draw.random() < agreeing else "ab" for _ in range(2)])
        found = agreement.estimate(by_prompt, agreement.RAW)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.7 <= found.high
    assert covered / 150 > 0.88


@pytest.mark.parametrize(
    ("by_prompt", "measure", "word"),
    [
        ([], agreement.RAW, "two"),
        ([["a"]] * 9, agreement.RAW, "two"),
        ([["aa"]] * 9, agreement.FLEISS, "same"),
        ([[(1, 1)]] * 9, agreement.COHEN, "same"),
        ([[[2, 2]]] * 9, agreement.ALPHA, "same"),
        ([], agreement.TAU, "two"),
    ],
)
def test_an_estimate_says_why_there_is_none(by_prompt: Any, measure: agreement.Measure, word: str) -> None:
    found = agreement.estimate(by_prompt, measure)
    assert found.value is None and word in found.reason


def test_no_interval_where_every_prompt_says_the_same() -> None:
    found = agreement.estimate([["aa"]] * 20, agreement.RAW)
    assert (found.value, found.low) == (1, None) and "alike" in found.reason


def test_a_clustered_share_of_single_cases_is_wilson_s() -> None:
    own = agreement.clustered([(1, 1)] * 81 + [(0, 1)] * 182)
    assert own == pytest.approx(agreement.wilson(81, 263), rel=1e-9)
    assert agreement.clustered([]).value is None
    # Ten cases in one cluster are worth one.
    lone = agreement.clustered([(7, 10)])
    assert lone.value == 0.7 and (lone.high or 0) - (lone.low or 0) > 0.7


def test_a_clustered_share_covers_where_wilson_does_not() -> None:
    draw = random.Random(3)
    hits = {"clustered": 0, "wilson": 0}
    for _study in range(300):
        tallies = []
        for _prompt in range(40):
            share = draw.betavariate(0.6, 0.6)
            tallies.append((sum(draw.random() < share for _ in range(6)), 6))
        together = agreement.clustered(tallies)
        alone = agreement.wilson(sum(right for right, _count in tallies), 240)
        for name, share_found in (("clustered", together), ("wilson", alone)):
            assert share_found.low is not None and share_found.high is not None
            hits[name] += share_found.low <= 0.5 <= share_found.high
    assert hits["clustered"] / 300 > 0.91 > 0.85 > hits["wilson"] / 300


def test_quartiles_by_hand() -> None:
    assert agreement.quartiles([1, 2, 3, 4]) == (1.75, 2.5, 3.25)
    assert agreement.quartiles([5]) == (5, 5, 5)
    assert agreement.quartiles([]) is None


# --- reasons ----------------------------------------------------------------------------------------


def test_every_reason_is_marked_for_translators() -> None:
    """A reason that is a bare string would stay English on every page."""
    calls = [
        node
        for node in ast.walk(ast.parse(Path(agreement.__file__).read_text()))
        if isinstance(node, ast.Call)
    ]
    named = [call for call in calls if isinstance(call.func, ast.Name)]
    reasons = [
        call.args[1] for call in named if call.func.id in ("Figure", "Estimate") and len(call.args) > 1
    ]
    reasons += [word.value for call in named for word in call.keywords if word.arg == "reason"]
    written = [
        node
        for reason in reasons
        for node in ast.walk(reason)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    marked = [
        node
        for call in named
        if call.func.id == "gettext_noop"
        for node in ast.walk(call)
        if isinstance(node, ast.Constant)
    ]
    assert len(written) >= 13
    assert [node.value for node in written if node not in marked] == []
