"""PPO: every part against an oracle, and the whole against an optimum known by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.core import drive, tiny
from training.core import batches, configs, models, ppo, rewards, rollout, state, tensors
from training.core.types import Completion, Demonstration, Job, Note, Prompt, Rollout

CONFIG: dict[str, Any] = {
    "steps": 3, "rollout_prompts": 12, "max_new_tokens": 10, "learning_rate": 1e-3, "minibatches": 3,
    "epochs": 2, "temperature": 0.7, "sample_every": 100,
}  # fmt: skip


def run_dir(path: Path, folder: Path, reward_model: Path, **changes: Any) -> Path:
    prompts = tiny.write_rows(path.with_suffix(".jsonl"), tiny.prompts())
    inputs = {"policy": folder, "reference": folder, "reward_model": reward_model, "prompts": prompts}
    return tiny.run_dir(path, "ppo", {**CONFIG, **changes}, inputs)


def run(path: Path, folder: Path, reward_model: Path, **changes: Any) -> Path:
    made = run_dir(path, folder, reward_model, **changes)
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    return made


def prompts() -> list[Prompt]:
    chat = models.Chat(tiny.tokenizer())
    return [Prompt(row["prompt"], chat.prompt_ids(row["prompt"]), row["prompt_id"]) for row in tiny.prompts()]


def config(**changes: Any) -> configs.PPOConfig:
    return configs.PPOConfig(**{**CONFIG, **changes})


def make_team(folder: Path, reward_model: Path, critic: str = "shared") -> rollout.Team:
    policy = models.Policy(folder)
    start = models.RewardModel(reward_model)
    return rollout.Team(
        policy,
        models.Policy(folder),
        models.SharedCritic(policy) if critic == "shared" else models.SeparateCritic(start),
        rewards.configured(config(), rewards.RewardModelScore(models.RewardModel(reward_model), policy.chat)),
    )


def scorer_of(team: rollout.Team) -> rewards.RewardModelScore:
    return team.scorer.parts["reward_model"][1]  # type: ignore[return-value]


def collect(team: rollout.Team, settings: configs.PPOConfig, seed: int = 0) -> Rollout:
    team.policy.chat.stop_ids = set(range(0, 300, 8))  # completions of many lengths
    return rollout.collect(
        team, prompts(), settings, beta=0.1, generator=state.generator(seed), safe_point=lambda: None
    )


def job(settings: configs.PPOConfig) -> Job:
    return Job(settings, 0, {}, Path(), None, lambda: None, lambda: False)


class Remembering(torch.optim.SGD):
    """Knows the gradients of its last step: a trainer drops them at once."""

    seen: list[Tensor]

    def step(self, closure: Any = None) -> None:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self.seen = [torch.zeros(()) if weight.grad is None else weight.grad.clone() for weight in weights]
        super().step()


def update(
    team: rollout.Team,
    found: Rollout,
    settings: configs.PPOConfig,
    rows: list[int],
    rate: float = 0.0,
    shown: Sequence[Demonstration] = (),
) -> tuple[dict[str, float] | None, list[Tensor]]:
    """One optimiser step on `rows`; its metrics, and the gradients before they were clipped away."""
    advantages, returns = tensors.gae(found.rewards, found.values, found.completion_mask, gamma=1.0, lam=0.95)
    advantages = tensors.whiten(advantages, found.completion_mask)
    weights = [*team.policy.model.parameters(), *team.critic.parameters()]
    optimizer = Remembering(weights, lr=rate)
    facts = ppo.minibatch(
        team, optimizer, found, advantages, returns, torch.tensor(rows), shown, settings, job(settings)
    )
    assert all(weight.grad is None for weight in weights), "they would live through the next rollout"
    return facts, optimizer.seen if facts else []


# --- the rollout (items 1, 12, 16, 17, 22, 62) ------------------------------------------------------


def test_logprobs_of_policy_and_reference_are_tempered_alike(
    gpt2: Path, llama: Path, reward_model: Path
) -> None:
    team = make_team(gpt2, reward_model)._replace(reference=models.Policy(llama))
    found = collect(team, config())
    for row, prompt in enumerate(found.prompts):
        ids = found.completions[row].ids
        for model, logprobs in (
            (team.policy.model, found.logprobs),
            (team.reference.model, found.ref_logprobs),
        ):
            with torch.no_grad():
                logits = model(torch.tensor([prompt.ids + ids])).logits[0, len(prompt.ids) - 1 : -1] / 0.7
            expected = torch.log_softmax(logits, -1)[torch.arange(len(ids)), ids]
            assert torch.allclose(logprobs[row, : len(ids)], expected, atol=1e-4)
            assert not logprobs[row, len(ids) :].any()
    assert torch.allclose(found.logprobs.sum(1), found.decoded_logprobs, atol=1e-3)


def test_the_rollout_s_metrics_keep_the_identity(gpt2: Path, llama: Path, reward_model: Path) -> None:
    team = make_team(gpt2, reward_model)._replace(reference=models.Policy(llama))
    values = rollout.describe(collect(team, config()), 0.1)
    assert values["reward/objective"] == pytest.approx(
        values["reward/mean"] - 0.1 * values["kl/reference"], abs=1e-4
    )
    assert values["kl/reference"] == pytest.approx(
        values["kl/per_token"] * values["completion/length"], rel=1e-5
    )


def test_a_negative_kl_beyond_chance_is_warned_of() -> None:
    """Item 24: a sampled mean below 0 is no error, one far below it is."""
    told = [
        list(rollout.doubts({"kl/reference": kl, "kl/standard_error": 0.1}, 7)) for kl in (0.5, -0.3, -0.5)
    ]
    assert [len(notes) for notes in told] == [0, 0, 1]
    assert "Step 7" in told[2][0].message and told[2][0].level == "warning"


def test_a_missing_end_costs_after_the_clip_and_a_stop_token_is_an_end() -> None:
    """Item 17, three rows: ended, ended beyond the clip, cut off beyond the clip."""
    found = rewards.pay(
        torch.tensor([0.5, 9.0, 9.0]),
        torch.tensor([True, True, False]),
        config(score_clip=2.0, missing_eos_penalty=0.75),
        1.0,
    )
    assert found.tolist() == [0.5, 2.0, 1.25]


def test_scores_are_the_reward_model_s_own_when_tokenizers_agree(gpt2: Path, reward_model: Path) -> None:
    team = make_team(gpt2, reward_model)
    assert scorer_of(team).same_ids
    found = collect(team, config())
    with torch.no_grad():
        for row, prompt in enumerate(found.prompts):
            batch = batches.rows([prompt.ids], [found.completions[row].ids], 0)
            alone = scorer_of(team).model.scores(batch).item()
            assert found.scores[row].item() == pytest.approx(alone, abs=1e-5)


def test_another_tokenizer_reads_the_text_again_in_its_own_template(tmp_path: Path, gpt2: Path) -> None:
    """Item 12: same words, other ids. An end that the policy did not write is not given to it."""
    other = tiny.folder(tmp_path / "other", template=None)
    model = models.RewardModel(other, fresh_head_seed=3)
    chat = models.Chat(tiny.tokenizer())
    scorer = rewards.RewardModelScore(model, chat)
    assert not scorer.same_ids
    prompt = prompts()[0]
    written = chat.completion_ids("the cup is red")
    with torch.no_grad():
        completions = [
            Completion(written, "the cup is red", True), Completion(written[:-1], "the cup is red", False)
        ]  # fmt: skip
        found = scorer([prompt, prompt], completions)
        for row, ends in enumerate((True, False)):
            text = "User: what is cup\nAssistant: the cup is red" + "<|end|>" * ends
            ids = model.chat.tokenizer(text, return_tensors="pt")["input_ids"]
            expected = model.head(model.model.base_model(ids)[0][0, -1]).item()
            assert found[row] == pytest.approx(expected, abs=1e-5)


def test_a_completion_that_fills_the_reward_model_s_context_has_no_score(tmp_path: Path) -> None:
    small = tiny.folder(tmp_path / "small", model=tiny.gpt2(n_positions=8))
    scorer = rewards.RewardModelScore(
        models.RewardModel(small, fresh_head_seed=0), models.Chat(tiny.tokenizer())
    )
    long, short = Completion([7] * 9, "x", False), Completion([7] * 5, "x", False)
    alone = scorer(prompts()[:1], [short])
    assert scorer([prompts()[0]] * 2, [long, short]) == [None, alone[0]] and alone[0] is not None
    assert scorer.shortened == 2


def test_what_has_no_score_leaves_the_rollout_and_is_counted(gpt2: Path, reward_model: Path) -> None:
    """The rows that stay are those of the whole rollout, with their own prompts."""
    team = make_team(gpt2, reward_model)
    whole = collect(team, config())
    known = scorer_of(team)

    def some(asked: Any, completions: Any) -> rewards.Scores:
        return [None if row % 3 == 0 else score for row, score in enumerate(known(asked, completions))]

    found = collect(team._replace(scorer=rewards.WeightedSum({"some": (1.0, some)})), config())
    kept = [row for row in range(12) if row % 3]
    assert found.unscored == 4 and found.groups.tolist() == kept
    assert found.prompts == [whole.prompts[row] for row in kept]
    assert torch.allclose(found.scores, whole.scores[kept], atol=1e-5)
    assert rollout.describe(found, 0.1)["reward/unscored"] == 4.0


# --- the critic (items 32, 33, 35) ------------------------------------------------------------------


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_value_is_that_of_the_state_before_the_token(gpt2: Path, reward_model: Path, critic: str) -> None:
    team = make_team(gpt2, reward_model, critic)
    for weight in team.critic.parameters():
        nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    values = []
    for token in (7, 200):
        batch = batches.rows([[5, 9]], [[30, token, 31]], 0)
        with torch.no_grad():
            values.append(team.critic(batch, team.policy.outputs(batch)[0]))
    assert torch.equal(values[0][:2], values[1][:2])
    assert not torch.equal(values[0][2], values[1][2])


def test_first_values_are_zero_when_shared_and_the_reward_model_s_when_separate(
    gpt2: Path, reward_model: Path
) -> None:
    assert not collect(make_team(gpt2, reward_model), config()).values.any()
    team = make_team(gpt2, reward_model, "separate")
    found = collect(team, config())
    prompt = found.prompts[0]
    with torch.no_grad():
        batch = batches.rows([prompt.ids[:-1]], [prompt.ids[-1:]], 0)
        expected = scorer_of(team).model.scores(batch).item()
    assert found.values[0, 0].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_value_loss_moves_the_policy_only_when_the_trunk_is_shared(
    gpt2: Path, reward_model: Path, critic: str
) -> None:
    def policy_gradients(value_coefficient: float) -> list[Tensor]:
        team = make_team(gpt2, reward_model, critic)
        nn.init.normal_(team.critic.head.weight, generator=torch.Generator().manual_seed(0))
        settings = config(value_coefficient=value_coefficient, max_grad_norm=1e6)
        _, gradients = update(team, collect(team, settings), settings, list(range(12)))
        return gradients[: len(list(team.policy.model.parameters()))]

    without, single, double = (policy_gradients(coefficient) for coefficient in (0.0, 0.5, 1.0))
    moved = [torch.allclose(one, other, atol=1e-6) for one, other in zip(without, single, strict=True)]
    assert all(moved) is (critic == "separate")
    for zero, one, two in zip(without, single, double, strict=True):
        assert torch.allclose(2 * (one - zero), two - zero, atol=1e-4)


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
    assert rollout.describe(dirty, 0.1)["kl/reference"] == rollout.describe(found, 0.1)["kl/reference"]
    assert rollout.describe(dirty, 0.1)["policy/entropy"] == rollout.describe(found, 0.1)["policy/entropy"]
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


def test_beyond_the_kl_limit_the_last_good_weights_are_kept(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    """Step 1 measures KL 0; its update goes too far, so what is left is the policy of step 1: the input."""
    made = run(tmp_path / "run", gpt2, reward_model, kl_limit=0.02, learning_rate=3e-2)
    assert "Stopped at step 2" in drive.warnings(made) and "kl_limit = 0.02" in drive.warnings(made)
    one, other = (load_file(folder / "model.safetensors") for folder in (gpt2, made / "output"))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    rows = drive.metrics(made)
    assert list(rows) == [1, 2] and rows[2]["final/kl/reference"] == pytest.approx(0.0, abs=1e-6)


def test_the_last_update_is_taken_back_when_it_leads_too_far(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    made = run(tmp_path / "run", gpt2, reward_model, steps=1, kl_limit=0.02, learning_rate=3e-2)
    assert "The last update was taken back" in drive.warnings(made)
    assert drive.metrics(made)[1]["final/kl/reference"] == pytest.approx(0.0, abs=1e-6)  # what is saved
    one, other = (load_file(folder / "model.safetensors") for folder in (gpt2, made / "output"))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


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
    (said,) = rollout.show(job(config()), team, prompts(), 3)
    assert isinstance(said, Note) and "Step 3: none of the sample texts" in said.message
