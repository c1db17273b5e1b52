"""`./run frontier`: what a learned reward promises and what the policy truly gains, against its distance.

    ./run frontier [--seeds 5] [--jobs 2] [--plot FILE.svg]

A policy writes texts of at most 12 words. Gold is a taste that the trainer never sees: what each word is
worth to the prompt, less a fine for a word twice in a row, which the reference hardly ever writes. The
reward model (the proxy) learns from judgements of the reference's texts, one in ten of them turned round, so
it cannot know of the fine. PPO, REINFORCE (leave-one-out), TRPO and best-of-n then walk away from the
reference. Proxy and gold are counted in deviations of the reference's texts, against the root of
KL(policy || reference). Source: Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model
Overoptimization".
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, cast

from benchmarks.frontier_paths import NAMES, START, Point, drawn, summary
from benchmarks.frontier_texts import ASKED, LONGEST, build, texts
from benchmarks.installation import measured

FLIPPED = 0.1
"""Of the judgements so many are turned round."""
PAIRS = (500, 8000)
"""Judgements that the proxy learns from."""
TEXTS = 1024
"""Completions, a quarter to each prompt, that a policy is judged by."""
BEST_OF = (1, 2, 4, 8, 16, 32, 64)
SHARED: dict[str, Any] = {
    "max_new_tokens": LONGEST, "missing_eos_penalty": 0.0, "kl_coefficient": 0.01, "kl_limit": 50.0,
    "sample_every": 100_000,
}  # fmt: skip
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "trpo": (
        "trpo",
        {
            "steps": 60, "rollout_prompts": 256, "step_kl": 0.02, "cg_damping": 0.01, "cg_iterations": 8,
            "learning_rate": 1e-2, "checkpoint_every": 3,
        },
    ),
    "reinforce": (
        "reinforce",
        {
            "steps": 120, "rollout_prompts": 32, "completions_per_prompt": 4, "learning_rate": 1e-3,
            "checkpoint_every": 6,
        },
    ),
    "ppo": ("ppo", {"steps": 24, "rollout_prompts": 256, "learning_rate": 2e-3, "checkpoint_every": 2}),
}  # fmt: skip


# --- what a policy's texts are worth ----------------------------------------------------------------------


class Scale(NamedTuple):
    """Of the reference's texts, all prompts together."""

    proxy: tuple[float, float]  # mean and deviation
    gold: tuple[float, float]


def scale(proxy: Sequence[float], true: Sequence[float]) -> Scale:
    return Scale(
        *((statistics.mean(values), statistics.stdev(values)) for values in (proxy, true))  # type: ignore[arg-type]
    )


def point(policy: Any, reference: Any, score: Any, reference_scale: Scale, seed: int) -> Point:
    """By texts that this policy writes: KL is the mean log-ratio of them."""
    import torch

    from training.core import batches

    found = texts(policy, TEXTS, seed)
    rows = batches.rows(
        [prompt.ids for prompt in found.prompts],
        [row.ids for row in found.completions],
        policy.chat.pad_id,
    )
    with torch.no_grad():
        kl = float((policy.logprobs(rows) - reference.logprobs(rows)).sum()) / TEXTS
    (proxy_mean, proxy_unit), (gold_mean, gold_unit) = reference_scale
    proxy = (statistics.mean(score(found.prompts, found.completions)) - proxy_mean) / proxy_unit
    even, odd = ((statistics.mean(found.gold[half::2]) - gold_mean) / gold_unit for half in (0, 1))
    return Point(kl, proxy, (even, odd))


def best_of(proxy: Sequence[float], true: Sequence[float], units: Scale) -> list[Point]:
    """Of n texts the one with the highest proxy: unbiased, from the ranks of all texts of a prompt.

    The i-th lowest of M is the best of n drawn without replacement in C(i - 1, n - 1) of C(M, n) draws.
    Its KL is log n - (n - 1) / n (exact where no two texts have one proxy score, a bound elsewhere).
    """
    share = len(proxy) // len(ASKED)
    points = []
    for n in BEST_OF:
        chance = [math.comb(place, n - 1) / math.comb(share, n) for place in range(share)]
        means = []
        for start in range(0, len(proxy), share):
            ranked = sorted(zip(proxy[start : start + share], true[start : start + share], strict=True))
            means.append(
                [sum(c * row[part] for c, row in zip(chance, ranked, strict=True)) for part in (0, 1)]
            )
        won = [statistics.mean(column) for column in zip(*means, strict=True)]
        proxy_gain, gold_gain = (
            (value - mean) / unit for value, (mean, unit) in zip(won, units, strict=True)
        )
        points.append(Point(math.log(n) - (n - 1) / n, proxy_gain, (gold_gain, gold_gain)))
    return points


# --- one proxy and its four paths -----------------------------------------------------------------------


