"""The run directory's promises: whatever kills the trainer, the next start ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers
from tensorboardX.proto.event_pb2 import Event

from tests.core import drive, tiny
from tests.core.drive import SETTINGS
from training.core import __main__ as trainer
from training.core import metrics, protocol, run
from training.core.processes import Processes
from training.core.tensorboard import EventFiles
from training.core.types import Metrics, Phase

RARE = {"reward/unscored", "reward/part/disagreement", "judgement/nu"}
"""Metrics that these runs do not have."""
KILLS = [
    ("sft", 1),
    ("sft", 3),
    ("reward_model", 3),
    ("reward_model", 8),
    ("ppo", 1),
    ("ppo", 3),
    ("reinforce", 1),
    ("reinforce", 3),
    ("trpo", 1),
    ("trpo", 3),
    ("sample", 10),
]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, dict[str, Path]]) -> dict[str, Path]:
    """A finished, undisturbed run of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    made = {kind: tiny.run_dir(folder / kind, kind, SETTINGS[kind], inputs[kind]) for kind in SETTINGS}
    for run_dir in made.values():
        assert drive.run(run_dir) == {"status": "done"}, drive.events(run_dir, "error")
    return made


def same(one: Path, other: Path) -> None:
    """Equal output to the byte, equal metrics at every step."""
    assert protocol.verify(one / "output") == protocol.verify(other / "output")
    assert drive.steady(drive.metrics(one)) == drive.steady(drive.metrics(other))


# --- whatever happens, the same bytes (item 60) -----------------------------------------------------


