"""Reward functions: (prompts, completion ids, texts) -> one score a completion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.core.batches import by_tokens, rows
from training.core.chat import Chat
from training.core.models import RewardModel
from training.core.types import Failure, Prompt


class RewardModelScore:
    """The scores of a reward model for completions that a policy wrote.

    When both speak the same ids they are handed over as they are; otherwise the text is read again with the
    reward model's own tokenizer and template. A transcript that is longer than the reward model's context
    loses its oldest turns. A completion that was cut off by its length has no EOS here either.
    """

    def __init__(self, model: RewardModel, policy_chat: Chat, *, microbatch_tokens: int = 8192) -> None:
        self.model = model
        self.policy_chat = policy_chat
        self.microbatch_tokens = microbatch_tokens
        self.same_ids = model.chat.same_ids(policy_chat)
        self.shortened = 0

    def ids(self, prompt: Prompt, completion: Sequence[int], text: str) -> tuple[list[int], list[int]]:
        """Prompt and completion as the reward model reads them."""
        if self.same_ids:
            written = list(completion)
        else:
            written = self.model.chat.completion_ids(text)
            if not completion or completion[-1] not in self.policy_chat.stop_ids:
                written.pop()
        room = self.model.context - len(written)
        if room < 1:
            told = f"a completion of {len(written)} tokens is too long for a reward model of "
            told += f"{self.model.context}"
            raise Failure(
                "context_too_small", told, "Lower max_new_tokens, or train a reward model with more context."
            )
        if self.same_ids and len(prompt.ids) <= room:
            return prompt.ids, written
        kept, lost = self.model.chat.fit(prompt.messages, room)
        self.shortened += lost
        return kept, written

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[int]], texts: Sequence[str]
    ) -> Tensor:
        """B scores, on the CPU."""
        read = [self.ids(*row) for row in zip(prompts, completions, texts, strict=True)]
        scores = torch.zeros(len(read))
        for group in by_tokens([len(p) + len(c) for p, c in read], self.microbatch_tokens):
            batch = rows(
                [read[row][0] for row in group], [read[row][1] for row in group], self.model.chat.pad_id
            )
            scores[group] = self.model.scores(batch).cpu()
        return scores
