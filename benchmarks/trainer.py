"""`./run bench-trainer ANCHORS_DIR`: the trainer against TRL, step by step on the same machine.

    ./run bench-trainer ANCHORS_DIR --trl PYTHON --trl-ppo PYTHON --work FOLDER
                        [--models S M] [--parts reward ppo ppo-shared reinforce sample start] [--rounds 5]

ANCHORS_DIR holds the TRL half (one script a trainer); its README says how the two Pythons and the folder of
models, prompts and pairs are made. Both sides are alive at once and take their steps in turn, so that what
else the machine does meets both. Judged are the ratio of the medians and the ratio of the minima, both.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.installation import ROOT, measured

# --- what counts as passed: set on 2026-11-24, never to be loosened without a stated reason -----------
FASTER: dict[tuple[str, str], float] = {
    ("reward", "S"): 2.0, ("reward", "M"): 2.0,
    ("ppo", "S"): 1.2, ("ppo", "M"): 1.0,
    ("ppo-shared", "S"): 2.0, ("ppo-shared", "M"): 2.0,
    ("reinforce", "S"): 1.4, ("reinforce", "M"): 1.4,
    ("sample", "S"): 1.5, ("sample", "M"): 1.5,
}  # fmt: skip
MEMORY = 0.6
"""Our peak over theirs, of the parts that train."""
START = 0.5
"""Our time from the start of the process to the first step, over theirs."""
STARTED = ("reward", "ppo", "reinforce")
"""Whose starts are timed: one model, four and three are loaded."""
# ------------------------------------------------------------------------------------------------------

CALM = {"OMP_WAIT_POLICY": "PASSIVE"}
"""The trainer sets it for itself: on a busy machine threads that spin as they wait lose several times over.
Both sides get it, so that this is not what is compared."""
PAIRS = 64
"""A turn of the reward model is a pass over so many pairs, in batches of 16: both sides do the same work."""
BATCH_PAIRS = 16
MICROBATCH_TOKENS = {"S": 2048, "M": 1024}
"""Of our side: they decide how much memory it needs, not what comes out."""


class Part(NamedTuple):
    script: str
    arguments: tuple[str, ...]  # {steps}: those after the warm-up
    ppo: bool  # needs the Python with the last TRL that has PPO
    flop: str  # its name in what bench_limit.py prints


PARTS = {
    "reward": Part("bench_reward.py", ("--steps", "{steps}", "--warmup", "{warm}"), False, "reward_pair"),
    "ppo": Part("bench_ppo.py", ("--updates", "{steps}", "--warmup", "{warm}"), True, "ppo_update"),
    "ppo-shared": Part("bench_ppo.py", ("--updates", "{steps}", "--warmup", "{warm}"), True, "ppo_update"),
    "reinforce": Part(
        "bench_group.py",
        ("--algo", "rloo", "--iterations", "1", "--updates", "{steps}", "--warmup", "{warm}"),
        False,
        "group_update",
    ),
    "sample": Part("bench_generate.py", ("--repeats", "{steps}"), False, "generate"),
}


class Bench(NamedTuple):
    """What the command line says."""

    anchors: Path
    trl: Path
    trl_ppo: Path
    work: Path
    rounds: int
    threads: int


# --- the folders that both sides read -----------------------------------------------------------------


def folders(folder: Path, shape: str, links: Mapping[str, Path]) -> tuple[Path, Path]:
    """theirs/: the anchor's folder, of links. ours/: its model, tokenizer and prompts for the trainer."""
    theirs, ours = folder / "theirs", folder / "ours"
    theirs.mkdir()
    ours.mkdir()
    for name, target in links.items():
        (theirs / name).symlink_to(target.resolve())
    code = "import sys; from benchmarks import trainer_folders; trainer_folders.write(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, theirs, shape, ours], cwd=ROOT, check=True)
    return theirs, ours


def prepare(bench: Bench, shape: str, folder: Path) -> None:
    """Both sides' folders with as many pairs as a turn has."""
    names = ("tokenizer", f"model_{shape}", "prompts_train.jsonl")
    theirs, ours = folders(folder, shape, {name: bench.work / name for name in names})
    pairs = (bench.work / "pairs_train.jsonl").read_text(encoding="utf-8").splitlines()[:PAIRS]
    for place in (theirs / "pairs_train.jsonl", ours / "pairs.jsonl"):
        place.write_text("".join(line + "\n" for line in pairs), encoding="utf-8")


# --- the sides ----------------------------------------------------------------------------------------


def objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects among what a process prints; transformers prints what it logs as Python writes it."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def said(command: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Run a side to its end: the JSON objects that it prints. Its complaints are shown when it fails."""
    told = [str(part) for part in command]
    done = subprocess.run(told, cwd=ROOT, text=True, capture_output=True, env={**os.environ, **CALM})
    if done.returncode:
        raise RuntimeError(f"{told}: {done.stderr[-2000:]}")
    return list(objects(done.stdout.splitlines()))


