"""TRPO: conjugate gradient against a dense solver, steps that are taken and steps that are taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.core import drive, tiny
from tests.core.teams import collect, job, make_team
from training.core import configs, models, state, tensors, trpo
from training.core.types import Job

CONFIG: dict[str, Any] = {"max_new_tokens": 8, "cg_iterations": 5, "step_kl": 0.01, "fisher_share": 1.0}


def config(**changes: Any) -> configs.TRPOConfig:
    return configs.TRPOConfig(**{**CONFIG, **changes})


def test_conjugate_gradient_solves_what_numpy_solves() -> None:
    """Item 48: 200 unknowns, symmetric and positive definite."""
    random_ = numpy.random.default_rng(0)
    half = random_.normal(size=(200, 200)) / 14
    matrix, wanted = half @ half.T + 0.1 * numpy.eye(200), random_.normal(size=200)
    dense = torch.tensor(matrix)
    found, residual = tensors.conjugate_gradient(lambda vector: dense @ vector, torch.tensor(wanted), 200)
    assert residual < 1e-4
    assert torch.allclose(found, torch.tensor(numpy.linalg.solve(matrix, wanted)), atol=1e-3)


def test_a_gradient_of_zero_needs_no_step() -> None:
    found, residual = tensors.conjugate_gradient(lambda vector: 2 * vector, torch.zeros(3), 5)
    assert not found.any() and residual == 0.0


def updated(gpt2: Path, reward_model: Path, **changes: Any) -> tuple[Any, Any, Any, Any]:
    settings = config(**changes)
    team = make_team(gpt2, reward_model)
    rows = collect(team, settings)
    advantages, _returns = tensors.gae(rows.rewards, rows.values, rows.completion_mask, gamma=1.0, lam=0.95)
    advantages = tensors.whiten(advantages, rows.completion_mask)
    weights = list(team.policy.model.parameters())
    before = state.named_weights(team.policy.model, "")
    facts = trpo.update(team, weights, rows, advantages, range(12), settings, job(settings))
    return team, before, facts, rows


def test_an_accepted_step_keeps_the_constraint_and_gains(gpt2: Path, reward_model: Path) -> None:
    """The KL is checked exactly, over the whole vocabulary, by another forward pass."""
    team, before, facts, rows = updated(gpt2, reward_model)
    assert facts["policy/gain"] > 0 and facts["policy/approx_kl"] <= 1.5 * 0.01
    assert facts["policy/first_ratio_error"] < 1e-5
    old = models.Policy(gpt2)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row, prompt in enumerate(rows.prompts):
            ids = torch.tensor([prompt.ids + rows.completions[row].ids])
            now, then = (
                torch.log_softmax(model.model(ids).logits[0, len(prompt.ids) - 1 : -1], -1)
                for model in (team.policy, old)
            )
            total += float((then.exp() * (then - now)).sum())
            tokens += len(rows.completions[row].ids)
    assert 0 < total / tokens < 2 * 0.01


def test_a_step_that_no_halving_saves_is_taken_back_to_the_bit(
    gpt2: Path, reward_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = trpo.surrogate, []

    def never_better(*arguments: Any, **named: Any) -> Any:
        gain, kl, error = real(*arguments, **named)
        calls.append(kl)
        return (gain if named["differentiate"] else gain - 1e3), kl, error

    monkeypatch.setattr(trpo, "surrogate", never_better)
    team, before, facts, _rows = updated(gpt2, reward_model, backtracks=3)
    assert len(calls) == 1 + 4 and calls[1:] == sorted(calls[1:], reverse=True)
    assert (facts["policy/gain"], facts["policy/approx_kl"], facts["policy/halvings"]) == (0.0, 0.0, 4)
    assert all(torch.equal(before[name], weight) for name, weight in team.policy.model.named_parameters())


def test_only_the_last_layers_move_when_that_is_asked(gpt2: Path, reward_model: Path, tmp_path: Path) -> None:
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    settings = {**CONFIG, "steps": 1, "rollout_prompts": 6, "trained_layers": 1}
    made = tiny.run_dir(tmp_path / "run", "trpo", settings, inputs)
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    before, after = (models.Policy(folder).model.state_dict() for folder in (gpt2, made / "output"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("transformer.h.1.", "transformer.ln_f.")) for name in moved)


def test_rollouts_without_a_signal_move_nothing_and_end_nothing(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    """Every completion earns the same, at no distance from the reference: the gradient is 0, not broken."""
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    settings = {
        "steps": 4, "rollout_prompts": 4, "max_new_tokens": 4, "reward_model_weight": 0.0, "pattern": "zzz",
        "pattern_weight": 1.0, "missing_eos_penalty": 0.0, "kl_coefficient": 0.0, "learning_rate": 1e-8,
    }  # fmt: skip
    made = tiny.run_dir(tmp_path / "run", "trpo", settings, inputs)
    assert drive.run(made) == {"status": "done"}
    assert not drive.events(made, "warning")


@pytest.mark.parametrize("plain_head", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_fisher_products_in_parts_are_second_derivatives_of_the_whole_kl(
    name: str, plain_head: bool, reward_model: Path, request: pytest.FixtureRequest, monkeypatch: Any
) -> None:
    """At temperature 0.7, of all weights, a tied head's too, by automatic differentiation in float64."""
    team = make_team(request.getfixturevalue(name), reward_model)
    settings = config(temperature=0.7, cg_damping=0.25)
    rows = collect(team, settings)
    weights = list(team.policy.model.parameters())
    vector = torch.randn(sum(map(torch.numel, weights)), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", 4 * 3 * 300)  # three tokens at a time
    team.policy.plain_head = plain_head
    found = trpo.fisher_product(team, weights, rows, range(12), settings, job(settings), vector)

    team.policy.model.double()
    total = torch.zeros(1, dtype=torch.double)
    with sdpa_kernel(SDPBackend.MATH):
        for prompt, completion in zip(rows.prompts, rows.completions, strict=True):
            logits = team.policy.model(torch.tensor([prompt.ids + completion.ids])).logits[0]
            now = torch.log_softmax(logits[len(prompt.ids) - 1 : -1] / 0.7, -1)
            total = total + (now.detach().exp() * (now.detach() - now)).sum()
        kl = total / rows.completion_mask.sum()
        weights = list(team.policy.model.parameters())
        first = torch.autograd.grad(kl, weights, create_graph=True, allow_unused=True, materialize_grads=True)
        along = torch.cat([part.reshape(-1) for part in first]) @ vector.double()
        second = torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True)
    exact = tensors.flatten(second) + 0.25 * vector
    assert (found - exact).norm() < 1e-4 * exact.norm()
    assert (exact - 0.25 * vector).norm() > 1e-2 * exact.norm(), "damping is not all there is"