def judged(reference: Any, pairs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a snapshot: two of the reference's texts, judged with logistic noise, some turned round."""
    random_ = random.Random(seed)
    held_out = max(50, pairs // 10)
    found = texts(reference, 2 * len(ASKED) * math.ceil((pairs + held_out) / len(ASKED)), 1000 + seed)
    places = [(start, start + 1) for start in range(0, len(found.gold), 2)]
    random_.shuffle(places)
    for number, (left, right) in enumerate(places[: pairs + held_out]):
        difference = found.gold[left] - found.gold[right]
        wins = random_.random() < 1 / (1 + math.exp(-difference))
        if random_.random() < FLIPPED:
            wins = not wins
        chosen, rejected = (left, right) if wins else (right, left)
        yield {
            "prompt": found.prompts[left].messages,
            "chosen": found.completions[chosen].text,
            "rejected": found.completions[rejected].text,
            "margin": 0.0, "tie": False, "annotator": 0,
            "split": "train" if number < pairs else "held_out",
        }  # fmt: skip


def walk(task: tuple[Path, int, int]) -> dict[str, list[Point]]:
    """Learn a proxy from so many judgements, then leave the reference on every path."""
    import torch

    from training.core import configs, models, ppo, reinforce, reward_model, rewards, state, trpo
    from training.core.types import Checkpoint, Job

    folder, pairs, seed = task
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    trainers = {"ppo": ppo.train, "reinforce": reinforce.train, "trpo": trpo.train}

    def job(kind: str, settings: dict[str, Any], inputs: dict[str, Path], output: Path) -> Job:
        output.mkdir()
        return Job(configs.parse(kind, settings), seed, inputs, output, None, lambda: None, lambda: False)

    reference = models.Policy(folder / "reference")
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        rows = "".join(json.dumps(row) + "\n" for row in judged(reference, pairs, seed))
        (here / "snapshot.jsonl").write_text(rows, encoding="utf-8")
        inputs = {"policy": folder / "reference", "snapshot": here / "snapshot.jsonl"}
        settings: dict[str, Any] = {"epochs": 4, "learning_rate": 1e-3}
        for _event in reward_model.train(job("reward_model", settings, inputs, here / "proxy")):
            pass
        score = rewards.RewardModelScore(models.RewardModel(here / "proxy"), reference.chat)
        own = texts(reference, 4 * TEXTS, seed)
        proxy = [cast(float, value) for value in score(own.prompts, own.completions)]  # all of them fit
        units = scale(proxy, own.gold)
        found = {"best_of": best_of(proxy, own.gold, units)}
        inputs = {
            "policy": folder / "reference", "reference": folder / "reference",
            "reward_model": here / "proxy", "prompts": folder / "prompts.jsonl",
        }  # fmt: skip
        for name, (kind, told) in PATHS.items():
            policy = copy.deepcopy(reference)
            found[name] = [START]
            for event in trainers[kind](job(kind, {**SHARED, **told}, inputs, here / name)):
                if isinstance(event, Checkpoint):
                    held = state.part(event.saved.tensors, "policy.", policy.device)
                    weights = {key.removeprefix("policy."): value for key, value in held.items()}
                    policy.model.load_state_dict(weights, strict=False)
                    found[name].append(point(policy, reference, score, units, event.saved.step))
            last = models.Policy(here / name)
            found[name].append(point(last, reference, score, units, told["steps"]))
    return found


# --- figures --------------------------------------------------------------------------------------------


def measure(figures: dict[str, Any], options: argparse.Namespace) -> bool:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build(folder)
        tasks = [(folder, pairs, seed) for seed in range(options.seeds) for pairs in PAIRS]
        found: dict[int, dict[str, list[list[Point]]]] = {
            pairs: {name: [] for name in NAMES} for pairs in PAIRS
        }
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            for task, paths in zip(tasks, pool.map(walk, tasks), strict=True):
                for name, path in paths.items():
                    found[task[1]][name].append(path)
                ends = ", ".join(
                    f"{name} KL {path[-1].kl:.1f} gold {path[-1].gold:+.2f}" for name, path in paths.items()
                )
                print(f"  {task[1]} judgements, seed {task[2]}: {ends}", flush=True)
    for pairs, by_path in found.items():
        figures[str(pairs)] = {name: summary(paths) for name, paths in by_path.items()}
    options.plot.write_text(drawn(found), encoding="utf-8")
    figures["plot"] = str(options.plot)
    return expected(figures)


def falls(found: dict[str, Any]) -> bool:
    """Whether the mean fall from the peak to the path's end is above 0 with all of its interval."""
    _mean, low, _high = found["fall"]
    return bool(low > 0.0)


def expected(figures: dict[str, Any]) -> bool:
    """Said before the first run: every path raises the proxy; gold peaks and falls for the small proxy; more
    judgements raise the peak."""
    few, many = (figures[str(pairs)] for pairs in PAIRS)
    told = figures["expected"] = {
        "proxy_rises": {
            name: min(few[name]["end"]["proxy"], many[name]["end"]["proxy"]) > 0.5 for name in NAMES
        },
        "gold_falls_after_its_peak": {name: falls(few[name]) for name in NAMES if name != "best_of"},
        "more_judgements_raise_the_peak": {
            name: many[name]["gold_peak"]["gold"] > few[name]["gold_peak"]["gold"] for name in NAMES
        },
    }
    return all(all(group.values()) for group in told.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./run frontier",
        description=str(__doc__).split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="proxies of each size, and walks of each algorithm"
    )
    parser.add_argument("--jobs", type=int, default=2, help="proxies at the same time, one thread each")
    parser.add_argument(
        "--plot", type=Path, default=Path("benchmarks/frontier.svg"), help="where it is drawn"
    )
    options = parser.parse_args()
    return measured("frontier", lambda figures: measure(figures, options))


if __name__ == "__main__":
    raise SystemExit(main())
