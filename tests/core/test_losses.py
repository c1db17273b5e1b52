"""Losses against closed forms, torch's own functions and values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from training.core import losses

NO = torch.zeros(1, dtype=torch.bool)


def bradley_terry(
    difference: float, *, margin: float = 0.0, tie: bool = False, smoothing: float = 0.0
) -> float:
    found = losses.bradley_terry(
        torch.tensor([difference]),
        margin=torch.tensor([margin]),
        tie=torch.tensor([tie]),
        label_smoothing=smoothing,
    )
    return found.item()


# --- reward model (items 50, 54, 55) ----------------------------------------------------------------


def test_equal_scores_cost_the_logarithm_of_2() -> None:
    assert bradley_terry(0.0) == pytest.approx(math.log(2), abs=1e-6)
    assert bradley_terry(0.0, tie=True) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("difference", [-3.0, -0.2, 1.7])
def test_the_loss_is_minus_the_log_of_the_sigmoid(difference: float) -> None:
    probability = 1.0 / (1.0 + math.exp(-difference))
    assert bradley_terry(difference) == pytest.approx(-math.log(probability), abs=1e-6)


def test_the_gradient_is_minus_sigmoid_of_minus_the_difference_and_antisymmetric() -> None:
    scores = torch.tensor([0.4, 1.1], requires_grad=True)
    losses.bradley_terry(scores[:1] - scores[1:], margin=torch.zeros(1), tie=NO).sum().backward()
    expected = -1.0 / (1.0 + math.exp(0.4 - 1.1))
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([expected, -expected], abs=1e-6)


def test_a_margin_shifts_the_difference() -> None:
    assert bradley_terry(0.7, margin=2.0) == pytest.approx(math.log1p(math.exp(2.0 - 0.7)), abs=1e-6)


def test_label_smoothing_is_least_at_the_logit() -> None:
    best = math.log(0.9 / 0.1)
    at_best = bradley_terry(best, smoothing=0.1)
    assert at_best < bradley_terry(best - 0.05, smoothing=0.1)
    assert at_best < bradley_terry(best + 0.05, smoothing=0.1)
    expected = 0.9 * math.log1p(math.exp(-1.3)) + 0.1 * math.log1p(math.exp(1.3))
    assert bradley_terry(1.3, smoothing=0.1) == pytest.approx(expected, abs=1e-6)


def test_a_tie_is_even_and_least_at_equal_scores_and_has_no_margin() -> None:
    assert bradley_terry(1.3, tie=True) == pytest.approx(bradley_terry(-1.3, tie=True), abs=1e-6)
    assert bradley_terry(0.0, tie=True) < bradley_terry(0.1, tie=True)
    assert bradley_terry(0.4, tie=True, margin=3.0) == pytest.approx(bradley_terry(0.4, tie=True), abs=1e-6)


def test_centring_pulls_the_sum_of_a_pair_to_zero_and_leaves_their_difference() -> None:
    scores = torch.tensor([3.0, 1.0], requires_grad=True)
    losses.centring(scores[0], scores[1]).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [8.0, 8.0]
    assert losses.centring(torch.tensor(2.0), torch.tensor(-2.0)).item() == 0.0


def test_huge_differences_stay_finite() -> None:
    assert bradley_terry(-1e4) == pytest.approx(1e4)
    assert bradley_terry(1e4) == 0.0


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
