"""The few figures by which a version is known, read from its last metrics. Missing ones stay missing."""

from __future__ import annotations

from typing import NamedTuple

from training.models import ModelVersion


class Accuracy(NamedTuple):
    """Share of held-out pairs that a reward model orders as the judges did, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None


class Reward(NamedTuple):
    """What a policy earned in its last rollout, and how far it stood from the reference."""

    mean: float
    kl: float | None


def accuracy(version: ModelVersion | None) -> Accuracy | None:
    metrics = version.metrics if version else {}
    if "held_out/accuracy" not in metrics:
        return None
    low, high = metrics.get("held_out/accuracy_low"), metrics.get("held_out/accuracy_high")
    return Accuracy(metrics["held_out/accuracy"], low, high)


def reward(version: ModelVersion | None) -> Reward | None:
    metrics = version.metrics if version else {}
    if "reward/mean" not in metrics:
        return None
    return Reward(metrics["reward/mean"], metrics.get("kl/reference"))
