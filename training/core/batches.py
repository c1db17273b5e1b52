"""Rows of token ids as tensors, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.core.types import Rows

Text = tuple[Sequence[int], Sequence[int]]
"""Token ids that are only read, and those behind them that are scored or learned."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rows(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int) -> Rows:
    """Prompt + completion of each row, right-padded: then no position ids are needed, whatever the model."""
    batch, width = len(prompts), max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    longest = max(len(completion) for completion in completions)
    input_ids = torch.full((batch, width), pad_id)
    attention_mask = torch.zeros(batch, width, dtype=torch.long)
    tokens = torch.full((batch, longest), pad_id)
    completion_mask = torch.zeros(batch, longest, dtype=torch.bool)
    starts = torch.tensor([len(prompt) for prompt in prompts])
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        length = len(prompt) + len(completion)
        input_ids[row, :length] = torch.tensor([*prompt, *completion])
        attention_mask[row, :length] = 1
        tokens[row, : len(completion)] = torch.tensor(list(completion), dtype=torch.long)
        completion_mask[row, : len(completion)] = True
    states = (starts.unsqueeze(1) - 1 + torch.arange(longest)).clamp(max=width - 1)
    ends = torch.arange(batch) * width + attention_mask.sum(1) - 1
    parts = (input_ids, attention_mask, states, tokens, completion_mask, ends)
    return Rows(*(part.to(device()) for part in parts))


def by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped by similar length: rows x longest within `budget`, but at least one row a group."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if groups and lengths[index] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def at(values: Tensor, states: Tensor) -> Tensor:
    """`values` (B x L x d) at positions `states` (B x T): B x T x d."""
    return values.gather(1, states.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