@pytest.mark.parametrize(("kind", "step"), KILLS)
def test_a_killed_run_goes_on_to_the_same_output(
    kind: str, step: int, whole: dict[str, Path], inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.run_dir(tmp_path / "run", kind, SETTINGS[kind], inputs[kind])
    with monkeypatch.context() as patched:
        drive.kill_at(patched, step)
        with pytest.raises(drive.Killed):
            trainer.main([str(made)])
    assert protocol.read_outcome(made) is None and not (made / "output").exists()
    assert drive.run(made) == {"status": "done"}
    same(made, whole[kind])
    resumed = [event for event in drive.events(made, "log") if "Resumed" in event["message"]]
    assert len(resumed) == (step > 2)
    assert len(protocol.checkpoints(made)) <= 2


ROWS = {
    "sft": "21 demonstrations to learn from, 3 held out.",
    "reward_model": "33 pairs to learn from, 7 held out.",
}
"""Of 24, of which each eighth is held out, and of 40 by sixths."""


def test_the_log_says_on_what_a_run_computes_and_how_many_rows_it_reads(whole: dict[str, Path]) -> None:
    libraries = f"torch {torch.__version__} and transformers {transformers.__version__}"
    for kind, run_dir in whole.items():
        told = [event["message"] for event in drive.events(run_dir, "log")]
        assert f"Computes on 1 thread of the CPU, with {libraries}." in told or torch.cuda.is_available()
        rows = ROWS.get(kind, "12 prompts of up to ")
        assert any(message.startswith(rows) for message in told), (kind, told)
    assert run.computes_on(Processes(0, 3)).startswith("Computes on 3 processes, each on ")


def test_another_seed_gives_another_output(whole: dict[str, Path], inputs: Any, tmp_path: Path) -> None:
    made = tiny.run_dir(tmp_path / "run", "sample", SETTINGS["sample"], inputs["sample"], seed=1)
    assert drive.run(made) == {"status": "done"}
    assert protocol.verify(made / "output") != protocol.verify(whole["sample"] / "output")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    whole: dict[str, Path], inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.run_dir(tmp_path / "run", "sft", SETTINGS["sft"], inputs["sft"])
    with monkeypatch.context() as patched, pytest.raises(drive.Killed):
        drive.kill_at(patched, 5)
        trainer.main([str(made)])
    newest, older = protocol.checkpoints(made)
    held = bytearray((newest / "state.safetensors").read_bytes())
    held[-5] ^= 1
    (newest / "state.safetensors").write_bytes(held)
    assert drive.run(made) == {"status": "done"}
    assert f"{newest.name} is damaged" in drive.warnings(made)
    resumed = f"Resumed from the checkpoint of step {int(older.name[5:])}."
    assert any(event["message"] == resumed for event in drive.events(made, "log"))
    same(made, whole["sft"])


def test_checkpoints_are_safetensors_and_json_and_hold_no_pickle(whole: dict[str, Path]) -> None:
    for run_dir in whole.values():
        names = {path.name for path in (run_dir / "checkpoints").rglob("*") if path.is_file()}
        assert names <= {"state.safetensors", "facts.json", "manifest.json"}
    assert any((whole["ppo"] / "checkpoints").iterdir())


def test_the_core_never_unpickles() -> None:
    for path in Path(trainer.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in ("torch.load", "torch.save", "import pickle", "joblib")), path


def test_a_half_written_checkpoint_or_output_is_removed(inputs: Any, tmp_path: Path) -> None:
    made = tiny.run_dir(tmp_path / "run", "sample", SETTINGS["sample"], inputs["sample"])
    for half in (made / ".output.part", made / "checkpoints" / ".step-000007.part"):
        half.mkdir()
        (half / "state.safetensors").write_bytes(b"half")
    assert drive.run(made) == {"status": "done"}
    assert sorted(path.name for path in (made / "output").iterdir()) == ["completions.jsonl", "manifest.json"]
    assert not list(made.glob("**/*.part"))


@pytest.mark.parametrize("text", [b"", b"{", b"\n", b"{}\n", b"{}\n{}\n{", b"x" * 30, b"{}\n" + b"x" * 30])
def test_whole_lines_are_kept_however_long_the_half_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(protocol, "CHUNK", 4)
    protocol.cut_half_line(tmp_path)  # no file yet: nothing to cut
    (tmp_path / "events.jsonl").write_bytes(text)
    protocol.cut_half_line(tmp_path)
    whole = [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
    assert (tmp_path / "events.jsonl").read_bytes() == b"".join(whole)


def test_half_a_line_of_a_killed_trainer_is_cut_off(inputs: Any, tmp_path: Path) -> None:
    made = tiny.run_dir(tmp_path / "run", "sample", SETTINGS["sample"], inputs["sample"])
    (made / "events.jsonl").write_text('{"type": "log", "message": "whole"}\n{"type": "metr')
    assert drive.run(made) == {"status": "done"}
    assert drive.events(made, "log")[0]["message"] == "whole"
    assert drive.events(made, "phase")[0]["phase"] == "loading"


def test_a_finished_run_is_left_alone(whole: dict[str, Path]) -> None:
    before = (whole["sample"] / "events.jsonl").read_bytes()
    assert trainer.main([str(whole["sample"])]) == 0
    assert (whole["sample"] / "events.jsonl").read_bytes() == before


# --- every metric has its sentence (item 62) --------------------------------------------------------


def test_every_metric_is_described(whole: dict[str, Path]) -> None:
    named = {name for run_dir in whole.values() for row in drive.metrics(run_dir).values() for name in row}
    assert named <= metrics.METRICS.keys()
    assert metrics.METRICS.keys() - RARE <= named


def test_events_are_as_the_protocol_says(whole: dict[str, Path]) -> None:
    for kind, run_dir in whole.items():
        found, _ = protocol.read_events(run_dir, 0)
        assert found[0]["type"] == "phase" and found[0]["phase"] == "loading"
        assert {event["phase"] for event in drive.events(run_dir, "phase")} >= {"loading", "saving"}
        steps = [event["step"] for event in drive.events(run_dir, "metrics")]
        assert steps == sorted(steps) and steps[-1] == drive.events(run_dir, "metrics")[-1]["total_steps"], (
            kind
        )
        for event in drive.events(run_dir, "sample"):
            assert isinstance(event["messages"], list) and isinstance(event["completion"], str)


def test_event_files_hold_the_same_metrics(whole: dict[str, Path]) -> None:
    """Read back with the wire format of TensorBoard's records, not with the library that wrote them."""
    run_dir = whole["reinforce"]
    found: dict[tuple[str, int], float] = {}
    for path in (run_dir / "tensorboard").iterdir():
        data = path.read_bytes()
        place = 0
        while place < len(data):
            (length,) = struct.unpack("<Q", data[place : place + 8])
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4  # a checksum stands after the length, another after the record
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found[value.tag, event.step] = value.simple_value
    expected = {
        (name, step): value for step, row in drive.metrics(run_dir).items() for name, value in row.items()
    }
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="has no /dev/full elsewhere")
def test_an_event_file_on_a_full_disk_is_an_error_and_no_wait(tmp_path: Path) -> None:
    board = EventFiles(tmp_path, first_step=0)
    for step in range(20):
        board.metrics(Metrics(step, 20, {"reward/mean": 1.0}))
    records = board.file._py_recordio_writer
    records._writer.close()
    records._writer = open("/dev/full", "wb")  # noqa: SIM115  # closed below, as the board closes it
    for _attempt in range(2):
        with pytest.raises(OSError, match="No space left"):
            board.metrics(Metrics(21, 20, {"reward/mean": 1.0}))
    with pytest.raises(OSError, match="No space left"):
        board.close()


def test_two_starts_in_one_second_have_a_file_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for pid, step in ((11, 0), (12, 3)):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        EventFiles(tmp_path, first_step=step).close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_processes_but_the_first_stop_before_the_output_is_written(
    inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder would be a whole model for each of them, in a temporary place that may be small."""
    happened = []

    def train(job: Any) -> Any:
        yield Phase("training", 0, 1)
        happened.append("trained")
        yield Phase("saving", 1, 1)
        happened.append("saved")

    monkeypatch.setattr(run, "algorithm", lambda kind: train)
    made = tiny.run_dir(tmp_path / "run", "sft", SETTINGS["sft"], inputs["sft"])
    assert run.follow(made, run.StopRequest()) == 0 and happened == ["trained"]


def test_a_checkpoint_of_another_specification_is_not_gone_on_from(
    inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.run_dir(tmp_path / "run", "sft", SETTINGS["sft"], inputs["sft"])
    with monkeypatch.context() as patched:
        drive.kill_at(patched, 3)
        with pytest.raises(drive.Killed):
            trainer.main([str(made)])
    assert protocol.checkpoints(made)
    whole_spec = (made / "spec.json").read_text()
    spec = json.loads(whole_spec)
    (made / "spec.json").write_text(json.dumps({**spec, "seed": spec["seed"] + 1}))
    outcome = drive.run(made)
    assert outcome["code"] == "bad_input" and "written under another spec.json" in outcome["message"]
    (made / "spec.json").write_text(json.dumps(spec, indent=7))  # the same, written otherwise
    assert drive.run(made) == {"status": "done"}


def test_a_second_trainer_in_the_same_folder_leaves_it_alone(
    inputs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny.run_dir(tmp_path / "run", "sft", SETTINGS["sft"], inputs["sft"])
    with trainer.locked(made) as free:
        assert free and trainer.main([str(made)]) == 2
    assert f"another trainer works in {made}" in capsys.readouterr().err
    assert protocol.read_outcome(made) is None and not (made / "events.jsonl").exists()
    assert drive.run(made) == {"status": "done"}, "the lock falls with its holder"


def test_sample_writes_one_line_a_completion_prompt_after_prompt(whole: dict[str, Path]) -> None:
    lines = list(protocol.read_jsonl(whole["sample"] / "output" / "completions.jsonl"))
    assert [(line["prompt_id"], line["index"]) for line in lines] == [
        (100 + prompt, index) for prompt in range(12) for index in range(3)
    ]
    for line in lines:
        assert line["finish_reason"] in ("stop", "length") and isinstance(line["score"], float)
        assert line["token_count"] <= 8 and line["logprob"] < 0
        assert line["finish_reason"] == "stop" or line["token_count"] == 8


# --- real processes ---------------------------------------------------------------------------------


def start(run_dir: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "training.core", str(run_dir)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[bytes], seen: int = 0) -> None:
    """Until it is done; of the events the first `seen` are those of an earlier start."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(event["step"] >= step for event in drive.events(run_dir, "metrics")[seen:]):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: exit code {process.poll()}, {protocol.read_outcome(run_dir)}")


@pytest.mark.processes
def test_kill_9_then_sigterm_and_ctrl_c_then_the_same_output(inputs: Any, tmp_path: Path) -> None:
    """One PPO run: killed, twice asked to stop, started again; against one that was left in peace."""
    settings = {**SETTINGS["ppo"], "steps": 40, "checkpoint_every": 1}
    peace = tiny.run_dir(tmp_path / "peace", "ppo", settings, inputs["ppo"])
    assert drive.run(peace) == {"status": "done"}
    made = tiny.run_dir(tmp_path / "run", "ppo", settings, inputs["ppo"])
    process = start(made)
    wait_for_step(made, 2, process)
    process.kill()
    process.wait()
    assert protocol.read_outcome(made) is None
    for number in (signal.SIGTERM, signal.SIGINT):
        seen = len(drive.events(made, "metrics"))
        process = start(made)
        wait_for_step(made, 2, process, seen)
        process.send_signal(number)
        assert process.wait(60) == 0
        assert drive.outcome(made) == {"status": "cancelled"}
    assert drive.run(made) == {"status": "done"}
    same(made, peace)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc through psutil's children")
def test_the_trainer_dies_with_its_supervisor(inputs: Any, tmp_path: Path) -> None:
    settings = {**SETTINGS["ppo"], "steps": 100_000}
    made = tiny.run_dir(tmp_path / "run", "ppo", settings, inputs["ppo"])
    code = (
        "import os, subprocess, sys, time\n"
        "env = {**os.environ, 'RLHF_SUPERVISOR_PID': str(os.getpid()), 'OMP_NUM_THREADS': '1'}\n"
        f"child = subprocess.Popen([sys.executable, '-m', 'training.core', {str(made)!r}], env=env)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    wait_for_step(made, 1, parent)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs([child], timeout=5)
    assert gone and not alive
    assert protocol.read_outcome(made) is None


def test_a_trainer_whose_supervisor_is_gone_already_does_not_start(inputs: Any, tmp_path: Path) -> None:
    made = tiny.run_dir(tmp_path / "run", "sample", SETTINGS["sample"], inputs["sample"])
    assert start(made, RLHF_SUPERVISOR_PID="1").wait(60) == -signal.SIGKILL
    assert not (made / "events.jsonl").exists()
