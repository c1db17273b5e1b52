"""What people call metrics, settings, their choices and phases; the programs' own names stay in files."""

from __future__ import annotations

import dataclasses
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from training.core import configs
from training.models import Run

METRICS = {
    "train/loss": gettext_lazy("training loss"),
    "train/accuracy": gettext_lazy("training accuracy"),
    "train/margin": gettext_lazy("margin"),
    "train/grad_norm": gettext_lazy("gradient norm"),
    "train/learning_rate": gettext_lazy("learning rate"),
    "held_out/loss": gettext_lazy("held-out loss"),
    "held_out/accuracy": gettext_lazy("held-out accuracy"),
    "held_out/accuracy_low": gettext_lazy("held-out accuracy, at least"),
    "held_out/accuracy_high": gettext_lazy("held-out accuracy, at most"),
    "held_out/calibration_error": gettext_lazy("calibration error"),
    "held_out/human_agreement": gettext_lazy("agreement of people"),
    "held_out/annotator_lowest": gettext_lazy("accuracy on the annotator foreseen worst"),
    "held_out/annotator_highest": gettext_lazy("accuracy on the annotator foreseen best"),
    "held_out/disagreement": gettext_lazy("disagreement of the members"),
    "held_out/ensemble_accuracy": gettext_lazy("accuracy of the members' mean"),
    "judgement/theta": gettext_lazy("ties, Rao-Kupper's theta"),
    "judgement/nu": gettext_lazy("ties, Davidson's nu"),
    "judgement/margin_2": gettext_lazy("margin of “better”"),
    "judgement/margin_3": gettext_lazy("margin of “much better”"),
    "judgement/reliability_lowest": gettext_lazy("reliability of the least reliable"),
    "judgement/reliability_highest": gettext_lazy("reliability of the most reliable"),
    "reward/mean": gettext_lazy("reward"),
    "reward/std": gettext_lazy("standard deviation of the reward"),
    "reward/score": gettext_lazy("score"),
    "reward/part/reward_model": gettext_lazy("part of the reward model"),
    "reward/part/disagreement": gettext_lazy("part of the members' disagreement"),
    "reward/part/length": gettext_lazy("part of the length"),
    "reward/part/pattern": gettext_lazy("part of the pattern"),
    "reward/unscored": gettext_lazy("completions without a score"),
    "reward/objective": gettext_lazy("reward less the KL penalty"),
    "kl/reference": gettext_lazy("KL to the reference"),
    "kl/standard_error": gettext_lazy("standard error of the KL"),
    "kl/per_token": gettext_lazy("KL per token"),
    "kl/coefficient": gettext_lazy("KL coefficient"),
    "policy/loss": gettext_lazy("policy loss"),
    "policy/ptx_loss": gettext_lazy("loss of the demonstrations"),
    "policy/baseline": gettext_lazy("baseline"),
    "policy/gain": gettext_lazy("gain of the step"),
    "policy/halvings": gettext_lazy("halvings of the step"),
    "policy/cg_residual": gettext_lazy("residual of conjugate gradient"),
    "policy/clip_fraction": gettext_lazy("clip fraction"),
    "policy/approx_kl": gettext_lazy("KL of the update"),
    "policy/decoding_error": gettext_lazy("decoding error"),
    "policy/entropy": gettext_lazy("entropy"),
    "policy/grad_norm": gettext_lazy("gradient norm"),
    "policy/learning_rate": gettext_lazy("learning rate"),
    "policy/updates": gettext_lazy("optimiser steps"),
    "policy/first_ratio_error": gettext_lazy("error of the first ratio"),
    "value/loss": gettext_lazy("value loss"),
    "value/mean": gettext_lazy("expected value"),
    "value/explained_variance": gettext_lazy("explained variance"),
    "completion/length": gettext_lazy("completion length"),
    "completion/eos_rate": gettext_lazy("completions that end by themselves"),
    "time/rollout": gettext_lazy("rollout"),
    "time/score": gettext_lazy("scoring"),
    "time/update": gettext_lazy("update"),
    "speed/tokens_per_second": gettext_lazy("tokens per second"),
    "speed/pairs_per_second": gettext_lazy("pairs per second"),
    "final/reward/mean": gettext_lazy("reward of the finished policy"),
    "final/reward/objective": gettext_lazy("its reward less the KL penalty"),
    "final/kl/reference": gettext_lazy("KL of the finished policy"),
}
CHOICES = {
    "half": gettext_lazy("Half"),
    "rao_kupper": gettext_lazy("Rao-Kupper"),
    "davidson": gettext_lazy("Davidson"),
    "none": gettext_lazy("None"),
    "learned": gettext_lazy("Learned"),
    "equal": gettext_lazy("Equal"),
    "reliability": gettext_lazy("Reliability"),
    "shared": gettext_lazy("Shared"),
    "separate": gettext_lazy("Separate"),
    "running_mean": gettext_lazy("Running mean"),
    "leave_one_out": gettext_lazy("Leave one out"),
    "value_head": gettext_lazy("Value head"),
}
PHASES = {
    "starting": gettext_lazy("starting"),
    "loading": gettext_lazy("loading"),
    "training": gettext_lazy("training"),
    "writing": gettext_lazy("writing"),
    "saving": gettext_lazy("saving"),
}
ABBREVIATIONS = {
    "Kl": "KL", "kl": "KL", "Gae": "GAE", "gae": "GAE", "Eos": "EOS", "eos": "EOS", "Cg": "CG",
    "Lora": "LoRA", "Ptx": "PTX",
}  # fmt: skip


def of_metric(path: str) -> str:
    """ "policy/clip_fraction" is "clip fraction"; what nobody named keeps its path."""
    return str(METRICS.get(path, path))


def of_choice(value: str) -> str:
    """ "rao_kupper" is "Rao-Kupper"; float32 and bfloat16 are what people call them."""
    return str(CHOICES.get(value, value))


def of_setting(setting: dataclasses.Field[Any]) -> str:
    """ "kl_limit" in nats is "KL limit, nats"; a unit that the name says already is left out."""
    words = setting.name.replace("_", " ").capitalize().split()
    label = " ".join(ABBREVIATIONS.get(word, word) for word in words)
    unit = setting.metadata["unit"]
    return f"{label}, {_(unit)}" if unit and unit not in setting.name else label


def of_phase(run: Run) -> str:
    """What a run does, for its pill: small letters, like every pill."""
    if run.state != Run.State.RUNNING:
        return run.get_state_display().lower()
    if run.cancel_requested_at:
        return _("stopping")
    return str(PHASES.get(run.phase, run.phase)) or _("running")


def settings_of(run: Run) -> list[tuple[str, str, Any, bool]]:
    """(the program's name, people's name, value, whether it differs from the usual one) of every setting."""
    fields = {field.name: field for field in dataclasses.fields(configs.KINDS[run.kind])}
    rows = []
    for name, value in sorted(run.config.items()):
        field = fields.get(name)  # none for a setting that a later version dropped
        label = of_setting(field) if field else name
        readable = of_choice(value) if field and field.metadata["choices"] else value
        rows.append((name, label, readable, field is None or value != field.default))
    return rows
