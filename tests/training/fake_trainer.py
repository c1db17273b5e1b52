"""A trainer without a model: it speaks the run-directory protocol and dies, fails or hangs as told.

Its "model" is a chain of hashes over seed and steps, so a resumed run gives the same bytes as an undisturbed
one only if it went on from the right state. Started as `python fake_trainer.py RUN_DIR`; config key "fake":
    steps, seconds (a step takes), checkpoint_every, fail {code, message, hint}, ignore_sigterm,
    rank (start a child), kill {"step": n, "signal": s, "times": t}: before step n, in its first t starts,
    texts {prompt id: [completion, ...]} for kind `sample`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from training.core import protocol

stop_asked: list[int] = []


def main(run_dir: Path) -> None:
    spec = protocol.read_spec(run_dir)
    plan = {"steps": 4, "seconds": 0.0, "checkpoint_every": 2, **spec["config"].get("fake", {})}
    supervisor = int(os.environ["RLHF_SUPERVISOR_PID"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN if plan.get("ignore_sigterm") else note)
    starts = append(run_dir / "starts.log", {"pid": os.getpid(), "environment": sorted(os.environ)})
    if plan.get("rank"):
        rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (run_dir / "rank.pid").write_text(str(rank.pid))
    events = protocol.Events(run_dir)
    state, first = resume(run_dir, spec["seed"])
    events.write("phase", phase="training", step=first, total_steps=plan["steps"])
    for step in range(first + 1, plan["steps"] + 1):
        time.sleep(plan["seconds"])
        if os.getppid() != supervisor:
            os._exit(17)
        if stop_asked:
            save(run_dir, step - 1, state)
            protocol.write_outcome(run_dir, "cancelled")
            return
        die = plan.get("kill")
        if die and die["step"] == step and starts <= die["times"]:
            print(f"about to die at step {step}", flush=True)
            events.file.write('{"type": "metr')  # a line that will never be finished
            events.file.flush()
            os.kill(os.getpid(), die["signal"])
        state = hashlib.sha256(f"{state}:{step}".encode()).hexdigest()
        left = (plan["steps"] - step) * plan["seconds"]
        report(events, step, plan["steps"], left, state)
        if step % plan["checkpoint_every"] == 0:
            save(run_dir, step, state)
    if fail := plan.get("fail"):
        protocol.write_outcome(run_dir, "failed", **fail)
        return
    finish(run_dir, spec, state)
    protocol.write_outcome(run_dir, "done")


def note(number: int, _frame: object) -> None:
    stop_asked.append(number)


def append(path: Path, line: dict[str, Any]) -> int:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return len(path.read_text().splitlines())


def report(events: protocol.Events, step: int, total: int, left: float, state: str) -> None:
    values = {"reward/mean": float(step), "state": int(state[:8], 16) / 1.0}
    events.write("metrics", step=step, total_steps=total, seconds_left=left, values=values)
    messages = [{"role": "user", "content": "Hello\0?"}]
    events.write("sample", step=step, index=0, messages=messages, completion=state, score=0.5, kl=None)
    events.write("log", message=f"step {step}")


def save(run_dir: Path, step: int, state: str) -> None:
    aside = run_dir / "checkpoints" / f".part-{step}"
    aside.mkdir(parents=True, exist_ok=True)
    (aside / "state.json").write_text(json.dumps({"step": step, "state": state}))
    protocol.seal(aside, protocol.checkpoint_folder(run_dir, step))


def resume(run_dir: Path, seed: int) -> tuple[str, int]:
    for folder in protocol.checkpoints(run_dir):
        found = protocol.read_json(folder / "state.json")
        return found["state"], found["step"]
    return str(seed), 0


def finish(run_dir: Path, spec: dict[str, Any], state: str) -> None:
    aside = run_dir / "output.part"
    aside.mkdir(exist_ok=True)
    if spec["kind"] == "sample":
        write_completions(run_dir, aside, spec)
    else:
        (aside / "config.json").write_text("{}")
        (aside / "model.safetensors").write_text(state)
    protocol.seal(aside, run_dir / "output")


def write_completions(run_dir: Path, aside: Path, spec: dict[str, Any]) -> None:
    """A text that policy, prompt and seed decide alone, or those that the config lists for the prompt."""
    texts = spec["config"].get("fake", {}).get("texts", {})
    policy = (run_dir / "inputs/policy/config.json").read_text()
    with (aside / "completions.jsonl").open("w") as file:
        for row in protocol.read_jsonl(run_dir / "inputs/prompts.jsonl"):
            prompt_id = row["prompt_id"]
            written = texts.get(str(prompt_id), [f"{policy} answers {prompt_id}, drawn by {spec['seed']}"])
            for index, text in enumerate(written):
                line = {
                    "prompt_id": prompt_id,
                    "index": index,
                    "completion": text,
                    "token_count": len(text.split()),
                    "finish_reason": "stop",
                    "logprob": -1.5,
                    "score": None,
                }
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