class Side:
    """A live process that does one step at a time, when it is told to."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        begin = time.perf_counter()
        self.log = log
        with log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env={**os.environ, **CALM, "ANCHOR_PACED": "1"},
            )  # fmt: skip
        self._tick()
        self.to_first_step = time.perf_counter() - begin

    def _said(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout
        return objects(self.process.stdout)

    def _tick(self) -> float | None:
        """Seconds of the step that was done; None before the first."""
        for found in self._said():
            if "tick" in found:
                return None if found["tick"] is None else float(found["tick"])
        raise RuntimeError(f"{self.process.args}: {self.log.read_text(encoding='utf-8')[-2000:]}")

    def _go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def steps(self, count: int) -> float:
        """Let it do so many; seconds, by its own clock."""
        seconds = 0.0
        for _step in range(count):
            self._go()
            seconds += self._tick() or 0.0
        return seconds

    def end(self) -> dict[str, Any]:
        """Let it end; what it says of itself."""
        self._go()
        final = [found for found in self._said() if "bench" in found]
        self.process.wait(timeout=60)
        return final[-1]


@contextmanager
def side(command: Sequence[str | Path], log: Path) -> Iterator[Side]:
    live = Side(command, log)
    try:
        yield live
    finally:
        if live.process.poll() is None:
            live.process.kill()
        live.process.wait()


def commands(
    bench: Bench, name: str, shape: str, folder: Path, steps: int, warm: int
) -> dict[str, list[Any]]:
    part = PARTS[name]
    told = [argument.format(steps=steps, warm=warm) for argument in part.arguments]
    theirs = [bench.trl_ppo if part.ppo else bench.trl, bench.anchors / part.script]
    theirs += ["--data", folder / "theirs", "--model", shape, "--threads", str(bench.threads), *told]
    ours = [sys.executable, "-m", "benchmarks.trainer_side", name, "--folder", folder / "ours"]
    ours += ["--steps", str(steps + warm), "--threads", str(bench.threads)]
    ours += ["--microbatch-tokens", str(MICROBATCH_TOKENS[shape])]
    return {"trl": theirs, name: ours}


# --- what is measured ---------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), 4), "min": round(min(values), 4),
        "max": round(max(values), 4), "n": len(values),
    }  # fmt: skip


def side_by_side(
    bench: Bench, names: Sequence[str], shape: str, folder: Path, limit: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Parts that have the same other half: turns of all sides, one after the other, and what they come to."""
    per_turn = PAIRS // BATCH_PAIRS if names[0] == "reward" else 1
    told = {who: command for name in names for who, command in commands(
        bench, name, shape, folder, bench.rounds * per_turn, per_turn).items()}  # fmt: skip
    taken: dict[str, list[float]] = {who: [] for who in told}
    with ExitStack() as stack:
        sides = {who: stack.enter_context(side(told[who], folder / f"{who}.log")) for who in told}
        for turn in range(bench.rounds + 1):
            for who in list(sides)[:: 1 if turn % 2 else -1]:
                taken[who].append(sides[who].steps(per_turn))
            shown = ", ".join(f"{who} {seconds[-1]:.2f} s" for who, seconds in taken.items())
            print(f"  {shape} turn {turn}: {shown}", file=sys.stderr, flush=True)
        final = {who: live.end() for who, live in sides.items()}
    counted = {who: seconds[1:] for who, seconds in taken.items()}  # the first turn warms caches up
    return {name: compared(name, shape, counted, final, limit) for name in names}


def compared(
    name: str, shape: str, taken: dict[str, list[float]], final: dict[str, Any], limit: dict[str, Any]
) -> dict[str, Any]:
    """The figures of one part against those of the other half."""
    units = {"reward": PAIRS, "sample": 32 * 48}.get(name, 32)
    figures: dict[str, Any] = {"unit": {"reward": "pairs", "sample": "tokens"}.get(name, "prompts")}
    # On a busy machine a single look at the limit is too low: the best look counts.
    seen = [rate for found in final.values() for rate in found["gemm_gflops_before_after"]]
    limit["peak_gflops"] = max(limit["peak_gflops"], *seen)
    best = flops(limit, name, shape) / limit["peak_gflops"]
    for who, side_ in (("trl", "trl"), ("ours", name)):
        seconds = taken[side_]
        figures[who] = {
            "seconds": spread(seconds),
            "rate": round(units / statistics.median(seconds), 2),
            "share_of_matmul_limit": round(best / statistics.median(seconds), 3),
            "best_share_of_matmul_limit": round(best / min(seconds), 3),
            "peak_mib": final[side_]["peak_rss_mib"],
            "matmul_gflops": final[side_]["gemm_gflops_before_after"],
        }
    figures["ratio_of_medians"] = round(statistics.median(taken["trl"]) / statistics.median(taken[name]), 3)
    figures["ratio_of_minima"] = round(min(taken["trl"]) / min(taken[name]), 3)
    figures["memory_ratio"] = round(figures["ours"]["peak_mib"] / figures["trl"]["peak_mib"], 3)
    figures["bar"] = FASTER[name, shape]
    figures["versions"] = {key: final["trl"][key] for key in ("trl", "transformers", "torch")}
    figures["pass"] = min(figures["ratio_of_medians"], figures["ratio_of_minima"]) >= figures["bar"]
    if name != "sample":  # which holds little beside torch and transformers themselves
        figures["memory_bar"] = MEMORY
        figures["pass"] = figures["pass"] and figures["memory_ratio"] <= MEMORY
    return figures


