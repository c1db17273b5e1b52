"""Versions: stored once and read-only, numbered without gaps or doubles, one promoted at any time."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from feedback.models import AuditEntry, Comparison, Completion, Project, User
from tests import factories
from training import registry, sampled
from training.core import protocol
from training.models import ModelVersion, PromotedVersion, Promotion, Run, RunMetric
from training.registry import Refused, Stale

pytestmark = pytest.mark.django_db
Kind = ModelVersion.Kind


def model_folder(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in {"config.json": "{}", "model.safetensors": "weights", **files}.items():
        (folder / name).write_text(text)
    return folder


def finished_run(project: Project, *, kind: str = "ppo", text: str = "weights", **fields: Any) -> Run:
    policy = fields.pop("policy", None) or factories.make_model_version(project=project, kind=Kind.BASE)
    run = factories.make_run(project=project, kind=kind, inputs={"policy": policy}, **fields)
    aside = model_folder(run.directory / "output.part", **{"model.safetensors": text})
    protocol.seal(aside, run.directory / "output")
    return run


# --- register ---------------------------------------------------------------------------------------


def test_a_base_is_copied_numbered_and_audited(project: Project, admin: User, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "starter")
    first = registry.register_base(project, folder, actor=admin, note="starter")
    second = registry.register_base(project, folder, actor=admin, note="again")
    assert [str(first), str(second)] == ["v0", "v1"] and first.path == second.path
    assert protocol.verify(first.path) == first.content_hash == protocol.folder_hash(folder)
    assert (folder / "model.safetensors").stat().st_mode & 0o200, "the given folder is left alone"
    assert not (first.path / "model.safetensors").stat().st_mode & 0o222
    assert AuditEntry.objects.filter(action="version.register", actor=admin).count() == 2
    assert not list(first.path.parent.glob(".*"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pytorch_model.bin": "x"}, "only safetensors"),
        ({"model.pt": "x"}, "only safetensors"),
        ({"modeling.py": "x"}, "only safetensors"),
        ({"config.json": '{"auto_map": {"AutoModel": "evil.Model"}}'}, "custom code"),
        ({"tokenizer_config.json": '{"auto_map": {}}'}, "custom code"),
    ],
)
def test_unsafe_folders_are_refused(
    project: Project, admin: User, tmp_path: Path, files: dict[str, str], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        registry.register_base(project, model_folder(tmp_path / "m", **files), actor=admin, note="")
    assert not ModelVersion.objects.exists()


def test_links_and_folders_without_weights_are_refused(project: Project, admin: User, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "linked")
    (folder / "extra.json").symlink_to("/etc/hostname")
    with pytest.raises(Refused, match="is a link"):
        registry.register_base(project, folder, actor=admin, note="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match=r"config\.json"):
        registry.register_base(project, tmp_path / "empty", actor=admin, note="")


def test_outputs_are_registered_once_with_parent_and_metrics(project: Project) -> None:
    run = finished_run(project)
    RunMetric.objects.create(run=run, step=1, values={"reward/mean": 0.1, "kl/reference": 0.5})
    RunMetric.objects.create(run=run, step=2, values={"reward/mean": 0.3})
    version = registry.register_output(run)
    assert version is not None and registry.register_output(run) == version
    assert version.metrics == {"reward/mean": 0.3, "kl/reference": 0.5}
    assert version.parent == run.inputs.get(name="policy").model_version
    assert (run.directory / "output").is_dir(), "the run directory stays whole"


def test_policies_and_reward_models_are_numbered_apart(project: Project) -> None:
    policy = factories.make_model_version(project=project, kind=Kind.BASE, number=0)
    made = []
    for kind in ("sft", "reward_model", "ppo", "reward_model", "sft"):
        purpose = {"register": "base"} if not made else {}
        run = finished_run(project, kind=kind, purpose=purpose, text=f"{len(made)}", policy=policy)
        version = registry.register_output(run)
        assert version is not None
        made.append(f"{version.kind} {version}")
    assert made == ["base v1", "reward rm-1", "policy v2", "reward rm-2", "policy v3"]


def test_an_output_that_differs_from_its_manifest_is_not_registered(project: Project) -> None:
    run = finished_run(project)
    (run.directory / "output/model.safetensors").write_text("flipped")
    with pytest.raises(protocol.ProtocolError, match=r"model\.safetensors differs"):
        registry.register_output(run)
    assert not ModelVersion.objects.filter(run=run).exists()


@pytest.mark.django_db(transaction=True)
def test_versions_registered_at_once_get_numbers_of_their_own(project: Project) -> None:
    runs = [finished_run(project, text=str(number)) for number in range(6)]
    before = ModelVersion.objects.order_by("-number").values_list("number", flat=True)[0]
    together(lambda place: registry.register_output(runs[place]), 6)
    numbers = ModelVersion.objects.filter(run__in=runs).values_list("number", flat=True)
    assert sorted(numbers) == list(range(before + 1, before + 7))


def together(work: Any, count: int) -> list[Any]:
    """The results (or exceptions) of `work(0)`, `work(1)`, ... started at the same moment in threads."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def start(place: int) -> None:
        barrier.wait()
        try:
            results[place] = work(place)
        except Exception as error:  # looked at by the test
            results[place] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=start, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# --- promote ----------------------------------------------------------------------------------------


