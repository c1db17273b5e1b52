"""Several conversations in one row, each blind to the others: no padding between short and long ones.

    conversation | conversation | ... | padding        positions start at 0 in each

The mask lets a token look at what stands before it in its own conversation. The weights are those of the
plain model, and so are log-probabilities and gradients, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.core import batches
from training.core.batches import Text
from training.core.types import Rows


def fill(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Indices put together in few rows of at most `width`, about equally long, so that little is padding.

    The longest go first, each into the first row with room (Johnson 1973): that says how many rows there are.
    Then each goes into the emptiest of these (Graham 1969), unless one of them overflows. What is longer than
    `width` has a row of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    lines: list[list[int]] = []
    sums: list[int] = []
    for index in order:
        fits = (place for place, used in enumerate(sums) if used + lengths[index] <= width)
        place = next(fits, len(lines))
        if place == len(lines):
            lines.append([])
            sums.append(0)
        lines[place].append(index)
        sums[place] += lengths[index]
    even: list[list[int]] = [[] for _line in lines]
    sums = [0] * len(lines)
    for index in order:
        place = sums.index(min(sums))
        even[place].append(index)
        sums[place] += lengths[index]
    return even if max(sums, default=0) <= width else lines


def rows(lines: Sequence[Sequence[Text]], pad_id: int) -> Rows:
    """One row for each line of conversations, with positions and a mask that keeps them apart."""
    width = max(sum(len(before) + len(wanted) for before, wanted in line) for line in lines)
    longest = max(sum(len(wanted) for _before, wanted in line) for line in lines)
    input_ids = torch.full((len(lines), width), pad_id)
    positions = torch.zeros(len(lines), width, dtype=torch.long)
    owner = torch.full((len(lines), width), -1)  # which conversation a column belongs to; -1: padding
    states = torch.zeros(len(lines), longest, dtype=torch.long)
    tokens = torch.full((len(lines), longest), pad_id)
    learned = torch.zeros(len(lines), longest, dtype=torch.bool)
    ends: list[int] = []
    for row, line in enumerate(lines):
        start = done = 0
        for number, (before, wanted) in enumerate(line):
            end, first = start + len(before) + len(wanted), start + len(before) - 1
            input_ids[row, start:end] = torch.tensor([*before, *wanted])
            positions[row, start:end] = torch.arange(end - start)
            owner[row, start:end] = number
            states[row, done : done + len(wanted)] = torch.arange(first, end - 1)
            tokens[row, done : done + len(wanted)] = torch.tensor(list(wanted))
            learned[row, done : done + len(wanted)] = True
            ends.append(row * width + end - 1)
            start, done = end, done + len(wanted)
    column = torch.arange(width)
    mask = (owner.unsqueeze(1) == owner.unsqueeze(2)) & (column <= column.unsqueeze(1))
    parts = (input_ids, mask.unsqueeze(1), states, tokens, learned, torch.tensor(ends), positions)
    return Rows(*(part.to(batches.device()) for part in parts))