def starts(bench: Bench, name: str, shape: str, folder: Path) -> dict[str, Any]:
    """Whole starts of a part in turn: from nothing to where the first step begins."""
    told = commands(bench, name, shape, folder, 1, 0)
    taken: dict[str, list[float]] = {who: [] for who in told}
    for turn in range(bench.rounds + 1):
        for who in list(told)[:: 1 if turn % 2 else -1]:
            with side(told[who], folder / f"start.{who}.log") as live:
                taken[who].append(live.to_first_step)
    trl, ours = (taken[who][1:] for who in ("trl", name))
    figures: dict[str, Any] = {"trl": {"seconds": spread(trl)}, "ours": {"seconds": spread(ours)}}
    figures["ratio_of_medians"] = round(statistics.median(ours) / statistics.median(trl), 3)
    figures["ratio_of_minima"] = round(min(ours) / min(trl), 3)
    figures["bar"] = START
    figures["pass"] = max(figures["ratio_of_medians"], figures["ratio_of_minima"]) <= START
    return figures


def flops(limit: dict[str, Any], name: str, shape: str) -> float:
    """Useful GFLOP of a turn: no padding, logits only where a loss needs them."""
    known = limit[shape]["gflop"]
    if name == "reward":
        return float(known["reward_pair"] * PAIRS)
    if name == "sample":
        return float(limit[shape]["ppo_parts_gflop"]["generation"])
    if name == "reinforce":  # one pass instead of four
        parts = limit[shape]["group_parts_gflop"]
        return float(parts["generation"] + parts["scoring"] + parts["train_4_passes"] / 4)
    return float(known["ppo_update"])


def limits(bench: Bench, folder: Path) -> dict[str, Any]:
    """The best matrix product of this machine, and the work of each phase, by the anchor's own counting."""
    script = bench.anchors / "bench_limit.py"
    told = said([bench.trl, script, "--data", folder, "--threads", str(bench.threads)])
    found = {line["model"]: line for line in told if line["bench"] == "limit"}
    return {"peak_gflops": found["S"]["peak_gflops"], **found}


def together(parts: Sequence[str]) -> list[list[str]]:
    """Parts that have the same other half are measured at once."""
    groups: dict[Any, list[str]] = {}
    for name in parts:
        groups.setdefault(PARTS.get(name, name), []).append(name)
    return list(groups.values())


def measure(figures: dict[str, Any], bench: Bench, shapes: Sequence[str], parts: Sequence[str]) -> bool:
    figures["date"] = datetime.date.today().isoformat()
    figures["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    figures["threads"] = bench.threads
    passed = True
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as place:
        for shape in shapes:
            folder = Path(place) / shape
            folder.mkdir()
            prepare(bench, shape, folder)
            limit = limits(bench, folder / "theirs")
            for names in together(parts):
                found = (
                    {f"start of {name}": starts(bench, name, shape, folder) for name in STARTED}
                    if names == ["start"]
                    else side_by_side(bench, names, shape, folder, limit)
                )
                for name, values in found.items():
                    figures[f"{name} {shape}"] = values
                    passed = passed and values["pass"]
                    print(f"  {name} {shape}: {json.dumps(values)}", file=sys.stderr, flush=True)
            figures[f"matmul_limit_gflops {shape}"] = limit["peak_gflops"]
    return passed


def parser_of(command: str, sentence: str) -> argparse.ArgumentParser:
    """What every command that has the anchor as its other half is told."""

    def place(text: str) -> Path:
        return Path(text).absolute()  # both sides run in other folders

    parser = argparse.ArgumentParser(
        prog=f"./run {command}", description=sentence, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("anchors", type=place, metavar="ANCHORS_DIR", help="the scripts that drive TRL")
    needed: dict[str, Any] = {"type": place, "required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--trl", **needed, help="python with the newest TRL")
    parser.add_argument("--trl-ppo", **needed, help="python with the last TRL that has PPO")
    parser.add_argument("--work", **needed, help="what the anchor's prepare.py wrote")
    return parser


def main() -> int:
    parser = parser_of("bench-trainer", __doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=["S", "M"], default=["S", "M"], help="sizes")
    parser.add_argument(
        "--parts", nargs="+", choices=[*PARTS, "start"], default=[*PARTS, "start"], help="what is timed"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns that count; one more comes before")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    told = parser.parse_args()
    bench = Bench(told.anchors, told.trl, told.trl_ppo, told.work, told.rounds, told.threads)
    return measured("bench-trainer", lambda figures: measure(figures, bench, told.models, told.parts))


if __name__ == "__main__":
    raise SystemExit(main())
