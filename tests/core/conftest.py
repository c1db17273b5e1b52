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
