"""A project in the middle of its second round: what the pages look like when there is something on them."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from feedback import imports
from feedback.models import (
    Comparison,
    Completion,
    DataImport,
    Guideline,
    Invitation,
    Membership,
    Preference,
    Project,
    Prompt,
    Role,
    SignInLink,
    User,
)
from tests import factories
from tests.browser import seed_kinds, seed_quality
from tests.browser.seed_runs import answer, make_run
from training import registry, review, snapshots, starter
from training.models import ModelVersion, Review, ReviewItem, Run, Snapshot

GUIDELINE = """# What a good answer does

Read the whole conversation first. Prefer the answer that **you would rather send** to this customer.

1. It does something about the trouble, or says exactly what comes next.
2. It is true: the order number, the days, the rules.
3. It is kind without grovelling, and as short as it can be.

> When both are about equally good, say so: a tie is an answer.

Mark *neither* when you would send none of the two.
"""
VOICES = (
    ("evasive", "rambling", "curt", "over-apologetic", "wrong"),
    ("warm", "precise", "evasive", "curt"),
    ("warm", "precise", "glad"),
)
"""How v0, v1 and v2 sound."""
GOOD_VOICES = ("precise", "warm", "glad")


UPLOADED = b"""question,good,bad,case
Where is my parcel?,It left Porto on Monday and arrives on Wednesday.,Please wait.,4711
Can I change the address?,"Yes, until it is packed: Orders, then Address.",No.,4712
Why was I charged twice?,,We do not know.,4713
"""
COUNTED = {
    "rows": 1369,
    "prompts": 1301,
    "completions": 2738,
    "comparisons": 1369,
    "preferences": 1369,
    "unchanged": 0,
    "bad_rows": 0,
}


@dataclass
class Seeded:
    """What `fill` made, for those who visit the pages."""

    project: Project
    people: dict[str, User] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    versions: dict[str, ModelVersion] = field(default_factory=dict)
    reviews: dict[str, Review] = field(default_factory=dict)
    imports: dict[str, DataImport] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    kinds: dict[str, Project] = field(default_factory=dict)
    """Projects whose comparisons are no pairs, by kind."""
    opinions: Project | None = None
    """Where several people judged the same."""
    invitation: str = ""
    """The secrets of unused links."""
    sign_in_link: str = ""


def fill(seed: int = 0) -> Seeded:
    """Write everything; the same seed gives the same texts and numbers."""
    draw = random.Random(seed)
    project = factories.make_project(
        slug="support-desk", name="Support desk", question="Which answer would you rather send?", guideline=""
    )
    done = Seeded(project)
    people(done)
    prompts = write_prompts(project, draw, 48)
    base_and_first_round(done, draw, prompts)
    second_round(done, draw, prompts)
    files(done)
    links(done)
    seed_kinds.gold(project, [done.people["mei"], done.people["tomas"]])
    done.kinds = seed_kinds.projects(done.people["ana"], done.people["mei"])
    done.opinions = seed_quality.project(done.people)
    return done


def people(done: Seeded) -> None:
    project = done.project
    done.people["ana"] = factories.make_superuser(username="ana", password=factories.PASSWORD)
    Membership.objects.create(project=project, user=done.people["ana"], role=Role.ADMIN)
    for name, role in (
        ("mei", Role.ANNOTATOR),
        ("tomas", Role.ANNOTATOR),
        ("ravi", Role.REVIEWER),
        ("eva", Role.ENGINEER),
        ("ida", Role.ADMIN),
    ):
        user = factories.make_user(username=name, password=factories.PASSWORD)
        done.people[name] = factories.make_member(project=project, role=role, user=user)
    robot = factories.make_user(username="simulated-1", simulated=True)
    done.people["robot"] = factories.make_member(project=project, role=Role.ANNOTATOR, user=robot)
    done.people["newcomer"] = factories.make_user(username="newcomer", password=factories.PASSWORD)
    for version in (1, 2, 3):
        Guideline.objects.create(project=project, version=version, text=GUIDELINE, author=done.people["ana"])
    empty = factories.make_project(slug="translations", name="Translations", guideline="")
    Membership.objects.create(project=empty, user=done.people["ana"], role=Role.ADMIN)


# --- prompts, completions, judgements ---------------------------------------------------------------


def write_prompts(project: Project, draw: random.Random, count: int) -> list[Prompt]:
    prompts = []
    for index in range(count):
        case = starter._case(random.Random(f"seeded case {index}"))
        split = Prompt.Split.REVIEW if index % 4 == 3 else Prompt.Split.TRAIN
        prompts.append(
            Prompt.objects.create(project=project, messages=case.messages, source="starter", split=split)
        )
    return prompts


def write(version: ModelVersion, prompt: Prompt, index: int, voice: str) -> Completion:
    """The completion of this version in this voice; the better voices have the better scores."""
    text = answer(index, voice)
    same = Completion.objects.filter(prompt=prompt, model_version=version, text=text).first()
    if same:
        return same
    score = round(random.Random(text).gauss(1.2 if voice in GOOD_VOICES else 0.1, 0.35), 3)
    return factories.make_completion(
        prompt=prompt,
        text=text,
        model_version=version,
        sampling={"temperature": 1.0, "max_new_tokens": 64, "seed": 0, "score": score},
        token_count=len(text.split()) * 4 // 3,
        finish_reason="stop",
    )


def put_up(
    done: Seeded, version: ModelVersion, prompts: list[Prompt], draw: random.Random
) -> list[Comparison]:
    found = []
    for index, prompt in enumerate(prompts):
        first, second = draw.sample(VOICES[version.number], 2)
        pair = [write(version, prompt, index, first), write(version, prompt, index, second)]
        found.append(factories.put_up(prompt, pair))
    return found


def judge(comparison: Comparison, annotator: User, draw: random.Random, **fields: Any) -> Preference:
    strength = draw.choice((-3, -2, -2, -1, 0, 1, 2, 2, 3))
    acceptability = (
        draw.choice(("both", "one", "neither", "")) if strength else draw.choice(("both", "neither"))
    )
    return factories.make_preference(
        comparison=comparison,
        annotator=annotator,
        strength=strength,
        acceptability=acceptability,
        active_ms=draw.randrange(6000, 40_000),
        simulated=annotator.simulated,
        **fields,
    )


# --- the rounds -------------------------------------------------------------------------------------


def base_and_first_round(done: Seeded, draw: random.Random, prompts: list[Prompt]) -> None:
    project, ana = done.project, done.people["ana"]
    demonstrations = snapshots.freeze_demonstration_rows(
        project,
        [
            {"prompt": p.messages, "completion": answer(i, "warm"), "split": "train"}
            for i, p in enumerate(prompts)
        ],
        actor=ana,
    )
    sft = run(done, "sft", "sft", {"snapshot": demonstrations}, steps=200, finished=5)
    base = version(done, "v0", ModelVersion.Kind.BASE, 0, run=sft, metrics={"held_out/loss": 1.21})
    registry.promote(base, actor=ana, reason="The starter model.", expected=None)
    for place, comparison in enumerate(put_up(done, base, prompts, draw)):
        if place < 40:
            judge(comparison, done.people["mei" if place % 2 else "tomas"], draw)
    frozen = snapshots.freeze_preferences(project, actor=ana)
    done.snapshots["preferences"] = frozen
    fit = run(done, "rm", "reward_model", {"policy": base, "snapshot": frozen}, steps=60, finished=4)
    scores = {
        "held_out/accuracy": 0.71,
        "held_out/accuracy_low": 0.62,
        "held_out/accuracy_high": 0.79,
    }
    reward = version(done, "rm-1", ModelVersion.Kind.REWARD, 1, parent=base, run=fit, metrics=scores)
    asked = snapshots.freeze_prompts(project, actor=ana)
    inputs = {"policy": base, "reference": base, "reward_model": reward, "prompts": asked}
    optimised = run(done, "ppo", "ppo", inputs, steps=40, finished=3)
    metrics = {"reward/mean": 1.14, "kl/reference": 5.8, "policy/entropy": 1.9}
    first = version(done, "v1", ModelVersion.Kind.POLICY, 1, parent=base, run=optimised, metrics=metrics)
    reviewed(done, "closed", first, base, prompts, draw, finished=True)
    registry.promote(
        first, actor=ana, reason="Better in the blind review, KL within its limit.", expected=base
    )
    written = run(done, "sample", "sample", {"policy": first, "prompts": asked}, steps=2, finished=2)
    Run.objects.filter(pk=written.pk).update(purpose={"compare": True})


def second_round(done: Seeded, draw: random.Random, prompts: list[Prompt]) -> None:
    first, base, reward = done.versions["v1"], done.versions["v0"], done.versions["rm-1"]
    inputs: dict[str, Any] = {"policy": first, "reference": base, "reward_model": reward}
    said = {"comment": "B repeats the question, but at least it is honest.", "flags": ["factual"]}
    for place, comparison in enumerate(put_up(done, first, prompts, draw)):
        if place < 18:
            person = done.people["mei" if place % 3 else "robot"]
            judge(comparison, person, draw, **(said if place == 17 else {}))
    frozen = snapshots.freeze_prompts(done.project, actor=done.people["eva"], seed=1)
    inputs["prompts"] = frozen
    second = run(done, "ppo-2", "ppo", inputs, steps=40, finished=1)
    metrics = {"reward/mean": 1.62, "kl/reference": 8.9}
    newest = version(done, "v2", ModelVersion.Kind.POLICY, 2, parent=first, run=second, metrics=metrics)
    reviewed(done, "judging", newest, first, prompts, draw, finished=False)
    run(done, "going", "ppo", inputs, steps=120, step=48, state=Run.State.RUNNING)
    failed = run(done, "failed", "ppo", inputs, steps=40, step=7, state=Run.State.FAILED, finished=1)
    Run.objects.filter(pk=failed.pk).update(
        outcome={
            "status": "failed",
            "code": "out_of_memory",
            "message": "The GPU has 79.1 GiB, and the update needed 3.2 GiB more than was free.",
            "hint": "Halve microbatch_tokens: the result stays the same.",
        }
    )
    run(
        done,
        "cancelled",
        "reward_model",
        {"policy": base, "snapshot": done.snapshots["preferences"]},
        steps=60,
        step=20,
        state=Run.State.CANCELLED,
        finished=1,
    )
    run(done, "queued", "sample", {"policy": newest, "prompts": frozen}, steps=0, state=Run.State.QUEUED)


def version(done: Seeded, name: str, kind: str, number: int, **fields: Any) -> ModelVersion:
    made = factories.make_model_version(project=done.project, kind=kind, number=number, **fields)
    done.versions[name] = made
    return made


def reviewed(
    done: Seeded,
    name: str,
    candidate: ModelVersion,
    baseline: ModelVersion,
    prompts: list[Prompt],
    draw: random.Random,
    *,
    finished: bool,
) -> None:
    """A review whose comparisons are up; with `finished` all are judged and it is closed with its verdict."""
    some = prompts[:24]
    plan: dict[str, Any] = {
        "prompts": len(some),
        "prompts_from": {"review": 12, "train": 12},
        "overlap": 1,
        "temperature": 1.0,
        "max_new_tokens": 64,
        "seed": 0,
        "metric": "win_rate",
        "comparisons": len(some),
        "same_text": 0,
    }
    made = Review.objects.create(
        project=done.project,
        candidate=candidate,
        baseline=baseline,
        plan=plan,
        created_by=done.people["ana"],
    )
    done.reviews[name] = made
    for index, prompt in enumerate(some):
        new = write(candidate, prompt, index, draw.choice(VOICES[candidate.number]))
        old = write(baseline, prompt, index, draw.choice(VOICES[baseline.number]))
        if new.text == old.text:
            plan["same_text"] += 1
            plan["comparisons"] -= 1
            continue
        order = [new, old] if draw.random() < 0.5 else [old, new]
        comparison = factories.put_up(prompt, order, purpose=Comparison.Purpose.REVIEW, priority=10)
        ReviewItem.objects.create(
            review=made, comparison=comparison, candidate_completion=new, baseline_completion=old
        )
        if finished or index < 9:
            likes_new = draw.random() < 0.75
            strength = draw.choice((1, 2, 3)) * (1 if (order[1] is new) == likes_new else -1)
            factories.make_preference(
                comparison=comparison, annotator=done.people["tomas"], strength=strength
            )
    made.state = Review.State.JUDGING
    made.save(update_fields=["plan", "state"])
    if finished:
        done.reviews[name] = review.close(made, actor=done.people["ana"])


def run(done: Seeded, name: str, kind: str, inputs: dict[str, Any], **fields: Any) -> Run:
    done.runs[name] = make_run(done.project, kind, inputs, by=done.people["eva"], **fields)
    return done.runs[name]


# --- files and links --------------------------------------------------------------------------------


def files(done: Seeded) -> None:
    """Imports in every state; their rows are not written, since these pages show the import itself."""
    now = timezone.now()
    shown: dict[str, dict[str, Any]] = {
        "done": {"state": "done", "counts": COUNTED, "bytes_read": 2_900_000, "finished_at": now},
        "failed": {
            "state": "failed",
            "counts": {"rows": 212, "bad_rows": 2},
            "bytes_read": 200_000,
            "finished_at": now,
            "errors": [
                {"line": 17, "reason": "the key 'rejected' is missing"},
                {"line": 203, "reason": "the last turn of 'chosen' is the customer's"},
            ],
        },
        "running": {
            "state": "running",
            "counts": {"rows": 700},
            "bytes_read": 1_700_000,
            "last_line": 350,
            "heartbeat_at": now,
        },
    }
    for name, fields in shown.items():
        done.imports[name] = DataImport.objects.create(
            project=done.project,
            file_name=f"harmless_{name}.jsonl.gz",
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            size=2_900_000,
            format="hh",
            options={"put_up": False, "ignore_extra": False, "split": "train"},
            created_by=done.people["eva"],
            **fields,
        )
    done.imports["uploaded"] = imports.receive(
        done.project,
        [UPLOADED],
        file_name="support.csv",
        format="",
        options={},
        skip_bad_rows=False,
        actor=done.people["eva"],
        confirmed=False,
    )


def links(done: Seeded) -> None:
    invitation = Invitation(
        project=done.project,
        role=Role.ANNOTATOR,
        note="Joana from the support team",
        created_by=done.people["ana"],
    )
    done.invitation = invitation.new_token(days=7)
    invitation.save()
    link = SignInLink(user=done.people["newcomer"])
    done.sign_in_link = link.new_token(days=1)
    link.save()
