"""Threads split sums, which decides last bits: a run computes with as many as its spec records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core import drive, tiny
from training.core import __main__ as trainer
from training.core import protocol

SETTINGS: dict[str, Any] = {"batch_tokens": 512, "learning_rate": 1e-3, "checkpoint_every": 2}


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model wide enough, and rows enough, that torch splits their sums among threads."""
    folder = tmp_path_factory.mktemp("wide")
    rows = tiny.write_rows(folder / "rows.jsonl", tiny.demonstrations(40))
    return {"policy": tiny.folder(folder / "gpt2", model=tiny.gpt2(n_embd=128)), "snapshot": rows}


def start(path: Path, inputs: dict[str, Path], threads: int | None) -> Path:
    """A run directory whose spec records `threads`."""
    made = tiny.run_dir(path, "sft", SETTINGS, inputs)
    if threads is not None:
        spec = json.loads((made / "spec.json").read_text())
        (made / "spec.json").write_text(json.dumps({**spec, "threads": threads}))
    return made


def finish(made: Path, *, default: int) -> str:
    """The content hash of its output, on a machine whose torch would use `default` threads."""
    torch.set_num_threads(default)
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    return protocol.verify(made / "output")


@pytest.fixture(scope="module")
def by(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What one thread makes, and what two make."""
    folder = tmp_path_factory.mktemp("by")
    return {count: finish(start(folder / str(count), inputs, count), default=count) for count in (1, 2)}


def test_the_recorded_number_decides_and_not_the_machine_s(
    inputs: dict[str, Path], by: dict[int, str], tmp_path: Path
) -> None:
    assert by[2] != by[1], "else this test shows nothing"
    assert finish(start(tmp_path / "two-on-one", inputs, 2), default=1) == by[2]
    assert finish(start(tmp_path / "one-on-two", inputs, 1), default=2) == by[1]


def test_a_spec_without_it_takes_the_machine_s(
    inputs: dict[str, Path], by: dict[int, str], tmp_path: Path
) -> None:
    assert finish(start(tmp_path / "plain", inputs, None), default=2) == by[2]


def test_a_run_goes_on_to_the_bit_where_the_default_is_another(
    inputs: dict[str, Path], by: dict[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = start(tmp_path / "killed", inputs, 2)
    torch.set_num_threads(2)
    with monkeypatch.context() as patched, pytest.raises(drive.Killed):
        drive.kill_at(patched, 3)
        trainer.main([str(made)])
    assert finish(made, default=1) == by[2]
    assert any("Resumed" in event["message"] for event in drive.events(made, "log"))


def test_the_spec_is_written_with_and_without_it(tmp_path: Path) -> None:
    for number in (None, 3):
        protocol.write_spec(tmp_path, kind="sft", config={}, seed=1, inputs={}, threads=number)
        assert protocol.read_spec(tmp_path).get("threads") == number
