"""How a person turns two scores into a judgement: the reward model's likelihood, and what it learns itself.

A judge sees the difference d of two scores through logistic noise and answers by where it falls:

    ... | both alike  | slightly better | better  | much better         (mirrored below -m_1)
      -m_1           m_1               m_2       m_3

`ties` = half puts m_1 at 0 (Bradley and Terry) and counts a tie as half a win for each side; rao_kupper
learns m_1 = log theta; davidson makes a tie a third answer of weight nu. `margins` = learned reads the stated
strength by m_2 and m_3; otherwise "better" is all it says. `annotators` = reliability lets annotator k turn a
judgement round with probability 1 - eta_k; a tie turned round is the same tie. The held-out loss reads no
strengths, so that runs with and without margins compare.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.core import batches, losses
from training.core.configs import RewardModelConfig
from training.core.types import Pair

GRADES = 3
"""Slightly better, better, much better."""
START = math.log(0.9 / 0.1)
"""Log-odds of a reliability before anything is known."""
RATE = 0.05
"""Peak step size of these few numbers: they must get somewhere in the steps that fine-tuning takes."""


class Facts(NamedTuple):
    """What N pairs say, as tensors of shape N."""

    tie: Tensor
    grade: Tensor  # 1..GRADES, 0 where no strength was stated
    place: Tensor  # of the annotator among all annotators

    @classmethod
    def of(cls, pairs: Sequence[Pair], places: dict[int, int]) -> Facts:
        tie = torch.tensor([pair.tie for pair in pairs])
        grade = torch.tensor([min(round(pair.margin), GRADES) for pair in pairs])
        place = torch.tensor([places[pair.annotator] for pair in pairs])
        return cls(*(part.to(batches.device()) for part in (tie, grade, place)))


class Judgement(nn.Module):
    """P(judgement | difference of scores). With half, none and equal it has nothing to learn itself."""

    def __init__(self, config: RewardModelConfig, train: Sequence[Pair], held_out: Sequence[Pair]) -> None:
        super().__init__()
        self.config = config
        self.judgements = Counter(pair.annotator for pair in train)
        names = sorted({pair.annotator for pair in [*train, *held_out]})
        self.places = {name: place for place, name in enumerate(names)}
        self.weight = sum(pair.weight for pair in train)
        # start where pairs of equal scores tie as often as all pairs do
        tied = sum(pair.weight for pair in train if pair.tie) / self.weight
        tied = min(max(tied, 0.01), 0.9)
        if config.ties == "rao_kupper":
            self.log_m1 = nn.Parameter(torch.tensor(math.log(math.log((1 + tied) / (1 - tied)))))
        if config.ties == "davidson":
            self.log_nu = nn.Parameter(torch.tensor(math.log(2 * tied / (1 - tied))))
        if config.margins == "learned":
            self.log_steps = nn.Parameter(torch.zeros(GRADES - 1))
        if config.annotators == "reliability":
            self.common = nn.Parameter(torch.tensor(START))
            self.own = nn.Parameter(torch.zeros(len(names)))
        self.to(batches.device())

    # --- its numbers --------------------------------------------------------------------------------

    def margins(self) -> Tensor:
        """m_1, m_2, m_3: in order, because it is their steps that are learned."""
        if self.config.ties == "rao_kupper":
            first = self.log_m1.exp().unsqueeze(0)
        else:
            first = torch.zeros(1, device=batches.device())
        if self.config.margins == "none":
            return first
        steps = self.log_steps.exp()
        # not cumsum, which does not repeat to the bit on a GPU
        return torch.stack([first[0] + steps[:grade].sum() for grade in range(GRADES)])

    def reliabilities(self) -> Tensor:
        """eta of each annotator, in the order of their numbers."""
        return torch.sigmoid(self.common + self.own)

    def prior(self) -> Tensor:
        """-log prior, in nats beside the sum over all judgements: normal in log-odds, deviation 1.

        It holds an annotator of few judgements near the common value, and that near its start.
        """
        return ((self.common - START) ** 2 + (self.own**2).sum()) / 2

    # --- its likelihood -----------------------------------------------------------------------------

    def forward(self, difference: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """The loss of each pair that training takes down: N."""
        facts = Facts.of(pairs, self.places)
        return self._loss(difference, facts, self.margins(), self.config.label_smoothing)

    def answer_loss(self, difference: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """-log P(chosen better, or a tie) of each pair, no strength looked at and nothing smoothed: N."""
        facts = Facts.of(pairs, self.places)
        return self._loss(
            difference, facts._replace(grade=torch.zeros_like(facts.grade)), self.margins()[:1], 0.0
        )

    def _loss(self, difference: Tensor, facts: Facts, margins: Tensor, smoothing: float) -> Tensor:
        halved = facts.tie if self.config.ties == "half" else torch.zeros_like(facts.tie)
        if self.config.margins == "none":
            facts = facts._replace(grade=torch.zeros_like(facts.grade))
        facts = facts._replace(tie=facts.tie & ~halved)
        right, round_ = self._read(difference, facts, margins), self._read(-difference, facts, margins)
        if self.config.annotators == "reliability":
            reliability = self.reliabilities()[facts.place]
            right, round_ = (
                losses.unreliable(right, round_, reliability),
                losses.unreliable(round_, right, reliability),
            )
        return losses.slipped(right, round_, torch.where(halved, 0.5, smoothing))

    def _read(self, difference: Tensor, facts: Facts, margins: Tensor) -> Tensor:
        if self.config.ties == "davidson":
            return losses.davidson(difference, tie=facts.tie, nu=self.log_nu.exp())
        return losses.graded(difference, tie=facts.tie, grade=facts.grade, margins=margins)

    # --- what a run reports -------------------------------------------------------------------------

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.config.ties == "rao_kupper":
            found["judgement/theta"] = float(self.margins()[0].exp())
        if self.config.ties == "davidson":
            found["judgement/nu"] = float(self.log_nu.exp())
        if self.config.margins == "learned":
            first, *others = self.margins().tolist()
            found |= {f"judgement/margin_{grade}": m - first for grade, m in enumerate(others, start=2)}
        if self.config.annotators == "reliability":
            found["judgement/reliability_lowest"] = float(self.reliabilities().min())
            found["judgement/reliability_highest"] = float(self.reliabilities().max())
        return found

    @torch.no_grad()
    def told(self) -> str:
        """The annotators by number, least reliable first; "" where all count alike."""
        if self.config.annotators == "equal":
            return ""
        known = sorted(zip(self.reliabilities().tolist(), self.places, strict=True))
        parts = [f"{name}: {eta:.2f} ({self.judgements[name]} judgements)" for eta, name in known]
        return "Reliability by annotator number: " + ", ".join(parts) + "."
