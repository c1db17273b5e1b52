"""PPO: every part against an oracle, and the whole against an optimum known by enumeration."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.core import drive
from tests.core.teams import (
    CONFIG,
    collect,
    config,
    job,
    make_team,
    prompts,
    run,
    run_dir,
    scorer_of,
    update,
)
from training.core import monitor, ppo, rewards, rollout, tensors
from training.core.types import Demonstration, Job, Note

# --- the update (items 5, 6, 20, 39, 40, 41, 43, 45) ------------------------------------------------


def test_the_first_update_starts_at_ratio_1(gpt2: Path, reward_model: Path) -> None:
    team = make_team(gpt2, reward_model)
    found = collect(team, config())
    advantages, _ = tensors.gae(found.rewards, found.values, found.completion_mask, gamma=1.0, lam=0.95)
    white = tensors.whiten(advantages, found.completion_mask)
    rows = [0, 3, 5, 7]
    facts, _ = update(team, found, config(), rows)
    assert facts is not None
    assert facts["policy/first_ratio_error"] < 1e-5
    assert facts["policy/clip_fraction"] == 0.0
    assert facts["policy/approx_kl"] == pytest.approx(0.0, abs=1e-8)
    expected = -white[rows].sum() / found.completion_mask[rows].sum()
    assert facts["policy/loss"] == pytest.approx(expected.item(), abs=1e-5)


def test_gradients_do_not_depend_on_the_split_nor_on_the_order_of_rows(
    gpt2: Path, reward_model: Path
) -> None:
    """Item 39: uneven lengths, one micro-batch, one a row, and rows reversed."""
    team = make_team(gpt2, reward_model)
    found = collect(team, config())
    assert len({len(row.ids) for row in found.completions}) > 2
    settings = [
        config(entropy_coefficient=0.01, max_grad_norm=1e6, microbatch_tokens=n) for n in (8192, 64, 16)
    ]
    rows = [1, 4, 6, 8, 11]
    facts, expected = update(team, found, settings[0], rows)
    for other, order in ((settings[1], rows), (settings[2], rows), (settings[0], rows[::-1])):
        again, gradients = update(team, found, other, order)
        assert again == pytest.approx(facts, abs=1e-5)
        for one, two in zip(expected, gradients, strict=True):
            assert torch.allclose(one, two, atol=1e-5)


def test_demonstrations_add_their_own_gradient_and_leave_the_metrics_alone(
    gpt2: Path, reward_model: Path
) -> None:
    """Item 49: the gradient grows by coefficient x that of the mean loss per token, computed row by row."""
    team = make_team(gpt2, reward_model)
    found = collect(team, config())
    settings = config(ptx_coefficient=0.7, max_grad_norm=1e6, microbatch_tokens=64)
    shown = [Demonstration([], [5, 9], [30, 31, 1]), Demonstration([], [7], [40, 1])]
    facts, without = update(team, found, settings, [0, 3])
    again, mixed = update(team, found, settings, [0, 3], shown=shown)
    assert facts is not None and again is not None
    losses_alone = [
        -torch.log_softmax(team.policy.model(torch.tensor([ids])).logits[0, start - 1 : -1], -1)[
            torch.arange(len(ids) - start), ids[start:]
        ]
        for ids, start in (([5, 9, 30, 31, 1], 2), ([7, 40, 1], 1))
    ]
    loss = torch.cat(losses_alone).mean()
    assert again["policy/ptx_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert {name: again[name] for name in facts if "norm" not in name} == {
        name: value for name, value in facts.items() if "norm" not in name
    }
    team.policy.model.zero_grad()
    (0.7 * loss).backward()
    for one, other, weight in zip(without, mixed, team.policy.model.parameters(), strict=False):
        if weight.grad is not None:
            assert torch.allclose(other - one, weight.grad, atol=1e-5)


def test_what_stands_in_the_padding_of_a_rollout_changes_nothing(gpt2: Path, reward_model: Path) -> None:
    team = make_team(gpt2, reward_model)
    found = collect(team, config())
    mask = found.completion_mask
    fields = ("logprobs", "ref_logprobs", "values", "rewards", "entropy")
    noise = {name: torch.where(mask, getattr(found, name), 1e4) for name in fields}
    dirty = found._replace(**noise)
    assert monitor.describe(dirty, 0.1)["kl/reference"] == monitor.describe(found, 0.1)["kl/reference"]
    assert monitor.describe(dirty, 0.1)["policy/entropy"] == monitor.describe(found, 0.1)["policy/entropy"]
    facts, expected = update(team, found, config(), list(range(12)))
    again, gradients = update(team, dirty, config(), list(range(12)))
    assert facts == again
    assert all(torch.equal(one, two) for one, two in zip(expected, gradients, strict=True))


def test_every_row_is_seen_once_an_epoch_in_a_new_order(
    gpt2: Path, reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Item 40: optimiser steps = epochs x minibatches, each row once an epoch."""
    seen: list[list[int]] = []
    minibatch = ppo.minibatch

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[5].tolist())
        return minibatch(*arguments)

    monkeypatch.setattr(ppo, "minibatch", watched)
    made = run(tmp_path / "run", gpt2, reward_model, steps=2, epoch_kl_stop=100.0)
    assert len(seen) == 2 * CONFIG["epochs"] * CONFIG["minibatches"]
    epochs = [list(itertools.chain(*seen[start : start + 3])) for start in range(0, len(seen), 3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    rows = drive.metrics(made)
    assert rows[1]["policy/updates"] == rows[2]["policy/updates"] == 6
    assert [rows[step]["policy/learning_rate"] for step in (1, 2)] == pytest.approx([1e-3, 5e-4])  # item 43
    assert rows[1]["kl/reference"] == 0.0  # item 22
    assert max(rows[step]["policy/first_ratio_error"] for step in (1, 2)) < 1e-5  # item 20


def test_epochs_end_early_when_the_policy_has_moved_too_far(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    made = run(tmp_path / "run", gpt2, reward_model, epochs=5, epoch_kl_stop=0.0)
    assert {values["policy/updates"] for step, values in drive.metrics(made).items() if step} == {3.0}


def test_long_gradients_are_clipped_and_reported_unclipped(gpt2: Path, reward_model: Path) -> None:
    team = make_team(gpt2, reward_model)
    found = collect(team, config())
    facts, loose = update(team, found, config(max_grad_norm=1e6), list(range(12)))
    again, tight = update(team, found, config(max_grad_norm=0.01), list(range(12)))
    assert facts is not None and again is not None
    norm = math.sqrt(sum(float((g**2).sum()) for g in loose))
    assert facts["policy/grad_norm"] == pytest.approx(norm, rel=1e-4) == again["policy/grad_norm"]
    assert math.sqrt(sum(float((g**2).sum()) for g in tight)) == pytest.approx(0.01, rel=1e-3)


def test_numbers_that_are_none_are_skipped_and_the_third_ends_the_run(
    gpt2: Path, reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_file(gpt2 / "model.safetensors")["transformer.wpe.weight"]
    kept: list[Tensor] = []
    real = ppo.losses.ppo

    def poisoned(logprobs: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return real(logprobs, *arguments, **named) * float("nan")

    def seen(team: rollout.Team, *arguments: Any) -> Any:
        found = ppo_minibatch(team, *arguments)
        kept.append(team.policy.model.transformer.wpe.weight.detach().clone())
        return found

    ppo_minibatch = ppo.minibatch
    monkeypatch.setattr(ppo.losses, "ppo", poisoned)
    monkeypatch.setattr(ppo, "minibatch", seen)
    made = run_dir(tmp_path / "run", gpt2, reward_model)
    outcome = drive.run(made)
    assert (outcome["status"], outcome["code"]) == ("failed", "non_finite")
    assert len(kept) == 3 and all(torch.equal(before, weight) for weight in kept)
    assert drive.warnings(made).count("not finite") == 3
    assert not (made / "output").exists()


# --- the whole run (items 21, 23, 61) ---------------------------------------------------------------


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_run_changes_the_policy_and_neither_reference_nor_reward_model(
    gpt2: Path, reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, critic: str
) -> None:
    teams: list[rollout.Team] = []
    real_load = rollout.load

    def load(job: Job, **named: Any) -> Any:
        found = real_load(job, **named)
        teams.append(found[0])
        return found

    monkeypatch.setattr(rollout, "load", load)
    made = run(tmp_path / "run", gpt2, reward_model, critic=critic, kl_target=1.0, sample_every=2)
    team = teams[0]
    before = load_file(gpt2 / "model.safetensors")
    for name, weight in team.reference.model.named_parameters():
        assert name.startswith("lm_head") or torch.equal(before[name], weight), name
    scorer = load_file(reward_model / "model.safetensors")
    assert all(
        torch.equal(scorer[name], weight)
        for name, weight in scorer_of(team).model.members[0].model.named_parameters()  # type: ignore[union-attr]
    )
    output = load_file(made / "output" / "model.safetensors")
    assert not torch.equal(output["transformer.wpe.weight"], before["transformer.wpe.weight"])
    rows = drive.metrics(made)
    expected = 0.05
    for step in (1, 2, 3):
        assert rows[step]["kl/coefficient"] == pytest.approx(expected, rel=1e-6)
        error = min(max(rows[step]["kl/reference"] / 1.0 - 1, -0.2), 0.2)
        expected *= 1 + error * 12 / 2000
    samples = drive.events(made, "sample")
    assert [event["step"] for event in samples] == [0] * 4 + [2] * 4 + [3] * 4
    assert samples[0]["messages"] == samples[4]["messages"] and samples[0]["kl"] == 0.0


def test_sample_texts_without_a_score_end_no_run(gpt2: Path, reward_model: Path) -> None:
    team = make_team(gpt2, reward_model)
    team = team._replace(scorer=rewards.WeightedSum({"none": (1.0, lambda asked, rows: [None] * len(rows))}))
    (said,) = monitor.show(job(config()), team, prompts(), 3)
    assert isinstance(said, Note) and "Step 3: none of the sample texts" in said.message
