"""Rows to test with: every argument has a sensible default, everything missing is made."""

from __future__ import annotations

import itertools
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from feedback.models import (
    Assignment,
    Candidate,
    Comparison,
    ComparisonKind,
    Completion,
    Guideline,
    Membership,
    Preference,
    Project,
    Prompt,
    Role,
    User,
    sha256_text,
)
from training.core import protocol
from training.models import ModelVersion, Run, RunInput, Snapshot

PASSWORD = "correct horse battery staple"
numbers = itertools.count(1)


def make_user(*, username: str = "", password: str = "", **fields: Any) -> User:
    """Without a password nobody can sign in as this user by form; `sign_in(user)` does not need one."""
    return User.objects.create_user(
        username or f"person-{next(numbers)}", password=password or None, **fields
    )


def make_superuser(**fields: Any) -> User:
    return make_user(is_staff=True, is_superuser=True, **fields)


def make_project(
    *, slug: str = "", guideline: str = "Prefer the answer that helps.", **fields: Any
) -> Project:
    slug = slug or f"project-{next(numbers)}"
    project = Project.objects.create(**{"slug": slug, "name": slug.replace("-", " ").title(), **fields})
    if guideline:
        Guideline.objects.create(project=project, version=1, text=guideline)
    return project


def make_member(
    *, project: Project | None = None, role: str = Role.ANNOTATOR, user: User | None = None
) -> User:
    user = user or make_user(username=f"{role}-{next(numbers)}")
    Membership.objects.create(project=project or make_project(), user=user, role=role)
    return user


def make_prompt(*, project: Project | None = None, text: str = "", **fields: Any) -> Prompt:
    messages = [{"role": "user", "content": text or f"Where is order {next(numbers)}?"}]
    return Prompt.objects.create(**{"project": project or make_project(), "messages": messages, **fields})


def make_completion(*, prompt: Prompt | None = None, text: str = "", **fields: Any) -> Completion:
    fields.setdefault(
        "source", Completion.Source.SAMPLED if fields.get("model_version") else Completion.Source.IMPORTED
    )
    return Completion.objects.create(
        prompt=prompt or make_prompt(), text=text or f"Order {next(numbers)} is on its way.", **fields
    )


def make_comparison(
    *,
    project: Project | None = None,
    prompt: Prompt | None = None,
    texts: tuple[str, ...] = ("", ""),
    **fields: Any,
) -> Comparison:
    """An open pairwise comparison of fresh completions (`texts` in canonical order)."""
    prompt = prompt or make_prompt(project=project)
    return put_up(prompt, [make_completion(prompt=prompt, text=text) for text in texts], **fields)


def put_up(prompt: Prompt, completions: list[Completion], **fields: Any) -> Comparison:
    """The comparison of these completions, in this canonical order."""
    comparison = Comparison.objects.create(
        **{"project": prompt.project, "prompt": prompt, "overlap": prompt.project.overlap, **fields}
    )
    Candidate.objects.bulk_create(
        Candidate(comparison=comparison, completion=completion, position=position)
        for position, completion in enumerate(completions)
    )
    return comparison


def make_assignment(
    *, comparison: Comparison | None = None, annotator: User | None = None, **fields: Any
) -> Assignment:
    """A live lease, shown in canonical order unless said otherwise."""
    comparison = comparison or make_comparison()
    return Assignment.objects.create(
        comparison=comparison,
        annotator=annotator or make_member(project=comparison.project),
        **{
            "shown_order": list(range(comparison.candidates.count())),
            "lease_expires_at": timezone.now() + timedelta(seconds=settings.LEASE_SECONDS),
            **fields,
        },
    )


def make_preference(
    *,
    comparison: Comparison | None = None,
    annotator: User | None = None,
    project: Project | None = None,
    strength: int | None = 2,
    **fields: Any,
) -> Preference:
    """A judgement in force (2: candidate 1 is better), its assignment closed, its comparison done if full.

    Of a comparison of another kind it has no strength; say `ranking`, `ratings` or `written`.
    """
    comparison = comparison or make_comparison(project=project)
    assignment = make_assignment(
        comparison=comparison, annotator=annotator, state=Assignment.State.JUDGED, closed_at=timezone.now()
    )
    preference = Preference.objects.create(
        assignment=assignment,
        comparison=comparison,
        annotator=assignment.annotator,
        **{
            "kind": comparison.kind,
            "strength": strength if comparison.kind == ComparisonKind.PAIRWISE else None,
            "shown_order": assignment.shown_order,
            "guideline": comparison.project.guideline(),
            "idempotency_key": secrets.token_hex(16),
            "body_hash": sha256_text(f"{strength}"),
            "active_ms": 4000,
            **fields,
        },
    )
    judged = comparison.assignments.filter(state=Assignment.State.JUDGED).count()
    comparison.missing = max(0, comparison.overlap - judged)
    if comparison.missing == 0:
        comparison.state = Comparison.State.DONE
    comparison.save(update_fields=["state", "missing"])
    return preference


def make_model_version(
    *,
    project: Project | None = None,
    kind: str = ModelVersion.Kind.POLICY,
    files: dict[str, str] | None = None,
    **fields: Any,
) -> ModelVersion:
    """A registered version over a real, sealed folder of small text files (not a loadable model)."""
    project = project or make_project()
    number = next(numbers)
    aside = settings.ARTIFACT_ROOT / "models" / f"making-{number}"
    aside.mkdir(parents=True)
    for name, text in (files or {"config.json": f'{{"number": {number}}}'}).items():
        (aside / name).write_text(text, encoding="utf-8")
    content_hash = protocol.folder_hash(aside)
    protocol.seal(aside, aside.parent / content_hash)
    return ModelVersion.objects.create(
        project=project, kind=kind, **{"number": number, "content_hash": content_hash, **fields}
    )


def make_snapshot(
    *, project: Project | None = None, kind: str = Snapshot.Kind.PREFERENCES, text: str = "", **fields: Any
) -> Snapshot:
    """A snapshot row over a real file with this text."""
    text = text or f'{{"prompt_id": {next(numbers)}}}\n'
    snapshot = Snapshot.objects.create(
        project=project or make_project(), kind=kind, **{"sha256": sha256_text(text), "counts": {}, **fields}
    )
    snapshot.path.parent.mkdir(parents=True, exist_ok=True)
    snapshot.path.write_text(text, encoding="utf-8")
    return snapshot


def make_run(
    *,
    project: Project | None = None,
    kind: str = "ppo",
    inputs: dict[str, ModelVersion | Snapshot] | None = None,
    **fields: Any,
) -> Run:
    """A queued run; `inputs` become its RunInput rows."""
    run = Run.objects.create(project=project or make_project(), kind=kind, **fields)
    for name, thing in (inputs or {}).items():
        if isinstance(thing, Snapshot):
            RunInput.objects.create(run=run, name=name, snapshot=thing, sha256=thing.sha256)
        else:
            RunInput.objects.create(run=run, name=name, model_version=thing, sha256=thing.content_hash)
    return run
