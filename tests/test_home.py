"""Home's numbers, the admin's first page, and pages that show up when something fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import OperationalError
from django.test import Client, RequestFactory

from feedback.models import Project, Role, User
from rlhf_app import views
from tests import factories
from training import registry
from training.models import Run

pytestmark = pytest.mark.django_db

SignIn = Callable[[User], Client]


def test_home_counts_each_project_for_itself(sign_in: SignIn, project: Project, engineer: User) -> None:
    for _ in range(3):
        factories.make_comparison(project=project)
    factories.make_preference(project=project)
    factories.make_preference(project=project, simulated=True)
    factories.make_run(project=project, state=Run.State.RUNNING)
    factories.make_run(project=project, state=Run.State.DONE)
    other = factories.make_project()
    factories.make_member(project=other, user=engineer, role=Role.ANNOTATOR)
    factories.make_comparison(project=factories.make_project())
    rows = {row.project: row for row in sign_in(engineer).get("/").context["projects"]}
    assert set(rows) == {project, other}
    assert rows[project].simulated == 1, "never counted as a person's"
    assert (rows[project].prompts, rows[project].open, rows[project].judged, rows[project].going) == (
        5,
        3,
        1,
        1,
    )
    assert (rows[other].prompts, rows[other].open, rows[other].judged, rows[other].going) == (0, 0, 0, 0)
    assert rows[project].sees_the_loop and not rows[other].sees_the_loop


def test_home_asks_no_more_questions_for_more_projects(
    sign_in: SignIn, engineer: User, django_assert_num_queries: Callable[[int], object]
) -> None:
    client = sign_in(engineer)
    for _ in range(5):
        other = factories.make_project()
        factories.make_member(project=other, user=engineer, role=Role.ENGINEER)
        version = factories.make_model_version(project=other)
        registry.promote(version, actor=None, reason="The first.", expected=None)
    with django_assert_num_queries(10):  # session and user, then the eight of figures_of
        client.get("/")


def test_the_admin_begins_with_the_way_to_each_projects_runs(sign_in: SignIn, project: Project) -> None:
    page = sign_in(factories.make_superuser()).get("/admin/").content.decode()
    assert f"/p/{project.slug}/runs/" in page and "Launch a run" in page


def test_the_admin_is_closed_to_members(sign_in: SignIn, admin: User) -> None:
    assert sign_in(admin).get("/admin/").status_code == 302


@pytest.mark.parametrize(
    ("failure", "status"), [(ValueError("a mistake"), 500), (OperationalError("no database"), 503)]
)
def test_a_failure_is_shown_without_asking_the_database(
    failure: Exception, status: int, django_assert_num_queries: Callable[[int], object]
) -> None:
    with django_assert_num_queries(0):
        try:
            raise failure
        except type(failure):
            response = views.server_error(RequestFactory().get("/"))
    assert response.status_code == status
    assert str(failure) not in response.content.decode()


def test_a_missing_page_names_who_asked(sign_in: SignIn, engineer: User, client: Client) -> None:
    answer = sign_in(engineer).get("/no/such/page/")
    assert answer.status_code == 404 and engineer.username in answer.content.decode()
    assert client.get("/no/such/page/").status_code == 404
