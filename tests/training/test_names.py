"""What people read instead of the programs' own names."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests import factories
from training import charts, names
from training.core.configs import KINDS
from training.core.metrics import METRICS
from training.forms import LaunchForm
from training.management.commands.setup_demo import bar
from training.models import Run
from training.views.runs import progress_of

SETTINGS = [field for config in KINDS.values() for field in dataclasses.fields(config)]


def test_every_metric_and_choice_has_a_name_without_signs_of_a_program() -> None:
    assert names.METRICS.keys() == METRICS.keys()
    called = [names.of_metric(path) for path in METRICS]
    called += [names.of_choice(choice) for field in SETTINGS for choice in field.metadata["choices"]]
    called += [names.of_setting(field) for field in SETTINGS]
    assert not [name for name in called if "_" in name or "/" in name]


def test_what_is_a_setting_and_a_metric_has_one_name() -> None:
    """A run's page shows both: "KL coefficient" among the settings is what the chart draws."""
    called = {field.name: names.of_setting(field) for field in SETTINGS}
    for path, setting in (
        ("kl/coefficient", "kl_coefficient"),
        ("policy/learning_rate", "learning_rate"),
        ("train/learning_rate", "learning_rate"),
    ):
        assert names.of_metric(path).lower() == called[setting].lower()


@pytest.mark.django_db
@pytest.mark.parametrize("kind", KINDS)
def test_options_are_named_and_keep_their_values(project: Any, kind: str) -> None:
    form = LaunchForm(project=project, kind=kind)
    for field in dataclasses.fields(KINDS[kind]):
        if field.metadata["choices"]:
            offered = form.fields[field.name].choices  # type: ignore[attr-defined]  # a ChoiceField
            assert [value for value, _label in offered] == list(field.metadata["choices"])
            assert not [label for _value, label in offered if "_" in label]
            assert "_" not in form.fields[field.name].help_text


@pytest.mark.django_db
def test_the_lines_of_a_chart_are_named(project: Any) -> None:
    run = factories.make_run(project=project, config={})
    values = {"reward/mean": 0.5, "reward/objective": 0.4, "policy/cg_residual": 0.1, "new/figure": 1.0}
    drawn = {chart.title: chart for chart in charts.charts_of(run, [(1, values)])}
    first = drawn["Reward per completion"].spec()
    assert first["paths"] == ["reward/mean", "reward/objective"]
    assert first["names"] == ["reward", "reward less the KL penalty"]
    assert drawn["Residual of conjugate gradient"].paths == ["policy/cg_residual"]
    assert drawn["New/figure"].spec()["names"] == ["new/figure"], "what nobody named keeps its path"


@pytest.mark.django_db
def test_the_settings_of_a_run_are_read_by_people(project: Any, reviewer: Any, sign_in: Any) -> None:
    config = {"kl_limit": 12.0, "baseline": "leave_one_out", "score_scaling": True, "of_old": 3}
    run = factories.make_run(project=project, kind="reinforce", config=config, threads=3)
    assert names.settings_of(run) == [
        ("baseline", "Baseline", "Leave one out", False),
        ("kl_limit", "KL limit, nats", 12.0, True),
        ("of_old", "of_old", 3, True),
        ("score_scaling", "Score scaling", True, True),
    ]
    page = sign_in(reviewer).get(f"/p/{project.slug}/runs/{run.pk}/").content.decode()
    assert '<dt title="kl_limit">KL limit, nats</dt>' in page and "<b>yes</b>" in page
    assert "<dt>Threads</dt><dd>3</dd>" in page


@pytest.mark.parametrize(
    ("state", "phase", "line"),
    [
        ("running", "training", "[####......] training, step 4 of 10"),
        ("running", "", "[####......] running, step 4 of 10"),
        ("done", "", "[####......] done, step 4 of 10"),
    ],
)
def test_the_demo_s_bar_always_says_what_goes_on(state: str, phase: str, line: str) -> None:
    assert bar(Run(kind="sft", state=state, phase=phase, step=4, total_steps=10)) == line


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "pill", "words"),
    [
        ({"state": "queued"}, "queued", "waiting for a worker"),
        ({"state": "queued", "attempt": 2}, "queued", "waiting for a worker · after attempt 2"),
        (
            {"state": "running", "phase": "loading", "started_at": 5},
            "loading",
            "the first step is not reached yet · for 5 s",
        ),
        ({"state": "running", "phase": "", "total_steps": 9, "step": 3}, "running", "step 3 of 9"),
        (
            {
                "state": "running",
                "phase": "training",
                "total_steps": 9,
                "step": 3,
                "seconds_left": 70.0,
                "attempt": 2,
            },
            "training",
            "step 3 of 9 · 1 min 10 s left · attempt 2",
        ),
        ({"state": "done", "total_steps": 9, "step": 9}, "done", "step 9 of 9"),
        ({"state": "failed"}, "failed", ""),
    ],
)
def test_pill_and_progress(project: Any, fields: dict[str, Any], pill: str, words: str) -> None:
    if ago := fields.get("started_at"):
        fields = {**fields, "started_at": timezone.now() - timedelta(seconds=ago)}
    run = Run(project=project, kind="ppo", config={}, **fields)
    assert (names.of_phase(run), progress_of(run)) == (pill, words)
    run.cancel_requested_at = timezone.now()
    assert names.of_phase(run) == ("stopping" if run.state == "running" else pill)
