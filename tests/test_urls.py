"""Who may come in where: the whole URL map is walked as nobody and as a stranger."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, path, reverse

from feedback.models import DataImport, Invitation, Membership, Project, Role, User
from rlhf_app.urls import urlpatterns as real_urlpatterns
from tests import factories
from training.models import Review

pytestmark = pytest.mark.django_db

PUBLIC = {"sign_in", "health", "accept_invitation", "use_sign_in_link", "admin:login"}
SAMPLES = {"token": "no-such-token", "kind": "sft", "app_label": "feedback", "url": "x"}


@login_not_required
def forgotten(request: HttpRequest) -> HttpResponse:
    return HttpResponse("anyone reads this")


def kept(request: HttpRequest) -> HttpResponse:
    return HttpResponse("the middleware keeps strangers out of a view that says nothing")


# The map of this module, used by one test: the real one with two views that somebody added in a hurry.
urlpatterns = [
    path("forgotten/", forgotten, name="forgotten"),
    path("kept/", kept, name="kept"),
    *real_urlpatterns,
]


def walk(
    patterns: list[URLPattern | URLResolver], prefix: str = "", namespace: str = ""
) -> Iterator[tuple[str, str]]:
    """(name, route) of every view; routes still hold their <converter:name> parts."""
    for name, _pattern, route in views_of(patterns, prefix, namespace):
        yield name, route


def views_of(
    patterns: list[URLPattern | URLResolver], prefix: str = "", namespace: str = ""
) -> Iterator[tuple[str, URLPattern, str]]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from views_of(pattern.url_patterns, route, inner)
        else:
            yield f"{namespace}{pattern.name}", pattern, route


def fill(route: str, slug: str) -> str:
    """A path that the route matches."""
    route = re.sub(r"\(\?P<\w+>.*\)\$$", "x/", route)  # the admin's catch-all
    for converter, name in re.findall(r"<(?:(\w+):)?(\w+)>", route):
        value = "1" if converter == "int" else slug if converter == "slug" else SAMPLES.get(name, "1")
        route = re.sub(rf"<(?:\w+:)?{name}>", value, route)
    return "/" + route.replace("^", "").replace("$", "")


def open_to_nobody(slug: str) -> list[str]:
    """Every view off the public list that answers an anonymous request with more than the way to sign in."""
    client = Client()
    found = []
    for name, route in walk(get_resolver().url_patterns):
        for method in (client.get, client.post):
            response = method(fill(route, slug))
            to_sign_in = response.status_code == 302 and response["Location"].startswith(
                (reverse("sign_in"), reverse("admin:login"))
            )
            if not to_sign_in and response.status_code not in (401, 404) and name not in PUBLIC:
                found.append(f"{name} {fill(route, slug)}: {response.status_code}")
    return found


@pytest.fixture
def furnished(project: Project) -> Project:
    """A project with a row behind most addresses, so that a 404 is a refusal and not an empty table."""
    comparison = factories.make_comparison(project=project)
    factories.make_preference(comparison=comparison)
    factories.make_model_version(project=project)
    factories.make_snapshot(project=project)
    factories.make_run(project=project)
    return project


def test_every_page_but_the_public_ones_needs_sign_in(furnished: Project) -> None:
    assert len(list(walk(get_resolver().url_patterns))) > 50
    assert open_to_nobody(furnished.slug) == []


@pytest.mark.urls(__name__)
def test_a_view_that_lets_everybody_in_would_be_found(furnished: Project) -> None:
    assert {line.split()[0] for line in open_to_nobody(furnished.slug)} == {"forgotten"}


def test_no_public_name_is_stale() -> None:
    assert {name for name, _route in walk(get_resolver().url_patterns)} >= PUBLIC


def test_a_stranger_finds_nothing_in_a_project(
    furnished: Project, outsider: User, sign_in: Callable[[User], Client]
) -> None:
    """Signed in, an admin elsewhere: every address of the project is missing, as if there were no project."""
    client = sign_in(outsider)
    wrong = []
    for name, route in walk(get_resolver().url_patterns):
        if not route.startswith("p/<slug:slug>/"):
            continue
        for slug in (furnished.slug, "no-such-project"):
            answers = {client.get(fill(route, slug)).status_code, client.post(fill(route, slug)).status_code}
            if not answers <= {404, 405} or 404 not in answers:
                wrong.append(f"{name} {slug}: {answers}")
    assert wrong == []


def names_read_by(view: Any) -> set[str]:
    """What a view could look for in an address: every short word in quotes in its module."""
    source = inspect.getsource(inspect.getmodule(inspect.unwrap(view)))  # type: ignore[arg-type]
    return set(re.findall(r"\"([a-z_]{1,12})\"", source)) & NUMBERS


NUMBERS = {"a", "b", "n", "page", "since", "version", "candidate", "baseline", "assignment", "step"}


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 30, "\u00b2"], ids=["endless", "long", "superscript"])
def test_no_number_in_an_address_breaks_a_page(
    furnished: Project, admin: User, sign_in: Callable[[User], Client], number: str
) -> None:
    """Python reads no 5,000 digits, a database no more than 19; a superscript two is a digit, no number."""
    client = sign_in(admin)
    client.raise_request_exception = False
    asked, broken = 0, []
    for name, pattern, route in views_of(get_resolver().url_patterns):
        for parameter in names_read_by(pattern.callback) if route.startswith("p/<slug:slug>/") else ():
            asked += 1
            send = client.post if parameter == "assignment" else client.get
            if send(fill(route, furnished.slug), {parameter: number}).status_code == 500:
                broken.append(f"{name} {parameter}")
    assert asked > 50
    assert broken == []


def rows_elsewhere() -> dict[str, Model]:
    """A row of another project for each kind of address with a number, by the first word of its name."""
    other = factories.make_project()
    member = factories.make_member(project=other)
    baseline, candidate = (factories.make_model_version(project=other) for _ in range(2))
    plan = {"prompts": 1, "overlap": 1}
    invitation = Invitation(project=other, role=Role.ANNOTATOR, created_by=member)
    invitation.new_token(days=1)
    invitation.save()
    return {
        "gold": factories.make_preference(project=other),
        "adjudication": factories.make_comparison(project=other),
        "prompt": factories.make_prompt(project=other),
        "import": DataImport.objects.create(
            project=other, file_name="a.txt", sha256="0" * 64, size=1, format="text", created_by=member
        ),
        "member": Membership.objects.get(project=other, user=member),
        "invitation": invitation,
        "run": factories.make_run(project=other),
        "snapshot": factories.make_snapshot(project=other),
        "version": candidate,
        "review": Review.objects.create(project=other, candidate=candidate, baseline=baseline, plan=plan),
    }


def test_a_row_of_another_project_is_missing(
    furnished: Project, admin: User, sign_in: Callable[[User], Client]
) -> None:
    """The project is theirs, the row is not: each address with a number, and a row that is really there."""
    client = sign_in(admin)
    foreign = rows_elsewhere()
    wrong = []
    for name, route in walk(get_resolver().url_patterns):
        if route.startswith("p/<slug:slug>/") and "<int:pk>" in route:
            row = foreign[name.split("_")[0]]
            address = fill(route.replace("<int:pk>", str(row.pk)), furnished.slug)
            answers = {client.get(address).status_code, client.post(address).status_code}
            if not answers <= {404, 405} or 404 not in answers:
                wrong.append(f"{name}: {answers}")
    assert wrong == []


HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def test_every_answer_carries_the_security_headers(
    furnished: Project, admin: User, sign_in: Callable[[User], Client]
) -> None:
    nobody, somebody = Client(), sign_in(admin)
    responses = [
        nobody.get(reverse("sign_in")),
        nobody.get(reverse("health")),
        nobody.get("/no/such/page/"),
        nobody.get(reverse("home")),
        nobody.post(reverse("sign_in"), {"username": "x", "password": "y"}),
        somebody.get(reverse("home")),
        somebody.get("/p/no-such-project/"),
        somebody.get(reverse("loop", args=[furnished.slug])),
        somebody.put(reverse("home")),
    ]
    assert {response.status_code for response in responses} >= {200, 302, 404, 405}
    for response in responses:
        for name, value in HEADERS.items():
            assert response[name] == value, response.request["PATH_INFO"]
        policy = response["Content-Security-Policy"]
        assert "unsafe-" not in policy and "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
    assert responses[5]["Cache-Control"] == "no-store"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites() -> None:
    factories.make_user(username="somebody", password=factories.PASSWORD)
    client = Client()
    client.post(reverse("sign_in"), {"username": "somebody", "password": factories.PASSWORD})
    session = client.cookies[settings.SESSION_COOKIE_NAME]
    assert session["httponly"] and session["samesite"] == "Lax"


def test_a_form_without_its_token_is_refused(admin: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(reverse("sign_out")).status_code == 403


def test_texts_of_models_and_people_are_out_of_htmx_s_reach() -> None:
    """Escaping makes them text; `hx-disable` holds should escaping ever fail."""
    shown = 0
    for file in (settings.BASE_DIR / "templates").rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        for tag in re.findall(r"<\w+[^>]*class=\"(?:read text|read)\"[^>]*>", text):
            shown += 1
            behind = text[: text.index(tag)].rpartition("hx-disable")[1]
            assert "hx-disable" in tag or behind, f"{file.name}: {tag}"
    assert shown > 10
