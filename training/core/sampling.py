"""Batched decoding on the model's own cache: prompts and one uniform number a token in, completions out.

Why not `generate`: the checkpoint's generation config could turn sampling off or cut the distribution, it
keeps running for finished rows, and it is slow on small models. Here the only thing between logits and token
is the temperature. Token t of a row is the inverse of the cumulative distribution at that row's t-th uniform
number: what a row says depends on the seed and the row, up to rounding, and not on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from training.core.models import Policy
from training.core.tensors import token_logprobs
from training.core.types import Completions

KEEP_SHARE = 0.75
"""Finished rows leave when no more than this share of the batch is alive: leaving copies the cache."""


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token a row: B x V logits, B numbers in [0, 1) -> B; in float64 because vocabularies are large."""
    cumulative = torch.softmax(logits.double(), -1).cumsum(-1)
    wanted = (uniform.double() * cumulative[:, -1]).unsqueeze(-1)
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


@torch.inference_mode()
def decode(
    policy: Policy,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    rows_at_once: int,
    safe_point: Callable[[], None],
) -> Completions:
    """Sample one completion for each prompt; a completion ends with the first stop token or by its length.

    Rows are decoded in groups of similar prompt length, `rows_at_once` at a time.
    """
    uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator)
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs = [0.0] * len(prompts)
    finished = [False] * len(prompts)
    for start in range(0, len(order), rows_at_once):
        group = order[start : start + rows_at_once]
        found = _decode_group(
            policy, [prompts[row] for row in group], uniforms[group], temperature, safe_point
        )
        for place, row in enumerate(group):
            ids[row], logprobs[row], finished[row] = (
                found.ids[place], found.logprobs[place], found.finished[place],
            )  # fmt: skip
    return Completions(ids, logprobs, finished)


def left_padded(prompts: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, B x longest prompt, so that every prompt ends in the last column."""
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return input_ids, mask


def _decode_group(
    policy: Policy,
    prompts: Sequence[list[int]],
    uniforms: Tensor,
    temperature: float,
    safe_point: Callable[[], None],
) -> Completions:
    device = policy.device
    input_ids, mask = (part.to(device) for part in left_padded(prompts, policy.chat.pad_id))
    stop_ids = torch.tensor(sorted(policy.chat.stop_ids), device=device)
    uniforms = uniforms.to(device)
    positions = (mask.cumsum(-1) - mask).clamp(min=0)
    cache = DynamicCache(config=policy.model.config)
    alive = torch.arange(len(prompts), device=device)  # rows still in the batch
    tokens = torch.full(uniforms.shape, policy.chat.pad_id, device=device)
    logprobs = torch.zeros(len(prompts), device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for t in range(uniforms.shape[1]):
        safe_point()
        logits = policy.next_logits(input_ids, mask, positions, cache) / temperature
        drawn = draw(logits, uniforms[alive, t])
        going = ~done[alive]
        tokens[alive[going], t] = drawn[going]
        logprobs[alive[going]] += token_logprobs(logits, drawn)[going]
        lengths[alive[going]] += 1
        done[alive] |= torch.isin(drawn, stop_ids)
        going = ~done[alive]
        count = int(going.sum())
        if count == 0:
            break
        if count <= KEEP_SHARE * len(alive):
            kept = going.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            alive, drawn, mask, positions = alive[kept], drawn[kept], mask[kept], positions[kept]
        input_ids, positions = drawn.unsqueeze(1), positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(input_ids)], 1)
    ids = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return Completions(ids, logprobs.tolist(), done.tolist())
