"""Several processes over gloo: the same rows, the same losses, and one output."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.core import drive, tiny
from training.core import protocol
from training.core.processes import Processes

SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 2, "batch_tokens": 256},
    "reward_model": {
        "epochs": 2,
        "batch_pairs": 7,
        "learning_rate": 1e-3,
        "annotators": "reliability",
        "members": 2,
    },
    "ppo": {"minibatches": 2, "epochs": 2, "rollout_prompts": 7, "checkpoint_every": 1},
    "reinforce": {"rollout_prompts": 3, "completions_per_prompt": 3, "baseline": "leave_one_out"},
    "trpo": {"rollout_prompts": 5, "cg_iterations": 3},
}
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
CURVES = (
    "train/loss",
    "train/grad_norm",
    "held_out/loss",
    "reward/mean",
    "kl/reference",
    "policy/loss",
    "policy/grad_norm",
    "value/loss",
    "completion/length",
)


def test_shares_are_neighbours_and_make_the_whole() -> None:
    rows = list(range(10))
    shares = [list(Processes(rank, 3).share(rows)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 4] and sum(shares, []) == rows
    assert [list(Processes(rank, 3).share([5])) for rank in range(3)] == [[], [], [5]]


def test_numbers_of_a_share_are_those_of_the_whole() -> None:
    """What rollout.collect relies on: uniform numbers are drawn one after the other."""
    whole = torch.rand(9, 5, generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    torch.rand(4 * 5, generator=generator)
    assert torch.equal(torch.rand(3, 5, generator=generator), whole[4:7])


@pytest.mark.processes
@pytest.mark.parametrize("kind", SETTINGS)
def test_two_processes_have_the_losses_of_one(
    kind: str, gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    """The same global batch: curves agree to rounding, and so do the weights."""
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    settings = {"steps": 3, "max_new_tokens": 8, **SETTINGS[kind]}
    if kind in ("sft", "reward_model"):
        rows = tiny.demonstrations(24) if kind == "sft" else tiny.preferences(24)
        snapshot = tiny.write_rows(tmp_path / "snapshot.jsonl", rows)
        inputs, settings = {"policy": gpt2, "snapshot": snapshot}, SETTINGS[kind]
    one = tiny.run_dir(tmp_path / "one", kind, settings, inputs)
    assert drive.run(one) == {"status": "done"}
    two = tiny.run_dir(tmp_path / "two", kind, settings, inputs)
    done = subprocess.run(
        [*LAUNCHER, "2", "-m", "training.core", str(two)],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert drive.outcome(two) == {"status": "done"}, done.stderr[-3000:]
    assert done.returncode == 0
    alone, together = drive.metrics(one), drive.metrics(two)
    assert alone.keys() == together.keys()
    for step, row in alone.items():
        for name in CURVES:
            if name in row:
                assert together[step][name] == pytest.approx(row[name], rel=2e-3, abs=2e-4), (step, name)
    weights = [load_file(folder / "output" / "model.safetensors") for folder in (one, two)]
    assert all(torch.allclose(weights[1][name], weight, atol=2e-4) for name, weight in weights[0].items())
    assert len(drive.events(two, "phase")) == len(drive.events(one, "phase")), "one process writes"


@pytest.mark.processes
def test_more_processes_than_rows_do_it_and_need_no_second_start(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    """One prompt for three: two of them have no row. And a run that is done is done for all of them."""
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    settings = {"steps": 2, "max_new_tokens": 8, "rollout_prompts": 1, "minibatches": 1}
    three = tiny.run_dir(tmp_path / "three", "ppo", settings, inputs)
    command = [*LAUNCHER, "3", "-m", "training.core", str(three)]
    for _start in range(2):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert drive.outcome(three) == {"status": "done"}, done.stderr[-3000:]
        assert done.returncode == 0
    assert list(drive.metrics(three)) == [1, 2]


WRITES = """
import pathlib, sys
from training.core import protocol
for _ in range(200):
    protocol.write_outcome(pathlib.Path(sys.argv[1]), "failed", code="full", message="m", hint="h")
"""


def test_processes_that_fail_at_once_do_not_hinder_each_other(tmp_path: Path) -> None:
    """Each tells what happened: one renamed the file that another was writing."""
    folder = tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-c", WRITES, str(folder)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [writer.communicate(timeout=60)[1] for writer in writers] == ["", ""]
    assert [path.name for path in folder.iterdir()] == ["outcome.json"]


FAILING = """
import os, sys
from training.core import __main__ as trainer, ppo
if os.environ["RANK"] == "1":
    def full(*arguments, **named):
        raise MemoryError("not enough memory")
    ppo.minibatch = full
sys.exit(trainer.main(sys.argv[1:]))
"""


LEAVING = """
import atexit, sys, torch
from training.core import __main__ as trainer
atexit.register(lambda: print("joined" if torch.distributed.is_initialized() else "left"))
sys.exit(trainer.main(sys.argv[1:]))
"""


@pytest.mark.processes
def test_each_process_leaves_the_others_before_it_ends(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    """Or a thread of gloo may hold a message when the interpreter has ended, and torch aborts over it.

    Seen once on a busy machine, and at 18 of 20 ends with those threads held back.
    """
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    two = tiny.run_dir(tmp_path / "two", "ppo", {"steps": 1, "max_new_tokens": 8}, inputs)
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING, encoding="utf-8")
    done = subprocess.run(
        [*LAUNCHER, "2", str(script), str(two)], capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert drive.outcome(two) == {"status": "done"}, done.stderr[-3000:]
    assert done.stdout.split() == ["left", "left"]
    assert done.returncode == 0


def loads(process: psutil.Process) -> bool:
    """Whether it brings torch in: it listens to signals by then, and has not met the others yet."""
    return any("libtorch" in mapped.path for mapped in process.memory_maps())


@pytest.mark.processes
def test_a_stop_while_they_load_ends_them_all(gpt2: Path, reward_model: Path, tmp_path: Path) -> None:
    """The first leaves when it has met the others: they would wait for it until somebody kills them."""
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    two = tiny.run_dir(tmp_path / "two", "ppo", {"steps": 500, "max_new_tokens": 8}, inputs)
    launched = subprocess.Popen(
        [*LAUNCHER, "2", "-m", "training.core", str(two)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while [loads(rank) for rank in psutil.Process(launched.pid).children()] != [True, True]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        asked_at = time.monotonic()
        launched.terminate()
        launched.wait(60)
        assert time.monotonic() - asked_at < 20, "not by the launcher's kill after 30 s"
    finally:
        launched.kill()
        launched.wait()
    assert protocol.read_outcome(two) == {"status": "cancelled"}
    assert drive.events(two, "metrics") == []


@pytest.mark.processes
def test_what_happened_to_another_process_is_told(gpt2: Path, reward_model: Path, tmp_path: Path) -> None:
    """The first process only sees that a connection broke."""
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    two = tiny.run_dir(tmp_path / "two", "ppo", {"steps": 2, "max_new_tokens": 8}, inputs)
    script = tmp_path / "failing.py"
    script.write_text(FAILING, encoding="utf-8")
    subprocess.run(
        [*LAUNCHER, "2", str(script), str(two)], capture_output=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    outcome = protocol.read_outcome(two)
    assert outcome is not None and (outcome["status"], outcome["code"]) == ("failed", "out_of_memory")
