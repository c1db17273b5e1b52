"""The KL limit: what is kept of a run that leaves it, and what fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.core import drive, tiny
from tests.core.teams import config, job, make_team, prompts, run, run_dir
from training.core import configs, monitor, protocol, reinforce, rewards, rollout
from training.core.last_good import LastGood
from training.core.types import Failure, Metrics, Note, Saved

LIMIT = 0.02


def weights_of(team: rollout.Team) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in team.policy.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def move(team: rollout.Team) -> None:
    """Some nats away from the reference."""
    with torch.no_grad():
        team.policy.model.transformer.wpe.weight += torch.randn(96, 32)


def of_kind(path: Path, kind: str, settings: dict[str, Any], **inputs: Path) -> Path:
    """A run directory; `run_dir` makes those of PPO alone."""
    asked = tiny.write_rows(path.with_suffix(".jsonl"), tiny.prompts())
    return tiny.run_dir(path, kind, {"max_new_tokens": 8, **settings}, {**inputs, "prompts": asked})


# --- a whole run ------------------------------------------------------------------------------------


def test_the_weights_of_the_last_rollout_within_it_are_kept(
    gpt2: Path, reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote: list[dict[str, Tensor]] = []
    collect = rollout.collect

    def seen(team: rollout.Team, *rest: Any, **named: Any) -> Any:
        wrote.append(weights_of(team))
        return collect(team, *rest, **named)

    monkeypatch.setattr(rollout, "collect", seen)  # that of each step
    made = run(tmp_path / "run", gpt2, reward_model, kl_limit=0.6, learning_rate=2e-3, steps=30)
    rows = drive.metrics(made)
    last = max(rows)  # wrote what was too far
    told = drive.warnings(made)
    assert "The last update was taken back" in told and "kl_limit = 0.6" in told
    assert 2 < last < 30 and len(wrote) == last
    assert max(row["kl/reference"] for step, row in rows.items() if step < last) <= 0.6
    assert same(load_file(made / "output" / "model.safetensors"), wrote[-2])


@pytest.mark.parametrize("steps", [1, 6])
def test_a_run_that_keeps_no_update_has_failed(
    gpt2: Path, reward_model: Path, tmp_path: Path, steps: int
) -> None:
    """Nobody shall compare the policy with itself: the first update leads beyond the limit."""
    made = run_dir(tmp_path / "run", gpt2, reward_model, steps=steps, kl_limit=LIMIT, learning_rate=3e-2)
    outcome = drive.run(made)
    assert (outcome["status"], outcome["code"]) == ("failed", "beyond_kl_limit")
    assert "after the first update" in outcome["message"] and "learning_rate" in outcome["hint"]
    assert not (made / "output").exists()


def test_a_step_that_was_skipped_is_no_update(
    gpt2: Path, reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step leaves the policy as it was, the second leads beyond: nothing is kept."""
    update, calls = reinforce.update, []

    def second(*arguments: Any) -> Any:
        calls.append(1)
        return update(*arguments) if len(calls) > 1 else None

    monkeypatch.setattr(reinforce, "update", second)
    settings = {"steps": 4, "kl_limit": LIMIT, "learning_rate": 3e-2}
    models = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model}
    outcome = drive.run(of_kind(tmp_path / "run", "reinforce", settings, **models))
    assert (outcome["code"], len(calls)) == ("beyond_kl_limit", 2)


