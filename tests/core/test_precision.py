"""Settings `precision` and `compile`: near the same losses, the same bytes after a kill, or a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core import drive, tiny
from training.core import __main__ as trainer
from training.core import configs, failures, protocol

SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 3, "batch_tokens": 256, "evaluate_every": 3, "checkpoint_every": 2},
    "reward_model": {"epochs": 2, "batch_pairs": 8, "learning_rate": 1e-3, "checkpoint_every": 2},
    "ppo": {
        "steps": 4, "rollout_prompts": 8, "max_new_tokens": 8, "checkpoint_every": 2, "critic": "separate",
        "learning_rate": 1e-4,
    },
    "reinforce": {
        "steps": 4, "rollout_prompts": 6, "completions_per_prompt": 2, "max_new_tokens": 8,
        "checkpoint_every": 2, "learning_rate": 1e-4, "baseline": "value_head",
    },
    "trpo": {
        "steps": 4, "rollout_prompts": 8, "max_new_tokens": 8, "checkpoint_every": 2, "cg_iterations": 3,
    },
    "sample": {"completions_per_prompt": 2, "max_new_tokens": 8, "batch_size": 3},
}  # fmt: skip


def finished(folder: Path, kind: str, inputs: Any, **changes: Any) -> Path:
    made = tiny.run_dir(folder, kind, {**SETTINGS[kind], **changes}, inputs[kind])
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    return made


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory, inputs: Any) -> dict[str, Path]:
    """A finished run of each kind in bfloat16."""
    folder = tmp_path_factory.mktemp("halves")
    return {kind: finished(folder / kind, kind, inputs, precision="bfloat16") for kind in SETTINGS}


# --- bfloat16 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sft", "reward_model"])
def test_losses_in_bfloat16_are_near_those_in_float32(
    kind: str, halves: dict[str, Path], inputs: Any, tmp_path: Path
) -> None:
    exact = drive.metrics(finished(tmp_path / "run", kind, inputs))
    found = drive.metrics(halves[kind])
    assert exact.keys() == found.keys()
    for step, row in exact.items():
        for name in {"train/loss", "held_out/loss"} & row.keys():
            assert found[step][name] == pytest.approx(row[name], rel=0.02), (step, name)
    assert drive.steady(exact) != drive.steady(found), "it is another precision"


@pytest.mark.parametrize("kind", ["ppo", "reinforce", "trpo"])
def test_a_policy_in_bfloat16_starts_at_its_reference(kind: str, halves: dict[str, Path]) -> None:
    """Policy and reference round alike, so that the first KL is exactly 0; and ratios start near 1."""
    rows = drive.metrics(halves[kind])
    assert rows[1]["kl/reference"] == 0.0
    assert all(abs(row["kl/reference"]) < 1.0 for row in rows.values() if "kl/reference" in row)
    assert rows[1].get("policy/first_ratio_error", 0.0) < 0.05
    assert all(value == value for row in rows.values() for value in row.values())


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_killed_run_in_bfloat16_goes_on_to_the_same_output(
    kind: str, halves: dict[str, Path], inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS[kind], "precision": "bfloat16"}
    made = tiny.run_dir(tmp_path / "run", kind, settings, inputs[kind])
    with monkeypatch.context() as patched, pytest.raises(drive.Killed):
        drive.kill_at(patched, 3)
        trainer.main([str(made)])
    assert drive.run(made) == {"status": "done"}
    assert protocol.verify(made / "output") == protocol.verify(halves[kind] / "output")
    assert drive.steady(drive.metrics(made)) == drive.steady(drive.metrics(halves[kind]))


def test_adapters_learn_in_bfloat16_and_start_at_their_reference(inputs: Any, tmp_path: Path) -> None:
    """The reference is the policy without its adapter; the output is merged, whole and float32."""
    rows = drive.metrics(finished(tmp_path / "run", "ppo", inputs, precision="bfloat16", lora_rank=2))
    assert rows[1]["kl/reference"] == pytest.approx(0.0, abs=1e-2)
    assert all(row["kl/reference"] < 1.0 for row in rows.values() if "kl/reference" in row)


def test_weights_that_were_learned_in_bfloat16_are_saved_in_float32(halves: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    for kind in ("sft", "reward_model", "ppo"):
        weights = load_file(halves[kind] / "output" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}


# --- compiled passes --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sft", "reward_model", "ppo", "reinforce"])
def test_compiled_passes_give_the_losses_of_plain_ones(kind: str, inputs: Any, tmp_path: Path) -> None:
    """With the compiler that users have."""
    plain = drive.metrics(finished(tmp_path / "plain", kind, inputs))
    found = drive.metrics(finished(tmp_path / "compiled", kind, inputs, compile=True))
    assert plain.keys() == found.keys()
    for step, row in plain.items():
        for name in {"train/loss", "held_out/loss", "policy/loss", "value/loss", "kl/reference"} & row.keys():
            assert found[step][name] == pytest.approx(row[name], rel=1e-3, abs=1e-5), (step, name)


def test_without_a_compiler_the_run_says_what_to_do(inputs: Any, tmp_path: Path) -> None:
    """Torch finds no compiler, for real: there is none of this name."""
    import torch._inductor.config as inductor

    made = tiny.run_dir(tmp_path / "run", "sft", {**SETTINGS["sft"], "compile": True}, inputs["sft"])
    torch._dynamo.reset()
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        outcome = drive.run(made)
    torch._dynamo.reset()
    assert (outcome["status"], outcome["code"]) == ("failed", "cannot_compile"), outcome
    assert "compile" in outcome["hint"] and "C++" in outcome["hint"]


def test_a_python_without_compilation_is_told_apart() -> None:
    error = RuntimeError("torch.compile is not supported on Python built with GIL disabled")
    found = failures.explain(error, "ppo")
    assert found is not None and found["code"] == "cannot_compile" and found["message"] == str(error)


def test_trpo_refuses_compiled_passes() -> None:
    with pytest.raises(configs.ConfigError, match="compile: trpo differentiates twice"):
        configs.parse("trpo", {"compile": True})
