"""The texts of `./run frontier`: what they are worth, how the reference learns to write them."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WORDS = ["ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibex", "jay"]
ASKED = ["red", "green", "blue", "grey"]
LONGEST, TWICE = 12, -1.5
"""Words of a text; what a word that follows itself takes off."""


def gold(prompt: str, words: Sequence[str]) -> float:
    """A word between -1 and 1; what is no word of a text (a prompt's) as bad as the worst."""
    place = ASKED.index(prompt)
    worth = {
        word: math.cos(2 * math.pi * (number * (place + 1) + 3 * place) / 13)
        for number, word in enumerate(WORDS)
    }
    twice = sum(one == following for one, following in itertools.pairwise(words))
    return sum(worth.get(word, -1.0) for word in words) + TWICE * twice


def written(random_: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Texts as the reference learns them: chance decides, but one word in two hundred follows itself."""
    after = {
        (prompt, word): [random_.lognormvariate(0.0, 0.5) for _ in WORDS]
        for prompt in ASKED
        for word in ["", *WORDS]
    }
    for (_prompt, word), weights in after.items():
        if word:
            weights[WORDS.index(word)] = 0.005 * sum(weights)
    while True:
        prompt, words = random_.choice(ASKED), [""]
        while len(words) <= LONGEST and (len(words) < 3 or random_.random() > 0.12):
            words.append(random_.choices(WORDS, after[prompt, words[-1]])[0])
        yield prompt, words[1:]


def build(folder: Path) -> None:
    """reference/ (a GPT-2 of 60,000 weights, pre-trained on what is written) and prompts.jsonl."""
    import torch

    from benchmarks.reward_model import first_weights
    from training.core import batches, models

    first_weights(folder / "random", 0, prompts=ASKED, words=WORDS)
    policy = models.Policy(folder / "random")
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=3e-3)
    texts = written(random.Random(0))
    for _step in range(300):
        rows = [policy_ids(policy, *text) for text in itertools.islice(texts, 128)]
        optimizer.zero_grad()
        batch = batches.rows(*zip(*rows, strict=True), policy.chat.pad_id)
        (-policy.logprobs(batch).mean()).backward()
        optimizer.step()
    (folder / "reference").mkdir()
    policy.save(folder / "reference")
    rows_ = [{"prompt": question(prompt), "prompt_id": place} for place, prompt in enumerate(ASKED)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_), encoding="utf-8")


def question(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def policy_ids(policy: Any, prompt: str, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """A text of full length was cut off: it has no end."""
    ids = policy.chat.completion_ids(" ".join(words))
    return policy.chat.prompt_ids(question(prompt)), ids[:LONGEST]


class Texts(NamedTuple):
    prompts: list[Any]  # types.Prompt
    completions: list[Any]  # types.Completion
    gold: list[float]


def texts(policy: Any, count: int, seed: int) -> Texts:
    import torch

    from training.core import sampling
    from training.core.types import Completion, Prompt

    prompts = [
        Prompt(question(asked), policy.chat.prompt_ids(question(asked)), ASKED.index(asked))
        for asked in ASKED
        for _ in range(count // len(ASKED))
    ]
    found = sampling.decode(
        policy, [prompt.ids for prompt in prompts], max_new_tokens=LONGEST, temperature=1.0,
        generator=torch.Generator().manual_seed(seed), rows_at_once=count, safe_point=lambda: None,
    )  # fmt: skip
    completions = [
        Completion(ids, policy.chat.text(ids), ended)
        for ids, ended in zip(found.ids, found.finished, strict=True)
    ]
    worth = [
        gold(prompt.messages[0]["content"], row.text.split())
        for prompt, row in zip(prompts, completions, strict=True)
    ]
    return Texts(prompts, completions, worth)