def test_a_policy_too_far_from_its_reference_to_begin_with_is_told(
    gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    other = tiny.folder(tmp_path / "other", model=tiny.gpt2(initializer_range=1.0))
    models = {"policy": gpt2, "reference": other, "reward_model": reward_model}
    outcome = drive.run(of_kind(tmp_path / "run", "ppo", {"steps": 2, "kl_limit": LIMIT}, **models))
    assert (outcome["status"], outcome["code"]) == ("failed", "beyond_kl_limit")
    assert "before the first update" in outcome["message"] and "reference" in outcome["hint"]


# --- the last measurement ---------------------------------------------------------------------------


def looked(team: rollout.Team, good: LastGood) -> tuple[list[str], float]:
    """What is said, and the KL that is reported of the finished policy."""
    settings = config(kl_limit=LIMIT)
    deviation = rewards.RunningDeviation()
    *notes, final = monitor.last_look(job(settings), team, prompts(), good, 0.05, deviation, 2)
    assert isinstance(final, Metrics)
    return [note.message for note in notes if isinstance(note, Note)], final.values["final/kl/reference"]


def test_a_last_update_that_leads_too_far_is_taken_back(gpt2: Path, reward_model: Path) -> None:
    team = make_team(gpt2, reward_model)
    before, good = weights_of(team), LastGood(team.policy, config(kl_limit=LIMIT), None)
    good.made = 1
    good.keep()
    move(team)
    good.made = 2
    (note,), kl = looked(team, good)
    assert "The last update was taken back" in note and kl == pytest.approx(0.0, abs=1e-6)
    assert same(before, weights_of(team))


def test_what_was_within_it_once_is_not_taken_back(gpt2: Path, reward_model: Path) -> None:
    """Chance: another rollout of the same weights lies beyond. It is said, and they are saved."""
    team = make_team(gpt2, reward_model)
    move(team)
    before, good = weights_of(team), LastGood(team.policy, config(kl_limit=LIMIT), None)
    good.made = 1
    good.keep()
    (note,), kl = looked(team, good)
    assert note.startswith("The mean KL of a last rollout is") and kl > LIMIT
    assert same(before, weights_of(team))


# --- counting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "lower"),
    [("ppo", "learning_rate or epochs"), ("reinforce", "learning_rate"), ("trpo", "step_kl")],
)
def test_counts_go_on_after_a_resume(gpt2: Path, reward_model: Path, kind: str, lower: str) -> None:
    """One update, and none in the weights that are kept."""
    policy = make_team(gpt2, reward_model).policy
    limit: Any = configs.parse(kind, {"kl_limit": LIMIT})
    good = LastGood(policy, limit, Saved(3, {}, {"updates": [0, 1]}))
    with pytest.raises(Failure, match="after the first update") as failed:
        good.go_back(0.5)
    assert failed.value.hint == f"Lower {lower}, or raise kl_limit."


@pytest.mark.parametrize("kind", ["ppo", "reinforce", "trpo"])
def test_a_checkpoint_holds_the_counts(gpt2: Path, reward_model: Path, tmp_path: Path, kind: str) -> None:
    settings = {"steps": 3, "rollout_prompts": 8, "checkpoint_every": 3}
    models = {"policy": gpt2, "reference": gpt2, "reward_model": reward_model}
    made = of_kind(tmp_path / "run", kind, settings, **models)
    assert drive.run(made) == {"status": "done"}
    facts = json.loads((protocol.checkpoints(made)[0] / "facts.json").read_text())
    rejected = [row.get("policy/halvings", 0.0) > 10 for row in drive.metrics(made).values()]
    assert facts["facts"]["updates"] == [2 - sum(rejected[:2]), 3 - sum(rejected)]


def test_chance_is_not_called_a_bad_update(gpt2: Path, reward_model: Path) -> None:
    """After a step that was skipped the same weights are measured again."""
    team = make_team(gpt2, reward_model)
    good = LastGood(team.policy, config(kl_limit=LIMIT), None)
    good.made = 1
    good.keep()
    said = good.go_back(0.5)
    assert "the same weights" in said.message and "taken back" not in said.message


def test_checkpoints_that_count_nothing_made_an_update_each_step(gpt2: Path, reward_model: Path) -> None:
    policy = make_team(gpt2, reward_model).policy
    good = LastGood(policy, config(), Saved(7, {}, {}))
    assert (good.kept, good.made) == (6, 7)
