"""Both completions of a pair in one row, so that their prompt is computed once.

    prompt | chosen | rejected | padding      positions go on from the prompt's end for either completion

No completion sees the other: the mask lets a token look at what stands before it in the prompt and in its own
completion. The weights are those of the plain model, and so are the scores, up to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.core import batches
from training.core.last_layer import hidden_at, places
from training.core.types import Pair


class Packed(NamedTuple):
    """B pairs as B rows of L tokens."""

    input_ids: Tensor  # B x L
    positions: Tensor  # B x L
    mask: Tensor  # B x 1 x L x L, true where the row's token may look at the column's
    ends: Tensor  # B x 2, the last token of chosen and of rejected


def pack(pairs: Sequence[Pair], pad_id: int) -> Packed:
    prompt, chosen, rejected = (
        torch.tensor([len(part) for part in parts])
        for parts in zip(
            *((pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in pairs), strict=True
        )
    )
    starts = torch.stack([prompt, prompt + chosen, prompt + chosen + rejected], 1)
    width = int(starts[:, 2].max())
    input_ids = torch.full((len(pairs), width), pad_id)
    for row, pair in enumerate(pairs):
        ids = [*pair.prompt_ids, *pair.chosen_ids, *pair.rejected_ids]
        input_ids[row, : len(ids)] = torch.tensor(ids)
    column = torch.arange(width)
    segment = (column >= starts.unsqueeze(2)).sum(1)  # B x L: 0 prompt, 1 chosen, 2 rejected, 3 padding
    back = torch.where(segment == 2, chosen.unsqueeze(1), 0)
    positions = torch.where(segment == 3, 0, column - back)
    seen = (segment.unsqueeze(1) == 0) | (segment.unsqueeze(1) == segment.unsqueeze(2))
    mask = (seen & (column <= column.unsqueeze(1))).unsqueeze(1)
    return Packed(*(part.to(batches.device()) for part in (input_ids, positions, mask, starts[:, 1:] - 1)))


def hidden(trunk: Any, packed: Packed) -> tuple[Tensor, Tensor]:
    """Hidden states of the last token of all chosen and of all rejected completions, B x d each."""
    found = hidden_at(
        trunk,
        places(packed.input_ids, packed.ends).flatten(),
        packed.input_ids,
        position_ids=packed.positions,
        attention_mask=packed.mask,
    )
    chosen, rejected = found.unflatten(0, (-1, 2)).unbind(1)
    return chosen, rejected


ROUNDING = 1e-4
"""Of the largest hidden value: what the order of sums may change in deep models. A mask that is wrong
changes a tenth and more."""
PROBE = [
    Pair([1, 2, 3, 1, 2], [3, 1, 2], [2, 1], 0.0, False, 1.0),
    Pair([2, 1], [3], [1, 1, 3, 2, 1], 0.0, False, 1.0),
]


@torch.no_grad()
def possible(trunk: Any, pad_id: int) -> bool:
    """Whether this model computes in one row what it computes in two: by its code, then by an example."""
    if "position_ids" not in inspect.signature(trunk.forward).parameters or looks_through_a_window(trunk):
        return False
    sides = [pair.prompt_ids + pair.chosen_ids for pair in PROBE]
    sides += [pair.prompt_ids + pair.rejected_ids for pair in PROBE]
    where = batches.device()
    plain = [trunk(input_ids=torch.tensor([ids], device=where), use_cache=False)[0][0, -1] for ids in sides]
    try:
        packed = torch.cat(hidden(trunk, pack(PROBE, pad_id)))
    except (RuntimeError, ValueError, TypeError, IndexError):  # the model takes no mask of this shape
        return False
    whole = torch.stack(plain)
    return bool((packed - whole).abs().max() <= ROUNDING * whole.abs().max())


def looks_through_a_window(trunk: Any) -> bool:
    """Local attention counts columns of the row, not positions: no short example would tell."""
    facts = trunk.config.get_text_config().to_dict()
    kinds = set(facts.get("layer_types") or ()) | set(facts.get("attention_layers") or ())
    return bool(
        facts.get("sliding_window") or facts.get("attention_window") or kinds - {"full_attention", "global"}
    )
