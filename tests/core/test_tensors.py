"""Arithmetic of the trainer against loops, enumeration and values worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.core import tensors


def masks(*lengths: int, width: int | None = None) -> torch.Tensor:
    return torch.arange(width or max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def random_rows(*lengths: int, width: int | None = None, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    mask = masks(*lengths, width=width)
    return *(torch.randn(mask.shape, generator=generator) for _ in range(2)), mask


# --- log-probabilities (items 10, 11) ---------------------------------------------------------------


def test_token_logprobs_equal_log_softmax_and_gather() -> None:
    logits = torch.randn(3, 7, 50, generator=torch.Generator().manual_seed(0)) * 8
    tokens = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(1))
    expected = torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(tensors.token_logprobs(logits, tokens), expected, atol=1e-6)


def test_token_logprobs_are_those_of_cross_entropy() -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 0.5], [1.0, 1.0, 1.0]])
    tokens = torch.tensor([1, 2, 0])
    expected = -torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    assert torch.allclose(tensors.token_logprobs(logits, tokens), expected, atol=1e-6)
    assert tensors.token_logprobs(logits, tokens)[2].item() == pytest.approx(-math.log(3), abs=1e-6)


def test_bfloat16_logits_are_raised_to_float32() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.tensor([0, 3, 8, 2])
    expected = torch.log_softmax(logits.float(), -1)[torch.arange(4), tokens]
    found = tensors.token_logprobs(logits, tokens)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


class Largest(TorchDispatchMode):
    """Remembers the most values that any tensor held which an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = operation(*arguments, **(named or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("learning", [True, False])
def test_a_large_vocabulary_never_has_all_its_logits_at_once(
    learning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 tokens x 150,000 words in pieces: same values, same gradients, and nothing larger than allowed."""
    rows, width, vocabulary, limit = 64, 4, 150_000, 900_000
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(width, vocabulary, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(vocabulary, width, generator=generator))
    states = torch.randn(rows, width, generator=generator)
    tokens = torch.randint(vocabulary, (rows,), generator=generator)

    def measured(at_once: int) -> tuple[int, list[torch.Tensor]]:
        monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", at_once)
        leaf = states.clone().requires_grad_()
        head.zero_grad()
        with Largest() as largest, torch.set_grad_enabled(learning):
            found = tensors.logprobs_and_entropy(
                head, leaf, tokens, temperature=0.7, want_entropy=True, vocabulary=vocabulary
            )
            if learning:
                (found[0].sum() + found[1].square().sum()).backward()
        gradients = [leaf.grad, head.weight.grad] if learning else []
        return largest.values, [*found, *gradients]  # type: ignore[list-item]

    all_at_once, whole = measured(1 << 40)
    in_pieces, same = measured(limit)
    assert all_at_once == rows * vocabulary
    assert in_pieces <= limit
    for one, other in zip(whole, same, strict=True):
        assert torch.allclose(one, other, atol=1e-6 * max(1.0, float(one.abs().max())))
    exact = torch.log_softmax((states @ head.weight.detach().T).double() / 0.7, -1)
    assert torch.allclose(same[0].double(), exact.gather(1, tokens[:, None])[:, 0], atol=1e-5)
    assert torch.allclose(same[1].double(), -(exact.exp() * exact).sum(1), atol=1e-5)


def test_entropy_of_the_uniform_and_of_a_hand_made_distribution() -> None:
    logits = torch.stack([torch.zeros(4), torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125]))])
    expected = torch.tensor([math.log(4), 1.75 * math.log(2)])
    assert torch.allclose(tensors.entropy(logits), expected, atol=1e-6)


# --- KL (items 18, 19) ------------------------------------------------------------------------------


def distributions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(6, generator=generator).double(), torch.randn(6, generator=generator).double()


def test_k1_and_k3_have_the_enumerated_kl_as_expectation() -> None:
    pi, ref = (torch.log_softmax(logits, -1) for logits in distributions())
    exact = (pi.exp() * (pi - ref)).sum()
    assert (pi.exp() * tensors.kl_k1(pi, ref)).sum().item() == pytest.approx(exact.item(), abs=1e-9)
    assert (pi.exp() * tensors.kl_k3(pi, ref)).sum().item() == pytest.approx(exact.item(), abs=1e-9)
    assert (tensors.kl_k3(pi, ref) >= 0).all()
    assert (tensors.kl_k2(pi, ref) >= 0).all()
    assert tensors.kl_k1(pi, ref).min() < 0 < tensors.kl_k1(pi, ref).max()


def test_k1_in_the_reward_has_the_gradient_of_the_kl_and_k1_as_a_loss_has_none() -> None:
    logits, ref = distributions()
    ref = torch.log_softmax(ref, -1)
    logits.requires_grad_()
    pi = torch.log_softmax(logits, -1)
    (exact,) = torch.autograd.grad((pi.exp() * (pi - ref)).sum(), logits, retain_graph=True)
    weight = pi.detach().exp()

    def expected_gradient(loss: torch.Tensor) -> torch.Tensor:
        """Of a per-token loss under the policy's own samples."""
        return torch.autograd.grad((weight * loss).sum(), logits, retain_graph=True)[0]

    in_reward = expected_gradient(tensors.kl_k1(pi, ref).detach() * pi)
    assert torch.allclose(in_reward, exact, atol=1e-9)
    assert torch.allclose(expected_gradient(tensors.kl_k1(pi, ref)), torch.zeros(6).double(), atol=1e-9)
    assert torch.allclose(expected_gradient(tensors.kl_k2(pi, ref)), exact, atol=1e-9)
    assert not torch.allclose(expected_gradient(tensors.kl_k3(pi, ref)), exact, atol=1e-3)


def test_k3_of_a_huge_gap_is_finite() -> None:
    assert torch.isfinite(tensors.kl_k3(torch.tensor([-1e4, 0.0]), torch.tensor([0.0, -1e4]))).all()


def test_adaptive_coefficient_of_the_published_example() -> None:
    found = tensors.adapt_kl_coefficient(0.15, 12.0, target=6.0, horizon=10_000, episodes=512)
    assert found == pytest.approx(0.151536, abs=1e-9)
    low = tensors.adapt_kl_coefficient(0.15, 0.0, target=6.0, horizon=10_000, episodes=512)
    assert low == pytest.approx(0.15 * (1 - 0.2 * 512 / 10_000), abs=1e-12)
    assert tensors.adapt_kl_coefficient(0.15, 6.3, target=6.0, horizon=100, episodes=10) == pytest.approx(
        0.15 * (1 + 0.05 * 0.1), abs=1e-12
    )


# --- rewards (item 16) ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4, 9])
def test_the_score_is_paid_once_on_the_last_token_whatever_the_padding(width: int) -> None:
    kl, _, mask = random_rows(4, 1, 3, width=width)
    scores = torch.tensor([2.0, -1.0, 0.5])
    rewards = tensors.token_rewards(scores, kl, mask, beta=0.1)
    kl_sum = torch.where(mask, kl, 0.0).sum(1)
    assert torch.allclose(rewards.sum(1) + 0.1 * kl_sum, scores, atol=1e-6)
    only_score = tensors.token_rewards(scores, kl, mask, beta=0.0)
    for row, last in enumerate((3, 0, 2)):
        assert only_score[row, last] == scores[row]
        assert only_score[row].count_nonzero() == 1


def test_an_empty_completion_earns_nothing_and_breaks_nothing() -> None:
    mask = masks(0, 2)
    rewards = tensors.token_rewards(torch.tensor([5.0, 1.0]), torch.zeros(2, 2), mask, beta=0.1)
    assert rewards.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    advantages, returns = tensors.gae(rewards, torch.ones(2, 2), mask, gamma=1.0, lam=0.95)
    assert torch.isfinite(tensors.whiten(advantages, mask)).all()
    assert advantages[0].tolist() == returns[0].tolist() == [0.0, 0.0]


# --- advantages (items 16, 27, 28, 29, 31) ----------------------------------------------------------


def loop_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition, as a double sum: A_t = sum over l of (gamma lambda)^l delta_{t+l}."""
    ends = [*values[1:], 0.0]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, ends, strict=True)]
    count = len(deltas)
    return [
        sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, count)) for t in range(count)
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_gae_equals_the_double_sum_row_by_row(gamma: float, lam: float) -> None:
    rewards, values, mask = random_rows(5, 2, 1, 4, width=6)
    advantages, returns = tensors.gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row, length in enumerate((5, 2, 1, 4)):
        expected = torch.tensor(
            loop_gae(rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam)
        )
        assert torch.allclose(advantages[row, :length], expected, atol=1e-5)
        assert torch.allclose(returns[row, :length], expected + values[row, :length], atol=1e-5)
        assert not advantages[row, length:].any() and not returns[row, length:].any()


def test_gae_with_lambda_1_is_reward_to_go_less_value() -> None:
    rewards, values, mask = random_rows(4, 3)
    advantages, _ = tensors.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    for row, length in enumerate((4, 3)):
        to_go = rewards[row, :length].flip(0).cumsum(0).flip(0)
        assert torch.allclose(advantages[row, :length], to_go - values[row, :length], atol=1e-5)


def test_what_lies_in_the_padding_changes_no_advantage() -> None:
    rewards, values, mask = random_rows(3, 5, 1, width=8)
    clean = tensors.gae(rewards, values, mask, gamma=1.0, lam=0.95)
    dirty = tensors.gae(
        torch.where(mask, rewards, 1e6), torch.where(mask, values, -1e6), mask, gamma=1.0, lam=0.95
    )
    assert torch.equal(clean[0], dirty[0]) and torch.equal(clean[1], dirty[1])


def test_a_score_after_eos_would_weigh_lambda_times_ours() -> None:
    """Item 16: with V = 0 behind the end, the slot after EOS differs by lambda, and agrees at lambda 1."""
    score, values = torch.tensor([2.0]), torch.tensor([[0.3, 0.7, 0.0]])
    for lam in (1.0, 0.95):
        ours, _ = tensors.gae(
            tensors.token_rewards(score, torch.zeros(1, 3), masks(2, width=3), beta=0.0),
            values, masks(2, width=3), gamma=1.0, lam=lam,
        )  # fmt: skip
        after, _ = tensors.gae(torch.tensor([[0.0, 0.0, 2.0]]), values, masks(3), gamma=1.0, lam=lam)
        share = (after[0, 1] + values[0, 1]) / (ours[0, 1] + values[0, 1])
        assert share.item() == pytest.approx(lam, abs=1e-6)


# --- whitening (items 5, 25, 30, 31) ----------------------------------------------------------------


def test_whitening_gives_mean_0_and_variance_1_over_the_mask_only() -> None:
    values, _, mask = random_rows(5, 2, 4, width=9)
    found = tensors.whiten(torch.where(mask, values, 1e5), mask)
    assert found[mask].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert found[mask].var(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert not found[~mask].any()


def test_whitening_of_the_published_3x3_example() -> None:
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    kept = tensors.whiten(values, torch.ones(3, 3, dtype=torch.bool), shift_mean=False)
    assert kept[0, 0].item() == pytest.approx(0.0508, abs=1e-4)
    assert kept.mean().item() == pytest.approx(1.6, abs=1e-5)


@pytest.mark.parametrize("lengths", [(1,), (0, 0), (3, 3)])
def test_whitening_without_variance_is_zero_and_not_nan(lengths: tuple[int, ...]) -> None:
    mask = masks(*lengths, width=3)
    assert not tensors.whiten(torch.full(mask.shape, 7.0), mask).any()


def test_masked_mean_ignores_nan_outside_the_mask() -> None:
    values = torch.tensor([[1.0, 2.0, float("nan")]])
    assert tensors.masked_mean(values, masks(2, width=3)).item() == 1.5


def test_explained_variance_of_perfect_constant_and_wrong_critics() -> None:
    returns, _, mask = random_rows(4, 2)
    assert tensors.explained_variance(returns, returns, mask).item() == pytest.approx(1.0, abs=1e-6)
    constant = torch.full_like(returns, 3.0)
    assert tensors.explained_variance(constant, returns, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert tensors.explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0, abs=1e-4)
    assert tensors.explained_variance(returns, constant, mask).item() == 0.0
