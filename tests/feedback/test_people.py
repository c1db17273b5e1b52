"""Members, roles, invitations, projects, settings, guidelines: who may, and what stays true."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from feedback.markdown import rendered
from feedback.models import AuditEntry, Guideline, Invitation, Membership, Project, Role, User
from tests.factories import make_member, make_preference, make_project, make_superuser, make_user

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


def actions() -> list[str]:
    return list(AuditEntry.objects.order_by("id").values_list("action", flat=True))


# --- members ----------------------------------------------------------------------------------------


def test_only_admins_see_and_change_people(project: Project, outsider: User, sign_in: SignIn) -> None:
    member = Membership.objects.create(project=project, user=make_user(), role=Role.ANNOTATOR)
    invitation = Invitation(project=project, role=Role.ADMIN, created_by=make_user())
    invitation.new_token(days=1)
    invitation.save()
    pages = [
        ("get", reverse("people", args=[project.slug])),
        ("get", reverse("project_settings", args=[project.slug])),
        ("post", reverse("invite", args=[project.slug])),
        ("post", reverse("member_role", args=[project.slug, member.pk])),
        ("post", reverse("member_remove", args=[project.slug, member.pk])),
        ("post", reverse("invitation_revoke", args=[project.slug, invitation.pk])),
    ]
    others = [outsider, *(make_member(project=project, role=role) for role in list(Role)[:3])]
    for user in others:
        client = sign_in(user)
        assert {getattr(client, method)(url, {"role": "admin"}).status_code for method, url in pages} == {404}
    assert Membership.objects.get(pk=member.pk).role == Role.ANNOTATOR
    assert Invitation.objects.count() == 1 and actions() == []
    client = sign_in(make_superuser())
    assert client.get(pages[0][1]).status_code == 200


def test_rows_of_another_project_are_missing(project: Project, admin: User, sign_in: SignIn) -> None:
    foreign = Membership.objects.create(project=make_project(), user=make_user(), role=Role.ANNOTATOR)
    client = sign_in(admin)
    for name in ("member_role", "member_remove"):
        assert (
            client.post(reverse(name, args=[project.slug, foreign.pk]), {"role": "admin"}).status_code == 404
        )
    assert Membership.objects.get(pk=foreign.pk).role == Role.ANNOTATOR


def test_a_role_is_changed_and_told_of(
    project: Project, admin: User, annotator: User, sign_in: SignIn
) -> None:
    membership = Membership.objects.get(user=annotator)
    client = sign_in(admin)
    client.post(
        reverse("member_role", args=[project.slug, membership.pk]), {"role": "reviewer", "project": 99}
    )
    membership.refresh_from_db()
    assert (membership.role, membership.project) == ("reviewer", project)
    assert AuditEntry.objects.get().detail == {
        "username": annotator.username,
        "before": "annotator",
        "after": "reviewer",
    }
    client.post(reverse("member_role", args=[project.slug, membership.pk]), {"role": "owner"})
    membership.refresh_from_db()
    assert membership.role == "reviewer"


def test_the_last_admin_stays(project: Project, admin: User, sign_in: SignIn) -> None:
    membership = Membership.objects.get(user=admin)
    client = sign_in(admin)
    for url, body in (
        (reverse("member_remove", args=[project.slug, membership.pk]), {}),
        (reverse("member_role", args=[project.slug, membership.pk]), {"role": "engineer"}),
    ):
        answer = client.post(url, body, follow=True)
        assert b"keeps at least one admin" in answer.content
    assert Membership.objects.get(pk=membership.pk).role == Role.ADMIN
    make_member(project=project, role=Role.ADMIN)
    client.post(reverse("member_remove", args=[project.slug, membership.pk]))
    assert not Membership.objects.filter(pk=membership.pk).exists()
    assert client.get(reverse("people", args=[project.slug])).status_code == 404


def test_an_admin_who_cannot_sign_in_is_no_other_admin(
    project: Project, admin: User, sign_in: SignIn
) -> None:
    gone = make_member(project=project, role=Role.ADMIN)
    User.objects.filter(pk=gone.pk).update(is_active=False)
    client, mine = sign_in(admin), Membership.objects.get(user=admin)
    answer = client.post(reverse("member_remove", args=[project.slug, mine.pk]), follow=True)
    assert b"keeps at least one admin" in answer.content
    client.post(reverse("member_remove", args=[project.slug, Membership.objects.get(user=gone).pk]))
    assert list(project.memberships.filter(role=Role.ADMIN)) == [mine]


def test_a_removed_member_is_out_and_their_judgements_stay(
    project: Project, admin: User, annotator: User, sign_in: SignIn
) -> None:
    make_preference(project=project, annotator=annotator)
    theirs = sign_in(annotator)
    assert theirs.get(reverse("guidelines", args=[project.slug])).status_code == 200
    membership = Membership.objects.get(user=annotator)
    sign_in(admin).post(reverse("member_remove", args=[project.slug, membership.pk]))
    assert theirs.get(reverse("guidelines", args=[project.slug])).status_code == 404
    assert annotator.preferences.count() == 1
    assert actions() == ["member.removed"]


def test_an_invitation_link_is_shown_once_and_works(project: Project, admin: User, sign_in: SignIn) -> None:
    client = sign_in(admin)
    page = client.post(
        reverse("invite", args=[project.slug]), {"role": "engineer", "note": "Grace"}
    ).content.decode()
    (link,) = set(re.findall(r"http://testserver(/invitation/[^/\"]+/)", page))
    assert link not in client.get(reverse("people", args=[project.slug])).content.decode()
    joiner = make_user()
    sign_in(joiner).post(link)
    assert Membership.objects.get(user=joiner, project=project).role == "engineer"
    assert actions() == ["invitation.created", "member.joined"]


def test_a_revoked_invitation_is_dead(project: Project, admin: User, sign_in: SignIn) -> None:
    client = sign_in(admin)
    page = client.post(reverse("invite", args=[project.slug]), {"role": "annotator"}).content.decode()
    link = re.findall(r"http://testserver(/invitation/[^/\"]+/)", page)[0]
    client.post(reverse("invitation_revoke", args=[project.slug, Invitation.objects.get().pk]))
    assert Client().get(link).status_code == 404
    assert actions() == ["invitation.created", "invitation.revoked"]


def test_the_people_page_asks_the_same_number_of_questions_for_more_members(
    project: Project, admin: User, sign_in: SignIn, django_assert_max_num_queries: Any
) -> None:
    client = sign_in(admin)
    for _number in range(30):
        make_member(project=project)
    with django_assert_max_num_queries(12):
        assert client.get(reverse("people", args=[project.slug])).status_code == 200


SETTINGS = {
    "name": "N", "question": "Which answer is better?", "kind": "pairwise", "overlap": 1,
    "candidates": 2, "criteria": "helpful, harmless, honest", "gold_percent": 0,
}  # fmt: skip


# --- projects ---------------------------------------------------------------------------------------


def test_only_superusers_make_projects(admin: User, sign_in: SignIn) -> None:
    url = reverse("project_create")
    form = {"name": "Second", "slug": "second", "kind": "pairwise", "question": "Which?", "overlap": 2}
    assert sign_in(admin).post(url, form).status_code == 404
    maker = make_superuser()
    answer = sign_in(maker).post(url, form)
    project = Project.objects.get(slug="second")
    assert answer.headers["Location"] == reverse("guidelines", args=["second"])
    assert Membership.objects.get(project=project).role == Role.ADMIN
    assert actions() == ["project.created"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("overlap", 0, "between 1 and 50"),
        ("overlap", 51, "Between 1 and 50"),
        ("name", "Pro\u202eject", "U+202E"),
        ("slug", "two words", "slug"),
        ("slug", "taken", "already exists"),
    ],
)
def test_bad_values_are_named(field: str, value: Any, reason: str, sign_in: SignIn) -> None:
    make_project(slug="taken")
    form = {"name": "N", "slug": "n", "kind": "pairwise", "question": "Which?", "overlap": 1, field: value}
    page = sign_in(make_superuser()).post(reverse("project_create"), form).content.decode()
    assert reason.lower() in page.lower()
    assert Project.objects.count() == 1


def test_settings_are_saved_and_told_of(project: Project, admin: User, sign_in: SignIn) -> None:
    url = reverse("project_settings", args=[project.slug])
    posted = SETTINGS | {"name": project.name, "question": "Which is kinder?", "overlap": 3, "slug": "other"}
    sign_in(admin).post(url, posted)
    before = project.slug
    project.refresh_from_db()
    assert (project.question, project.overlap, project.slug) == ("Which is kinder?", 3, before)
    assert AuditEntry.objects.get().detail == {
        "changed": {"question": ["Which answer is better?", "Which is kinder?"], "overlap": [1, 3]}
    }


def test_the_kind_of_judgement_its_criteria_and_gold_are_settings(
    project: Project, admin: User, sign_in: SignIn
) -> None:
    url = reverse("project_settings", args=[project.slug])
    posted = {"kind": "rating", "candidates": 3, "criteria": "kind,  to  the point ,kind,", "gold_percent": 5}
    sign_in(admin).post(url, SETTINGS | posted)
    project.refresh_from_db()
    assert (project.kind, project.candidates, project.gold_rate) == ("rating", 3, 0.05)
    assert project.criteria == ["kind", "to the point"]
    assert AuditEntry.objects.get().detail["changed"]["kind"] == ["pairwise", "rating"]
    page = sign_in(admin).get(url).content.decode()
    assert 'value="kind, to the point"' in page


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "ranking", "candidates": 2}, "at least 3"),
        ({"candidates": 9}, "less than or equal to 8"),
        ({"criteria": " , "}, "Between 1 and 8 names, got 0"),
        ({"criteria": ",".join("abcdefghi")}, "Between 1 and 8 names, got 9"),
        ({"criteria": "help\u202eful"}, "U+202E"),
        ({"criteria": "x" * 41}, "too long for a criterion"),
        ({"gold_percent": 51}, "less than or equal to 50"),
        ({"kind": "essay"}, "Select a valid choice"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    project: Project, admin: User, sign_in: SignIn, change: dict[str, Any], reason: str
) -> None:
    url = reverse("project_settings", args=[project.slug])
    page = sign_in(admin).post(url, SETTINGS | change).content.decode()
    assert reason in page
    assert Project.objects.get(pk=project.pk).kind == "pairwise" and not AuditEntry.objects.exists()


# --- guidelines -------------------------------------------------------------------------------------


def test_every_save_is_a_new_version_and_old_ones_can_be_read(
    project: Project, engineer: User, annotator: User, sign_in: SignIn
) -> None:
    url = reverse("guidelines", args=[project.slug])
    client = sign_in(engineer)
    client.post(url, {"text": "Prefer **short** answers.", "base": "1"})
    client.post(url, {"text": "Prefer **short** answers.", "base": "2"})  # nothing changed, nothing saved
    assert list(project.guidelines.values_list("version", flat=True)) == [2, 1]
    reader = sign_in(annotator)
    assert "<strong>short</strong>" in reader.get(url).content.decode()
    old = reader.get(url + "?version=1").content.decode()
    assert "Prefer the answer that helps." in old and "not in force" in old
    assert [reader.get(url + f"?version={wrong}").status_code for wrong in ("9", "x", "-1", "9" * 30)] == [
        404
    ] * 4
    assert actions() == ["guideline.saved"]


@pytest.mark.parametrize("role", [Role.ANNOTATOR, Role.REVIEWER])
def test_annotators_and_reviewers_cannot_edit(project: Project, role: str, sign_in: SignIn) -> None:
    client = sign_in(make_member(project=project, role=role))
    url = reverse("guidelines", args=[project.slug])
    assert client.post(url, {"text": "Mine.", "base": "1"}).status_code == 404
    assert b"<textarea" not in client.get(url + "?edit").content
    assert project.guidelines.count() == 1


def test_two_who_edit_at_once_do_not_overwrite_each_other(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    url = reverse("guidelines", args=[project.slug])
    client = sign_in(engineer)
    client.post(url, {"text": "First.", "base": "1"})
    answer = client.post(url, {"text": "Second.", "base": "1"})
    assert b"Somebody saved version 2 meanwhile" in answer.content and b"Second." in answer.content
    assert Guideline.objects.filter(project=project).count() == 2


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("<script>alert(1)</script>", "<script"),
        ("<img src=x onerror=alert(1)>", "<img"),
        ("![x](https://example.org/beacon.png)", "<img"),
        ("[x](javascript:alert(1))", "href"),
        ("[x](data:text/html,hi)", "href"),
        ('<a href="/" hx-get="/" onclick="x()">a</a>', "<a"),
        ('[x](https://example.org "t\\" onmouseover=\\"x()")', "onmouseover"),
        ("<div id=main class=btn style=color:red>x</div>", "<div"),
        ("<style>*{display:none}</style>", "<style"),
    ],
)
def test_markdown_cannot_run_load_or_dress_up(text: str, gone: str) -> None:
    assert gone not in rendered(text)


def test_markdown_that_is_wanted_comes_through() -> None:
    html = rendered("# A\n\n- *b*\n\n| c | d |\n|---|---|\n| 1 | 2 |\n\n[e](https://example.org)")
    for part in ("<h1>A</h1>", "<li><em>b</em></li>", "<td>1</td>"):
        assert part in html
    assert '<a href="https://example.org" rel="noopener noreferrer nofollow">e</a>' in html
