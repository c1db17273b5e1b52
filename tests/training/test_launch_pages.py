"""The launch form: every setting, what is frozen, what is refused and in which words."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from tests import factories
from training.core.configs import KINDS, Config, PolicyConfig, parse
from training.forms import LaunchForm
from training.launch import SNAPSHOT_KINDS, default_inputs
from training.models import Run, Snapshot


@pytest.fixture
def base(project: Any) -> Any:
    return factories.make_model_version(project=project, kind="base", number=0)


@pytest.fixture
def judged(project: Any) -> None:
    """Twelve decided pairs: two more than a reward model needs."""
    for number in range(12):
        factories.make_preference(project=project, simulated=number >= 11)


def fields_of(kind: str) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(KINDS[kind])}


def url(project: Any, rest: str) -> str:
    return f"/p/{project.slug}/{rest}"


def settings_of(kind: str, **changed: Any) -> dict[str, Any]:
    """What a browser posts for the usual settings: numbers as text, unticked boxes not at all."""
    usual = {name: field.default for name, field in fields_of(kind).items()}
    posted = {name: "on" if value is True else value for name, value in usual.items() if value is not False}
    return {**posted, "seed": 0, **changed}


# --- launch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_setting_is_on_the_form_with_its_sentence(
    project: Any, engineer: Any, sign_in: Any, base: Any, kind: str
) -> None:
    factories.make_prompt(project=project)
    page = sign_in(engineer).get(url(project, f"runs/new/{kind}/")).content.decode()
    for name, field in fields_of(kind).items():
        assert f'name="{name}"' in page
        assert field.metadata["help"].split("'")[0] in page


def test_a_reward_model_freezes_first_and_then_queues(
    project: Any,
    engineer: Any,
    sign_in: Any,
    base: Any,
    judged: None,
    doorbell: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    posted = settings_of("reward_model", policy=base.pk, data="now", epochs=" 2 ", learning_rate="1e-4")
    with django_capture_on_commit_callbacks(execute=True):
        response = sign_in(engineer).post(url(project, "runs/new/reward_model/"), posted)
    run = Run.objects.get()
    assert response.url == url(project, f"runs/{run.pk}/")
    assert (run.state, run.config["epochs"], run.config["learning_rate"]) == ("queued", 2, 1e-4)
    snapshot = Snapshot.objects.get()
    assert run.inputs.get(name="snapshot").snapshot == snapshot
    assert snapshot.counts["pairs"] == 11, "the simulated one was left out: its box was not ticked"
    assert doorbell == [("training.tasks.supervise_run", (run.pk,))]


def test_simulated_annotators_are_a_choice(
    project: Any, engineer: Any, sign_in: Any, base: Any, judged: None
) -> None:
    posted = settings_of("reward_model", policy=base.pk, data="now", include_simulated="on")
    sign_in(engineer).post(url(project, "runs/new/reward_model/"), posted)
    assert Snapshot.objects.get().counts["pairs"] == 12


def test_only_what_training_may_read_is_offered_to_it(project: Any, base: Any) -> None:
    factories.make_prompt(project=project)
    kept_out = factories.make_snapshot(project=project, kind="prompts", filter={"split": "review"})
    open_ = factories.make_snapshot(project=project, kind="prompts", filter={"split": "train"})
    offered = {kind: offered_data(project, kind) for kind in ("ppo", "sample")}
    assert offered["ppo"] == ["now:train", str(open_.pk)]
    assert {"now:train", "now:review", str(kept_out.pk), str(open_.pk)} <= set(offered["sample"])


def offered_data(project: Any, kind: str) -> list[str]:
    choices = LaunchForm(project=project, kind=kind).fields["data"].choices
    return [value for _group, rows in choices for value, _label in rows]


def test_what_people_wrote_is_offered_once_there_is_some(project: Any, base: Any) -> None:
    factories.make_completion(prompt=factories.make_prompt(project=project))
    factories.make_completion(source="written")  # in another project
    assert offered_data(project, "sft") == ["now:chosen", "now:imported"]
    factories.make_completion(prompt=project.prompts.get(), source="corrected")
    assert offered_data(project, "sft") == ["now:chosen", "now:written", "now:imported"]


def test_completions_are_put_up_when_ticked(project: Any, engineer: Any, sign_in: Any, base: Any) -> None:
    factories.make_prompt(project=project)
    posted = settings_of("sample", policy=base.pk, data="now:train", compare="on", seed=7)
    sign_in(engineer).post(url(project, "runs/new/sample/"), posted)
    run = Run.objects.get()
    assert (run.purpose, run.seed) == ({"compare": True}, 7)
    assert run.inputs.get(name="prompts").snapshot.counts == {"prompts": 1}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": "0"}, "between 1e-08 and 0.1, got 0"),
        ({"learning_rate": "1e9"}, "got 1e+09"),
        ({"learning_rate": "0,001"}, "no thousands sign"),
        ({"learning_rate": "abc"}, "Wanted a number, got “abc”"),
        ({"learning_rate": "nan"}, "got nan"),
        ({"learning_rate": ""}, "required"),
        ({"steps": "2.5"}, "Wanted a whole number, got “2.5”"),
        ({"minibatches": "65"}, "at most one per completion (64), got 65"),
        ({"kl_coefficient": "0", "kl_target": "6"}, "needs kl_coefficient above 0"),
        ({"pattern": "(", "pattern_weight": "1"}, "not a regular expression"),
        ({"seed": "4294967296"}, "less than or equal to 1073741823"),
        ({"lr_rate": "1"}, "Unknown setting “lr_rate”"),
        ({"learning_rat": "1"}, "Did you mean “learning_rate”?"),
        ({"data": "999"}, "not one of the available choices"),
        ({"limit": "0"}, "greater than or equal to 1"),
    ],
)
def test_bad_settings_are_refused_in_words(
    project: Any, engineer: Any, sign_in: Any, base: Any, changed: dict[str, str], words: str
) -> None:
    factories.make_prompt(project=project)
    reward = factories.make_model_version(project=project, kind="reward", number=1)
    read = {"policy": base.pk, "reference": base.pk, "reward_model": reward.pk, "data": "now:train"}
    posted = {**settings_of("ppo", **read), **changed}
    response = sign_in(engineer).post(url(project, "runs/new/ppo/"), posted)
    assert response.status_code == 422
    page = response.content.decode().replace("&#x27;", "'")
    assert words in page
    assert not Run.objects.exists() and not Snapshot.objects.exists()
    for name, value in changed.items():
        if name in fields_of("ppo"):
            assert f'name="{name}" value="{value}"' in page or value == "", "what was typed stays"


def test_versions_of_another_project_are_no_choice(
    project: Any, engineer: Any, sign_in: Any, base: Any
) -> None:
    factories.make_prompt(project=project)
    foreign = factories.make_model_version(kind="base", number=0)
    posted = settings_of("sample", policy=foreign.pk, data="now:train")
    response = sign_in(engineer).post(url(project, "runs/new/sample/"), posted)
    assert response.status_code == 422
    assert not Run.objects.exists()


def test_without_a_reward_model_ppo_says_where_to_get_one(
    project: Any, engineer: Any, sign_in: Any, base: Any
) -> None:
    factories.make_prompt(project=project)
    page = sign_in(engineer).get(url(project, "runs/new/ppo/")).content.decode()
    assert "There is no reward model yet" in page
    assert url(project, "runs/new/reward_model/") in page
    assert "Freeze and launch" not in page


def test_too_few_pairs_are_counted(project: Any, engineer: Any, sign_in: Any, base: Any) -> None:
    for _number in range(3):
        factories.make_preference(project=project)
    factories.make_preference(project=project, strength=0)
    page = sign_in(engineer).get(url(project, "runs/new/reward_model/")).content.decode()
    assert "at least 10 usable pairs; there are 3" in page
    posted = settings_of("reward_model", policy=base.pk, data="now")
    assert sign_in(engineer).post(url(project, "runs/new/reward_model/"), posted).status_code == 422
    assert not Run.objects.exists()


def test_too_few_pairs_without_simulated_ones(project: Any, engineer: Any, sign_in: Any, base: Any) -> None:
    """The form cannot know before the box is ticked; the freezing refuses, and the field says so."""
    for _number in range(12):
        factories.make_preference(project=project, simulated=True)
    posted = settings_of("reward_model", policy=base.pk, data="now")
    response = sign_in(engineer).post(url(project, "runs/new/reward_model/"), posted)
    assert response.status_code == 422
    assert "there are 0" in response.content.decode()


def test_a_preset_fills_the_form(project: Any, engineer: Any, sign_in: Any, base: Any) -> None:
    response = sign_in(engineer).get(url(project, "runs/new/ppo/?preset=quick"))
    assert response.context["form"]["steps"].value() == KINDS["ppo"].presets["quick"]["steps"]
    response = sign_in(engineer).get(url(project, "runs/new/ppo/?preset=qick"))
    assert "There is no preset “qick”" in response.content.decode()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_presets_are_valid(kind: str) -> None:
    for preset in KINDS[kind].presets.values():
        parse(kind, preset)


def test_a_link_may_choose_the_inputs(project: Any, engineer: Any, sign_in: Any, base: Any) -> None:
    other = factories.make_model_version(project=project, number=1)
    path = url(project, f"runs/new/sample/?policy={other.pk}&data=now:review")
    form = sign_in(engineer).get(path).context["form"]
    assert (form["policy"].value(), form["data"].value()) == (str(other.pk), "now:review")


def test_an_unknown_kind_is_not_found(project: Any, engineer: Any, sign_in: Any) -> None:
    assert sign_in(engineer).get(url(project, "runs/new/dpo2/")).status_code == 404


# --- a new kind --------------------------------------------------------------------------------------


class OnPrompts(PolicyConfig):
    kind, title, sentence = "on_prompts", "New on prompts", "A kind that CONTRIBUTING.md describes."


class OnPreferences(Config):
    kind, title, sentence, station = "on_preferences", "New on pairs", "Learns from pairs at once.", "policy"
    inputs: ClassVar[dict[str, str]] = {"policy": "The version to improve.", "pairs": "The judgements."}
    data = ("pairs", "preferences")


@pytest.mark.parametrize("config", [OnPrompts, OnPreferences])
def test_a_new_kind_needs_no_word_outside_its_config(
    project: Any,
    engineer: Any,
    sign_in: Any,
    base: Any,
    judged: None,
    monkeypatch: pytest.MonkeyPatch,
    config: type[Config],
) -> None:
    """CONTRIBUTING.md counts five places; form, launch, lists and loop page are none of them."""
    monkeypatch.setitem(KINDS, config.kind, config)
    monkeypatch.setitem(SNAPSHOT_KINDS, (config.kind, config.data[0]), Snapshot.Kind(config.data[1]))
    reward = factories.make_model_version(project=project, kind="reward", number=1)
    versions = {"policy": base.pk, "reference": base.pk, "reward_model": reward.pk}
    read = {name: pk for name, pk in versions.items() if name in config.inputs}
    browser, address = sign_in(engineer), url(project, f"runs/new/{config.kind}/")
    data = browser.get(address).context["form"]["data"].value()
    assert data == ("now:train" if config is OnPrompts else "now")
    assert browser.post(address, settings_of(config.kind, **read, data=data)).status_code == 302
    run = Run.objects.get()
    assert run.inputs.get(name=config.data[0]).snapshot.kind == config.data[1]
    assert {*default_inputs(project, config.kind, actor=engineer)} == {*config.inputs}
    for page in ("", "runs/", f"runs/{run.pk}/"):
        assert config.title in browser.get(url(project, page)).content.decode()
