"""`./run bench-learning ANCHORS_DIR`: PPO with the shared trunk against TRL's, at equal reward and KL.

    ./run bench-learning ANCHORS_DIR --trl PYTHON --trl-ppo PYTHON --work FOLDER [--updates 60]

Faster steps are worth nothing if they learn less. Both sides start from the same pre-trained policy (the
anchor's `pretrain.py` makes it when FOLDER has none), are paid the same gold reward, take the same number of
updates of 32 completions and 4 epochs, and are read by the anchor's judge on prompts that none of them saw.
TRL trains a separate value model. Ours is judged every few updates: between those, its gold is read off at
the KL that TRL ends with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.installation import ROOT, measured
from benchmarks.learning_side import CENTER, SCALE
from benchmarks.trainer import CALM

# --- what counts as passed: set on 2026-11-24, never to be loosened without a stated reason -----------
FASTER = 2.0
"""TRL's seconds over ours until both have the gold reward that TRL ends with."""
ERRORS = 3.0
"""Standard errors of the difference that our gold may lie below TRL's at its KL: chance."""
# ------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A policy as the common judge reads it."""

    update: int
    seconds: float
    gold: float
    error: float
    kl: float


def lines(command: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What a process says as JSON; its complaints are shown when it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, text=True, capture_output=True, env={**os.environ, **CALM}
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def at_kl(points: Sequence[Point], kl: float) -> Point | None:
    """The straight line between the judged policies on both sides of this KL; None beyond them."""
    for before, after in zip(points, points[1:], strict=False):
        if before.kl <= kl <= after.kl:
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
    updates: int
    every: int

    def prepare(self, folder: Path) -> tuple[Path, Path]:
        """theirs/: the anchor's folder with the pre-trained model. ours/: the same for the trainer."""
        start = self.work / "pretrained_S"
        if not start.is_dir():
            lines([self.trl, self.anchors / "pretrain.py", "--data", self.work])
        theirs, ours = folder / "theirs", folder / "ours"
        theirs.mkdir()
        ours.mkdir()
        for name in ("model_S", "pretrained_S"):
            (theirs / name).symlink_to(start.resolve())
        for name in ("tokenizer", "prompts_train.jsonl", "prompts_test.jsonl"):
            (theirs / name).symlink_to((self.work / name).resolve())
        code = "import sys; from benchmarks import trainer_folders; trainer_folders.write(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, theirs, "S", ours], cwd=ROOT, check=True)
        return theirs, ours

    def judged(self, theirs: Path, policy: Path, update: int, seconds: float) -> Point:
        [said] = lines([self.trl, self.anchors / "eval_policy.py", "--data", theirs, "--policy", policy])
        return Point(update, seconds, said["gold_mean"], said["gold_se"], said["kl_exact"])

    def trl_side(self, theirs: Path) -> Point:
        command = [self.trl_ppo, self.anchors / "learn_ppo.py", "--data", theirs, "--updates", self.updates]
        said = lines([*map(str, command), "--scale", str(SCALE), "--center", str(CENTER)])
        return self.judged(theirs, theirs / "trl_ppo", self.updates, said[-1]["seconds"])

    def our_side(self, theirs: Path, ours: Path) -> list[Point]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.learning_side",
            "--anchors",
            self.anchors,
            "--folder",
            ours,
        ]
        told = lines([*map(str, command), "--updates", str(self.updates), "--every", str(self.every)])
        known = [facts for facts in told if (ours / f"policy-{facts['update']}").is_dir()]
        return [self.judged(theirs, ours / "policy", 0, 0.0)] + [
            self.judged(theirs, ours / f"policy-{facts['update']}", facts["update"], facts["seconds"])
            for facts in known
        ]


def measure(figures: dict[str, Any], learning: Learning) -> bool:
    with tempfile.TemporaryDirectory(prefix="bench-learning-") as kept:
        theirs, ours = learning.prepare(Path(kept))
        points = learning.our_side(theirs, ours)
        figures["ours"] = [point._asdict() for point in points]
        trl = learning.trl_side(theirs)
    figures["trl"] = trl._asdict()
    met = at_kl(points, trl.kl)
    if met is None:
        figures["ours at that KL"] = "not reached"
        return False
    figures["ours at that KL"] = met._asdict()
    figures["gold_gained"] = round(met.gold - trl.gold, 4)
    figures["chance"] = round(ERRORS * math.hypot(met.error, trl.error), 4)
    figures["times_as_fast"] = round(trl.seconds / met.seconds, 2)
    figures["bar"] = FASTER
    return bool(figures["gold_gained"] >= -figures["chance"] and figures["times_as_fast"] >= FASTER)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run bench-learning", description=__doc__.split("\n")[0])
    parser.add_argument("anchors", type=Path, metavar="ANCHORS_DIR")
    parser.add_argument("--trl", type=Path, required=True, help="python with the newest TRL")
    parser.add_argument("--trl-ppo", type=Path, required=True, help="python with the last TRL that has PPO")
    parser.add_argument("--work", type=Path, required=True, help="what the anchor's prepare.py wrote")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--every", type=int, default=10, help="updates between judged policies of ours")
    told = parser.parse_args()
    anchors, trl, trl_ppo, work = (
        path.absolute() for path in (told.anchors, told.trl, told.trl_ppo, told.work)
    )
    learning = Learning(anchors, trl, trl_ppo, work, told.updates, told.every)
    return measured("bench-learning", lambda figures: measure(figures, learning))


if __name__ == "__main__":
    raise SystemExit(main())
