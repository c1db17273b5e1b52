"""What the reward model learns from judges who are simulated, and so known to the last digit.

    ./run reward-model

A text is a prompt of one word (of four) and six words of eight. The taste gives every word a worth that
depends on the prompt, and takes some off for saying a word twice. Judges see the difference of two texts'
worth through logistic noise; some turn their answers round, one clicks the left side always. Only their
judgements reach the trainer, which is the production `train` on a GPT of random weights.

    ceiling     8,000 pairs: accuracy within 2 points of one who knows the taste
    strength    learned margins against strengths ignored
    ties        Rao and Kupper's model against half a win each, and against ties dropped, both of these with
                the best that can be said of ties without a model of them: their share
    annotators  learned reliabilities against all alike
    shuffled    judgements turned round by a coin: 50 % +- 3 standard errors

"Against" compares the log-loss of the same held-out judgements, of runs that differ in one setting, over
SEEDS worlds of data; the gain's standard error is that over the seeds.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.installation import measured

WORDS = ["ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen"]
PROMPTS = ["red", "green", "blue", "grey"]
LENGTH = 6
REPEAT = -0.4
"""What a word costs for each time that it has been said before."""
SEEDS = 3
FEW, MANY, UNSEEN = 1200, 8000, 2000
SETTINGS: dict[str, Any] = {"epochs": 10, "batch_pairs": 16, "learning_rate": 3e-3}
SETTINGS_OF_MANY: dict[str, Any] = {"epochs": 4, "batch_pairs": 32}


# --- the taste, which the trainer never sees ----------------------------------------------------------


def worth(prompt: str, words: Sequence[str]) -> float:
    """A word is worth between -1 and 1; each prompt has an order of preference of its own."""
    place = PROMPTS.index(prompt)
    values = [math.cos(2 * math.pi * (WORDS.index(word) * (place + 1) + 3 * place) / 17) for word in words]
    return sum(values) + REPEAT * (len(words) - len(set(words)))


class Text(NamedTuple):
    prompt: str
    words: list[str]


class Judge(NamedTuple):
    """One who prefers the worthier text, but for logistic noise; slips, and the left side, by chance."""

    slips: float = 0.0
    always_left: bool = False
    indifference: float = 0.0
    """Answers between -+ this are ties: log theta of Rao and Kupper."""

    def judges(self, difference: float, random_: random.Random) -> float:
        """The noisy difference of left and right as this judge tells it; 0 is a tie."""
        drawn = random_.random()
        seen = difference + math.log(drawn / (1 - drawn))
        if self.always_left:
            return abs(seen)
        if random_.random() < self.slips:
            seen = -seen
        return 0.0 if abs(seen) < self.indifference else seen


def strength(seen: float) -> int:
    return 1 + (abs(seen) > 1.0) + (abs(seen) > 2.5) if seen else 0


def judged(judges: Sequence[Judge], count: int, unseen: int, seed: int) -> list[dict[str, Any]]:
    """Rows as `training/snapshots.py` freezes them, with the true difference for the arithmetic here."""
    random_ = random.Random(seed)
    rows = []
    for place in range(count + unseen):
        prompt = random_.choice(PROMPTS)
        left, right = ([random_.choice(WORDS) for _ in range(LENGTH)] for _ in range(2))
        number = random_.randrange(len(judges))
        difference = worth(prompt, left) - worth(prompt, right)
        seen = judges[number].judges(difference, random_)
        chosen, rejected = (left, right) if seen >= 0 else (right, left)
        rows.append(
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": " ".join(chosen),
                "rejected": " ".join(rejected),
                "margin": float(strength(seen)),
                "tie": seen == 0,
                "split": "train" if place < count else "held_out",
                "annotator": number,
                "difference": abs(difference) if (difference > 0) == (seen >= 0) else -abs(difference),
            }
        )
    return rows


# --- one run of the trainer ---------------------------------------------------------------------------


class Task(NamedTuple):
    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    seed: int


class Found(NamedTuple):
    metrics: dict[str, float]  # of the weights that were kept
    differences: list[float]  # of held-out pairs, by the model that was saved


def run(task: Task) -> Found:
    """The production generator, fed as `training/core/run.py` feeds it."""
    import torch

    from training.core import configs, data, models, reward_model
    from training.core.types import Job, Metrics

    torch.set_num_threads(1)  # two runs at a time
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_weights(folder / "policy", task.seed)
        snapshot = folder / "snapshot.jsonl"
        snapshot.write_text("".join(json.dumps(row) + "\n" for row in task.rows), encoding="utf-8")
        (folder / "output").mkdir()
        config = configs.parse("reward_model", {**SETTINGS, **task.settings})
        inputs = {"policy": folder / "policy", "snapshot": snapshot}
        job = Job(config, task.seed, inputs, folder / "output", None, lambda: None, lambda: False)
        metrics: dict[str, float] = {}
        for event in reward_model.train(job):
            if isinstance(event, Metrics):
                metrics |= event.values
        model = models.RewardModel(folder / "output")
        unseen = data.pairs(snapshot, model.chat, model.context)[1]
        with torch.no_grad():
            chosen, rejected = model.pair_scores(unseen)
    return Found(metrics, (chosen - rejected).tolist())


def first_weights(
    folder: Path, seed: int, *, prompts: Sequence[str] = PROMPTS, words: Sequence[str] = WORDS
) -> None:
    """A GPT-2 of 60,000 random weights that knows the words and nothing of them."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    names = ["<pad>", "<end>", *prompts, *words]
    tokenizer = Tokenizer(WordLevel({name: place for place, name in enumerate(names)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    chat.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    torch.manual_seed(seed)
    shape = {"n_positions": 16, "n_embd": 48, "n_layer": 2, "n_head": 4, "initializer_range": 48**-0.5}
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(names), **shape, **ends)).save_pretrained(folder)
    chat.save_pretrained(folder)


# --- figures ------------------------------------------------------------------------------------------


def unseen(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["split"] == "held_out"]


def accuracy(rows: Sequence[dict[str, Any]], said: Sequence[float]) -> float:
    """The chance that a judge without slips agrees, mean over the held-out pairs: no label is drawn."""
    true = [row["difference"] for row in unseen(rows)]
    return statistics.mean(
        1 / (1 + math.exp(-abs(a))) if (a > 0) == (b > 0) else 1 / (1 + math.exp(abs(a)))
        for a, b in zip(true, said, strict=True)
    )


def gain(without: Sequence[float], with_it: Sequence[float]) -> dict[str, float]:
    """Log-loss of held-out judgements, and what the setting takes off it, seed by seed."""
    gains = [a - b for a, b in zip(without, with_it, strict=True)]
    return {
        "without": statistics.mean(without),
        "with": statistics.mean(with_it),
        "gain": statistics.mean(gains),
        "gain_standard_error": statistics.stdev(gains) / len(gains) ** 0.5,
    }


def loss_with_share_of_ties(rows: Sequence[dict[str, Any]], decided_loss: float) -> float:
    """Log-loss of held-out answers by a model of decided pairs and the training data's share of ties."""
    share = statistics.mean(row["tie"] for row in rows if row["split"] == "train")
    tied = statistics.mean(row["tie"] for row in unseen(rows))
    return (1 - tied) * (decided_loss - math.log(1 - share)) - tied * math.log(share)


def shuffled(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    random_ = random.Random(seed)
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    return [random_.choice(both) for both in zip(rows, turned, strict=True)]


PLAIN = [Judge()]
TYING = [Judge(indifference=math.log(2.5))]
CROWD = [Judge(slips) for slips in (0.0, 0.05, 0.1, 0.25, 0.4)] + [Judge(always_left=True)]
Runs = dict[str, list[Found]]


def tasks() -> dict[str, list[Task]]:
    """Every run, by name: the same data under two settings, for each seed."""
    seeds = range(SEEDS)
    plain, tying, crowd = (
        [judged(judges, FEW, UNSEEN, seed) for seed in seeds] for judges in (PLAIN, TYING, CROWD)
    )
    decided = [[row for row in rows if not (row["tie"] and row["split"] == "train")] for rows in tying]
    many = judged(PLAIN, MANY, UNSEEN, 100)

    def each(data: Sequence[list[dict[str, Any]]], **settings: Any) -> list[Task]:
        told = {"ties": "half", "margins": "none", **settings}
        return [Task(rows, told, seed) for seed, rows in enumerate(data)]

    return {
        "ceiling": each([many], **SETTINGS_OF_MANY),
        "shuffled": each([shuffled(many, 0)], **SETTINGS_OF_MANY),
        "strength ignored": each(plain),
        "strength": each(plain, margins="learned"),
        "ties dropped": each(decided),
        "ties halved": each(tying),
        "ties": each(tying, ties="rao_kupper"),
        "annotators alike": each(crowd),
        "annotators": each(crowd, annotators="reliability"),
    }


def losses(found: Sequence[Found]) -> list[float]:
    return [one.metrics["held_out/loss"] for one in found]


def figures() -> dict[str, Any]:
    planned = tasks()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        line = iter(list(pool.map(run, [task for group in planned.values() for task in group])))
    runs: Runs = {name: [next(line) for _ in group] for name, group in planned.items()}

    def data(name: str) -> list[list[dict[str, Any]]]:
        return [task.rows for task in planned[name]]

    (many,) = data("ceiling")
    reached = accuracy(many, runs["ceiling"][0].differences)
    best = accuracy(many, [row["difference"] for row in unseen(many)])
    tied = {
        name: [loss_with_share_of_ties(*both) for both in zip(data("ties"), losses(runs[name]), strict=True)]
        for name in ("ties dropped", "ties halved")
    }
    crowd = {
        name: statistics.mean(
            accuracy(rows, one.differences) for rows, one in zip(data(name), runs[name], strict=True)
        )
        for name in ("annotators alike", "annotators")
    }
    known = [one.metrics for one in runs["annotators"]]
    return {
        "ceiling": {"pairs": MANY, "accuracy": reached, "bayes": best, "short_of_it": best - reached},
        "shuffled": {
            "accuracy": runs["shuffled"][0].metrics["held_out/accuracy"],
            "standard_error": 0.5 / UNSEEN**0.5,
        },
        "strength": gain(losses(runs["strength ignored"]), losses(runs["strength"])),
        "ties_against_dropped": gain(tied["ties dropped"], losses(runs["ties"])),
        "ties_against_halved": gain(tied["ties halved"], losses(runs["ties"])),
        "theta": {"found": [one.metrics["judgement/theta"] for one in runs["ties"]], "true": 2.5},
        "annotators": gain(losses(runs["annotators alike"]), losses(runs["annotators"])),
        "annotators_accuracy": crowd,
        "reliability": {
            "lowest": [row["judgement/reliability_lowest"] for row in known],
            "highest": [row["judgement/reliability_highest"] for row in known],
        },
    }


def passed(found: dict[str, Any]) -> bool:
    """What the README promises of these figures."""
    gains = ("strength", "ties_against_dropped", "ties_against_halved", "annotators")
    chance = found["shuffled"]
    return (
        found["ceiling"]["short_of_it"] <= 0.02
        and all(found[name]["gain"] > 2 * found[name]["gain_standard_error"] for name in gains)
        and abs(chance["accuracy"] - 0.5) <= 3 * chance["standard_error"]
    )


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def measure(found: dict[str, Any]) -> bool:
    found |= rounded(figures())
    return passed(found)


if __name__ == "__main__":
    sys.exit(measured("reward_model", measure))
