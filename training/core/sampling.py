"""Batched decoding on the model's own cache: prompts and one uniform number a token in, completions out.

Why not `generate`: the checkpoint's generation config could turn sampling off or cut the distribution, it
keeps running for finished rows, reads a prompt as often as it is answered, and is slow on small models. Here
the only thing between logits and token is the temperature. Token t of a row is the inverse of the cumulative
distribution at that row's t-th uniform number: what a row says depends on the seed and the row, up to
rounding, and not on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache

from training.core import batches, decoding
from training.core.models import Policy
from training.core.types import Completions, Failure

KEEP_SHARE = 0.75
"""Finished rows leave when no more than this share of the batch is alive: leaving copies the cache."""
BLOCK = 64
"""Tokens whose weights are summed before one is looked for: a cumulative sum costs more than a sum."""
UNITS = 2.0**52
"""Of a whole: a float32 keeps its digits, and the sum fits an integer."""
READ_AT_ONCE = 16384 if batches.device().type == "cuda" else 1024
"""Tokens of prompts in one forward pass: what more of them leave behind fits no cache of a processor."""


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability: B x V logits, B numbers in [0, 1) -> B and B.

    The inverse of the cumulative distribution, first among blocks of tokens, then within one.
    """
    weights = torch.softmax(logits, -1, dtype=torch.float32)
    missing = -weights.shape[-1] % BLOCK
    whole = F.pad(weights, (0, missing)) if missing else weights  # which would be copied
    blocks = whole.unflatten(-1, (-1, BLOCK))
    block, left = invert(blocks.sum(-1), uniform.double())
    rows = torch.arange(len(logits), device=logits.device)
    place, _left = invert(blocks[rows, block], left)
    tokens = (block * BLOCK + place).clamp(max=weights.shape[-1] - 1)
    return tokens, weights[rows, tokens].log()


