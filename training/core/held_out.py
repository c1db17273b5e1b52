"""How good a reward model is on pairs that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.core import batches
from training.core.judgement import Judgement
from training.core.models import RewardModel
from training.core.types import UNKNOWN, Job, Pair

FEWEST = 5
"""Decided held-out pairs of an annotator below which his accuracy is no figure of the run."""
SHOWN = 20
"""Groups that are told of, the least accurate first."""
STRENGTHS = {1.0: "slightly better", 2.0: "better", 3.0: "much better"}


@torch.no_grad()
def differences(job: Job, model: RewardModel, pairs: Sequence[Pair], tokens: int) -> Tensor:
    """score(chosen) - score(rejected) of each pair: N."""
    mine = job.processes.share(pairs)
    found = torch.zeros(len(mine), device=batches.device())
    for rows in batches.by_tokens([model.pair_tokens(pair) for pair in mine], tokens):
        job.safe_point()
        chosen, rejected = model.pair_scores([mine[row] for row in rows])
        found[rows] = chosen - rejected
    return torch.tensor(job.processes.gather(found.tolist()), device=batches.device())


@torch.no_grad()
def figures(judgement: Judgement, pairs: Sequence[Pair], difference: Tensor) -> dict[str, float]:
    """Loss of the answers; accuracy and calibration on decided pairs, where there are any.

    A tie has a loss where the model of ties gives it a probability; elsewhere it is left out.
    """
    loss, opposite = (judgement.answer_loss(sign * difference, pairs) for sign in (1, -1))
    decided = which_are_decided(pairs)
    read = decided if judgement.config.ties == "half" else torch.ones_like(decided)
    if not decided.any():
        return {"held_out/loss": float(loss.mean())} if read.any() else {}
    return {
        "held_out/loss": float(loss[read].mean()),
        "held_out/accuracy": float(right(difference[decided]).mean()),
        "held_out/calibration_error": calibration_error((opposite - loss)[decided]),
    }


def which_are_decided(pairs: Sequence[Pair]) -> Tensor:
    """True on pairs that are no ties: N."""
    return torch.tensor([not pair.tie for pair in pairs], device=batches.device())


def human_agreement(pairs: Sequence[Pair]) -> float | None:
    """How often another person's judgement is that of the pair: the accuracy of people, None if unknown."""
    known = [pair.agreement for pair in pairs if pair.agreement is not None and not pair.tie]
    return sum(known) / len(known) if known else None


# --- where it is right, and where not ---------------------------------------------------------------


class Group(NamedTuple):
    """Decided pairs that have something in common, least accurate first when sorted."""

    accuracy: float
    name: str
    pairs: int

    def told(self) -> str:
        low, high = wilson(self.accuracy * self.pairs, self.pairs)
        return f"{self.name}: {self.accuracy:.1%} ({low:.1%} to {high:.1%}, {self.pairs} pairs)"


def groups(pairs: Sequence[Pair], correct: Tensor, name: Callable[[Pair], str | None]) -> list[Group]:
    """Accuracy of the decided pairs by the name of their group; `correct` N. None is no group."""
    found: dict[str, list[float]] = {}
    decided = which_are_decided(pairs).tolist()
    for pair, share, counts in zip(pairs, correct.tolist(), decided, strict=True):
        if counts and (group := name(pair)) is not None:
            found.setdefault(group, []).append(share)
    return sorted(Group(sum(shares) / len(shares), group, len(shares)) for group, shares in found.items())


def annotator(pair: Pair) -> str | None:
    return None if pair.annotator == UNKNOWN else str(pair.annotator)


def strength(pair: Pair) -> str | None:
    return STRENGTHS.get(pair.margin)


def by_group(pairs: Sequence[Pair], correct: Tensor) -> tuple[dict[str, float], Iterator[str]]:
    """Figures of the least and the most accurate annotator, and the accuracy of all in words."""
    people, strengths = groups(pairs, correct, annotator), groups(pairs, correct, strength)
    known = [group.accuracy for group in people if group.pairs >= FEWEST]
    figures = {}
    if known:
        figures = {"held_out/annotator_lowest": min(known), "held_out/annotator_highest": max(known)}
    return figures, tell({"annotator number": people, "stated strength": strengths})


def tell(by: dict[str, list[Group]]) -> Iterator[str]:
    for what, found in by.items():
        if found:
            more = f"; {len(found) - SHOWN} more are above these" if len(found) > SHOWN else ""
            listed = "; ".join(group.told() for group in found[:SHOWN])
            yield f"Held-out accuracy by {what}, the lowest first: {listed}{more}."


# --- figures ----------------------------------------------------------------------------------------


def right(difference: Tensor) -> Tensor:
    """1 where the chosen completion scores higher, a half where both score the same."""
    return (difference > 0).float() + 0.5 * (difference == 0).float()


def calibration_error(log_odds: Tensor, bins: int = 10) -> float:
    """Mean gap between stated and found probability that the likelier is preferred, over `bins`.

    `log_odds` that the chosen completion is preferred, given that one is: N.
    """
    confidence = torch.sigmoid(log_odds.abs())
    correct = (log_odds > 0).float()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gap = 0.0
    for bin in range(bins):
        inside = place == bin
        if inside.any():
            gap += float((confidence[inside].mean() - correct[inside].mean()).abs() * inside.float().mean())
    return gap


def wilson(successes: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = successes / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return middle - half, middle + half
