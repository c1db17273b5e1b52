"""Reward functions: (prompts, completions) -> a score for each completion, None where there is none to give.

A run's reward is a weighted sum of them that keeps its parts, so that each can be charted. A completion
without a score leaves the rollout: a silent 0 would be a lie that the policy learns from.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from training.core import shared_prompt
from training.core.chat import Chat
from training.core.configs import PolicyConfig
from training.core.models import RewardEnsemble, RewardModel
from training.core.types import Completion, Failure, Prompt

PATTERN_SECONDS = 1.0
"""Of this process's own time, for one completion: an ordinary pattern takes some microseconds."""
Scores = list[float | None]
RewardFunction = Callable[[Sequence[Prompt], Sequence[Completion]], Scores]


class Opinion(NamedTuple):
    """What the members of a reward model say of one completion."""

    mean: float
    deviation: float


class RewardModelScore:
    """The scores of a reward model, or the mean of its members', for completions that a policy wrote.

    When both speak the same ids they are handed over as they are; otherwise, and where the policy has written
    one of the rows that only pad its vocabulary, the text is read again with the reward model's own tokenizer
    and template. A transcript that is longer than the reward model's context loses its oldest turns; a
    completion that alone is too long has no score. A completion that was cut off by its length has no EOS
    here either. What is no finite number is no score.
    """

    def __init__(
        self, model: RewardModel | RewardEnsemble, policy_chat: Chat, *, microbatch_tokens: int = 8192
    ) -> None:
        self.model = model
        self.policy_chat = policy_chat
        self.microbatch_tokens = microbatch_tokens
        self.same_ids = model.chat.reads_ids_of(policy_chat)
        self.shortened = 0
        self.last: tuple[Sequence[Completion], list[Opinion | None]] | None = None

    def ids(self, prompt: Prompt, completion: Completion) -> tuple[list[int], list[int]] | None:
        """Prompt and completion as the reward model reads them; None when the completion leaves no room."""
        known = self.same_ids and max((*prompt.ids, *completion.ids), default=0) < self.model.chat.id_count
        if known:
            written = completion.ids
        else:
            written = self.model.chat.completion_ids(completion.text)
            if not completion.finished:
                written.pop()
        room = self.model.context - len(written)
        if room < 1 or not written:
            return None
        if known and len(prompt.ids) <= room:
            return prompt.ids, written
        kept, lost = self.model.chat.fit(prompt.messages, room)
        self.shortened += lost
        return kept, written

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """The members' mean."""
        return [None if row is None else row.mean for row in self.read(prompts, completions)]

    def disagreement(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """The standard deviation of the members' scores; 0 where there is one."""
        return [None if row is None else row.deviation for row in self.read(prompts, completions)]

    def read(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Opinion | None]:
        """What the members say of each completion; kept, since a sum asks twice about the same ones."""
        if self.last is None or self.last[0] is not completions:
            self.last = (completions, self._read(prompts, completions))
        return self.last[1]

    @torch.no_grad()
    def _read(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Opinion | None]:
        ids = [self.ids(*row) for row in zip(prompts, completions, strict=True)]
        known = [(place, *both) for place, both in enumerate(ids) if both is not None]
        found: list[Opinion | None] = [None] * len(ids)
        for group, batch in shared_prompt.in_batches(
            [(p, c) for _place, p, c in known],
            self.microbatch_tokens,
            self.model.chat.pad_id,
            self.model.shared_hidden_size,
        ):
            scores = self.model.each(batch)
            said = zip(scores.mean(1).tolist(), scores.std(1, correction=0).tolist(), strict=True)
            for row, opinion in zip(group, said, strict=True):
                found[known[row][0]] = Opinion(*opinion) if math.isfinite(sum(opinion)) else None
        return found


def length(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
    """Tokens of the completion, end token included."""
    return [float(len(completion.ids)) for completion in completions]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError after so much processor time within: `re` looks for signals as it searches."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


class Contains:
    """1 for a completion in which a regular expression is found, else 0.

    Raises Failure where one completion takes longer than PATTERN_SECONDS: nested repetitions can take years.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = re.compile(pattern)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        return [float(self._found(completion.text)) for completion in completions]

    def _found(self, text: str) -> bool:
        try:
            with time_limit(PATTERN_SECONDS):
                return self.pattern.search(text) is not None
        except TimeoutError as error:
            told = f"the pattern took over {PATTERN_SECONDS:g} s on a completion of {len(text)} characters"
            hint = "Write it without repetitions of what is itself repeated, as (a+)+ is."
            raise Failure("bad_config", told, hint) from error


class WeightedSum:
    """Several reward functions as one; a completion that one of them cannot score has no sum."""

    def __init__(self, parts: dict[str, tuple[float, RewardFunction]]) -> None:
        self.parts = parts

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> tuple[Scores, dict[str, Scores]]:
        """The sums, and each part before its weight."""
        found = {name: function(prompts, completions) for name, (_weight, function) in self.parts.items()}
        sums: Scores = [0.0] * len(completions)
        for name, (weight, _function) in self.parts.items():
            sums = [
                None if total is None or score is None else total + weight * score
                for total, score in zip(sums, found[name], strict=True)
            ]
        return sums, found


def configured(config: PolicyConfig, reward_model: RewardModelScore) -> WeightedSum:
    """The sum that a run's settings ask for; what has no weight is not even computed."""
    parts: dict[str, tuple[float, RewardFunction]] = {
        "reward_model": (config.reward_model_weight, reward_model),
        "length": (config.length_weight, length),
        "pattern": (config.pattern_weight, Contains(config.pattern)),
    }
    if config.reward_model_weight and isinstance(model := reward_model.model, RewardEnsemble):
        caution = config.caution * abs(config.reward_model_weight) * (len(model.members) > 1)
        parts["disagreement"] = (-caution, reward_model.disagreement)
    return WeightedSum({name: part for name, part in parts.items() if part[0]})


# --- from scores to what a completion earns ---------------------------------------------------------


class RunningDeviation(NamedTuple):
    """Standard deviation of all scores so far (Chan, Golub and LeVeque 1979); 1 before the first two."""

    seen: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def after(self, scores: Tensor) -> RunningDeviation:
        new = scores.double()
        count, mean = len(new), float(new.mean())
        total = self.seen + count
        step = mean - self.mean
        squares = float(((new - mean) ** 2).sum()) + step * step * self.seen * count / total
        return RunningDeviation(total, self.mean + step * count / total, self.squares + squares)

    @property
    def value(self) -> float:
        deviation = (self.squares / self.seen) ** 0.5 if self.seen > 1 else 1.0
        return float(deviation) if deviation > 1e-8 else 1.0


def pay(scores: Tensor, finished: Tensor, config: PolicyConfig, deviation: float) -> Tensor:
    """What completions earn before the KL penalty: scaled and clipped scores, less that for a missing end."""
    scaled = scores / deviation if config.score_scaling else scores
    clipped = scaled.clamp(-config.score_clip, config.score_clip)
    return clipped - torch.where(finished, 0.0, config.missing_eos_penalty)