def versions(project: Project, count: int) -> list[ModelVersion]:
    return [factories.make_model_version(project=project) for _ in range(count)]


def test_promote_moves_the_pointer_and_says_who_and_why(project: Project, admin: User) -> None:
    first, second = versions(project, 2)
    assert registry.promoted(project) is None
    registry.promote(first, actor=admin, reason="start", expected=None)
    promotion = registry.promote(second, actor=admin, reason=" people prefer it ", expected=first)
    assert registry.promoted(project) == second
    assert (promotion.previous, promotion.by, promotion.reason) == (first, admin, "people prefer it")
    entry = AuditEntry.objects.filter(action="version.promote").first()
    assert entry is not None and entry.actor == admin and entry.detail["reason"] == "people prefer it"


def test_promotions_that_must_not_happen(project: Project, admin: User) -> None:
    first, second = versions(project, 2)
    reward = factories.make_model_version(project=project, kind=Kind.REWARD)
    registry.promote(first, actor=admin, reason="start", expected=None)
    for version, reason, expected, error, words in (
        (reward, "why", first, Refused, "reward model"),
        (second, "  ", first, Refused, "Say why"),
        (first, "why", first, Refused, "already"),
        (second, "why", None, Stale, "look again"),
        (second, "why", second, Refused, "already"),
        (first, "why", second, Stale, "look again"),
    ):
        with pytest.raises(error, match=words):
            registry.promote(version, actor=admin, reason=reason, expected=expected)
    assert registry.promoted(project) == first and Promotion.objects.count() == 1


def test_a_damaged_version_is_marked_and_not_promoted(project: Project, admin: User) -> None:
    version = versions(project, 1)[0]
    (version.path / "config.json").write_text("{}")
    with pytest.raises(Refused, match=r"damaged: .*config\.json"):
        registry.promote(version, actor=admin, reason="why", expected=None)
    version.refresh_from_db()
    assert version.state == ModelVersion.State.DAMAGED and not PromotedVersion.objects.exists()


def test_roll_back_goes_further_back_each_time(project: Project, admin: User) -> None:
    first, second, third = versions(project, 3)
    previous = None
    for version in (first, second, third):
        registry.promote(version, actor=admin, reason="better", expected=previous)
        previous = version
    assert registry.roll_back_target(project) == second
    registry.roll_back(project, actor=admin, reason="complaints")
    assert registry.promoted(project) == second
    registry.roll_back(project, actor=admin, reason="more complaints")
    assert registry.promoted(project) == first
    with pytest.raises(Refused, match="no earlier"):
        registry.roll_back(project, actor=admin, reason="still")
    registry.promote(third, actor=admin, reason="mended", expected=first)
    assert registry.roll_back_target(project) == first
    assert AuditEntry.objects.filter(action="version.roll_back").count() == 2


@pytest.mark.django_db(transaction=True)
def test_of_many_admins_at_once_one_promotes(project: Project, admin: User) -> None:
    for expected in (None, *versions(project, 1)):
        if expected:
            registry.promote(expected, actor=admin, reason="start", expected=registry.promoted(project))
        before = Promotion.objects.count()
        rivals = versions(project, 6)
        results = together(
            lambda place, rivals=rivals, expected=expected: registry.promote(
                rivals[place], actor=admin, reason="mine", expected=expected
            ),
            6,
        )
        won = [result for result in results if isinstance(result, Promotion)]
        assert len(won) == 1 and sum(isinstance(result, Stale) for result in results) == 5, results
        assert registry.promoted(project) == won[0].version
        assert Promotion.objects.count() == before + 1
    assert AuditEntry.objects.filter(action="version.promote").count() == 3


