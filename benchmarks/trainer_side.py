"""Our side of `./run bench-trainer`: the production generators on the anchor's models, prompts and pairs.

    python -m benchmarks.trainer_side PART --folder FOLDER --steps N [--threads 2]

PART is reward, ppo, ppo-shared, reinforce or sample; FOLDER is what `benchmarks/trainer.py` prepared. It
keeps to the anchor's pacing: with ANCHOR_PACED=1 it prints {"tick": seconds} before the first and after each
step and then waits for a line, so that only one side works at a time. The last line says what it took.

One thing is put in the place of ours: the pairs come as the anchor's token ids instead of as texts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from training.core.types import Job, Pair

PROMPTS, COMPLETIONS, NEW_TOKENS = 32, 4, 48
SHARED: dict[str, Any] = {
    "rollout_prompts": PROMPTS,
    "max_new_tokens": NEW_TOKENS,
    "learning_rate": 1e-5,
    "missing_eos_penalty": 0.0,  # the policy has no end token: every completion has 48
    "kl_limit": 1000.0,
    "sample_every": 100_000,
    "checkpoint_every": 100_000,
}
PPO = {**SHARED, "epochs": 4, "minibatches": 1, "epoch_kl_stop": 100.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {**PPO, "critic": "separate"},
    "ppo-shared": {**PPO, "critic": "shared"},
    "reinforce": {**SHARED, "completions_per_prompt": COMPLETIONS, "baseline": "leave_one_out"},
    "reward": {
        "epochs": 1,
        "batch_pairs": 16,
        "max_length": 256,
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
    },
}
KINDS = {"ppo": "ppo", "ppo-shared": "ppo", "reinforce": "reinforce", "reward": "reward_model"}


def pace(seconds: float | None) -> None:
    if os.environ.get("ANCHOR_PACED") == "1":
        print(json.dumps({"tick": seconds}), flush=True)
        sys.stdin.readline()


def product_rate(seconds: float = 0.4) -> float:
    """GFLOP/s of a float32 matrix product now: tells a busy machine from a slow program."""
    import torch

    side = 1024
    matrix = torch.ones(side, side)
    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        matrix @ matrix
        rates.append(2 * side**3 / (time.perf_counter() - begin) / 1e9)
    return round(sorted(rates)[len(rates) // 2], 1)


# --- what a step is -----------------------------------------------------------------------------------


def training_steps(job: Job, part: str) -> Iterator[float]:
    """Seconds of each optimiser step (reward) or update (the others), as the generator takes them."""
    from training.core.run import algorithm
    from training.core.types import Metrics, Phase

    begin = 0.0
    for event in algorithm(KINDS[part])(job):
        if isinstance(event, Phase) and event.phase == "training":
            pace(None)
        elif isinstance(event, Metrics):
            yield time.perf_counter() - begin
        begin = time.perf_counter()


def samplings(job: Job) -> Iterator[float]:
    """Seconds of each batch of completions of the same prompts."""
    from training.core import data, models, sampling, state

    policy = models.Policy(job.inputs["policy"])
    prompts, _notes = data.prompts(
        job.inputs["prompts"], policy.chat, limit=policy.context, new_tokens=NEW_TOKENS
    )
    asked = [prompt.ids for prompt in prompts[:PROMPTS]]
    pace(None)
    for number in range(1_000_000):
        begin = time.perf_counter()
        written = sampling.decode(
            policy,
            asked,
            max_new_tokens=NEW_TOKENS,
            temperature=1.0,
            generator=state.generator(job.seed, number),
            rows_at_once=PROMPTS,
            safe_point=job.safe_point,
        )
        yield time.perf_counter() - begin
        assert all(len(ids) == NEW_TOKENS for ids in written.ids)


def anchor_pairs(folder: Path) -> list[Pair]:
    from training.core.types import Pair

    rows = map(json.loads, (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines())
    return [Pair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"], 0.0, False, 1.0) for row in rows]


def steps(part: str, folder: Path, output: Path, count: int, microbatch_tokens: int) -> Iterator[float]:
    """Seconds of each of `count` steps of one part."""
    from training.core import configs, data
    from training.core.types import Job

    settings = SETTINGS[part] | {"microbatch_tokens": microbatch_tokens} if part in SETTINGS else {}
    if part == "reward":
        pairs = anchor_pairs(folder)
        settings["epochs"] = -(-count // (len(pairs) // settings["batch_pairs"]))
        cast(Any, data).pairs = lambda *_: (pairs, [], data.Counts("pairs"))
    elif part != "sample":
        settings["steps"] = count
    inputs = {name: folder / name for name in ("policy", "reward_model")}
    inputs |= {"reference": folder / "policy", "prompts": folder / "prompts.jsonl", "snapshot": folder}
    config = configs.parse(KINDS.get(part, "sample"), settings)
    job = Job(config, 7, inputs, output, None, lambda: None, lambda: False)
    return samplings(job) if part == "sample" else training_steps(job, part)


# --- the process --------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=[*SETTINGS, "sample"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, required=True, help="the first ones included, which do not count"
    )
    parser.add_argument("--microbatch-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as training/core/__main__.py does
    from training.core.run import algorithm, repeat_to_the_bit

    algorithm(KINDS.get(options.part, "sample"))  # as run.py does: first, for it brings torch
    import torch

    torch.set_num_threads(options.threads)
    repeat_to_the_bit()
    rates = [product_rate()]
    taken: list[float] = []
    with tempfile.TemporaryDirectory() as output:
        told = (options.part, options.folder, Path(output), options.steps, options.microbatch_tokens)
        for seconds in steps(*told):
            taken.append(seconds)
            pace(seconds)
            if len(taken) == options.steps:
                break
    rates.append(product_rate())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "side": "ours", "bench": options.part, "threads": options.threads, "torch": torch.__version__,
                "peak_rss_mib": round(peak), "gemm_gflops_before_after": rates, "steps": len(taken),
            }
        ),
        flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
