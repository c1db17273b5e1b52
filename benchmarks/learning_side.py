"""Our side of `./run bench-learning`: PPO with the shared trunk against the anchor's gold reward.

    python -m benchmarks.learning_side --anchors DIR --theirs FOLDER --folder FOLDER --policies FOLDER
                                       --seed N --updates N --every N [--far NATS]

Prints {"update", "seconds", "gold", "kl"} after each update and leaves policy-UPDATE in --policies, a folder
as transformers loads it, after every so many. Seconds are those of the updates alone: loading, sample texts
and checkpoints, which TRL's clock does not see either, are left out.

One thing is put in the place of ours: the gold reward stands where a reward model's score would.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
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
KL_COEFFICIENT, LEARNING_RATE = 0.05, 1e-4
SETTINGS: dict[str, Any] = {
    "critic": "shared",
    "epochs": 4,
    "minibatches": 1,
    "learning_rate": LEARNING_RATE,
    "steps": 1_000_000,  # the rate falls to 0 over these: what is run of them keeps it constant, as TRL's is
    "kl_coefficient": KL_COEFFICIENT,
    "value_coefficient": 0.1,  # TRL's vf_coef, of the same loss
    "value_trains_trunk": False,  # else the value's gradient moves the policy, too: KL that earns no gold
    "gae_lambda": 1.0,  # not TRL's 0.95, at which early tokens of 48 were hardly paid: docs/decisions.md
    "score_clip": 1e6,  # TRL clips no score
    "rollout_prompts": 32,
    "max_new_tokens": 48,
    "missing_eos_penalty": 0.0,  # the policy has no end token: every completion has 48
    "kl_limit": 1000.0,
    "epoch_kl_stop": 100.0,
    "sample_every": 100_000,
    "microbatch_tokens": 2048,
}


def put_gold_in_place(anchors: Path, tokenizer: Path) -> None:
    """The production reward becomes the anchor's, by the anchor's own code.

    It counts no bytes of special tokens, so it needs the anchor's tokenizer: in ours <|end|> is not special.
    """
    import torch
    from transformers import AutoTokenizer

    from training.core import rewards

    sys.path.insert(0, str(anchors))
    gold = importlib.import_module("gold")
    size, vowels = gold.tables(AutoTokenizer.from_pretrained(tokenizer))

    def paid(_prompts: Sequence[Prompt], completions: Sequence[Completion]) -> rewards.Scores:
        ids = torch.tensor([completion.ids for completion in completions])
        return (SCALE * (gold.gold(ids, size, vowels) - CENTER)).tolist()

    cast(Any, rewards).configured = lambda *_: rewards.WeightedSum({"gold": (1.0, paid)})


def learn(job: Job, folder: Path, updates: int, far: float = math.inf) -> Iterator[dict[str, float]]:
    """The facts of each update; checkpoints become policies in `folder` that the common judge can read.

    Ends with the checkpoint after so many updates, or once the policy is `far`, nats, from the reference.
    """
    from training.core import models, ppo, state
    from training.core.types import Checkpoint, Metrics, Note, Phase

    seconds, kl, begin = 0.0, 0.0, time.perf_counter()
    for event in ppo.train(job):
        if isinstance(event, Metrics | Note):  # a note interrupts an update
            seconds += time.perf_counter() - begin
        if isinstance(event, Phase):  # "training": all is loaded
            seconds = 0.0
        elif isinstance(event, Metrics):
            gold, kl = event.values["reward/score"] / SCALE + CENTER, event.values["kl/reference"]
            yield {
                "update": event.step, "seconds": round(seconds, 2),
                "gold": round(gold, 4), "kl": round(kl, 3),
            }  # fmt: skip
        elif isinstance(event, Checkpoint):
            policy = models.Policy(job.inputs["policy"])
            state.restore_weights(policy.model, event.saved.tensors, "policy.")
            policy.save(folder / f"policy-{event.saved.step}")
            if event.saved.step >= updates or kl > far:
                return
        begin = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--anchors", type=Path, required=True)
    parser.add_argument("--theirs", type=Path, required=True, help="the folder with the anchor's tokenizer")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--policies", type=Path, required=True, help="where those to be judged are left")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True, help="up to the next that is judged")
    parser.add_argument("--far", type=float, default=math.inf, help="nats at which it ends before that")
    parser.add_argument("--every", type=int, required=True, help="updates between judged policies")
    parser.add_argument("--threads", type=int, default=2)
    told = parser.parse_args()

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as training/core/__main__.py does
    import torch

    from training.core import configs
    from training.core.run import repeat_to_the_bit
    from training.core.types import Job

    torch.set_num_threads(told.threads)
    repeat_to_the_bit()
    inputs = {name: told.folder / name for name in ("policy", "reward_model")}
    inputs |= {"reference": told.folder / "policy", "prompts": told.folder / "prompts.jsonl"}
    put_gold_in_place(told.anchors, told.theirs / "tokenizer")
    config = configs.parse("ppo", SETTINGS | {"checkpoint_every": told.every})
    output = told.policies / "output"
    job = Job(config, told.seed, inputs, output, None, lambda: None, lambda: False)
    for facts in learn(job, told.policies, told.updates, told.far):
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
