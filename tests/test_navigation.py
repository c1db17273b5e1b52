"""The bars above every page: where one is, and where one may go."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from feedback.models import Project, Role, User
from tests import factories

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


def marked(client: Client, url: str) -> set[str]:
    """The addresses of the links that say: you are here."""
    page = client.get(url)
    assert page.status_code == 200
    tags = re.findall(r"<a [^>]*>", page.content.decode())
    return {re.findall(r'href="([^"]+)"', tag)[0] for tag in tags if 'aria-current="page"' in tag}


@pytest.mark.parametrize(
    "name",
    [
        "loop",
        "judge",
        "progress",
        "data",
        "run_list",
        "version_list",
        "people",
        "guidelines",
        "project_settings",
    ],
)
@pytest.mark.parametrize("role", list(Role))
def test_a_page_is_marked_where_its_link_stands_and_nowhere_else(
    project: Project, sign_in: SignIn, name: str, role: Role
) -> None:
    client = sign_in(factories.make_member(project=project, role=role))
    url = reverse(name, args=[project.slug])
    if client.get(url).status_code == 200:
        assert marked(client, url) == {url}
    else:
        elsewhere = client.get(reverse("guidelines", args=[project.slug])).content.decode()
        assert f'<a href="{url}"' not in elsewhere or name == "loop", "a link to what the role may not open"


@pytest.mark.parametrize(
    ("name", "place"), [("prompt_list", "data"), ("import_upload", "data"), ("review_create", "version_list")]
)
def test_a_page_below_another_is_marked_there(
    project: Project, admin: User, sign_in: SignIn, name: str, place: str
) -> None:
    slug = [project.slug]
    assert marked(sign_in(admin), reverse(name, args=slug)) == {reverse(place, args=slug)}


def switcher(client: Client, project: Project) -> list[str]:
    """The projects that the list behind the project's name offers."""
    page = client.get(reverse("loop", args=[project.slug])).content.decode()
    sheet = page.split('<div class="sheet">', 1)[1].split("<hr>", 1)[0]
    return re.findall(r"<a [^>]*>([^<]+)</a>", sheet)


def test_the_switcher_offers_what_one_may_open(project: Project, engineer: User, sign_in: SignIn) -> None:
    other, strange, old = (factories.make_project() for _ in range(3))
    for joined in (other, old):
        factories.make_member(project=joined, user=engineer)
    Project.objects.filter(pk=old.pk).update(archived_at=timezone.now())
    assert set(switcher(sign_in(engineer), project)) == {project.name, other.name}
    boss = factories.make_superuser()
    assert set(switcher(sign_in(boss), project)) == {project.name, other.name, strange.name}
