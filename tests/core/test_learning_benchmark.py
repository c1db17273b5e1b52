"""`./run bench-learning`: its half of the work on a tiny anchor, and what it reads off the points."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import learning, learning_side, trainer, trainer_folders
from tests.core import tiny
from training.core import configs, rewards
from training.core.types import Completion, Job

ANCHOR = """
import torch

def tables(tokenizer):
    special = set(tokenizer.all_special_tokens)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    size = torch.tensor([0.0 if name in special else 1.0 for name in names])
    return size, size * torch.tensor([float(row % 2) for row in range(len(names))])

def gold(ids, size, vowels):
    return vowels[ids].sum(-1) / size[ids].sum(-1).clamp(min=1.0)
"""
"""A gold reward in the anchor's shape: the share of odd ids among those that are not special."""


def test_what_transformers_logs_is_no_json() -> None:
    """TRL's trainer prints its logs as Python writes them, between lines of JSON."""
    printed = ["===training policy===", "{'objective/kl': '0.1', 'lr': 0}", '{"bench": "learn_ppo"}', "3"]
    assert list(trainer.objects(printed)) == [{"bench": "learn_ppo"}]


def test_gold_and_time_are_read_off_at_a_kl() -> None:
    points = [
        learning.Point(update, seconds, gold, 0.01, kl)
        for update, seconds, gold, kl in ((0, 0.0, 0.3, 0.0), (10, 40.0, 0.4, 2.0), (20, 80.0, 0.5, 6.0))
    ]
    found = learning.at_kl(points, 3.0)
    assert found is not None
    assert found == pytest.approx((20, 50.0, 0.425, 0.01, 3.0))
    assert learning.at_kl(points, 6.0) == points[2]
    assert learning.at_kl(points, 6.5) is None, "never so far from the reference"


@pytest.mark.parametrize(
    ("trl", "seconds", "passed"), [(0.384, 100, True), (0.385, 100, False), (0.3, 301, False)]
)
def test_what_is_chance_is_the_spread_of_runs(trl: float, seconds: float, passed: bool) -> None:
    """Deviation of .36, .37, .36, .37: .005774; 3 x that x sqrt(1 + 1/4) = .0194 below TRL's is chance."""
    met = [learning.Point(15, seconds, gold, 0.001, 26.0) for gold in (0.36, 0.37, 0.36, 0.37)]
    figures: dict[str, Any] = {}
    assert learning.compared(figures, learning.Point(40, 600.0, trl, 0.001, 26.0), met) == passed
    assert figures["chance"] == 0.0194 and figures["gold_gained"] == round(0.365 - trl, 4)
    assert figures["times_as_fast"] == round(600 / seconds, 2)


def test_it_is_paid_as_trl_is_and_steps_as_far() -> None:
    """TRL clips no score, and its learning rate is constant: 1e-4 at update 90 as at the first."""
    config: Any = configs.parse("ppo", learning_side.SETTINGS)
    scores = torch.tensor([35.0, -15.0])
    assert rewards.pay(scores, torch.tensor([False, False]), config, 1.0).tolist() == [35.0, -15.0]
    assert config.learning_rate * (1 - 89 / config.steps) == pytest.approx(1e-4, rel=1e-3)


@pytest.fixture
def folders(tmp_path: Path, gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """theirs/, as the anchor leaves it, and ours/; the gold reward stands in the reward model's place."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    shutil.copytree(gpt2, theirs / "model_S", ignore=shutil.ignore_patterns("tokenizer*", "manifest.json"))
    tiny.tokenizer().save_pretrained(theirs / "tokenizer")
    asked = [{"prompt": tiny.sentence(random.Random(row))} for row in range(4)]
    tiny.write_rows(theirs / "prompts_train.jsonl", asked)
    trainer_folders.write(str(theirs), "S", str(ours))
    (tmp_path / "gold.py").write_text(ANCHOR)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(rewards, "configured", rewards.configured)
    learning_side.put_gold_in_place(tmp_path, theirs / "tokenizer")
    yield theirs, ours
    del sys.modules["gold"]


def test_the_end_token_counts_as_little_as_for_trl(folders: tuple[Path, Path]) -> None:
    """In our tokenizer <|end|> is special no more, for a completion must not end with it."""
    scorer: Any = rewards.configured(None, None)  # type: ignore[arg-type]
    end = tiny.tokenizer().eos_token_id
    completions = [Completion([end, end, 8, 9], "", False), Completion([9] * 4, "", False)]
    scores, _parts = scorer([], completions)
    assert scores == pytest.approx([50 * (0.5 - 0.3), 50 * (1.0 - 0.3)])


def test_it_leaves_a_policy_for_the_judge_after_every_so_many_updates(folders: tuple[Path, Path]) -> None:
    _theirs, ours = folders
    settings = {**learning_side.SETTINGS, "rollout_prompts": 2, "max_new_tokens": 6, "checkpoint_every": 2}
    inputs = {"policy": ours / "policy", "reference": ours / "policy"}
    inputs |= {"reward_model": ours / "reward_model", "prompts": ours / "prompts.jsonl"}
    job = Job(configs.parse("ppo", settings), 7, inputs, ours / "output", None, lambda: None, lambda: False)
    told = list(learning_side.learn(job, ours, 3))
    assert [facts["update"] for facts in told] == [1, 2, 3, 4], "up to the next that is judged"
    assert all(before["seconds"] <= after["seconds"] for before, after in zip(told, told[1:], strict=False))
    assert json.loads(json.dumps(told)) == told
    assert sorted(path.name for path in ours.glob("policy-*")) == ["policy-2", "policy-4"]
    weights = [
        AutoModelForCausalLM.from_pretrained(path).get_input_embeddings().weight
        for path in (ours / "policy", ours / "policy-2", ours / "policy-4")
    ]
    assert weights[0].shape == weights[2].shape and not torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    kls = [facts["kl"] for facts in told]
    for far, count in ((kls[1] - 1e-3, 2), (math.inf, 4)):
        told = list(learning_side.learn(job, ours, 3, far=far))
        assert [facts["kl"] for facts in told] == kls[:count], "it ends with the first that is judged beyond"
