"""Runs: list, live page, cancel, snapshots; who may and who may not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.utils import timezone

from feedback.models import Completion, Prompt
from tests import factories
from training import charts
from training.models import Run, RunLog, RunMetric, RunSample
from training.snapshots import freeze_preferences


@pytest.fixture
def base(project: Any) -> Any:
    return factories.make_model_version(project=project, kind="base", number=0)


def url(project: Any, rest: str) -> str:
    return f"/p/{project.slug}/{rest}"


# --- who may ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "method", "least"),
    [
        ("runs/", "get", "reviewer"),
        ("runs/new/sample/", "get", "engineer"),
        ("runs/new/sample/", "post", "engineer"),
        ("runs/{run}/", "get", "reviewer"),
        ("runs/{run}/status/", "get", "reviewer"),
        ("runs/{run}/metrics/", "get", "reviewer"),
        ("runs/{run}/cancel/", "post", "engineer"),
        ("snapshots/{snapshot}/", "get", "reviewer"),
        ("snapshots/{snapshot}/file/", "get", "engineer"),
    ],
)
def test_roles(
    request: Any, project: Any, outsider: Any, sign_in: Any, rest: str, method: str, least: str
) -> None:
    run = factories.make_run(project=project, config={})
    snapshot = factories.make_snapshot(project=project)
    path = url(project, rest.format(run=run.pk, snapshot=snapshot.pk))
    roles = ["annotator", "reviewer", "engineer", "admin"]
    for role in roles:
        response = getattr(sign_in(request.getfixturevalue(role)), method)(path)
        allowed = roles.index(role) >= roles.index(least)
        assert (response.status_code != 404) == allowed, role
    assert getattr(sign_in(outsider), method)(path).status_code == 404


def test_a_run_of_another_project_is_not_found(project: Any, admin: Any, sign_in: Any) -> None:
    foreign = factories.make_run(config={})
    for rest in ("", "status/", "metrics/"):
        assert sign_in(admin).get(url(project, f"runs/{foreign.pk}/{rest}")).status_code == 404
    assert sign_in(admin).post(url(project, f"runs/{foreign.pk}/cancel/")).status_code == 404
    foreign.refresh_from_db()
    assert foreign.state == "queued"


# --- list -------------------------------------------------------------------------------------------


def test_the_list_filters(project: Any, reviewer: Any, sign_in: Any) -> None:
    for kind, state in (("ppo", "done"), ("ppo", "failed"), ("sft", "done")):
        factories.make_run(project=project, kind=kind, state=state, config={})
    browser = sign_in(reviewer)
    found = lambda query: len(browser.get(url(project, f"runs/{query}")).context["page"])  # noqa: E731
    assert (found(""), found("?kind=ppo"), found("?kind=ppo&state=done"), found("?state=queued")) == (
        3,
        2,
        1,
        0,
    )
    assert "No run matches" in browser.get(url(project, "runs/?state=queued")).content.decode()
    assert found("?kind=nonsense&page=-1") == 3


def test_an_empty_list_says_what_to_do(project: Any, reviewer: Any, sign_in: Any) -> None:
    page = sign_in(reviewer).get(url(project, "runs/")).content.decode()
    assert "Nothing has run yet" in page
    assert "Launch a run" not in page


def test_list_queries_do_not_grow(
    project: Any, engineer: Any, sign_in: Any, django_assert_max_num_queries: Any
) -> None:
    browser = sign_in(engineer)

    def add(count: int) -> None:
        for _number in range(count):
            run = factories.make_run(project=project, state="done", config={}, created_by=engineer)
            number = Run.objects.count()
            factories.make_model_version(project=project, run=run, number=number)

    add(2)
    with django_assert_max_num_queries(20) as few:
        browser.get(url(project, "runs/"))
    add(8)
    with django_assert_max_num_queries(len(few)):
        browser.get(url(project, "runs/"))


# --- the live page ----------------------------------------------------------------------------------


@pytest.fixture
def running(project: Any, base: Any) -> Run:
    run = factories.make_run(
        project=project,
        kind="ppo",
        inputs={"policy": base},
        state="running",
        phase="rollout",
        step=3,
        total_steps=40,
        seconds_left=190.0,
        attempt=1,
        started_at=timezone.now(),
        heartbeat_at=timezone.now(),
        worker="gpu-1:77",
        config={"kl_limit": 12.0, "steps": 40},
    )
    for step in (1, 2, 3):
        RunMetric.objects.create(
            run=run, step=step, values={"reward/mean": step / 10, "kl/reference": step * 1.5}
        )
    for step, text in ((0, "Ask your bank."), (20, "I refunded it <b>today</b>.")):
        RunSample.objects.create(
            run=run,
            step=step,
            index=0,
            messages=[{"role": "user", "content": "Charged twice"}],
            completion=text,
            score=0.5,
            kl=1,
        )
    RunLog.objects.create(run=run, at=timezone.now(), message="checkpoint written")
    return run


def test_a_run_explains_itself(project: Any, reviewer: Any, sign_in: Any, running: Run, base: Any) -> None:
    page = sign_in(reviewer).get(url(project, f"runs/{running.pk}/")).content.decode()
    for words in (
        "step 3 of 40",
        "3 min 10 s left",
        "rollout",
        "gpu-1:77",
        "checkpoint written",
        "Ask your bank.",
    ):
        assert words in page
    assert "I refunded it &lt;b&gt;today&lt;/b&gt;." in page
    assert base.content_hash in page
    assert f"python -m training.core {running.directory}" in page
    assert "limit" in page and '"limit": 12.0' in page
    assert "cancel_dialog" not in page, "a reviewer cannot cancel"
    rows = re.findall(r"<tr><td>(\d)</td><td class=\"r\">([\d.]+)</td></tr>", page)
    assert rows[:3] == [("1", "0.1"), ("2", "0.2"), ("3", "0.3")], "the table behind the chart"


def test_status_polls_while_running_and_stops_when_ended(
    project: Any, reviewer: Any, sign_in: Any, running: Run
) -> None:
    browser = sign_in(reviewer)
    first = browser.get(url(project, f"runs/{running.pk}/")).content.decode()
    poll = re.search(r'hx-get="([^"]+)" hx-trigger="every 2s"', first)
    assert poll
    same = browser.get(poll[1].replace("&amp;", "&"))
    assert same.status_code == 200
    assert b"hx-swap-oob" not in same.content, "nothing new, nothing sent"
    RunLog.objects.create(run=running, at=timezone.now(), message="a second line")
    more = browser.get(poll[1].replace("&amp;", "&")).content.decode()
    assert "a second line" in more and 'id="run_log"' in more and 'id="run_samples"' not in more
    Run.objects.filter(pk=running.pk).update(state="done", finished_at=timezone.now())
    last = browser.get(poll[1].replace("&amp;", "&"))
    assert last.status_code == 286
    assert b"every 2s" not in last.content and b'id="run_facts"' in last.content


def test_each_prompt_keeps_its_own_texts(project: Any, reviewer: Any, sign_in: Any) -> None:
    """A `sample` run shows another prompt at each step, under the same index."""
    run = factories.make_run(project=project, kind="sample", config={})
    for step, asked in enumerate(("Where?", "When?", "When?"), start=1):
        asks = [{"role": "user", "content": asked}]
        RunSample.objects.create(run=run, step=step, index=0, messages=asks, completion=f"text {step}")
    shown = sign_in(reviewer).get(url(project, f"runs/{run.pk}/")).context["samples"]
    found = [(first.messages[0]["content"], [row.completion for row in texts]) for first, texts in shown]
    assert found == [("Where?", ["text 1"]), ("When?", ["text 2", "text 3"])]


def test_a_failed_run_says_what_and_how_to_mend(project: Any, reviewer: Any, sign_in: Any) -> None:
    outcome = {
        "status": "failed",
        "code": "out_of_memory",
        "message": "No memory left.",
        "hint": "Use smaller batches.",
    }
    run = factories.make_run(project=project, state="failed", outcome=outcome, config={})
    page = sign_in(reviewer).get(url(project, f"runs/{run.pk}/")).content.decode()
    assert "No memory left." in page and "Use smaller batches." in page
    assert "every 2s" not in page


def test_metrics_after_a_step(project: Any, reviewer: Any, sign_in: Any, running: Run) -> None:
    RunMetric.objects.create(run=running, step=4, values={"value/loss": 0.25})
    answer = sign_in(reviewer).get(url(project, f"runs/{running.pk}/metrics/?since=2")).json()
    assert answer["steps"] == [3, 4]
    assert answer["values"] == {
        "kl/reference": [4.5, None],
        "reward/mean": [pytest.approx(0.3), None],
        "value/loss": [None, 0.25],
    }
    assert (answer["ended"], answer["more"], answer["total_steps"]) == (False, False, 40)
    assert sign_in(reviewer).get(url(project, f"runs/{running.pk}/metrics/?since=x")).status_code == 400


def test_charts_share_units_and_carry_the_limit() -> None:
    run = Run(kind="ppo", config={"kl_limit": 12.0})
    steps = [
        (
            1,
            {
                "kl/reference": 0.5,
                "reward/mean": 0.1,
                "reward/score": 0.2,
                "my/own": 3.0,
                "final/reward/mean": 1.0,
            },
        )
    ]
    drawn = charts.charts_of(run, steps)
    assert [chart.paths for chart in drawn] == [["reward/mean", "reward/score"], ["kl/reference"], ["my/own"]]
    assert [chart.limit for chart in drawn] == [None, 12.0, None]
    assert drawn[1].unit == "nats" and drawn[0].rows == [(1, [0.1, 0.2])]
    json.dumps([chart.spec() for chart in drawn])


def test_cancel_a_queued_run(project: Any, engineer: Any, sign_in: Any) -> None:
    run = factories.make_run(project=project, config={})
    assert sign_in(engineer).get(url(project, f"runs/{run.pk}/cancel/")).status_code == 405
    response = sign_in(engineer).post(url(project, f"runs/{run.pk}/cancel/"), follow=True)
    run.refresh_from_db()
    assert run.state == "cancelled"
    assert "is cancelled" in response.content.decode()
    assert (
        "had ended already"
        in sign_in(engineer).post(url(project, f"runs/{run.pk}/cancel/"), follow=True).content.decode()
    )


def test_cancel_asks_a_running_one(project: Any, engineer: Any, sign_in: Any, running: Run) -> None:
    sign_in(engineer).post(url(project, f"runs/{running.pk}/cancel/"))
    running.refresh_from_db()
    assert running.state == "running" and running.cancel_requested_at
    assert "stopping" in sign_in(engineer).get(url(project, f"runs/{running.pk}/")).content.decode()


# --- snapshots --------------------------------------------------------------------------------------


def test_a_snapshot_shows_who_judged(project: Any, reviewer: Any, engineer: Any, sign_in: Any) -> None:
    person, program = factories.make_member(project=project), factories.make_member(project=project)
    for _number in range(8):
        factories.make_preference(project=project, annotator=person)
    for _number in range(4):
        factories.make_preference(project=project, annotator=program, simulated=True)
    snapshot = freeze_preferences(project, actor=engineer)
    response = sign_in(reviewer).get(url(project, f"snapshots/{snapshot.pk}/"))
    assert [(row["annotator"], row["simulated"], row["count"]) for row in response.context["judges"]] == [
        (person.username, False, 8),
        (program.username, True, 4),
    ]
    assert snapshot.sha256 in response.content.decode()
    file = sign_in(engineer).get(url(project, f"snapshots/{snapshot.pk}/file/"))
    assert b"".join(file.streaming_content) == snapshot.path.read_bytes()
    assert "attachment" in file["Content-Disposition"]


def test_a_lost_file_is_told(project: Any, engineer: Any, sign_in: Any) -> None:
    snapshot = factories.make_snapshot(project=project)
    snapshot.path.unlink()
    assert "is missing" in sign_in(engineer).get(url(project, f"snapshots/{snapshot.pk}/")).content.decode()
    assert sign_in(engineer).get(url(project, f"snapshots/{snapshot.pk}/file/")).status_code == 404


def test_new_completions_of_a_sample_run_are_counted(
    project: Any, reviewer: Any, sign_in: Any, base: Any
) -> None:
    prompt = factories.make_prompt(project=project, split=Prompt.Split.REVIEW)
    run = factories.make_run(project=project, kind="sample", inputs={"policy": base}, state="done", config={})
    for text in ("One.", "Two."):
        Completion.objects.create(
            prompt=prompt, text=text, source="sampled", model_version=base, sampling={"run": run.pk}
        )
    assert "2 new completions" in sign_in(reviewer).get(url(project, f"runs/{run.pk}/")).content.decode()


# --- the staff's window -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["run", "modelversion", "snapshot", "review", "promotion"])
def test_the_admin_is_read_only(project: Any, sign_in: Any, base: Any, model: str) -> None:
    factories.make_run(project=project, config={})
    factories.make_snapshot(project=project)
    browser = sign_in(factories.make_superuser())
    assert browser.get(f"/admin/training/{model}/").status_code == 200
    assert browser.get(f"/admin/training/{model}/add/").status_code == 403


def test_the_admin_leads_to_the_real_pages(project: Any, sign_in: Any) -> None:
    run = factories.make_run(project=project, config={})
    browser = sign_in(factories.make_superuser())
    page = browser.get("/admin/training/run/").content.decode()
    assert url(project, f"runs/{run.pk}/") in page
    assert url(project, "runs/new/ppo/") in page, "and a run can be launched from here"
    one = browser.get(f"/admin/training/run/{run.pk}/change/")
    assert one.status_code == 200 and b'name="_save"' not in one.content
