"""Run the trainer inside the test's own process, and read what it left."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from training.core import __main__ as trainer
from training.core import protocol

SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 4, "batch_tokens": 256, "evaluate_every": 3, "checkpoint_every": 2},
    "reward_model": {
        "epochs": 2, "batch_pairs": 8, "learning_rate": 1e-3, "checkpoint_every": 2, "members": 2,
        "ties": "rao_kupper", "margins": "learned", "annotators": "reliability",
    },
    "ppo": {
        "steps": 4, "rollout_prompts": 8, "max_new_tokens": 8, "learning_rate": 3e-3, "kl_target": 1.0,
        "checkpoint_every": 2, "sample_every": 2, "minibatches": 2, "ptx_coefficient": 0.5,
    },
    "reinforce": {
        "steps": 4, "rollout_prompts": 6, "completions_per_prompt": 2, "max_new_tokens": 8,
        "learning_rate": 3e-3, "baseline": "running_mean", "checkpoint_every": 2, "sample_every": 2,
        "score_scaling": True, "length_weight": -0.01, "pattern": "a", "pattern_weight": 0.1,
    },
    "trpo": {
        "steps": 4, "rollout_prompts": 8, "max_new_tokens": 8, "checkpoint_every": 2, "sample_every": 2,
        "cg_iterations": 4, "trained_layers": 1, "critic": "separate",
    },
    "sample": {"completions_per_prompt": 3, "max_new_tokens": 8, "batch_size": 3},
}  # fmt: skip
"""Of each kind: a run of seconds that takes the rarer ways through it."""
UNSTEADY = ("time/", "speed/")
"""Metrics that measure the machine."""


class Killed(BaseException):
    """As sudden as a SIGKILL: nothing in the trainer catches it, nothing is tidied up."""


def run(run_dir: Path) -> dict[str, Any]:
    """The outcome of one start of the trainer."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        trainer.main([str(run_dir)])
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    return outcome(run_dir)


def outcome(run_dir: Path) -> dict[str, Any]:
    """How a run ended; where it is done, of the specification that it has now."""
    found = protocol.read_outcome(run_dir)
    assert found is not None
    if found["status"] == "done":
        assert found.pop("spec") == protocol.spec_hash(protocol.read_spec(run_dir))
    return found


def events(run_dir: Path, type: str) -> list[dict[str, Any]]:
    return [event for event in protocol.read_events(run_dir, 0)[0] if event["type"] == type]


def metrics(run_dir: Path) -> dict[int, dict[str, float]]:
    """Step -> values as the supervisor stores them: later rows of a step join and overwrite earlier ones."""
    rows: dict[int, dict[str, float]] = {}
    for event in events(run_dir, "metrics"):
        rows.setdefault(event["step"], {}).update(event["values"])
    return rows


def steady(rows: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    return {
        step: {name: value for name, value in values.items() if not name.startswith(UNSTEADY)}
        for step, values in rows.items()
    }


def warnings(run_dir: Path) -> str:
    return "\n".join(event["message"] for event in events(run_dir, "warning"))


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next start of the trainer dies when it has written the metrics of `step`."""
    write = protocol.Events.write

    def write_and_die(self: protocol.Events, type: str, **facts: Any) -> None:
        write(self, type, **facts)
        if type == "metrics" and facts["step"] == step:
            raise Killed

    monkeypatch.setattr(protocol.Events, "write", write_and_die)
