"""Rows of the input files as token ids, and which rows make up which optimiser step."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from training.core import protocol
from training.core.chat import Chat
from training.core.state import generator
from training.core.types import UNKNOWN, Demonstration, Failure, Message, Note, Pair, Prompt

GROUPS = 50
"""Batches cut from one stretch of shuffled rows, sorted by length: similar rows, little padding."""
PAIR_GROUPS = 8
"""The same for pairs: fewer, because length says something about the judgement."""


def is_amount(value: Any) -> bool:
    """Not negative, and with a float; `json` reads NaN, Infinity and whole numbers of any size, too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


WANTED = {str: "a text", list: "a list", int: "a whole number"}
Beside = dict[str, tuple[str, Callable[[Any], bool]]]
"""Of each field: what is wanted, in words, and whether a value is that."""
BESIDE: Beside = {
    "margin": ("a number of at least 0", is_amount),
    "weight": ("a number of at least 0", is_amount),
    "tie": ("true or false", lambda value: isinstance(value, bool)),
    "annotator": (
        "a whole number of at least 0, or null",
        lambda value: value is None or (type(value) is int and value >= 0),
    ),
    "agreement": (
        "a number from 0 to 1, or null",
        lambda value: value is None or (is_amount(value) and value <= 1),
    ),
}
"""What a preference may say beside its texts."""


