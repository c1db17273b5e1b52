"""Completions of one prompt in one row, so that the prompt is computed once.

    prompt | completion | completion | ... | padding      positions go on from the prompt's end for each

No completion sees another: the mask lets a token look at what stands before it in the prompt and in its own
completion. The weights are those of the plain model, and so are scores, log-probabilities and gradients, up
to rounding.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from training.core import batches
from training.core.batches import Text
from training.core.last_layer import hidden_of
from training.core.types import Rows

Line = tuple[Sequence[int], Sequence[Sequence[int]]]
"""A prompt's token ids, and those of each completion."""


def rows(lines: Sequence[Line], pad_id: int) -> Rows:
    """One row for each line; its completions' tokens one completion after the other. None may be empty."""
    lengths = [sum(map(len, completions)) for _prompt, completions in lines]
    longest = max(lengths)
    columns = max(len(prompt) + length for (prompt, _some), length in zip(lines, lengths, strict=True))
    input_ids = torch.full((len(lines), columns), pad_id)
    positions = torch.zeros(len(lines), columns, dtype=torch.long)
    owner = torch.full((len(lines), columns), -1)  # 0: the prompt; 1 and on: a completion; -1: padding
    states = torch.zeros(len(lines), longest, dtype=torch.long)
    tokens = torch.full((len(lines), longest), pad_id)
    completion_mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    ends: list[int] = []
    for row, (prompt, completions) in enumerate(lines):
        start, done = len(prompt), 0
        input_ids[row, :start] = torch.tensor(prompt)
        positions[row, :start] = torch.arange(start)
        owner[row, :start] = 0
        for number, completion in enumerate(completions, start=1):
            end, until = start + len(completion), done + len(completion)
            input_ids[row, start:end] = tokens[row, done:until] = torch.tensor(completion)
            positions[row, start:end] = torch.arange(len(prompt), len(prompt) + len(completion))
            owner[row, start:end] = number
            states[row, done:until] = torch.arange(start - 1, end - 1)
            states[row, done] = len(prompt) - 1  # what follows the prompt is decided at its end
            ends.append(row * columns + end - 1)
            start, done = end, until
    column, looked_at, looking = torch.arange(columns), owner.unsqueeze(1), owner.unsqueeze(2)
    mask = ((looked_at == 0) | (looked_at == looking)) & (column <= column.unsqueeze(1))
    parts = (input_ids, mask.unsqueeze(1), states, tokens, completion_mask, torch.tensor(ends), positions)
    return Rows(*(part.to(batches.device()) for part in parts))


# --- batches ----------------------------------------------------------------------------------------


def in_batches(
    texts: Sequence[Text], budget: int, pad_id: int, hidden_size: int
) -> Iterator[tuple[list[int], Rows]]:
    """All texts in batches of at most `budget` tokens: their numbers as a batch holds them, and the batch.

    `hidden_size` is the model's; 0 where a row must hold one text.
    """
    lines = (
        together(texts, budget, hidden_size) if hidden_size else [[number] for number in range(len(texts))]
    )
    shared = len(lines) < len(texts)
    prompts = [texts[line[0]][0] for line in lines]
    completions = [[texts[number][1] for number in line] for line in lines]
    lengths = [len(prompt) + sum(map(len, some)) for prompt, some in zip(prompts, completions, strict=True)]
    for group in batches.by_tokens(lengths, budget):
        read = [prompts[place] for place in group]
        written = [completions[place] for place in group]
        if shared:
            batch = rows(list(zip(read, written, strict=True)), pad_id)
        else:
            batch = batches.rows(read, [completion for (completion,) in written], pad_id)
        yield [number for place in group for number in lines[place]], batch


def together(texts: Sequence[Text], budget: int, hidden_size: int) -> list[list[int]]:
    """Numbers of the texts, those of equal prompts in lines of as many as pay."""
    same: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, _completion) in enumerate(texts):
        same.setdefault(tuple(prompt), []).append(number)
    lines: list[list[int]] = []
    for prompt, numbers in same.items():
        longest = max(len(texts[number][1]) for number in numbers)
        fit = max(1, (budget - len(prompt)) // longest)
        most = best_count(len(prompt), longest, min(fit, len(numbers)), hidden_size)
        count = -(-len(numbers) // most)
        cuts = [len(numbers) * place // count for place in range(count + 1)]
        lines += [numbers[start:end] for start, end in itertools.pairwise(cuts)]
    return lines


def best_count(prompt_length: int, completion_length: int, most: int, hidden_size: int) -> int:
    """How many completions a line should hold: more of them share the prompt, and look at a longer row.

    A layer of hidden size d takes about 12 d x d multiplications for a token, and 2 d for each column that it
    looks at.
    """

    def work(count: int) -> float:
        columns = prompt_length + count * completion_length
        return columns / count * (12 * hidden_size + 2 * columns)

    return min(range(1, most + 1), key=work)


# --- whether a model can ----------------------------------------------------------------------------

ROUNDING = 1e-4
"""Of the largest hidden value: what the order of sums may change in deep models. A mask that is wrong
changes a tenth and more."""
HALF_ROUNDING = 0.1
"""Where weights are bfloat16: of what it changes that completions see one another."""
PROBE: list[Line] = [([1, 2, 3, 1, 2], [[3, 1, 2], [2, 1]]), ([2, 1], [[3], [1, 1, 3, 2, 1]])]


@torch.no_grad()
def possible(trunk: Any, pad_id: int) -> bool:
    """Whether this model computes in one row what it computes in two: by its code, then by an example."""
    if "position_ids" not in inspect.signature(trunk.forward).parameters or looks_through_a_window(trunk):
        return False
    if trunk.config._attn_implementation != "sdpa":  # others may add a mask of true and false to their scores
        return False
    halved = any(weight.dtype != torch.float32 for weight in trunk.parameters())
    where = batches.device()
    texts = [[*prompt, *completion] for prompt, completions in PROBE for completion in completions]
    try:
        with torch.autocast(where.type, torch.bfloat16) if halved else nullcontext():
            plain = [trunk(torch.tensor([ids], device=where), use_cache=False)[0][0, -1] for ids in texts]
            batch = rows(PROBE, pad_id)
            packed = hidden_of(trunk, batch.ends, batch)
            blind = hidden_of(trunk, batch.ends, batch._replace(attention_mask=causal(batch)))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError):
        return False  # the model takes no mask of this shape
    whole = torch.stack(plain)
    error = (packed - whole).abs()
    if halved:
        return bool(error.mean() <= HALF_ROUNDING * (blind - whole).abs().mean())
    return bool(error.max() <= ROUNDING * whole.abs().max())


def causal(batch: Rows) -> Tensor:
    """The mask of rows whose completions see one another."""
    count, columns = batch.input_ids.shape
    return (
        torch.ones(columns, columns, dtype=torch.bool, device=batch.input_ids.device)
        .tril()
        .expand(count, 1, -1, -1)
    )


def looks_through_a_window(trunk: Any) -> bool:
    """Local attention counts columns of the row, not positions: no short example would tell."""
    facts = trunk.config.get_text_config().to_dict()
    kinds = set(facts.get("layer_types") or ()) | set(facts.get("attention_layers") or ())
    return bool(
        facts.get("sliding_window") or facts.get("attention_window") or kinds - {"full_attention", "global"}
    )
