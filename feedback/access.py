"""The one place that decides who may see or touch an object. Foreign or missing: the same 404."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model, QuerySet
from django.http import Http404
from django.shortcuts import get_object_or_404

from feedback.models import Membership, Project, Role, User
from rlhf_app.prepared import Prepared, number, text

ROLE_ORDER = [Role.ANNOTATOR, Role.REVIEWER, Role.ENGINEER, Role.ADMIN]
M = TypeVar("M", bound=Model)


def role_in(user: User, project: Project) -> Role | None:
    """The user's role; superusers are admins of every project."""
    if user.is_superuser:
        return Role.ADMIN
    membership = Membership.objects.filter(user=user, project=project).first()
    return Role(membership.role) if membership else None


def at_least(role: Role | None, wanted: Role) -> bool:
    return role is not None and ROLE_ORDER.index(role) >= ROLE_ORDER.index(wanted)


def projects_of(user: User) -> QuerySet[Project]:
    """Every project the user may open."""
    return user.open_projects()


def get_project(user: User, slug: str, role: Role = Role.ANNOTATOR) -> Project:
    """The project, with `project.role` set for templates; 404 unless the user holds `role` or more."""
    if user.is_superuser:
        project, held = get_object_or_404(projects_of(user), slug=slug), Role.ADMIN
    else:
        membership = MEMBERSHIP.first(user=user.pk, slug=slug)
        if membership is None:
            raise Http404
        project, held = membership.project, Role(membership.role)
    if not at_least(held, role):
        raise Http404
    project.role = held  # type: ignore[attr-defined]  # read by templates/base.html for the navigation
    return project


def archived_project(user: User, slug: str) -> Project | None:
    """The project that was closed, for whoever could open it before; None for everybody else."""
    rows = Project.objects.exclude(archived_at=None).filter(slug=slug)
    return (rows if user.is_superuser else rows.filter(memberships__user=user)).first()


MEMBERSHIP = Prepared(
    lambda: Membership.objects.select_related("project").filter(
        user=number("user"), project__slug=text("slug"), project__archived_at=None
    )
)


def get_in_project(project: Project, rows: QuerySet[M], pk: int) -> M:
    """A row of the project; the caller has the project through `get_project`, which checked the role."""
    return get_object_or_404(rows.filter(project=project), pk=pk)
