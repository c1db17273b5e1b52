"""What may be launched, with what, and what is written when it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from django.core.management import CommandError, call_command
from kombu.exceptions import OperationalError

from feedback.models import AuditEntry, Project, User
from tests import factories
from training import launch as launching
from training import registry
from training.core.configs import KINDS, ConfigError
from training.launch import default_inputs, default_versions, launch
from training.models import ModelVersion, Run, Snapshot
from training.snapshots import NothingToFreeze

pytestmark = pytest.mark.django_db
Kind = ModelVersion.Kind


@pytest.fixture
def inputs(project: Project) -> dict[str, Any]:
    policy = factories.make_model_version(project=project)
    return {
        "policy": policy,
        "reference": policy,
        "reward_model": factories.make_model_version(project=project, kind=Kind.REWARD),
        "prompts": factories.make_snapshot(
            project=project, kind=Snapshot.Kind.PROMPTS, filter={"split": "train"}
        ),
    }


def problems(*args: Any, **fields: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        launch(*args, **fields)
    assert not Run.objects.exists() and not AuditEntry.objects.exists()
    return raised.value.problems


@pytest.mark.parametrize("frozen", [{"split": "review"}, {"split": None}, {"review_of": [1, 2]}])
def test_prompts_kept_out_of_training_are_refused_by_every_kind_but_sample(
    project: Project, engineer: User, inputs: dict[str, Any], frozen: dict[str, Any]
) -> None:
    """docs/data.md promises it: a version is never optimised on what it is reviewed with."""
    held = factories.make_snapshot(project=project, kind=Snapshot.Kind.PROMPTS, filter=frozen)
    for kind in ("ppo", "reinforce", "trpo"):
        found = problems(project, kind, {}, actor=engineer, inputs={**inputs, "prompts": held})
        assert "kept out of every training" in found["prompts"]
    launch(project, "sample", {}, actor=engineer, inputs={"policy": inputs["policy"], "prompts": held})


def test_a_launch_writes_run_inputs_audit_and_rings_after_the_commit(
    project: Project,
    engineer: User,
    inputs: dict[str, Any],
    doorbell: list[Any],
    django_capture_on_commit_callbacks: Any,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        run = launch(project, "ppo", {"steps": 3}, actor=engineer, seed=9, inputs=inputs)
        assert doorbell == []
    assert doorbell == [("training.tasks.supervise_run", (run.pk,))]
    run.refresh_from_db()
    assert (run.state, run.seed, run.created_by, run.config["steps"]) == ("queued", 9, engineer, 3)
    assert run.rung_at is not None
    defaults = KINDS["ppo"]()
    assert run.config["kl_coefficient"] == defaults.kl_coefficient, "defaults are frozen into the row"
    hashes = {read.name: read.sha256 for read in run.inputs.all()}
    assert hashes == {
        "policy": inputs["policy"].content_hash,
        "reference": inputs["policy"].content_hash,
        "reward_model": inputs["reward_model"].content_hash,
        "prompts": inputs["prompts"].sha256,
    }
    assert AuditEntry.objects.get().target == f"training.Run {run.pk}"


def test_a_broker_that_is_down_is_no_error(
    project: Project,
    engineer: User,
    inputs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OperationalError("Connection refused")

    monkeypatch.setattr(Celery, "send_task", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        run = launch(project, "ppo", {}, actor=engineer, inputs=inputs)
    run.refresh_from_db()
    assert run.state == "queued" and run.rung_at is None, "so the sweep rings at its next turn"


def test_all_problems_are_named_at_once(project: Project, engineer: User, inputs: dict[str, Any]) -> None:
    other = factories.make_model_version()
    given = {**inputs, "policy": other, "reference": inputs["reward_model"], "snapshot": inputs["prompts"]}
    del given["prompts"]
    found = problems(project, "ppo", {"steps": 0, "lr": 1}, actor=engineer, seed=-1, inputs=given)
    assert set(found) == {"steps", "lr", "seed", "policy", "reference", "snapshot", "prompts"}
    assert found["policy"] == "belongs to another project"
    assert "reward model" in found["reference"]
    assert found["prompts"] == "missing"


def test_an_unknown_kind(project: Project, engineer: User) -> None:
    assert "kind" in problems(project, "dpo2", {}, actor=engineer, inputs={})


@pytest.mark.parametrize(
    ("name", "kind"), [("policy", Kind.REWARD), ("reference", Kind.REWARD), ("reward_model", Kind.POLICY)]
)
def test_versions_of_the_wrong_kind(
    project: Project, engineer: User, inputs: dict[str, Any], name: str, kind: str
) -> None:
    wrong = factories.make_model_version(project=project, kind=kind)
    assert set(problems(project, "ppo", {}, actor=engineer, inputs={**inputs, name: wrong})) == {name}


def test_things_of_the_wrong_sort(project: Project, engineer: User, inputs: dict[str, Any]) -> None:
    swapped = {**inputs, "policy": inputs["prompts"], "prompts": inputs["policy"]}
    assert set(problems(project, "ppo", {}, actor=engineer, inputs=swapped)) == {"policy", "prompts"}
    judged = {**inputs, "prompts": factories.make_snapshot(project=project)}
    assert "holds preferences" in problems(project, "ppo", {}, actor=engineer, inputs=judged)["prompts"]


def test_a_damaged_version(project: Project, engineer: User, inputs: dict[str, Any]) -> None:
    ModelVersion.objects.filter(pk=inputs["policy"].pk).update(state=ModelVersion.State.DAMAGED)
    inputs["policy"].refresh_from_db()
    assert "damaged" in problems(project, "ppo", {}, actor=engineer, inputs=inputs)["policy"]


def test_an_optional_input_may_be_left_out(project: Project, engineer: User, inputs: dict[str, Any]) -> None:
    given = {"policy": inputs["policy"], "prompts": inputs["prompts"]}
    assert launch(project, "sample", {}, actor=engineer, inputs=given).inputs.count() == 2


# --- defaults ---------------------------------------------------------------------------------------


def test_defaults_are_the_promoted_policy_and_the_newest_reward_model(
    project: Project, engineer: User
) -> None:
    promoted, _newer = (factories.make_model_version(project=project) for _ in range(2))
    factories.make_model_version(project=project, kind=Kind.REWARD)
    reward = factories.make_model_version(project=project, kind=Kind.REWARD)
    factories.make_model_version(project=project, kind=Kind.REWARD, state=ModelVersion.State.DAMAGED)
    registry.promote(promoted, actor=engineer, reason="why", expected=None)
    prompt = factories.make_prompt(project=project)
    factories.make_prompt(project=project, split="review")
    found = default_inputs(project, "ppo", actor=engineer)
    assert (found["policy"], found["reference"], found["reward_model"]) == (promoted, promoted, reward)
    snapshot = found["prompts"]
    assert isinstance(snapshot, Snapshot)
    lines = snapshot.path.read_text().splitlines()
    assert [json.loads(line)["prompt_id"] for line in lines] == [prompt.pk]


def test_without_a_promoted_version_the_newest_counts(project: Project) -> None:
    assert default_versions(project, "ppo") == {}
    newest = [factories.make_model_version(project=project) for _ in range(2)][-1]
    assert default_versions(project, "ppo") == {"policy": newest, "reference": newest}


@pytest.mark.parametrize(
    ("kind", "words"), [("sft", "no model version"), ("ppo", "no reward model"), ("sample", "no prompts")]
)
def test_what_is_missing_is_said_in_words(project: Project, engineer: User, kind: str, words: str) -> None:
    if kind != "sft":
        factories.make_model_version(project=project)
    with pytest.raises(NothingToFreeze, match=words):
        default_inputs(project, kind, actor=engineer)


def test_default_inputs_can_be_launched(project: Project, engineer: User) -> None:
    factories.make_model_version(project=project)
    factories.make_model_version(project=project, kind=Kind.REWARD)
    for _ in range(12):
        factories.make_preference(project=project)
    for kind in KINDS:
        run = launch(project, kind, {}, actor=engineer, inputs=default_inputs(project, kind, actor=engineer))
        assert run.kind == kind


# --- the command ------------------------------------------------------------------------------------


def test_the_command_launches_supervises_and_reports(
    project: Project, engineer: User, fake_trainer: None, capsys: pytest.CaptureFixture[str]
) -> None:
    factories.make_model_version(project=project, number=4)
    factories.make_preference(project=project)
    factories.make_prompt(project=project)
    call_command(
        "launch_run", project.slug, "sample", "--set", "temperature=0.5", "--here", "--wait",
        "--as", engineer.username, "--purpose", '{"compare": true}',
    )  # fmt: skip
    run = Run.objects.get()
    assert (run.config["temperature"], run.created_by, run.purpose) == (0.5, engineer, {"compare": True})
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts["run"], facts["state"], facts["version"]) == (run.pk, "done", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "ppo"], "no project"),
        (["PROJECT", "ppo", "--as", "nobody"], "no user"),
        (["PROJECT", "ppo"], "no model version"),
        (["PROJECT", "ppo", "--set", "steps"], "NAME=VALUE"),
        (["PROJECT", "ppo", "--preset", "huge"], "--preset"),
    ],
)
def test_the_command_says_what_is_wrong(project: Project, arguments: list[str], words: str) -> None:
    arguments = [project.slug if word == "PROJECT" else word for word in arguments]
    with pytest.raises(CommandError, match=words):
        call_command("launch_run", *arguments)


def test_waiting_has_an_end(project: Project) -> None:
    run = factories.make_run(project=project)
    said: list[str] = []
    with pytest.raises(TimeoutError, match="queued"):
        launching.wait(run, seconds=0, say=said.append)
    assert len(said) == 1
