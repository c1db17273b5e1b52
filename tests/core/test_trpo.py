"""TRPO: conjugate gradient against a dense solver, steps that are taken and steps that are taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests.core import drive, tiny
from tests.core.test_ppo import collect, job, make_team
from training.core import configs, models, state, tensors, trpo

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
