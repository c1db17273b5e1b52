"""Tiny model folders that the tests of the trainer share: made once, read by all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.core import tiny
from training.core import protocol
from training.core.models import RewardModel


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("models") / "llama", model=tiny.llama())


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory, gpt2: Path) -> Path:
    """A sealed reward model with a random head."""
    folder = tmp_path_factory.mktemp("models") / "reward.part"
    folder.mkdir()
    RewardModel(gpt2, fresh_head_seed=1).save(folder)
    protocol.seal(folder, folder.with_name("reward"))
    return folder.with_name("reward")


@pytest.fixture(scope="session")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, gpt2: Path, reward_model: Path
) -> dict[str, dict[str, Path]]:
    """The inputs of each kind."""
    folder = tmp_path_factory.mktemp("inputs")
    demonstrations = tiny.write_rows(folder / "d.jsonl", tiny.demonstrations(24))
    preferences = tiny.write_rows(folder / "p.jsonl", tiny.preferences(40))
    prompts = tiny.write_rows(folder / "q.jsonl", tiny.prompts())
    return {
        "sft": {"policy": gpt2, "snapshot": demonstrations},
        "reward_model": {"policy": gpt2, "snapshot": preferences},
        **dict.fromkeys(
            ("ppo", "reinforce", "trpo"),
            {"policy": gpt2, "reference": gpt2, "reward_model": reward_model, "prompts": prompts},
        ),
        "ppo": {
            "policy": gpt2,
            "reference": gpt2,
            "reward_model": reward_model,
            "prompts": prompts,
            "demonstrations": demonstrations,
        },
        "sample": {"policy": gpt2, "prompts": prompts, "reward_model": reward_model},
    }
