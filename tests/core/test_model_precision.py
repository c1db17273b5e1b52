"""One model in bfloat16 or compiled: what it says, what it learns, and what memory it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core import tiny
from training.core import batches, models

PROMPTS = [[5, 9, 40], [7, 8, 9, 10, 11, 12], [3]]
COMPLETIONS = [[20, 21, 1], [30], [40, 41, 42, 43, 1]]


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_a_learning_model_keeps_float32_weights_and_computes_in_bfloat16(folder: Path) -> None:
    batch = batches.rows(PROMPTS, COMPLETIONS, 0)
    exact = models.Policy(folder).facts(batch)
    mixed = models.Policy(folder, dtype="bfloat16")
    found = mixed.facts(batch)
    assert found.logprobs.dtype == torch.float32
    assert torch.allclose(found.logprobs, exact.logprobs, atol=0.05)
    assert not torch.allclose(found.logprobs, exact.logprobs, atol=1e-6)  # it is another precision
    found.logprobs.sum().backward()
    for weight in mixed.model.parameters():
        assert weight.dtype == torch.float32
        assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_a_model_that_is_only_read_says_the_same_from_half_the_memory(folder: Path) -> None:
    """To the bit: the KL of a policy that has not moved is 0 in bfloat16 too."""
    read, learns = (
        models.Policy(folder, dtype="bfloat16", learns=False),
        models.Policy(folder, dtype="bfloat16"),
    )
    matrices = [
        module.weight
        for module in read.model.base_model.modules()
        if type(module).__name__ in ("Linear", "Conv1D")
    ]
    assert matrices and {weight.dtype for weight in matrices} == {torch.bfloat16}
    batch = batches.rows(PROMPTS, COMPLETIONS, 0)
    with torch.no_grad():
        found, same = read.logprobs(batch), learns.logprobs(batch)
        exact = models.Policy(folder).logprobs(batch)
    assert found.dtype == torch.float32 and torch.equal(found, same)
    assert torch.allclose(found, exact, atol=0.05)


def test_a_reward_model_that_is_only_read_gives_the_same_scores(reward_model: Path) -> None:
    batch = batches.rows(PROMPTS, COMPLETIONS, 0)
    with torch.no_grad():
        read, learns, exact = (
            models.RewardModel(reward_model, dtype=dtype, learns=learns).scores(batch)
            for dtype, learns in (("bfloat16", False), ("bfloat16", True), ("float32", True))
        )
    assert read.dtype == torch.float32 and torch.equal(read, learns)
    assert torch.allclose(read, exact, atol=0.05) and not torch.allclose(read, exact, atol=1e-6)


def test_steps_too_small_for_bfloat16_are_learned() -> None:
    """Why the weights that learn are float32: 1 + 1e-3 is 1 in bfloat16."""
    assert torch.tensor(1.0, dtype=torch.bfloat16) + 1e-3 == 1.0
    assert torch.tensor(1.0) + 1e-3 != 1.0


def test_a_compiled_policy_says_and_learns_the_same(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that needs no compiler: what is tested is what is compiled, and that it is used."""
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **how: whole(model, backend=backend, **how))
    batch = batches.rows(PROMPTS, COMPLETIONS, 0)
    plain, other = models.Policy(gpt2), models.Policy(gpt2, compiled=True)
    for policy in (plain, other):
        policy.facts(batch).logprobs.sum().backward()
    assert compiled
    assert torch.allclose(other.logprobs(batch), plain.logprobs(batch), atol=1e-5)
    for one, two in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-4)  # type: ignore[arg-type]
    assert [name for name, _weight in other.model.named_parameters()] == [
        name for name, _weight in plain.model.named_parameters()
    ]


def test_the_fused_activation_is_gpt2_s_own(tmp_path: Path) -> None:
    """Values and derivatives against the formula that transformers spells out, and only where it stood."""
    from transformers.activations import GELUTanh, NewGELUActivation

    model = models.Policy(tiny.folder(tmp_path / "m")).model
    assert {type(block.mlp.act) for block in model.transformer.h} == {GELUTanh}
    other = models.Policy(tiny.folder(tmp_path / "n", model=tiny.gpt2(activation_function="relu"))).model
    assert not any(isinstance(module, GELUTanh) for module in other.modules())
    values = torch.linspace(-6, 6, 1001, requires_grad=True)
    for made, spelled in (
        (model.transformer.h[0].mlp.act(values), NewGELUActivation()(values)),
        *zip(
            torch.autograd.grad(model.transformer.h[0].mlp.act(values).sum(), values),
            torch.autograd.grad(NewGELUActivation()(values).sum(), values),
            strict=True,
        ),
    ):
        assert torch.allclose(made, spelled, atol=2e-6)
