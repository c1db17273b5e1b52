"""Kill -9, a full disk, losses that are no numbers, damage: the last good checkpoint leads to the same bytes.

`test_run.py` kills the trainer at steps inside the test's own process; here real processes die at any time.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core import drive, tiny
from training.core import __main__ as trainer
from training.core import checkpoint, protocol

SETTINGS: dict[str, dict[str, Any]] = {
    "reward_model": {"epochs": 12, "batch_pairs": 8, "checkpoint_every": 4, "members": 2},
    "ppo": {
        "steps": 30, "rollout_prompts": 8, "max_new_tokens": 8, "kl_target": 1.0, "kl_limit": 1000.0,
        "checkpoint_every": 3, "sample_every": 4, "epochs": 2, "score_scaling": True,
    },
    "reinforce": {
        "steps": 60, "rollout_prompts": 8, "max_new_tokens": 8, "baseline": "running_mean",
        "completions_per_prompt": 2, "kl_limit": 1000.0, "checkpoint_every": 4, "sample_every": 6,
    },
    "trpo": {
        "steps": 30, "rollout_prompts": 8, "max_new_tokens": 8, "checkpoint_every": 3, "sample_every": 4,
        "kl_limit": 1000.0, "cg_iterations": 3,
    },
}  # fmt: skip
KILLS = 10
EARLY = 2
"""Kills before the first step: while modules, inputs, models or a checkpoint are read."""
LAST_STEPS = 12
"""No kill is aimed at the last steps, so that none comes too late."""


# --- what a run has said in the end -----------------------------------------------------------------


def last_word(run_dir: Path) -> dict[Any, Any]:
    """Every metrics and sample event that counts: an attempt takes back what stood after its checkpoint."""
    said: dict[Any, Any] = {}
    start = 0
    for event in protocol.read_events(run_dir, 0)[0]:
        message = event.get("message", "")
        if event["type"] == "phase" and event["phase"] == "loading":
            start = 0  # until it says from where it goes on
        elif event["type"] == "log" and message.startswith("Resumed from the checkpoint of step "):
            start = int(message.rstrip(".").rsplit(" ", 1)[1])
        elif event["type"] == "phase" and event["phase"] == "training":
            assert event["step"] == start
            said = {key: value for key, value in said.items() if key[1] <= start}
        elif event["type"] == "metrics":
            values = drive.steady({0: event["values"]})[0]
            said["metrics", event["step"], frozenset(values)] = values
        elif event["type"] == "sample":
            facts = {name: value for name, value in event.items() if name != "time"}
            said["sample", event["step"], event["index"]] = facts
    return said


def same(one: Path, other: Path) -> None:
    """Every file of the output has the same sha256, and the run says the same of every step."""
    assert protocol.file_hashes(one / "output") == protocol.file_hashes(other / "output")
    assert protocol.verify(one / "output") == protocol.verify(other / "output")
    assert last_word(one) == last_word(other)
    assert drive.steady(drive.metrics(one)) == drive.steady(drive.metrics(other))


def resumed_from(run_dir: Path) -> list[int]:
    found = [event["message"] for event in drive.events(run_dir, "log") if "Resumed" in event["message"]]
    return [int(message.rstrip(".").rsplit(" ", 1)[1]) for message in found]


# --- real processes, killed at any time (item 60) ---------------------------------------------------


def start(run_dir: Path, before: str = "") -> subprocess.Popen[bytes]:
    """`python -m training.core RUN_DIR`, or the same after a few lines of `before` in that process."""
    run_module = f"import runpy, sys\nsys.argv = ['training.core', {str(run_dir)!r}]\n"
    run_module += "runpy.run_module('training.core', run_name='__main__', alter_sys=True)\n"
    command = ["-c", before + run_module] if before else ["-m", "training.core", str(run_dir)]
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(run_dir: Path) -> None:
    assert start(run_dir).wait(200) == 0
    assert drive.outcome(run_dir) == {"status": "done"}


def kill_after(process: subprocess.Popen[bytes], run_dir: Path, seen: int, step: int, delay: float) -> None:
    """SIGKILL `delay` seconds after the metrics of `step` appear among the events behind byte `seen`."""
    deadline = time.monotonic() + 120
    while step and time.monotonic() < deadline and process.poll() is None:
        found, seen = protocol.read_events(run_dir, seen)
        if any(event["type"] == "metrics" and event["step"] >= step for event in found):
            break
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL, f"it ended before it was killed at step {step}"


def kill_points(kind: str, peace: Path) -> list[tuple[int, float]]:
    """(step, seconds to wait after it), in the order of steps; 0 is before any step of that start."""
    random_ = random.Random(f"kill points of {kind}")
    rows = drive.events(peace, "metrics")
    pace = statistics.median(b["time"] - a["time"] for a, b in zip(rows, rows[1:], strict=False))
    steps = sorted(random_.sample(range(1, rows[-1]["step"] - LAST_STEPS), KILLS - EARLY))
    points = [(step, random_.uniform(0, 2 * pace)) for step in steps]
    for _ in range(EARLY):
        points.insert(random_.randrange(len(points)), (0, random_.uniform(0.2, 4.0)))
    return points


@pytest.mark.processes
@pytest.mark.timeout(900)  # twelve starts: a minute where nothing else runs, minutes on a busy machine
@pytest.mark.parametrize("kind", SETTINGS)
def test_ten_kills_at_random_times_change_nothing(kind: str, inputs: Any, tmp_path: Path) -> None:
    """One run dies ten times, each time a little further on, and ends like the one that was left in peace."""
    peace, made = (
        tiny.run_dir(tmp_path / name, kind, SETTINGS[kind], inputs[kind]) for name in ("peace", "run")
    )
    finish(peace)
    for step, delay in kill_points(kind, peace):
        seen = (made / "events.jsonl").stat().st_size if (made / "events.jsonl").exists() else 0
        kill_after(start(made), made, seen, step, delay)
        assert protocol.read_outcome(made) is None and not (made / "output").exists()
    finish(made)
    assert len(resumed_from(made)) >= KILLS // 2, "most starts found a checkpoint"
    assert not list(made.glob("**/*.part"))
    same(made, peace)


MOMENTS = [
    ("os.mkdir", ".part"),  # nothing is there yet
    ("open", "facts.json.part"),  # weights alone
    ("os.rename", "facts.json.part"),
    ("open", "manifest.json.part"),
    ("os.rename", "manifest.json.part"),
    ("os.rename", ".part"),  # whole, without its name
    ("open", "checkpoints"),  # named, not synced
    ("os.remove", "state.safetensors"),  # an old one, or a half-written one, is half removed
    ("os.rmdir", ""),
]
"""What a dying process was about to do inside checkpoints/, as Python's audit events say it."""
DIE = """
import os, signal, sys
wanted, end = {moment!r}
inside = False
def look(name, args):
    global inside
    path = str(args[0]) if args else ""
    inside = inside or (name == "os.mkdir" and "checkpoints/" in path)
    if inside and name == wanted and path.endswith(end):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
"""


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_a_kill_at_each_moment_of_a_checkpoint_changes_nothing(
    undisturbed: Path, inputs: Any, tmp_path: Path
) -> None:
    made = short_run(tmp_path / "run", inputs)
    for moment in [("os.rename", ".part"), *MOMENTS]:
        process = start(made, DIE.format(moment=moment))
        assert process.wait(120) == -signal.SIGKILL, moment
        assert protocol.read_outcome(made) is None
        for folder in protocol.checkpoints(made)[: checkpoint.KEPT]:
            protocol.verify(folder)
    finish(made)
    same(made, undisturbed)
    assert not list(made.glob("**/*.part"))
    assert len(protocol.checkpoints(made)) == checkpoint.KEPT


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: Any) -> Path:
    """A short run of the cheapest kind, left in peace."""
    made = short_run(tmp_path_factory.mktemp("undisturbed") / "run", inputs)
    assert drive.run(made) == {"status": "done"}
    return made


