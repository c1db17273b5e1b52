"""`./run bench-learning ANCHORS_DIR`: PPO with the shared trunk against TRL's, at equal reward and KL.

    ./run bench-learning ANCHORS_DIR --trl PYTHON --trl-ppo PYTHON --work FOLDER
                         [--model S] [--updates 60] [--every 10] [--seeds 4]

Faster steps are worth nothing if they learn less. Both sides start from the same pre-trained policy (the
anchor's `pretrain.py` makes it when FOLDER has none), are paid the same gold reward less the same KL penalty,
take updates of 32 completions and 4 epochs at the same constant learning rate, and are read by the anchor's
judge on prompts that none of them saw. TRL trains a separate value model. What is compared is the time until
ours is as far from the reference as TRL ends: TRL goes first, and ours ends beyond that KL, or after half as
many updates more. It is judged every few updates: between those, gold and time are read off a straight line.
TRL makes one run, ours one for each seed: their spread says how much of a difference is chance, and is taken
for TRL's run as well.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.installation import measured
from benchmarks.learning_side import CENTER, KL_COEFFICIENT, LEARNING_RATE, SCALE
from benchmarks.trainer import folders, parser_of, said

# --- what counts as passed: set on 2026-11-24, never to be loosened without a stated reason -----------
FASTER = 2.0
"""TRL's seconds over ours until ours has the KL that TRL ends with."""
ERRORS = 3.0
"""Standard errors of the difference that our mean gold may lie below TRL's at its KL: chance. With four seeds
that is a two-sided interval of 94 % (Student's t with three degrees of freedom)."""
# ------------------------------------------------------------------------------------------------------

BEYOND = 1.25
"""Ours ends at so many times TRL's KL: by its own rollouts, whose mean of a few dozen is off by a tenth."""


class Point(NamedTuple):
    """A policy as the common judge reads it."""

    update: int
    seconds: float
    gold: float
    error: float
    kl: float


def at_kl(points: Sequence[Point], kl: float) -> Point | None:
    """The straight line between the judged policies on both sides of this KL; None beyond them."""
    for before, after in zip(points, points[1:], strict=False):
        if before.kl < kl <= after.kl:
            share = (kl - before.kl) / (after.kl - before.kl)
            return Point(
                after.update, before.seconds + share * (after.seconds - before.seconds),
                before.gold + share * (after.gold - before.gold), max(before.error, after.error), kl,
            )  # fmt: skip
    return None


class Learning(NamedTuple):
    """What the command line says."""

    anchors: Path
    trl: Path
    trl_ppo: Path
    work: Path
    model: str
    updates: int
    every: int
    seeds: int

    def prepare(self, folder: Path) -> tuple[Path, Path]:
        """Both sides' folders, with the pre-trained model as the one to start from."""
        start = self.work / f"pretrained_{self.model}"
        if not start.is_dir():
            print("  pre-training the policy that both start from", file=sys.stderr, flush=True)
            self.anchor(self.trl, "pretrain.py", "--data", self.work)
        names = ("tokenizer", "prompts_train.jsonl", "prompts_test.jsonl")
        links = {name: self.work / name for name in names}
        links |= {f"model_{self.model}": start, f"pretrained_{self.model}": start}
        return folders(folder, self.model, links)

    def anchor(self, python: Path, script: str, *arguments: str | Path) -> dict[str, Any]:
        """The last of what one of the anchor's scripts says."""
        return said([python, self.anchors / script, "--model", self.model, *arguments])[-1]

    def judged(self, theirs: Path, policy: Path, update: int, seconds: float) -> Point:
        told = self.anchor(self.trl, "eval_policy.py", "--data", theirs, "--policy", policy)
        point = Point(update, seconds, told["gold_mean"], told["gold_se"], told["kl_exact"])
        print(f"  {policy.name}: {json.dumps(point._asdict())}", file=sys.stderr, flush=True)
        return point

    def trl_side(self, theirs: Path) -> Point:
        paid = ["--scale", str(SCALE), "--center", str(CENTER), "--kl", str(KL_COEFFICIENT)]
        steps = ["--updates", str(self.updates), "--lr", str(LEARNING_RATE)]
        told = self.anchor(self.trl_ppo, "learn_ppo.py", "--data", theirs, *paid, *steps)
        return self.judged(theirs, theirs / "trl_ppo", self.updates, told["seconds"])

    def our_side(self, theirs: Path, ours: Path, seed: int, far: float) -> list[Point]:
        """The policies of one run, judged."""
        policies_of_seed = ours / f"seed-{seed}"
        policies_of_seed.mkdir()
        command: list[str | Path] = [sys.executable, "-m", "benchmarks.learning_side"]
        command += ["--anchors", self.anchors, "--theirs", theirs, "--folder", ours]
        command += ["--policies", policies_of_seed, "--seed", str(seed)]
        command += ["--updates", str(self.updates + self.updates // 2), "--every", str(self.every)]
        command += ["--far", str(far)]
        told = said(command)
        policies = [(policies_of_seed / f"policy-{facts['update']}", facts) for facts in told]
        return [
            self.judged(theirs, policy, facts["update"], facts["seconds"])
            for policy, facts in policies
            if policy.is_dir()
        ]


def measure(figures: dict[str, Any], learning: Learning) -> bool:
    with tempfile.TemporaryDirectory(prefix="bench-learning-") as kept:
        theirs, ours = learning.prepare(Path(kept))
        figures["model"] = learning.model
        trl = learning.trl_side(theirs)
        figures["trl"] = trl._asdict()
        start = learning.judged(theirs, ours / "policy", 0, 0.0)
        seeds, far = range(1, learning.seeds + 1), BEYOND * trl.kl
        runs = [[start, *learning.our_side(theirs, ours, seed, far)] for seed in seeds]
    figures["ours"] = [[point._asdict() for point in points] for points in runs]
    met = [point for points in runs if (point := at_kl(points, trl.kl))]
    figures["ours at that KL"] = [point._asdict() for point in met]
    return len(met) == len(runs) and compared(figures, trl, met)


def compared(figures: dict[str, Any], trl: Point, met: Sequence[Point]) -> bool:
    """Our runs where they have TRL's KL, against TRL's one run: gold no lower than chance, and time."""
    golds = [point.gold for point in met]
    spread = statistics.stdev(golds)  # of runs, the judge's own error among it
    figures["gold_gained"] = round(statistics.mean(golds) - trl.gold, 4)
    figures["chance"] = round(ERRORS * spread * math.sqrt(1 + 1 / len(golds)), 4)
    figures["times_as_fast"] = round(trl.seconds / statistics.mean(point.seconds for point in met), 2)
    figures["bar"] = FASTER
    return bool(figures["gold_gained"] >= -figures["chance"] and figures["times_as_fast"] >= FASTER)


def main() -> int:
    parser = parser_of("bench-learning", __doc__.split("\n")[0])
    parser.add_argument("--model", choices=["S", "M"], default="S", help="size")
    parser.add_argument("--updates", type=int, default=60, help="those of TRL")
    parser.add_argument("--every", type=int, default=10, help="updates between judged policies of ours")
    parser.add_argument("--seeds", type=int, default=4, help="runs of ours, two at least")
    told = parser.parse_args()
    if told.seeds < 2:
        parser.error("one run has no spread: --seeds must be 2 at least")
    learning = Learning(**vars(told))
    return measured("bench-learning", lambda figures: measure(figures, learning))


if __name__ == "__main__":
    raise SystemExit(main())
