"""What a rollout holds: log-probabilities, rewards and scores; and the critic that values it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core import tiny
from tests.core.teams import (
    collect,
    config,
    job,
    make_team,
    prompts,
    scorer_of,
    update,
)
from training.core import batches, models, monitor, rewards, rollout
from training.core.types import Completion

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
    values = monitor.describe(collect(team, config()), 0.1)
    assert values["reward/objective"] == pytest.approx(
        values["reward/mean"] - 0.1 * values["kl/reference"], abs=1e-4
    )
    assert values["kl/reference"] == pytest.approx(
        values["kl/per_token"] * values["completion/length"], rel=1e-5
    )


def test_a_negative_kl_beyond_chance_is_warned_of(gpt2: Path, reward_model: Path) -> None:
    """Item 24: a sampled mean below 0 is no error, one far below it is; of few completions nothing is said.

    Nine completions with KL m - 1 or m + 1 have a standard error of sqrt(8 / 8 / 9) = 1/3 (m in the middle).
    """
    found = collect(make_team(gpt2, reward_model), config(max_new_tokens=1))
    spread = torch.tensor([[-1.0], [1.0]] * 4 + [[0.0]])
    assert found.completion_mask.all()

    def told(mean: float, rows: int = 9) -> list[str]:
        kl = mean + spread[:rows]
        some = found._replace(
            logprobs=found.ref_logprobs[:rows] + kl,
            ref_logprobs=found.ref_logprobs[:rows],
            completion_mask=found.completion_mask[:rows],
        )
        return [f"{note.level}: {note.message}" for note in monitor.doubts(some, 7)]

    assert told(0.5) == told(-1.3) == [] and told(-9.0, rows=7) == [] and len(told(-9.0, rows=8)) == 1
    assert told(-1.4) == ["warning: Step 7: the mean KL is -1.400 nats, which chance does not explain."]


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
    assert monitor.describe(found, 0.1)["reward/unscored"] == 4.0


def test_a_policy_with_more_tokens_is_read_again_and_one_with_fewer_is_not() -> None:
    """Ids that the reward model has no vector for must never reach it."""
    more = tiny.tokenizer()
    more.add_tokens(["<|tool|>"])
    few, many = models.Chat(tiny.tokenizer()), models.Chat(more)
    assert many.reads_ids_of(few) and not few.reads_ids_of(many)


def test_a_completion_with_a_row_beyond_the_reward_model_s_is_read_again(tmp_path: Path) -> None:
    """Vocabularies are padded, to other sizes in other models of a family; such ids can be drawn."""
    padded = models.Policy(tiny.folder(tmp_path / "padded", model=tiny.gpt2(vocab_size=320)))
    plain = models.RewardModel(tiny.folder(tmp_path / "plain"), fresh_head_seed=0)
    scorer = rewards.RewardModelScore(plain, padded.chat)
    written = padded.chat.completion_ids("red")
    assert scorer.same_ids and padded.chat.text([310, *written]) == "red"
    found = scorer(
        prompts()[:1] * 2, [Completion([310, *written], "red", True), Completion(written, "red", True)]
    )
    assert found[0] == found[1] and found[0] is not None


def test_a_critic_has_a_row_for_all_that_the_policy_can_write(tmp_path: Path) -> None:
    padded = tiny.folder(tmp_path / "padded", model=tiny.gpt2(vocab_size=320))
    (tmp_path / "reward_model").mkdir()
    models.RewardModel(tiny.folder(tmp_path / "plain"), fresh_head_seed=0).save(tmp_path / "reward_model")
    policy = models.Policy(padded)
    scorer = rewards.RewardModelScore(models.RewardModel(tmp_path / "reward_model"), policy.chat)
    asked = job(config())._replace(inputs={"policy": padded, "reward_model": tmp_path / "reward_model"})
    critic, notes = rollout.load_critic(asked, policy, scorer, "separate", longest=32)
    assert critic is not None and critic(batches.rows([[5]], [[310]], 0), None).tolist() == [0.0]
    assert "has fewer rows of tokens" in notes[0].message


# --- the critic (items 32, 33, 35) ------------------------------------------------------------------


def test_a_critic_of_its_own_reads_as_far_as_the_policy_writes(tmp_path: Path, gpt2: Path) -> None:
    """The policy has a context of 96 tokens."""
    small = models.RewardModel(
        tiny.folder(tmp_path / "small", model=tiny.gpt2(n_positions=32)), fresh_head_seed=1
    )
    (tmp_path / "reward_model").mkdir()
    small.save(tmp_path / "reward_model")
    policy = models.Policy(gpt2)
    scorer = rewards.RewardModelScore(models.RewardModel(tmp_path / "reward_model"), policy.chat)
    asked = job(config())._replace(inputs={"policy": gpt2, "reward_model": tmp_path / "reward_model"})
    critic, notes = rollout.load_critic(asked, policy, scorer, "separate", longest=32)
    assert notes == [] and critic is not None
    critic, notes = rollout.load_critic(asked, policy, scorer, "separate", longest=90)
    assert [note.message for note in notes] == [
        "The reward model has a shorter context: the critic starts from the policy instead."
    ]
    assert critic is not None
    batch = batches.rows([[5] * 60], [[7] * 30], 0)
    assert critic(batch, None).tolist() == [0.0] * 30


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


@pytest.mark.parametrize(
    ("critic", "trains_trunk", "moves"),
    [("shared", True, True), ("shared", False, False), ("separate", True, False)],
)
def test_the_value_loss_moves_the_policy_only_when_the_trunk_is_shared(
    gpt2: Path, reward_model: Path, critic: str, trains_trunk: bool, moves: bool
) -> None:
    def policy_gradients(value_coefficient: float) -> list[Tensor]:
        team = make_team(gpt2, reward_model, critic)
        nn.init.normal_(team.critic.head.weight, generator=torch.Generator().manual_seed(0))
        said = {"value_coefficient": value_coefficient, "value_trains_trunk": trains_trunk}
        settings = config(max_grad_norm=1e6, **said)
        _, gradients = update(team, collect(team, settings), settings, list(range(12)))
        assert any(gradient.any() for gradient in gradients[-2:]) is (
            value_coefficient > 0
        )  # the head learns
        return gradients[: len(list(team.policy.model.parameters()))]

    without, single, double = (policy_gradients(coefficient) for coefficient in (0.0, 0.5, 1.0))
    moved = [torch.allclose(one, other, atol=1e-6) for one, other in zip(without, single, strict=True)]
    assert all(moved) is not moves
    for zero, one, two in zip(without, single, double, strict=True):
        assert torch.allclose(2 * (one - zero), two - zero, atol=1e-4)