def short_run(folder: Path, inputs: Any) -> Path:
    settings = {**SETTINGS["reinforce"], "steps": 12, "checkpoint_every": 2}
    return tiny.run_dir(folder, "reinforce", settings, inputs["reinforce"])


# --- faults that the trainer sees: the last good checkpoint stays (item 60) -------------------------


def half_way(folder: Path, inputs: Any) -> Path:
    """The short run, dead after step 5: it has checkpoints of steps 2 and 4."""
    made = short_run(folder, inputs)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(drive.Killed):
        drive.kill_at(patched, 5)
        trainer.main([str(made)])
    assert [folder.name for folder in protocol.checkpoints(made)] == ["step-000004", "step-000002"]
    return made


def fails(made: Path, code: str) -> dict[str, Any]:
    """One start that fails for this reason, says so, and leaves the checkpoints and nothing half-written."""
    outcome = drive.run(made)
    assert (outcome["status"], outcome["code"]) == ("failed", code) and outcome["hint"]
    assert drive.events(made, "error")[-1]["message"] == outcome["message"]
    assert not (made / "output").exists() and not list(made.glob("**/*.part"))
    for folder in protocol.checkpoints(made):
        protocol.verify(folder)
    return outcome


def goes_on(made: Path, step: int, undisturbed: Path) -> None:
    assert drive.run(made) == {"status": "done"}
    assert resumed_from(made)[-1] == step
    same(made, undisturbed)


