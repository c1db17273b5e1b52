"""Staff's window: every list opens, questions do not grow with rows, and lineage cannot be edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from feedback.models import AuditEntry, Membership, Preference, Project, Role, User
from tests.factories import make_member, make_preference, make_project, make_superuser, make_user

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]
OURS = [model._meta.model_name for model in admin.site._registry if model._meta.app_label == "feedback"]


@pytest.mark.parametrize("name", OURS)
def test_every_list_opens_with_few_questions(
    name: str, sign_in: SignIn, django_assert_max_num_queries: Any
) -> None:
    for _number in range(12):
        preference = make_preference(project=make_project())
        AuditEntry.record(preference.annotator, "tested", preference.comparison.project)
    client = sign_in(make_superuser())
    with django_assert_max_num_queries(16):
        assert client.get(reverse(f"admin:feedback_{name}_changelist")).status_code == 200


@pytest.mark.parametrize("model", [Preference, AuditEntry, Membership])
def test_lineage_is_read_only_even_for_superusers(model: Any, sign_in: SignIn) -> None:
    preference = make_preference()
    AuditEntry.record(preference.annotator, "tested", preference.comparison.project)
    row = model.objects.first()
    before = model.objects.values().get(pk=row.pk)
    client = sign_in(make_superuser())
    label = f"admin:feedback_{model._meta.model_name}"
    assert client.get(reverse(f"{label}_change", args=[row.pk])).status_code == 200
    assert (
        client.post(reverse(f"{label}_change", args=[row.pk]), {"strength": 3, "role": "admin"}).status_code
        == 403
    )
    assert client.post(reverse(f"{label}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert client.get(reverse(f"{label}_add")).status_code == 403
    assert model.objects.values().get(pk=row.pk) == before


def test_a_project_cannot_be_deleted_there(project: Project, sign_in: SignIn) -> None:
    url = reverse("admin:feedback_project_delete", args=[project.pk])
    assert sign_in(make_superuser()).post(url, {"post": "yes"}).status_code == 403


def test_members_who_are_no_staff_do_not_get_in(admin: User, sign_in: SignIn) -> None:
    answer = sign_in(admin).get(reverse("admin:index"))
    assert answer.status_code == 302


def test_what_staff_change_stands_in_the_audit_trail(sign_in: SignIn, project: Project) -> None:
    boss, person = make_superuser(), make_user()
    url = reverse("admin:feedback_user_change", args=[person.pk])
    posted = {"username": person.username, "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    assert sign_in(boss).post(url, posted).status_code == 302
    entry = AuditEntry.objects.get(action="admin.change")
    assert (entry.actor, entry.target) == (boss, f"feedback.User {person.pk}")
    assert entry.detail == {"changed": ["is_staff", "is_superuser"], "is_staff": True, "is_superuser": True}


def changes() -> list[dict[str, Any]]:
    rows = AuditEntry.objects.filter(action="admin.change").order_by("pk")
    return [row.detail for row in rows]


def test_marking_somebody_as_simulated_stands_there_too(sign_in: SignIn) -> None:
    person = make_user(simulated=True)
    url = reverse("admin:feedback_user_change", args=[person.pk])
    browser = sign_in(make_superuser())
    browser.post(url, {"username": person.username, "is_active": "on"})
    browser.post(url, {"username": person.username, "is_active": "on"})  # nothing changes: no entry
    assert changes() == [{"changed": ["simulated"], "simulated": False}]


def test_archiving_a_project_stands_there_with_the_project(sign_in: SignIn, project: Project) -> None:
    url = reverse("admin:feedback_project_change", args=[project.pk])
    facts = {"name": project.name, "slug": project.slug, "overlap": 1, "question": project.question}
    browser = sign_in(make_superuser())
    archived = {"archived_at_0": "2026-11-24", "archived_at_1": "10:00:00"}
    for sent in ({**facts, **archived}, {**facts, "archived_at_0": "", "archived_at_1": ""}):
        answer = browser.post(url, sent)
        assert answer.status_code == 302, answer.context["adminform"].form.errors
    assert [change["archived_at"] for change in changes()] == ["2026-11-24T10:00:00+00:00", None]
    assert set(AuditEntry.objects.values_list("project", flat=True)) == {project.pk}


def test_a_password_that_staff_set_stands_there_without_the_password(sign_in: SignIn) -> None:
    boss, person = make_superuser(), make_user()
    url = reverse("admin:auth_user_password_change", args=[person.pk])
    new = "seven herons on a wire"
    refused = {"password1": new, "password2": "another", "usable_password": "true"}
    assert sign_in(boss).post(url, refused).status_code == 200
    assert changes() == []
    assert sign_in(boss).post(url, {**refused, "password2": new}).status_code == 302
    assert User.objects.get(pk=person.pk).check_password(new)
    assert changes() == [{"changed": ["password"]}]
    assert AuditEntry.objects.get(action="admin.change").actor == boss


def test_the_last_admin_of_a_project_stays_active(sign_in: SignIn, project: Project) -> None:
    first = make_member(project=project, role=Role.ADMIN)
    second = make_member(project=project, role=Role.ADMIN)
    browser = sign_in(make_superuser())

    def deactivate(person: User) -> str:
        url = reverse("admin:feedback_user_change", args=[person.pk])
        return browser.post(url, {"username": person.username}, follow=True).content.decode()

    assert "No other admin" not in deactivate(first)
    assert f"No other admin is left in: {project.name}." in deactivate(second)
    active = User.objects.filter(memberships__project=project, is_active=True)
    assert list(active) == [second]
    Project.objects.filter(pk=project.pk).update(archived_at="2026-11-24T10:00:00Z")
    assert "No other admin" not in deactivate(second), "an archived one needs nobody"


def test_nobody_is_deleted_there(sign_in: SignIn) -> None:
    """Neither one by one nor ticked in the list: the last admin of a project would go along."""
    member = make_member(role=Role.ADMIN)
    browser = sign_in(make_superuser())
    url = reverse("admin:feedback_user_delete", args=[member.pk])
    assert browser.post(url, {"post": "yes"}).status_code == 403
    ticked = {"action": "delete_selected", "_selected_action": [member.pk], "post": "yes"}
    browser.post(reverse("admin:feedback_user_changelist"), ticked)
    assert Membership.objects.filter(user=member).exists()
    page = browser.get(reverse("admin:feedback_user_change", args=[member.pk])).content.decode()
    assert "instead of deleting accounts" in page, "what to do instead"