@pytest.mark.parametrize(("critic", "passes"), [("shared", 0), ("separate", 1)])
def test_passes_of_the_critic_run_the_critic_only(
    critic: str, passes: int, gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    """Three passes more over one micro-batch: no trunk where it is shared, else the critic's; no head."""
    asked = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.prompts())
    inputs = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": asked}
    counted = []
    for epochs in (1, 4):
        calls = {"trunk": 0, "head": 0}

        def count(module: Any, *_more: Any, calls: dict[str, int] = calls) -> None:
            calls["trunk"] += type(module).__name__ == "GPT2Model"
            calls["head"] += getattr(module, "out_features", None) == 300

        settings = config(
            steps=1, rollout_prompts=4, critic=critic, value_epochs=epochs, cg_iterations=1, backtracks=0,
            sample_every=9, max_new_tokens=4,
        )  # fmt: skip
        whole = Job(settings, 0, inputs, tmp_path / f"{epochs}", None, lambda: None, lambda: False)
        hook = torch.nn.modules.module.register_module_forward_hook(count)
        try:
            list(trpo.train(whole))
        finally:
            hook.remove()
        counted.append(calls)
    once, often = counted
    assert often["trunk"] - once["trunk"] == 3 * passes
    assert often["head"] == once["head"] > 0
