"""What is learned of the judges, from judgements simulated with known numbers; no language model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from training.core.configs import RewardModelConfig
from training.core.judgement import START, Judgement
from training.core.types import UNKNOWN, Pair


def pair(*, margin: float = 0.0, tie: bool = False, annotator: int = UNKNOWN) -> Pair:
    return Pair([1], [2], [3], margin, tie, 1.0, annotator)


def config(**settings: Any) -> RewardModelConfig:
    """Bradley and Terry's model, but for what is set."""
    return RewardModelConfig(**{"ties": "half", "margins": "none", **settings})


def fitted(settings: dict[str, Any], pairs: list[Pair], difference: Tensor) -> Judgement:
    """The judgement of most likelihood (and prior), the differences being known."""
    made = Judgement(config(**settings), pairs, [])
    optimizer = torch.optim.LBFGS(made.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = made(difference, pairs).mean() + (
            made.prior() / made.weight if settings.get("annotators") == "reliability" else 0.0
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return made


def standard_error(made: Judgement, weight: Tensor, difference: Tensor, pairs: list[Pair]) -> float:
    """From the curvature of the log-likelihood at its top."""
    (slope,) = torch.autograd.grad(made(difference, pairs).sum(), weight, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, weight)
    return float(curvature**-0.5)


@pytest.mark.parametrize("ties", ["rao_kupper", "davidson"])
def test_theta_and_nu_are_recovered_from_20_000_labels(ties: str) -> None:
    """Simulated from the published formulas in worths, not from the loss; within two standard errors."""
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(20_000, 2, generator=generator)
    worth, other = scores.exp().unbind(1)
    if ties == "rao_kupper":
        truth = 1.5
        won, lost = worth / (worth + truth * other), other / (other + truth * worth)
    else:
        truth = 0.8
        whole = worth + other + truth * (worth * other).sqrt()
        won, lost = worth / whole, other / whole
    drawn = torch.rand(20_000, generator=generator)
    first, tied = drawn < won, drawn >= won + lost
    difference = scores[:, 0] - scores[:, 1]
    difference = torch.where(first | tied, difference, -difference)  # chosen - rejected
    pairs = [pair(tie=tie) for tie in tied.tolist()]
    made = fitted({"ties": ties}, pairs, difference)
    weight = made.log_m1 if ties == "rao_kupper" else made.log_nu
    wanted = math.log(math.log(truth)) if ties == "rao_kupper" else math.log(truth)
    assert abs(float(weight) - wanted) < 2 * standard_error(made, weight, difference, pairs)
    name = "judgement/theta" if ties == "rao_kupper" else "judgement/nu"
    assert made.metrics() == {name: pytest.approx(truth, rel=0.05)}


def test_margins_are_recovered_from_graded_judgements() -> None:
    generator = torch.Generator().manual_seed(5)
    difference = 1.5 * torch.randn(20_000, generator=generator)
    drawn = torch.rand(20_000, generator=generator)
    noisy = difference + torch.log(drawn / (1 - drawn))
    grade = 1 + (noisy.abs() > 1.2).int() + (noisy.abs() > 3.0).int()
    pairs = [pair(margin=float(strength)) for strength in grade.tolist()]
    made = fitted({"margins": "learned"}, pairs, difference * noisy.sign())
    assert made.margins().tolist() == pytest.approx([0.0, 1.2, 3.0], abs=0.06)


def test_an_ungraded_preference_says_better_in_some_degree() -> None:
    made = Judgement(config(margins="learned"), [pair()], [])
    found = made(torch.tensor([0.7]), [pair()])
    assert found.item() == pytest.approx(math.log1p(math.exp(-0.7)), abs=1e-6)
    graded = [pair(margin=strength) for strength in (1.0, 2.0, 3.0, 7.0)]
    parts = torch.exp(-made(torch.full((4,), 0.7), graded))
    assert parts[:3].sum().item() == pytest.approx(math.exp(-found.item()), abs=1e-6)
    assert parts[2] == parts[3]  # there is nothing stronger than "much better"


def test_the_held_out_loss_reads_no_strength() -> None:
    made = Judgement(config(margins="learned", label_smoothing=0.1), [pair()], [])
    found = made.answer_loss(torch.tensor([0.7]), [pair(margin=3.0)])
    assert found.item() == pytest.approx(math.log1p(math.exp(-0.7)), abs=1e-6)


# --- annotators (item 57) ---------------------------------------------------------------------------


def crowd(reliabilities: dict[int, float], counts: dict[int, int]) -> tuple[list[Pair], Tensor]:
    """Pairs whose differences are known, judged by people who turn some judgements round."""
    generator = torch.Generator().manual_seed(6)
    names = [name for name, count in counts.items() for _ in range(count)]
    truth = 2.0 * torch.randn(len(names), generator=generator)
    kept, drawn = torch.rand(2, len(names), generator=generator)
    preferred = torch.where(drawn < torch.sigmoid(truth), 1.0, -1.0)
    said = torch.where(kept < torch.tensor([reliabilities[name] for name in names]), preferred, -preferred)
    return [pair(annotator=name) for name in names], said * truth


def test_reliabilities_are_recovered_in_order() -> None:
    truth = {0: 1.0, 1: 0.9, 2: 0.75, 3: 0.5, 9: 0.1, UNKNOWN: 0.8}
    pairs, difference = crowd(truth, dict.fromkeys(truth, 2000))
    made = fitted({"annotators": "reliability"}, pairs, difference)
    found = dict(zip(made.places, made.reliabilities().tolist(), strict=True))
    assert sorted(found, key=found.__getitem__) == sorted(truth, key=truth.__getitem__)
    assert found == {name: pytest.approx(eta, abs=0.04) for name, eta in truth.items()}
    assert made.metrics()["judgement/reliability_lowest"] == pytest.approx(0.1, abs=0.04)
    assert "9: 0.1" in made.told() and "(2000 judgements)" in made.told()


def test_knowing_the_annotators_is_worth_likelihood() -> None:
    pairs, difference = crowd({0: 1.0, 1: 0.6}, {0: 2000, 1: 2000})
    told = fitted({"annotators": "reliability"}, pairs, difference)
    untold = [each._replace(annotator=UNKNOWN) for each in pairs]
    same = fitted({"annotators": "reliability"}, untold, difference)
    assert told(difference, pairs).mean() < same(difference, untold).mean() - 0.01


def test_an_annotator_of_few_judgements_stays_near_the_common_value() -> None:
    """Three judgements, all turned round: near 0 by themselves."""
    pairs, difference = crowd({0: 0.9, 1: 0.0}, {0: 2000, 1: 3})
    made = fitted({"annotators": "reliability"}, pairs, difference)
    common, (_many, few) = torch.sigmoid(made.common).item(), made.reliabilities().tolist()
    assert 0.5 < few < common
    nobody = Judgement(config(annotators="reliability"), [pair()], [pair(annotator=5)])
    assert nobody.reliabilities()[1].item() == pytest.approx(1 / (1 + math.exp(-START)))


def test_a_tie_turned_round_is_the_same_tie() -> None:
    made = Judgement(config(annotators="reliability", ties="rao_kupper"), [pair(), pair(tie=True)], [])
    with torch.no_grad():
        made.own += 3.0
        before = made(torch.tensor([0.7]), [pair(tie=True)])
        made.own -= 5.0
        assert torch.allclose(made(torch.tensor([0.7]), [pair(tie=True)]), before)


def test_bradley_and_terry_have_nothing_more_to_learn() -> None:
    made = Judgement(config(), [pair(margin=3.0)], [])
    assert not list(made.parameters()) and not made.metrics() and not made.told()
    found = made(torch.tensor([0.7, 0.7]), [pair(margin=3.0), pair(tie=True)])
    assert found.tolist() == pytest.approx(
        [math.log1p(math.exp(-0.7)), (math.log1p(math.exp(-0.7)) + math.log1p(math.exp(0.7))) / 2]
    )