def read_rows(path: Path, fields: dict[str, type], beside: Beside | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file; raises ProtocolError naming the line that is not as described in protocol.py.

    `fields` must be there; those of `beside` may be missing.
    """
    number = 0
    try:
        for number, row in enumerate(protocol.read_jsonl(path), start=1):
            for name, wanted in fields.items():
                if not isinstance(row, dict) or name not in row:
                    raise protocol.ProtocolError(f"{path.name}, line {number}: {name} is missing")
                if not (is_text(row[name]) if wanted is str else isinstance(row[name], wanted)):
                    raise protocol.ProtocolError(
                        f"{path.name}, line {number}: {name} is not {WANTED[wanted]}"
                    )
            if not row["prompt"] or not all(map(is_message, row["prompt"])):
                told = "prompt is not a list of messages, each with a role and a content that are texts"
                raise protocol.ProtocolError(f"{path.name}, line {number}: {told}")
            if "split" in fields and row["split"] not in ("train", "held_out"):
                raise protocol.ProtocolError(
                    f"{path.name}, line {number}: split is {row['split']!r}, wanted train or held_out"
                )
            for name, (what, fits) in (beside or {}).items():
                if name in row and not fits(row[name]):
                    told = f"{name} is {json.dumps(row[name])[:40]}, wanted {what}"
                    raise protocol.ProtocolError(f"{path.name}, line {number}: {told}")
            yield row
    except ValueError as error:
        raise protocol.ProtocolError(f"{path.name}, line {number + 1} is not JSON: {error}") from error
    except OSError as error:
        raise protocol.ProtocolError(f"{path.name} cannot be read: {error.strerror}") from error


def is_message(turn: object) -> bool:
    return isinstance(turn, dict) and all(is_text(turn.get(name)) for name in ("role", "content"))


def is_text(value: object) -> bool:
    """JSON can also hold halves of characters (lone surrogates), which no tokenizer reads."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


class Counts:
    """How many rows there are to learn from, and how many were shortened or left out: told once."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.read = self.shortened = self.too_long = self.equal = self.train = self.held_out = 0

    def notes(self, limit: int) -> Iterator[Note]:
        yield Note("log", f"{self.train} {self.what} to learn from, {self.held_out} held out.")
        if self.shortened:
            told = (
                f"{self.shortened} of {self.read} {self.what} lost their oldest turns to fit {limit} tokens."
            )
            yield Note("log", told)
        if self.too_long:
            told = f"{self.too_long} of {self.read} {self.what} have over {limit} tokens and were left out."
            yield Note("warning", told)
        if self.equal:
            told = f"{self.equal} of {self.read} {self.what} have twice the same text and were left out."
            yield Note("warning", told)


def demonstrations(
    path: Path, chat: Chat, limit: int
) -> tuple[list[Demonstration], list[Demonstration], Counts]:
    """Training and held-out demonstrations of at most `limit` tokens."""
    kept: dict[str, list[Demonstration]] = {"train": [], "held_out": []}
    counts = Counts("demonstrations")
    for row in read_rows(path, {"prompt": list, "completion": str, "split": str}):
        counts.read += 1
        completion = chat.completion_ids(row["completion"])
        if len(completion) >= limit:
            counts.too_long += 1
            continue
        prompt, lost = chat.fit(row["prompt"], limit - len(completion))
        counts.shortened += lost
        kept[row["split"]].append(Demonstration(row["prompt"], prompt, completion))
    if not kept["train"]:
        told = f"no demonstration to learn from: of {counts.read}, {counts.too_long} are too long "
        told += f"and {len(kept['held_out'])} held out"
        hint = "Collect demonstrations, or raise max_length if they are all too long."
        raise Failure("no_data", told, hint)
    counts.train, counts.held_out = len(kept["train"]), len(kept["held_out"])
    return kept["train"], kept["held_out"], counts


def pairs(path: Path, chat: Chat, limit: int) -> tuple[list[Pair], list[Pair], Counts]:
    """Training and held-out pairs of at most `limit` tokens a side; two equal texts teach nothing."""
    kept: dict[str, list[Pair]] = {"train": [], "held_out": []}
    counts = Counts("pairs")
    for row in read_rows(path, {"prompt": list, "chosen": str, "rejected": str, "split": str}, BESIDE):
        counts.read += 1
        chosen, rejected = chat.completion_ids(row["chosen"]), chat.completion_ids(row["rejected"])
        longest = max(len(chosen), len(rejected))
        if chosen == rejected or row["chosen"].strip() == row["rejected"].strip():
            counts.equal += 1
        elif longest >= limit:
            counts.too_long += 1
        elif row.get("weight", 1.0) > 0:
            prompt, lost = chat.fit(row["prompt"], limit - longest)
            counts.shortened += lost
            kept[row["split"]].append(Pair(prompt, chosen, rejected, *judgement(row)))
    if not any(not pair.tie for pair in kept["train"]):
        told = f"no usable pair: of {counts.read}, {counts.equal} have equal texts, {counts.too_long} no room"
        told += f", {len(kept['held_out'])} are held out"
        raise Failure("no_data", told, "Collect judgements that are not ties, or raise max_length.")
    counts.train, counts.held_out = len(kept["train"]), len(kept["held_out"])
    return kept["train"], kept["held_out"], counts


def judgement(row: dict[str, Any]) -> tuple[float, bool, float, int, float | None]:
    """What a row says beside its texts; all of it may be missing in a file from elsewhere."""
    annotator = row.get("annotator")
    return (
        float(row.get("margin", 0.0)),
        bool(row.get("tie", False)),
        float(row.get("weight", 1.0)),
        UNKNOWN if annotator is None else int(annotator),
        row.get("agreement"),
    )


def prompts(path: Path, chat: Chat, *, limit: int, new_tokens: int) -> tuple[list[Prompt], list[Note]]:
    """Prompts that leave room for `new_tokens`. A prompt is never cut silently."""
    room = limit - new_tokens
    read = too_long = 0
    longest = 0
    kept: list[Prompt] = []
    for row in read_rows(path, {"prompt": list, "prompt_id": int}):
        read += 1
        messages: list[Message] = row["prompt"]
        ids = chat.prompt_ids(messages)
        longest = max(longest, len(ids))
        if len(ids) > room:
            too_long += 1
        else:
            kept.append(Prompt(messages, ids, row["prompt_id"]))
    told = (
        f"{too_long} of {read} prompts are too long: the model's context of {limit} tokens leaves "
        f"{max(0, room)} beside {new_tokens} new ones, the longest prompt has {longest}"
    )
    if not read:
        raise Failure("no_data", f"{path.name} holds no prompt", "Choose a set of prompts that has some.")
    if not kept:
        hint = "Choose shorter prompts or a model with a longer context, or lower max_new_tokens."
        raise Failure("context_too_small", told, hint)
    notes = [Note("log", f"{len(kept)} prompts of up to {max(len(prompt.ids) for prompt in kept)} tokens.")]
    return kept, [*notes, Note("warning", told + "; they are left out.")] if too_long else notes


# --- which rows make up a step ----------------------------------------------------------------------


def order(count: int, seed: int, *place: int) -> list[int]:
    """A permutation that belongs to one place of the run."""
    return torch.randperm(count, generator=generator(seed, *place)).tolist()


def draw_prompts(count: int, wanted: int, seed: int, step: int) -> list[int]:
    """The prompts of one step: all are seen once, in a new random order, before any is seen again."""
    first = (step - 1) * wanted
    passes = range(first // count, (first + wanted - 1) // count + 1)
    line = [row for number in passes for row in order(count, seed, 4, number)]
    start = first - passes[0] * count
    return line[start : start + wanted]


def token_batches(lengths: Sequence[int], budget: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Every row once: batches of similar length, padded size within `budget`, in random order."""
    shuffled = order(len(lengths), seed, 1, epoch)
    mean = max(1, sum(lengths) // len(lengths))
    stretch = max(1, GROUPS * budget // mean)
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), stretch):
        part = sorted(shuffled[start : start + stretch], key=lambda row: lengths[row])
        batches.extend(_cut(part, lengths, budget))
    return [batches[place] for place in order(len(batches), seed, 2, epoch)]


def packed_batches(lengths: Sequence[int], budget: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Every row once, in random order: batches whose lengths sum up to `budget` at most."""
    batches: list[list[int]] = []
    room = 0
    for row in order(len(lengths), seed, 1, epoch):
        if not batches or lengths[row] > room:
            batches.append([])
            room = budget
        batches[-1].append(row)
        room -= lengths[row]
    return batches


def _cut(rows: Iterable[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for row in rows:
        if batches and lengths[row] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def pair_batches(lengths: Sequence[int], size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Every pair once, `size` to a batch (some may be short of it): similar lengths, in random order.

    The number of batches is the same in every epoch.
    """
    shuffled = order(len(lengths), seed, 1, epoch)
    batches: list[list[int]] = []
    stretch = PAIR_GROUPS * size
    for start in range(0, len(shuffled), stretch):
        part = sorted(shuffled[start : start + stretch], key=lambda row: lengths[row])
        batches.extend(part[first : first + size] for first in range(0, len(part), size))
    return [batches[place] for place in order(len(batches), seed, 2, epoch)]


def learning_rate_share(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the peak at step 1..steps: up in a line over the warm-up, then down to 0 after the last."""
    warmup = int(steps * warmup_fraction)
    if step <= warmup:
        return step / (warmup + 1)
    return (steps - step + 1) / (steps - warmup)
