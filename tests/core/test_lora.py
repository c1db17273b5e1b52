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