def invert(weights: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The place at this share of the cumulative weight, and the share within it: B x N, B -> B, B.

    Weights are counted in whole units of 2^-52 of their sum: cumulative sums of integers are exact and in
    order, and repeat to the bit on a GPU, where torch has none of fractions that do. A place of no unit is
    never found. Weights that are no numbers find any place within.
    """
    weights = weights.double()
    units = (weights / weights.sum(-1, keepdim=True) * UNITS).long()
    cumulative = units.cumsum(-1)
    wanted = (share * cumulative[:, -1]).long().minimum(cumulative[:, -1] - 1).unsqueeze(-1)
    place = torch.searchsorted(cumulative, wanted, right=True).clamp(max=units.shape[-1] - 1)
    own = units.gather(-1, place)
    into = wanted - (cumulative.gather(-1, place) - own)
    return place.squeeze(-1), (into.double() / own.double()).squeeze(-1)


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

    Raises Failure where the policy's logits are no numbers.

    Rows are decoded in groups of similar prompt length, `rows_at_once` at a time; equal prompts together.
    """
    uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator)
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row]))
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs = [0.0] * len(prompts)
    finished = [False] * len(prompts)
    in_place = decodes_in_place(policy)
    with decoding.quick(policy.model, mixed=policy.mixed) if in_place else nullcontext():
        for start in range(0, len(order), rows_at_once):
            group = order[start : start + rows_at_once]
            found = _decode_group(
                policy, [prompts[row] for row in group], uniforms[group], temperature, safe_point, in_place
            )
            for place, row in enumerate(group):
                ids[row], logprobs[row], finished[row] = (
                    found.ids[place], found.logprobs[place], found.finished[place],
                )  # fmt: skip
    return Completions(ids, logprobs, finished)


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, B x longest prompt, so that every prompt ends in the last column."""
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return input_ids, mask


class Text:
    """B prompts, each read once, and what is written behind them, token by token."""

    def __init__(self, policy: Policy, prompts: Sequence[Sequence[int]], new_tokens: int, in_place: bool):
        """`in_place`: the cache has room for `new_tokens`; else it is the model's own, which grows."""
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        number = {prompt: place for place, prompt in enumerate(distinct)}
        rows = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=policy.device)
        input_ids, mask = (part.to(policy.device) for part in left_padded(distinct, policy.chat.pad_id))
        positions = (mask.cumsum(-1) - mask).clamp(min=0)
        self.policy, self.width = policy, mask.shape[1]
        at_once = max(1, READ_AT_ONCE // self.width) if in_place else len(distinct)
        caches: list[Cache] = [
            DynamicCache(config=policy.model.config) for _start in range(0, len(distinct), at_once)
        ]
        inputs = zip(*(part.split(at_once) for part in (input_ids, mask, positions)), caches, strict=True)
        self.logits = torch.cat([policy.next_logits(*some) for some in inputs])[rows]  # B x V
        self.positions = positions[rows, -1:]
        self.seen = F.pad(mask[rows], (0, new_tokens), value=1)  # of all columns that there will be
        if in_place:
            self.cache = decoding.with_spare_columns(caches, rows, new_tokens, mixed=policy.mixed)
            self.seen = decoding.attention_bias(self.seen, policy.model.dtype)
        else:
            self.cache = caches[0]
            self.cache.batch_select_indices(rows)

    def write(self, tokens: Tensor) -> None:
        """Put one token, of B, behind each row; `logits` are then those of the next."""
        self.positions, self.width = self.positions + 1, self.width + 1
        self.logits = self.policy.next_logits(
            tokens.unsqueeze(1), self.seen[..., : self.width], self.positions, self.cache
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only; `logits` are stale until the next token."""
        self.cache.batch_select_indices(rows)
        self.positions, self.seen = self.positions[rows], self.seen[rows]


def _decode_group(
    policy: Policy,
    prompts: Sequence[list[int]],
    uniforms: Tensor,
    temperature: float,
    safe_point: Callable[[], None],
    in_place: bool,
) -> Completions:
    device = policy.device
    stop_ids = torch.tensor(sorted(policy.chat.stop_ids), device=device)
    uniforms = uniforms.to(device)
    tokens = torch.full(uniforms.shape, policy.chat.pad_id, device=device)
    logprobs = torch.zeros(uniforms.shape, device=device)
    alive = torch.arange(len(prompts), device=device)  # rows still in the batch
    going = torch.ones_like(alive, dtype=torch.bool)  # which of them have not ended
    safe_point()
    text = Text(policy, prompts, uniforms.shape[1], in_place)
    for t in range(uniforms.shape[1]):
        drawn, logprobs[alive, t] = draw(text.logits / temperature, uniforms[alive, t])
        tokens[alive, t] = drawn
        going = going & ~torch.isin(drawn, stop_ids)
        count = int(going.sum())
        if count == 0 or t + 1 == uniforms.shape[1]:
            break
        if count <= KEEP_SHARE * len(alive):
            kept = going.nonzero().squeeze(1)
            text.keep(kept)
            alive, drawn, going = alive[kept], drawn[kept], going[kept]
        safe_point()
        text.write(drawn)
    if not bool(torch.isfinite(logprobs).all()):
        hint = (
            "Start from another policy; if this one was trained here, lower learning_rate and train it again."
        )
        raise Failure("non_finite", "the policy's logits are not finite numbers", hint)
    return _cut(tokens.cpu(), logprobs.cpu(), stop_ids.cpu())


def _cut(tokens: Tensor, logprobs: Tensor, stop_ids: Tensor) -> Completions:
    """Each row up to its first stop token, which it keeps; what it wrote after that is dropped."""
    stops = torch.isin(tokens, stop_ids)
    before = stops.long().cumsum(-1) - stops.long()  # stop tokens before each place
    written = before == 0
    ids = [row[:length] for row, length in zip(tokens.tolist(), written.sum(1).tolist(), strict=True)]
    return Completions(ids, torch.where(written, logprobs, 0.0).sum(1).tolist(), stops.any(1).tolist())


# --- whether the quick way is right for this model --------------------------------------------------

PROBE = [[1, 2, 3, 1, 2], [2, 1], [2, 1]]
PROBE_TOKENS = ([3, 1, 2], [2, 2, 1])


def decodes_in_place(policy: Policy) -> bool:
    """Whether the quick way gives the logits of the plain one: by the model's code, then by an example."""
    if policy.decodes_in_place is None:
        policy.decodes_in_place = decoding.is_possible(policy.model) and _agrees(policy)
    return policy.decodes_in_place


@torch.no_grad()
def _agrees(policy: Policy) -> bool:
    plain = _probe(policy, in_place=False)
    if not bool(torch.isfinite(plain).all()):
        return False  # with such there is nothing to compare, and decoding says so
    try:
        with decoding.quick(policy.model, mixed=policy.mixed):
            quick = _probe(policy, in_place=True)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError):
        return False  # the model takes no bias of this shape, or looks into its cache
    exact = policy.model.dtype == torch.float32 and not policy.mixed
    tolerance = 1e-4 if exact else 0.1
    return torch.allclose(quick, plain, atol=tolerance * float(plain.abs().max()), rtol=0.0)


def _probe(policy: Policy, *, in_place: bool) -> Tensor:
    text = Text(policy, PROBE, len(PROBE_TOKENS), in_place)
    found = [text.logits]
    for tokens in PROBE_TOKENS:
        text.write(torch.tensor(tokens, device=policy.device))
        found.append(text.logits)
    return torch.stack(found)
