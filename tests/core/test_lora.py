"""Low-rank adapters: nothing changes at first, the reference is the policy without them, output plain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.core import drive, tiny
from training.core import batches, lora, models

RANK = 4


def batch() -> object:
    return batches.rows([[5, 9], [7]], [[30, 31, 1], [40, 1]], 0)


@pytest.mark.parametrize("shape", [tiny.gpt2, tiny.llama])
def test_an_adapter_changes_nothing_until_it_is_trained(tmp_path: Path, shape: object) -> None:
    """Items 21 and 22: B = 0 at first; with a trained B the switched-off model is still the old one."""
    policy = models.Policy(tiny.folder(tmp_path / "model", model=shape()))  # type: ignore[operator]
    with torch.no_grad():
        before = policy.logprobs(batch())  # type: ignore[arg-type]
        lora.add(policy.model, RANK, seed=0)
        reference = lora.WithoutAdapter(policy)
        assert torch.equal(policy.logprobs(batch()), before)  # type: ignore[arg-type]
        trained = {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}
        assert trained and all("lora_" in name for name in trained)
        for weight in trained.values():
            weight += 0.1
        moved = policy.logprobs(batch())  # type: ignore[arg-type]
        assert not torch.allclose(moved, before, atol=1e-3)
        assert torch.equal(reference.logprobs(batch()), before)  # type: ignore[arg-type]
        assert torch.equal(policy.logprobs(batch()), moved), "the adapter is on again"  # type: ignore[arg-type]
        with pytest.raises(RuntimeError), lora.switched_off(policy.model):
            raise RuntimeError
        assert torch.equal(policy.logprobs(batch()), moved), "after an error too"  # type: ignore[arg-type]
        assert all(weight.requires_grad for weight in trained.values())
        lora.merge(policy.model)
        assert torch.allclose(policy.logprobs(batch()), moved, atol=1e-4)  # type: ignore[arg-type]
    assert not any("lora" in name for name in policy.model.state_dict())


@pytest.mark.parametrize("kind", ["ppo", "reinforce", "trpo"])
def test_a_run_with_adapters_leaves_a_plain_model(
    kind: str, gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    prompts = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": prompts}
    settings = {
        "steps": 2,
        "rollout_prompts": 6,
        "max_new_tokens": 6,
        "lora_rank": RANK,
        "checkpoint_every": 1,
    }
    made = tiny.run_dir(tmp_path / "run", kind, settings, inputs)
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    assert drive.metrics(made)[1]["kl/reference"] == 0.0
    held = load_file(next((made / "checkpoints").glob("step-*")) / "state.safetensors")
    assert all("lora_" in name for name in held if name.startswith("policy."))
    before, after = (load_file(folder / "model.safetensors") for folder in (gpt2, made / "output"))
    assert before.keys() == after.keys()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed and not any("wte" in name or "ln" in name for name in changed)
    AutoModelForCausalLM.from_pretrained(made / "output")


@pytest.mark.parametrize("kind", ["sft", "reward_model"])
def test_what_learns_from_people_may_train_adapters_alone(
    kind: str, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed and resumed it gives the same bytes; embeddings and norms stay; a fresh head is trained."""
    rows = tiny.demonstrations() if kind == "sft" else tiny.preferences()
    inputs = {"policy": gpt2, "snapshot": tiny.write_rows(tmp_path / "rows.jsonl", rows)}
    settings = {"epochs": 2, "learning_rate": 1e-2, "lora_rank": RANK, "checkpoint_every": 1}
    settings |= {"batch_tokens": 256} if kind == "sft" else {"batch_pairs": 8, "members": 2}
    peace, made = (tiny.run_dir(tmp_path / name, kind, settings, inputs) for name in ("peace", "run"))
    assert drive.run(peace) == {"status": "done"}, drive.events(peace, "error")
    with monkeypatch.context() as patched:
        drive.kill_at(patched, 2)
        with pytest.raises(drive.Killed):
            drive.run(made)
    held = load_file(next((made / "checkpoints").glob("step-*")) / "state.safetensors")
    weights = [name for name in held if name.split(".")[0] == "policy" or ".weights.model." in name]
    assert weights and all("lora_" in name or "score" in name for name in weights)
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    before, after, same = (
        load_file(folder / "model.safetensors") for folder in (gpt2, made / "output", peace / "output")
    )
    assert after.keys() == same.keys() and all(torch.equal(after[name], same[name]) for name in after)
    changed = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert changed and not any("wte" in name or "ln" in name for name in changed)
    losses = [
        row["held_out/loss"] for _step, row in sorted(drive.metrics(made).items()) if "held_out/loss" in row
    ]
    assert losses[-1] < losses[0]
