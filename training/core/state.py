"""Weights, optimiser state and random numbers in a form that a checkpoint holds."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def named_weights(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Copies of the parameters that are trained; tied ones appear once."""
    return {
        prefix + name: weight.detach().clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def part(tensors: dict[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, on the device."""
    return {name: held.to(device) for name, held in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def move(weights: Sequence[Tensor], start: Sequence[Tensor], step: Tensor) -> None:
    """weights = start + step; a step of 0 restores them to the bit."""
    place = 0
    for weight, origin in zip(weights, start, strict=True):
        weight.copy_(origin + step[place : place + weight.numel()].view_as(weight))
        place += weight.numel()


@torch.no_grad()
def restore_weights(model: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.copy_(tensors[prefix + name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{place}.{name}": value for place, held in state.items() for name, value in held.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            place, what = name.removeprefix(prefix).split(".")
            state.setdefault(int(place), {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@functools.cache
def _mixed(seed: int, *place: int) -> int:
    state = seed & 0xFFFFFFFFFFFFFFFF
    for number in place:
        state = (state * 6364136223846793005 + number + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
    return state & 0x7FFFFFFFFFFFFFFF


def generator(seed: int, *place: int) -> torch.Generator:
    """Random numbers of one place of the run (a step, an epoch): resuming needs no stored state."""
    return torch.Generator().manual_seed(_mixed(seed, *place))