@pytest.mark.processes
def test_a_file_that_may_not_grow_fails_as_a_full_disk(
    undisturbed: Path, inputs: Any, tmp_path: Path
) -> None:
    """The kernel refuses the write in the middle of the weights; nothing in Python is replaced."""
    made = half_way(tmp_path / "run", inputs)
    size = (made / "checkpoints" / "step-000004" / "state.safetensors").stat().st_size // 2
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    assert start(made, limit).wait(120) == 1
    outcome = protocol.read_outcome(made)
    assert outcome is not None and outcome["code"] == "disk_full" and "File too large" in outcome["message"]
    assert not list(made.glob("**/*.part"))
    goes_on(made, 4, undisturbed)


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_full_disk_in_a_checkpoint(
    writes: int, undisturbed: Path, inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC at one of the syncs of the checkpoint of step 6."""
    made = half_way(tmp_path / "run", inputs)
    sync, left = os.fsync, [writes]

    def full(descriptor: int) -> None:
        if "/.step-000006.part" in os.readlink(f"/proc/self/fd/{descriptor}"):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "No space left" in fails(made, "disk_full")["message"]
    goes_on(made, 4, undisturbed)


def test_where_even_the_outcome_finds_no_room_the_log_says_why(
    undisturbed: Path, inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    made = half_way(tmp_path / "run", inputs)

    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "fsync", full)
        trainer.main([str(made)])
    assert "No space left" in capfd.readouterr().err
    assert protocol.read_outcome(made) is None and not list(made.glob("checkpoints/.*"))
    goes_on(made, 4, undisturbed)


NORMS = torch.nn.utils.clip_grad_norm_


@pytest.mark.parametrize("kind", SETTINGS)
def test_three_losses_that_are_no_numbers_end_the_run_and_spoil_nothing(
    kind: str, inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS[kind], "checkpoint_every": 4}
    settings |= {"epochs": 2} if kind == "reward_model" else {"steps": 8}
    peace, made = (tiny.run_dir(tmp_path / name, kind, settings, inputs[kind]) for name in ("peace", "run"))
    assert drive.run(peace) == {"status": "done"}
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.utils, "clip_grad_norm_", none_after(made))
        assert fails(made, "non_finite")["hint"]
    assert drive.warnings(made).count("not finite") == 3
    assert [folder.name for folder in protocol.checkpoints(made)] == ["step-000004"]
    goes_on(made, 4, peace)


def none_after(run_dir: Path) -> Callable[..., torch.Tensor]:
    """Every gradient is NaN as soon as there is a checkpoint."""

    def norm(weights: Any, limit: float) -> torch.Tensor:
        weights = list(weights)
        if protocol.checkpoints(run_dir):
            for weight in weights:
                if weight.grad is not None:
                    weight.grad.fill_(float("nan"))
        return NORMS(weights, limit)

    return norm


def test_a_crash_of_the_program_keeps_the_checkpoint(
    undisturbed: Path, inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = half_way(tmp_path / "run", inputs)

    def crash(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("expected a tensor on the device")

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", crash)
        assert "expected a tensor" in fails(made, "unexpected")["message"]
    goes_on(made, 4, undisturbed)


# --- damage -----------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "half the weights": lambda folder: cut(folder / "state.safetensors"),
    "no weights": lambda folder: (folder / "state.safetensors").unlink(),
    "other facts": lambda folder: (folder / "facts.json").write_text('{"step": 9, "facts": {}}'),
    "half a manifest": lambda folder: cut(folder / "manifest.json"),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_text("{}"),
    "another manifest": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a file too many": lambda folder: (folder / "other.json").write_text("{}"),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()] and None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(
    damage: str, undisturbed: Path, inputs: Any, tmp_path: Path
) -> None:
    made = half_way(tmp_path / "run", inputs)
    DAMAGES[damage](made / "checkpoints" / "step-000004")
    goes_on(made, 2, undisturbed)
    assert "step-000004 is damaged and was skipped" in drive.warnings(made)


def test_where_all_checkpoints_are_damaged_the_run_starts_afresh(
    undisturbed: Path, inputs: Any, tmp_path: Path
) -> None:
    made = half_way(tmp_path / "run", inputs)
    for folder in protocol.checkpoints(made):
        cut(folder / "state.safetensors")
    assert drive.run(made) == {"status": "done"}
    assert drive.warnings(made).count("is damaged and was skipped") == 2 and not resumed_from(made)
    same(made, undisturbed)


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 2):
        protocol.checkpoint_folder(tmp_path, step).mkdir(parents=True)
    shutil.copytree(
        tmp_path / "checkpoints" / "step-000002", tmp_path / "checkpoints" / "damaged-step-000003"
    )
    found = [folder.name for folder in protocol.checkpoints(tmp_path)]
    assert found == ["step-1000000", "step-999999", "step-000002"]
