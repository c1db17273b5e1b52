"""Our side of `./run bench-learning`: PPO with the shared trunk against the anchor's gold reward.

    python -m benchmarks.learning_side --anchors DIR --folder FOLDER --updates N --every N

Prints {"update", "seconds", "gold", "kl"} after each update and leaves FOLDER/policy-UPDATE, a folder as
transformers loads it, after every so many. Seconds are those of the generator alone.

One thing is put in the place of ours: the gold reward stands where a reward model's score would.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from training.core.types import Completion, Job, Prompt

SCALE, CENTER = 50.0, 0.30
"""The anchor's: what it makes of the share of vowels before it pays it."""
SETTINGS: dict[str, Any] = {
    "critic": "shared",
    "epochs": 4,
    "minibatches": 1,
    "learning_rate": 2e-4,  # falls to 0: its mean is the constant 1e-4 of the anchor
    "kl_coefficient": 0.05,
    "rollout_prompts": 32,
    "max_new_tokens": 48,
    "missing_eos_penalty": 0.0,  # the policy has no end token: every completion has 48
    "kl_limit": 1000.0,
    "epoch_kl_stop": 100.0,
    "sample_every": 100_000,
    "microbatch_tokens": 2048,
}


def put_gold_in_place(anchors: Path, policy: Path) -> None:
    """The production reward becomes the anchor's, by the anchor's own code."""
    from transformers import AutoTokenizer

    from training.core import rewards

    sys.path.insert(0, str(anchors))
    gold = importlib.import_module("gold")
    size, vowels = gold.tables(AutoTokenizer.from_pretrained(policy))

    def paid(_prompts: Sequence[Prompt], completions: Sequence[Completion]) -> rewards.Scores:
        import torch

        ids = torch.tensor([completion.ids for completion in completions])
        return (SCALE * (gold.gold(ids, size, vowels) - CENTER)).tolist()

    cast(Any, rewards).configured = lambda *_: rewards.WeightedSum({"gold": (1.0, paid)})


def learn(job: Job, folder: Path) -> Iterator[dict[str, float]]:
    """The facts of each update; checkpoints become policies that the common judge can read."""
    from training.core import models, ppo, state
    from training.core.types import Checkpoint, Metrics

    seconds, begin = 0.0, time.perf_counter()
    for event in ppo.train(job):
        seconds += time.perf_counter() - begin
        if isinstance(event, Metrics):
            gold = event.values["reward/score"] / SCALE + CENTER
            yield {
                "update": event.step, "seconds": round(seconds, 2),
                "gold": round(gold, 4), "kl": round(event.values["kl/reference"], 3),
            }  # fmt: skip
        elif isinstance(event, Checkpoint):
            policy = models.Policy(job.inputs["policy"])
            state.restore_weights(policy.model, event.saved.tensors, "policy.")
            policy.save(folder / f"policy-{event.saved.step}")
        begin = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--anchors", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--every", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    told = parser.parse_args()

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as training/core/__main__.py does
    import torch

    from training.core import configs
    from training.core.__main__ import repeat_to_the_bit
    from training.core.types import Job

    torch.set_num_threads(told.threads)
    repeat_to_the_bit()
    inputs = {name: told.folder / name for name in ("policy", "reward_model")}
    inputs |= {"reference": told.folder / "policy", "prompts": told.folder / "prompts.jsonl"}
    put_gold_in_place(told.anchors, inputs["policy"])
    config = configs.parse("ppo", SETTINGS | {"steps": told.updates, "checkpoint_every": told.every})
    output = told.folder / "output"
    output.mkdir()
    for facts in learn(Job(config, 7, inputs, output, None, lambda: None, lambda: False), told.folder):
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
