"""Staff's window: every list opens, questions do not grow with rows, and lineage cannot be edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from feedback.models import AuditEntry, Membership, Preference, Project, User
from tests.factories import make_preference, make_project, make_superuser, make_user

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


def test_nobody_is_deleted_there(sign_in: SignIn) -> None:
    person = make_user()
    url = reverse("admin:feedback_user_delete", args=[person.pk])
    assert sign_in(make_superuser()).post(url, {"post": "yes"}).status_code == 403
    assert User.objects.filter(pk=person.pk).exists()
