"""Agreement against published tables and small cases worked by hand."""

from __future__ import annotations

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