def test_a_promotion_is_all_or_nothing(
    project: Project, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object, **_facts: object) -> None:
        raise SystemExit(137)

    first = versions(project, 1)[0]
    monkeypatch.setattr(AuditEntry, "record", die)
    with pytest.raises(SystemExit):
        registry.promote(first, actor=admin, reason="why", expected=None)
    assert registry.promoted(project) is None and not Promotion.objects.exists()


# --- lineage ----------------------------------------------------------------------------------------


def test_lineage_names_each_ancestor_once_with_its_data(project: Project) -> None:
    base = factories.make_model_version(project=project, kind=Kind.BASE)
    judged = factories.make_snapshot(project=project)
    reward_run = factories.make_run(
        project=project, kind="reward_model", inputs={"policy": base, "snapshot": judged}
    )
    reward = factories.make_model_version(project=project, kind=Kind.REWARD, run=reward_run, parent=base)
    prompts = factories.make_snapshot(project=project, kind="prompts")
    run = factories.make_run(
        project=project,
        inputs={"policy": base, "reference": base, "reward_model": reward, "prompts": prompts},
    )
    version = factories.make_model_version(project=project, run=run, parent=base)
    found = [
        (link.version, link.depth, link.role, link.run, link.snapshots) for link in registry.lineage(version)
    ]
    assert found == [
        (version, 0, "", run, [prompts]),
        (base, 1, "policy", None, []),
        (reward, 1, "reward_model", reward_run, [judged]),
    ]


# --- completions of sample runs ---------------------------------------------------------------------


def sample_run(project: Project, texts: dict[int, list[str]], **fields: Any) -> Run:
    fields.setdefault("config", {"temperature": 0.7, "max_new_tokens": 9})
    policy = fields.pop("policy", None) or factories.make_model_version(project=project)
    run = factories.make_run(project=project, kind="sample", inputs={"policy": policy}, **fields)
    aside = run.directory / "output.part"
    aside.mkdir(parents=True)
    lines = [
        {"prompt_id": prompt_id, "index": index, "completion": text, "token_count": 3,
         "finish_reason": "stop", "logprob": -2.0, "score": None}
        for prompt_id, written in texts.items()
        for index, text in enumerate(written)
    ]  # fmt: skip
    (aside / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    protocol.seal(aside, run.directory / "output")
    return run


def test_sampled_completions_become_rows_and_comparisons(project: Project) -> None:
    one, two, three = (factories.make_prompt(project=project) for _ in range(3))
    texts = {one.pk: ["a", "b", "a", "c"], two.pk: ["same", "same"], three.pk: ["nul\0", "d", "e", "f"]}
    run = sample_run(project, texts, purpose={"compare": True}, seed=5)
    assert registry.register_output(run) is None
    written = Completion.objects.filter(prompt=one).order_by("pk")
    assert [row.text for row in written] == ["a", "b", "c"]
    assert written[0].sampling == {
        "run": run.pk,
        "temperature": 0.7,
        "seed": 5,
        "max_new_tokens": 9,
        "index": 0,
    }
    assert (written[0].token_count, written[0].finish_reason, written[0].logprob) == (3, "stop", -2.0)
    assert Completion.objects.get(prompt=three, text="nul\ufffd")
    pairs = [
        [candidate.completion.text for candidate in comparison.candidates.all()]
        for comparison in Comparison.objects.order_by("pk")
    ]
    assert pairs == [["a", "b"], ["nul\ufffd", "d"], ["e", "f"]]
    assert all(comparison.overlap == project.overlap for comparison in Comparison.objects.all())
    registry.register_output(run)
    assert Comparison.objects.count() == 3 and Completion.objects.count() == 8


def test_a_text_written_before_is_not_written_again(project: Project) -> None:
    prompt = factories.make_prompt(project=project)
    policy = factories.make_model_version(project=project)
    registry.register_output(sample_run(project, {prompt.pk: ["a"]}, policy=policy))
    later = sample_run(project, {prompt.pk: ["b", "a"]}, policy=policy)
    registry.register_output(later)
    assert Completion.objects.count() == 2 and not Comparison.objects.exists()
    assert [row.text for row in sampled.completions_of(later)[prompt.pk]] == ["b", "a"]


def test_many_completions_cost_few_queries(project: Project, django_assert_max_num_queries: Any) -> None:
    prompts = [factories.make_prompt(project=project) for _ in range(60)]
    run = sample_run(project, {p.pk: ["a", "b"] for p in prompts}, purpose={"compare": True})
    with django_assert_max_num_queries(20):
        registry.register_output(run)
    assert Comparison.objects.count() == 60
