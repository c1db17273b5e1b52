"""A run that fails says why and what to do about it, and leaves no output."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core import drive, tiny
from tests.core.drive import SETTINGS
from training.core import __main__ as trainer
from training.core import configs, failures, models, protocol


def failed(run_dir: Path) -> dict[str, Any]:
    outcome = drive.run(run_dir)
    assert outcome["status"] == "failed" and outcome["message"] and outcome["hint"]
    assert drive.events(run_dir, "error")[-1]["message"] == outcome["message"]
    assert not (run_dir / "output").exists()
    return outcome


def test_a_bad_configuration_names_the_setting(inputs: Any, tmp_path: Path) -> None:
    outcome = failed(tiny.run_dir(tmp_path / "run", "ppo", {"steps": 0, "clipp": 1}, inputs["ppo"]))
    assert outcome["code"] == "bad_config"
    assert "steps: between 1" in outcome["message"] and "did you mean 'clip'" in outcome["message"]


def test_what_can_be_mended_is_said_in_the_terminal_without_a_traceback(
    inputs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = failed(tiny.run_dir(tmp_path / "run", "ppo", {"steps": 0}, inputs["ppo"]))
    assert capsys.readouterr().err == f"{outcome['message']}\n{outcome['hint']}\n"


def test_another_specification_of_a_finished_run_is_refused(
    inputs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny.run_dir(tmp_path / "run", "sft", {"epochs": 1}, inputs["sft"])
    assert drive.run(made) == {"status": "done"}
    before = (made / "outcome.json").read_bytes()
    assert trainer.main([str(made)]) == 0
    spec = json.loads((made / "spec.json").read_text())
    (made / "spec.json").write_text(json.dumps({**spec, "config": {"epochs": 2}}))
    assert trainer.main([str(made)]) == 2
    assert "holds a finished run of another spec.json" in capsys.readouterr().err
    assert (made / "outcome.json").read_bytes() == before
    (made / "outcome.json").write_text('{"status": "done"}')  # older ones name no specification
    assert trainer.main([str(made)]) == 0
    (made / "spec.json").unlink()
    assert trainer.main([str(made)]) == 2
    assert "spec.json cannot be read" in capsys.readouterr().err


def test_an_unknown_kind_and_another_version_are_refused(inputs: Any, tmp_path: Path) -> None:
    assert failed(tiny.run_dir(tmp_path / "one", "alchemy", {}, inputs["sft"]))["code"] == "bad_config"
    made = tiny.run_dir(tmp_path / "two", "sft", {}, inputs["sft"])
    spec = json.loads((made / "spec.json").read_text())
    (made / "spec.json").write_text(json.dumps({**spec, "version": 99}))
    assert "version 1" in failed(made)["message"]


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("threads", "two", "whole number from 1, not 'two'"),
        ("threads", 0, "whole number from 1, not 0"),
        ("seed", "7", "no seed of type int"),
        ("config", None, "no config of type dict"),
        ("inputs", {"policy": "models/policy"}, "input policy in spec.json has no path and sha256"),
        (
            "inputs",
            {"policy": {"path": 5, "sha256": "a"}},
            "input policy in spec.json has no path and sha256",
        ),
        ("thread", 2, "thread in spec.json is none of its parts: version, kind, config, seed, threads"),
        ("inputs", {"prefs": {"path": "p", "sha256": "a"}}, "prefs is no input of sft: policy, snapshot"),
    ],
)
def test_a_specification_of_wrong_types_names_the_part(
    inputs: Any, tmp_path: Path, part: str, value: Any, words: str
) -> None:
    made = tiny.run_dir(tmp_path / "run", "sft", {}, inputs["sft"])
    spec = json.loads((made / "spec.json").read_text())
    (made / "spec.json").write_text(json.dumps({**spec, part: value}))
    outcome = failed(made)
    assert outcome["code"] == "bad_input" and words in outcome["message"]


@pytest.mark.parametrize("name", ["policy", "snapshot"])
def test_inputs_that_changed_or_vanished_are_named(inputs: Any, tmp_path: Path, name: str) -> None:
    copies = {
        "policy": shutil.copytree(inputs["sft"]["policy"], tmp_path / "policy"),
        "snapshot": Path(shutil.copy(inputs["sft"]["snapshot"], tmp_path / "snapshot.jsonl")),
    }
    made = tiny.run_dir(tmp_path / "run", "sft", {}, copies)
    target = copies[name] / "config.json" if copies[name].is_dir() else copies[name]
    target.write_bytes(target.read_bytes() + b" ")
    outcome = failed(made)
    assert outcome["code"] == "bad_input" and name in outcome["message"]
    shutil.rmtree(copies[name]) if copies[name].is_dir() else copies[name].unlink()
    assert "does not exist" in failed(made)["message"]


def test_pickled_weights_fail_the_run(inputs: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(inputs["sft"]["policy"], tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    made = tiny.run_dir(tmp_path / "run", "sft", {}, {**inputs["sft"], "policy": folder})
    assert failed(made)["code"] == "unsafe_weights"


@pytest.mark.parametrize("in_place", [True, False])
def test_a_policy_whose_logits_are_no_numbers_is_told_of(
    inputs: Any, tmp_path: Path, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tiny.gpt2()
    with torch.no_grad():
        broken.transformer.ln_f.weight.fill_(1e30)
        broken.transformer.wte.weight.mul_(1e12)
    policy = tiny.folder(tmp_path / "broken", model=broken)
    if in_place:  # as one that breaks after the first rollout has shown how it decodes
        monkeypatch.setattr(models.Policy, "decodes_in_place", True)
    outcome = failed(tiny.run_dir(tmp_path / "run", "sample", {}, {**inputs["sample"], "policy": policy}))
    assert outcome["code"] == "non_finite" and "logits are not finite" in outcome["message"]


def test_prompts_that_do_not_fit_fail_with_count_and_limit(inputs: Any, tmp_path: Path) -> None:
    made = tiny.run_dir(tmp_path / "run", "sample", {"max_new_tokens": 95}, inputs["sample"])
    outcome = failed(made)
    assert outcome["code"] == "context_too_small"
    assert "12 of 12 prompts are too long" in outcome["message"] and "96 tokens" in outcome["message"]


def real_errors() -> Iterator[tuple[Exception, str]]:
    """Errors as the machine really raises them."""
    try:
        with open("/dev/full", "w") as full:
            full.write("x")
    except OSError as error:
        yield error, "disk_full"
    try:
        torch.empty(1 << 55)
    except RuntimeError as error:
        yield error, "out_of_memory"
    yield OSError(errno.EDQUOT, "quota"), "disk_full"
    yield configs.ConfigError({"steps": "too few"}), "bad_config"
    yield protocol.ProtocolError("spec.json"), "bad_input"


def test_real_errors_of_disk_and_memory_are_told_apart() -> None:
    found = [(failures.explain(error) or {}).get("code") for error, _ in real_errors()]
    assert found == [code for _, code in real_errors()] and len(found) == 5
    assert failures.explain(ValueError("ours")) is None


@pytest.mark.parametrize("kind", SETTINGS)
def test_out_of_memory_says_which_settings_of_this_kind_to_change(
    kind: str, inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator's own error, from the first model that is read."""
    from training.core import models

    monkeypatch.setattr(models, "load", lambda *_arguments, **_named: torch.empty(1 << 55))
    outcome = failed(tiny.run_dir(tmp_path / "run", kind, SETTINGS[kind], inputs[kind]))
    assert outcome["code"] == "out_of_memory"
    settings = {field.name for field in dataclasses.fields(configs.KINDS[kind])}
    named = set(re.findall(r"[a-z]+_[a-z_]+", outcome["hint"]))
    assert named and named <= settings, outcome["hint"]
    assert ("batch_size" if kind == "sample" else "microbatch_tokens") in named


def test_out_of_memory_of_a_gpu_is_told_apart() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    found = failures.explain(error, "ppo")
    assert found is not None and found["code"] == "out_of_memory"
    assert found["message"] == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert "microbatch_tokens (the result stays the same)" in found["hint"] and "lora_rank" in found["hint"]


def test_a_fault_of_the_program_is_called_one(
    inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.core import sft

    monkeypatch.setattr(sft, "train", lambda job: iter([1 / 0]))
    made = tiny.run_dir(tmp_path / "run", "sft", {}, inputs["sft"])
    outcome = failed(made)
    assert outcome["code"] == "unexpected" and "ZeroDivisionError" in outcome["message"]
