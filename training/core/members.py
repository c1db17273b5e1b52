"""A member of an ensemble of reward models: its model, its judgement, its optimiser, its order of data.

With held-out pairs it keeps the weights of its best epoch, and a checkpoint holds those beside the newest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.core import batches, data, judgement, lora, models, state
from training.core.configs import RewardModelConfig
from training.core.types import Note, Pair, Saved


def member_seed(seed: int, number: int) -> int:
    """The run's seed for the first member, so that it is the model that a run without others makes."""
    return seed if number == 1 else state.generator(seed, 5, number).initial_seed()


class Best(NamedTuple):
    """The weights with the least held-out loss so far."""

    loss: float
    step: int
    tensors: dict[str, Tensor]

    def facts(self) -> dict[str, Any]:
        return {"best_loss": self.loss if self.tensors else None, "best_step": self.step}


class Member:
    """One model, how its judges judge, its optimiser, and the order in which it sees the pairs."""

    def __init__(
        self,
        config: RewardModelConfig,
        number: int,
        seed: int,
        model: models.RewardModel,
        pairs: Sequence[Pair],
        unseen: Sequence[Pair],
    ) -> None:
        self.config, self.number, self.model = config, number, model
        if config.lora_rank:  # of the trunk: the head is new, and always trained
            lora.add(model.model.base_model, config.lora_rank, seed=seed)
        self.judgement = judgement.Judgement(config, pairs, unseen)
        self.learned = nn.ModuleDict({"model": self.model.model, "judgement": self.judgement})
        groups: list[dict[str, Any]] = [
            {"params": self.model.model.parameters(), "weight_decay": config.weight_decay},
            {"params": self.judgement.parameters(), "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self.tokens = [self.model.pair_tokens(pair) for pair in pairs]
        self.plan = [
            batch
            for epoch in range(config.epochs)
            for batch in data.pair_batches(self.tokens, config.batch_pairs, seed=seed, epoch=epoch)
        ]
        self.difference = torch.zeros(len(unseen))
        self.held_out_loss = math.inf
        self.best = Best(math.inf, 0, {})

    def step(self, share: float) -> None:
        for group, rate in zip(
            self.optimizer.param_groups, (self.config.learning_rate, judgement.RATE), strict=True
        ):
            group["lr"] = rate * share
        self.optimizer.step()

    def keep_if_best(self, step: int) -> None:
        if self.held_out_loss < self.best.loss:
            self.best = Best(self.held_out_loss, step, state.named_weights(self.learned, ""))

    def return_to_best(self) -> Iterator[Note]:
        if self.best.tensors:
            state.restore_weights(self.learned, self.best.tensors, "")
            told = f"whose held-out loss of {self.best.loss:.4f} is the least."
            yield Note("log", self.named(f"Kept the weights of step {self.best.step}, {told}"))

    def named(self, told: str) -> str:
        """What is told of this member, with its number where there are several."""
        return f"Member {self.number}: {told}" if self.config.members > 1 else told

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        name = f"member-{self.number}."
        held = state.named_weights(self.learned, name + "weights.")
        held |= state.optimizer_tensors(self.optimizer, name + "optimizer.")
        return held | {f"{name}best.{weight}": tensor for weight, tensor in self.best.tensors.items()}

    def restore(self, saved: Saved) -> None:
        name = f"member-{self.number}."
        state.restore_weights(self.learned, saved.tensors, name + "weights.")
        state.restore_optimizer(self.optimizer, saved.tensors, name + "optimizer.")
        best = state.part(saved.tensors, name + "best.", batches.device())
        facts = saved.facts[f"member-{self.number}"]
        self.best = Best(
            math.inf if facts["best_loss"] is None else facts["best_loss"],
            facts["best_step"],
            {weight.removeprefix(name + "best."): tensor for weight, tensor in best.items()},
        )
