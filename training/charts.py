"""Which metrics of a run are drawn together, in which order, and where the limit is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from training import names
from training.core.metrics import METRICS
from training.models import Run

GROUPS: list[tuple[Any, tuple[str, ...]]] = [
    (gettext_lazy("Reward per completion"), ("reward/mean", "reward/score", "reward/objective")),
    (gettext_lazy("KL to the reference, per completion"), ("kl/reference",)),
    (gettext_lazy("Accuracy"), ("held_out/accuracy", "train/accuracy")),
    (gettext_lazy("Loss"), ("held_out/loss", "train/loss")),
    (gettext_lazy("Margin between chosen and rejected"), ("train/margin",)),
    (gettext_lazy("Value head: explained variance"), ("value/explained_variance",)),
    (gettext_lazy("Completion length"), ("completion/length",)),
    (gettext_lazy("Entropy"), ("policy/entropy",)),
    (gettext_lazy("Clip fraction"), ("policy/clip_fraction",)),
    (gettext_lazy("Policy loss"), ("policy/loss",)),
    (gettext_lazy("Value loss"), ("value/loss",)),
    (gettext_lazy("Completions that end by themselves"), ("completion/eos_rate",)),
    (gettext_lazy("Calibration error"), ("held_out/calibration_error",)),
    (gettext_lazy("Length of the gradient"), ("train/grad_norm", "policy/grad_norm")),
    (gettext_lazy("Step size"), ("train/learning_rate", "policy/learning_rate")),
    (gettext_lazy("Speed"), ("speed/tokens_per_second",)),
    (gettext_lazy("Speed"), ("speed/pairs_per_second",)),
    (gettext_lazy("Time per step"), ("time/rollout", "time/score", "time/update")),
]
LIMITS = {"kl/reference": "kl_limit"}
"""The setting at which the run stops."""
NOT_DRAWN = ("final/", "held_out/accuracy_", "held_out/annotator_")
"""Known once, at the end: they stand on the version's page."""
HEADLINES = 3
"""So many charts stand open; the others wait behind one summary."""


@dataclass
class Chart:
    """One small chart of a run; its lines share a unit."""

    title: str
    paths: list[str]
    limit: float | None = None
    rows: list[tuple[int, list[float | None]]] = field(default_factory=list)
    """(step, one value for each path): the table behind the chart."""

    @property
    def unit(self) -> str:
        unit = METRICS.get(self.paths[0], ("", ""))[0]
        return _(unit) if unit else ""

    @property
    def help(self) -> str:
        """What the first line says; the others are explained in the table's headings."""
        sentence = METRICS.get(self.paths[0], ("", ""))[1]
        return _(sentence) if sentence else ""

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(name, what it says) of each line."""
        return [(names.of_metric(path), METRICS.get(path, ("", ""))[1]) for path in self.paths]

    def spec(self) -> dict[str, Any]:
        """What the drawing script needs."""
        called = [names.of_metric(path) for path in self.paths]
        return {
            "title": self.title,
            "unit": self.unit,
            "paths": self.paths,
            "names": called,
            "limit": self.limit,
        }


def charts_of(run: Run, metrics: Iterable[tuple[int, dict[str, float]]]) -> list[Chart]:
    """The charts for the metrics that a run has; what no group claims gets a chart of its own."""
    steps = list(metrics)
    paths = {path for _step, values in steps for path in values if not path.startswith(NOT_DRAWN)}
    charts = []
    for title, group in GROUPS:
        present = [path for path in group if path in paths]
        if present:
            limit = run.config.get(LIMITS.get(present[0], ""))
            charts.append(Chart(str(title), present, limit))
    claimed = {path for chart in charts for path in chart.paths}
    charts += [Chart(capfirst(names.of_metric(path)), [path]) for path in sorted(paths - claimed)]
    for chart in charts:
        chart.rows = [
            (step, [values.get(path) for path in chart.paths])
            for step, values in steps
            if any(path in values for path in chart.paths)
        ]
    return charts
