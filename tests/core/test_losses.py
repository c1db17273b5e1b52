"""Losses against closed forms, torch's own functions and values worked by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from training.core import losses

# --- reward model (items 50, 54, 55, 56, 57) --------------------------------------------------------


def judged(
    difference: float, *, tie: bool = False, grade: int = 0, margins: Sequence[float] = (0.0,)
) -> float:
    found = losses.graded(
        torch.tensor([difference], dtype=torch.float64),
        tie=torch.tensor([tie]),
        grade=torch.tensor([grade]),
        margins=torch.tensor(margins, dtype=torch.float64),
    )
    return found.item()


def davidson(difference: float, nu: float, *, tie: bool = False) -> float:
    facts = {"tie": torch.tensor([tie]), "nu": torch.tensor(nu, dtype=torch.float64)}
    return losses.davidson(torch.tensor([difference], dtype=torch.float64), **facts).item()


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def test_equal_scores_cost_the_logarithm_of_2() -> None:
    assert judged(0.0) == pytest.approx(math.log(2), abs=1e-9)
    assert davidson(0.0, 0.0) == pytest.approx(math.log(2), abs=1e-9)


@pytest.mark.parametrize("difference", [-3.0, -0.2, 1.7])
def test_theta_1_and_nu_0_are_bradley_and_terry_s_model(difference: float) -> None:
    assert judged(difference) == pytest.approx(-math.log(sigmoid(difference)), abs=1e-9)
    assert davidson(difference, 0.0) == pytest.approx(-math.log(sigmoid(difference)), abs=1e-9)
    assert davidson(difference, 0.0, tie=True) == judged(difference, tie=True) == math.inf


def test_the_gradient_is_minus_sigmoid_of_minus_the_difference_and_antisymmetric() -> None:
    scores = torch.tensor([0.4, 1.1], requires_grad=True)
    facts = {"tie": torch.zeros(1, dtype=torch.bool), "grade": torch.zeros(1, dtype=torch.long)}
    losses.graded(scores[:1] - scores[1:], **facts, margins=torch.zeros(1)).sum().backward()
    expected = -sigmoid(1.1 - 0.4)
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([expected, -expected], abs=1e-6)


@pytest.mark.parametrize("difference", [-2.0, 0.3])
def test_rao_and_kupper_s_probabilities_from_their_worths(difference: float) -> None:
    """Rao and Kupper 1967, equation 2.2, in worths p = e^score; the three sum to 1."""
    theta, first, second = 1.5, math.exp(difference), 1.0
    won, lost = first / (first + theta * second), second / (second + theta * first)
    tied = (theta**2 - 1) * first * second / ((first + theta * second) * (second + theta * first))
    assert won + lost + tied == pytest.approx(1.0)
    margins = (math.log(theta),)
    found = [judged(difference, margins=margins), judged(-difference, margins=margins)]
    found.append(judged(difference, tie=True, margins=margins))
    assert [math.exp(-loss) for loss in found] == pytest.approx([won, lost, tied])


@pytest.mark.parametrize("difference", [-2.0, 0.3])
def test_davidson_s_probabilities_from_their_worths(difference: float) -> None:
    """Davidson 1970, equation 2.1: a tie weighs nu times the geometric mean of the worths."""
    nu, first, second = 0.7, math.exp(difference), 1.0
    whole = first + second + nu * math.sqrt(first * second)
    found = [davidson(difference, nu), davidson(-difference, nu), davidson(difference, nu, tie=True)]
    expected = [first / whole, second / whole, nu * math.sqrt(first * second) / whole]
    assert [math.exp(-loss) for loss in found] == pytest.approx(expected)


def test_ties_are_likeliest_at_equal_scores() -> None:
    for loss in (lambda d: judged(d, tie=True, margins=(0.4,)), lambda d: davidson(d, 0.7, tie=True)):
        assert loss(0.0) < loss(0.1) == pytest.approx(loss(-0.1))


def test_grades_share_out_the_noise_between_the_margins() -> None:
    """The seven answers have the mass of the logistic between their margins."""
    margins, difference = (0.4, 1.5, 2.5), 0.8
    ends = [-math.inf, -2.5, -1.5, -0.4, 0.4, 1.5, 2.5, math.inf]
    mass = [sigmoid(high - difference) - sigmoid(low - difference) for low, high in pairwise(ends)]
    assert sum(mass) == pytest.approx(1.0)
    found = [judged(-difference, grade=grade, margins=margins) for grade in (3, 2, 1)]
    found.append(judged(difference, tie=True, margins=margins))
    found += [judged(difference, grade=grade, margins=margins) for grade in (1, 2, 3)]
    assert [math.exp(-loss) for loss in found] == pytest.approx(mass)
    ungraded = math.exp(-judged(difference, margins=margins))
    assert ungraded == pytest.approx(sum(mass[4:]))


def test_the_highest_margin_shifts_the_difference() -> None:
    """Touvron et al. 2023, equation 2: -log sigmoid(difference - margin)."""
    found = judged(0.7, grade=2, margins=(0.0, 2.0))
    assert found == pytest.approx(math.log1p(math.exp(2.0 - 0.7)))


def slipped(difference: float, share: float) -> float:
    losses_of_both = torch.tensor([judged(difference)]), torch.tensor([judged(-difference)])
    return losses.slipped(*losses_of_both, torch.tensor([share])).item()


def test_label_smoothing_is_least_at_the_logit() -> None:
    best = math.log(0.9 / 0.1)
    assert slipped(best, 0.1) < min(slipped(best - 0.05, 0.1), slipped(best + 0.05, 0.1))
    expected = 0.9 * math.log1p(math.exp(-1.3)) + 0.1 * math.log1p(math.exp(1.3))
    assert slipped(1.3, 0.1) == pytest.approx(expected, abs=1e-6)


def test_a_tie_is_even_and_least_at_equal_scores() -> None:
    assert slipped(1.3, 0.5) == pytest.approx(slipped(-1.3, 0.5), abs=1e-6)
    assert slipped(0.0, 0.5) < slipped(0.1, 0.5)


def test_an_unreliable_judgement_is_a_mixture_with_its_opposite() -> None:
    for eta in (0.5, 0.8):
        both = torch.tensor([judged(1.3)]), torch.tensor([judged(-1.3)])
        found = math.exp(-losses.unreliable(*both, torch.tensor([eta])).item())
        assert found == pytest.approx(eta * sigmoid(1.3) + (1 - eta) * sigmoid(-1.3), abs=1e-6)


def test_centring_pulls_the_sum_of_a_pair_to_zero_and_leaves_their_difference() -> None:
    scores = torch.tensor([3.0, 1.0], requires_grad=True)
    losses.centring(scores[0], scores[1]).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [8.0, 8.0]
    assert losses.centring(torch.tensor(2.0), torch.tensor(-2.0)).item() == 0.0


def test_huge_differences_stay_finite() -> None:
    difference = torch.tensor([-1e4, 1e4, 1e4, -1e4], requires_grad=True)
    loss = losses.graded(
        difference,
        tie=torch.tensor([False, False, True, False]),
        grade=torch.tensor([0, 0, 0, 1]),
        margins=torch.tensor([0.4, 1.0]),
    )
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1e4, 0.0, 1e4, 1e4], rel=1e-3, abs=1e-6)
    assert difference.grad is not None and torch.isfinite(difference.grad).all()


# --- PPO (items 36, 37, 38) -------------------------------------------------------------------------


def ppo_gradient(ratio: float, advantage: float) -> float:
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    losses.ppo(logprob, torch.zeros(1), torch.tensor([advantage]), clip=0.2).sum().backward()
    assert logprob.grad is not None
    return logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"),
    [
        (1.3, 1.0, True), (1.1, 1.0, False), (0.7, 1.0, False),
        (0.7, -1.0, True), (0.9, -1.0, False), (1.3, -1.0, False),
    ],
)  # fmt: skip
def test_the_gradient_vanishes_exactly_where_the_clip_holds_it(
    ratio: float, advantage: float, clipped: bool
) -> None:
    found = ppo_gradient(ratio, advantage)
    assert found == pytest.approx(0.0 if clipped else -advantage * ratio, abs=1e-5)
    share = losses.clipped_fraction(
        torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), clip=0.2
    )
    assert bool(share.item()) is clipped


def test_the_loss_at_ratio_1_is_minus_the_advantage() -> None:
    logprobs, advantages = torch.tensor([-1.0, -5.0]), torch.tensor([0.3, -2.0])
    assert losses.ppo(logprobs, logprobs, advantages, clip=0.2).tolist() == pytest.approx([-0.3, 2.0])


def test_ppo_at_ratio_1_has_the_published_reinforce_gradient() -> None:
    logits = torch.tensor([1.0, 2.0, 1.0, 1.0], requires_grad=True)
    logprob = torch.log_softmax(logits, -1)[1:2]
    (-losses.ppo(logprob, logprob.detach(), torch.ones(1), clip=0.2)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-0.1749, 0.5246, -0.1749, -0.1749], abs=1e-4)


def test_a_log_ratio_of_ten_thousand_gives_finite_loss_and_gradient() -> None:
    logprobs = torch.tensor([0.0, -1e4, 0.0, -1e4], requires_grad=True)
    old = torch.tensor([-1e4, 0.0, -1e4, 0.0])
    loss = losses.ppo(logprobs, old, torch.tensor([1.0, 1.0, -1.0, -1.0]), clip=0.2)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()


# --- critic (item 34) -------------------------------------------------------------------------------


def test_the_value_loss_by_hand() -> None:
    values, old = torch.tensor([1.0, 0.1, -1.0]), torch.zeros(3)
    found = losses.value(values, old, torch.tensor([2.0, 2.0, 2.0]), clip=0.2)
    # 1.0 is clipped to 0.2: (0.2 - 2)^2 > (1 - 2)^2; 0.1 is within; -1.0 is worse than the clipped -0.2
    assert found.tolist() == pytest.approx([0.5 * 1.8**2, 0.5 * 1.9**2, 0.5 * 3.0**2])


def test_a_value_that_has_moved_past_the_clip_towards_its_return_learns_no_more() -> None:
    value = torch.tensor([1.0], requires_grad=True)
    losses.value(value, torch.zeros(1), torch.tensor([2.0]), clip=0.2).sum().backward()
    assert value.grad is not None and value.grad.item() == 0.0
