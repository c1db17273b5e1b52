"""Coming in: sign-in and its throttle, passwords, invitations, one-time links."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from feedback.models import AuditEntry, Invitation, Membership, Project, Role, SignInLink, User, sha256_text
from feedback.views import accounts
from tests.factories import PASSWORD, make_member, make_superuser, make_user

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]
NEW_PASSWORD = "seven herons on a wire"


def guess(client: Client, username: str, password: str) -> Any:
    return client.post(reverse("sign_in"), {"username": username, "password": password})


def signed_in_as(client: Client) -> User | None:
    """Whom the next request belongs to."""
    user = client.get(reverse("home")).wsgi_request.user
    return user if user.is_authenticated else None


# --- signing in and out -----------------------------------------------------------------------------


def test_sign_in_and_out() -> None:
    user, client = make_user(username="ada", password=PASSWORD), Client()
    before = client.get(reverse("sign_in")).wsgi_request.META["CSRF_COOKIE"]
    assert before
    assert guess(client, "ada", PASSWORD).headers["Location"] == reverse("home")
    assert signed_in_as(client) == user
    assert client.get(reverse("sign_out")).status_code == 405
    client.post(reverse("sign_out"))
    assert signed_in_as(client) is None


def test_the_user_name_is_compared_in_its_normal_form() -> None:
    user, client = make_user(username="ada", password=PASSWORD), Client()
    guess(client, "\uff41\uff44\uff41", PASSWORD)  # full-width letters
    assert signed_in_as(client) == user


def test_an_unknown_name_and_a_wrong_password_read_alike() -> None:
    make_user(username="known", password=PASSWORD)
    pages = [guess(Client(), name, "wrong").content.decode() for name in ("known", "nobody")]
    answers = [page.split("<main", 1)[1].replace("known", "X").replace("nobody", "X") for page in pages]
    without_tokens = [
        "\n".join(line for line in answer.splitlines() if "csrfmiddlewaretoken" not in line)
        for answer in answers
    ]
    assert without_tokens[0] == without_tokens[1]
    assert "Please enter a correct" in without_tokens[0]


def test_the_ninth_guess_is_refused_even_with_the_right_password() -> None:
    user, client = make_user(username="ada", password=PASSWORD), Client()
    for _number in range(8):
        guess(client, "ada", "wrong")
    refused = guess(client, "ada", PASSWORD)
    assert refused.status_code == 429
    assert b"Too many attempts" in refused.content
    assert signed_in_as(client) is None
    other = make_user(username="bea", password=PASSWORD)
    assert guess(client, "bea", PASSWORD).status_code == 302  # nobody else is locked out
    assert signed_in_as(client) == other
    assert user.is_active


@pytest.mark.parametrize("door", ["sign_in", "admin:login"])
def test_one_address_guessing_under_many_names_is_refused(settings: Any, door: str) -> None:
    settings.SIGN_IN_FAILURES_OF_ONE_ADDRESS = 5
    make_superuser(username="ada", password=PASSWORD)

    def knock(username: str, password: str, address: str = "203.0.113.5") -> Any:
        browser = Client(REMOTE_ADDR=address, HTTP_USER_AGENT=f"browser of {username}")
        return browser.post(reverse(door), {"username": username, "password": password})

    assert [knock(f"name-{number}", "wrong").status_code for number in range(4)] == [200] * 4
    assert knock("ada", PASSWORD).status_code == 302, "four are not too many"
    assert knock("name-4", "wrong").status_code == 429
    refused = knock("ada", PASSWORD)
    assert refused.status_code == 429 and b"Too many attempts" in refused.content
    assert knock("ada", PASSWORD, "198.51.100.7").status_code == 302


def test_a_script_with_an_old_password_locks_out_nobody_else(settings: Any) -> None:
    settings.SIGN_IN_FAILURES_OF_ONE_ADDRESS = 20
    make_user(username="ada", password=PASSWORD)
    for _number in range(25):
        guess(Client(), "script", "expired")
    assert guess(Client(), "ada", PASSWORD).status_code == 302


def test_old_guesses_of_an_address_are_forgotten(settings: Any) -> None:
    settings.SIGN_IN_FAILURES_OF_ONE_ADDRESS = 3
    make_user(username="ada", password=PASSWORD)
    for number in range(3):
        guess(Client(), f"name-{number}", "wrong")
    assert guess(Client(), "ada", PASSWORD).status_code == 429
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=16))
    assert guess(Client(), "ada", PASSWORD).status_code == 302


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "http:evil.example",
        "javascript:alert(1)",
    ],
)
def test_next_never_leaves_the_host(target: str) -> None:
    make_user(username="ada", password=PASSWORD)
    answer = Client().post(reverse("sign_in"), {"username": "ada", "password": PASSWORD, "next": target})
    assert answer.headers["Location"] == reverse("home")


def test_next_inside_the_host_is_followed() -> None:
    make_user(username="ada", password=PASSWORD)
    target = reverse("password_change")
    answer = Client().post(reverse("sign_in"), {"username": "ada", "password": PASSWORD, "next": target})
    assert answer.headers["Location"] == target


def test_the_first_admin_is_made_once_and_comes_in_by_a_link_only() -> None:
    made = User.first_admin()
    assert made.is_superuser and made.is_staff and not made.has_usable_password()
    assert User.first_admin() == made and User.objects.count() == 1


def test_a_person_called_admin_keeps_the_account() -> None:
    person = User.objects.create_user("admin")
    made = User.first_admin()
    assert (made.username, made.is_superuser) == ("admin-2", True)
    person.refresh_from_db()
    assert not person.is_superuser


def test_who_left_is_not_the_first_admin() -> None:
    make_superuser(is_active=False)
    second, _third = make_superuser(), make_superuser()
    assert User.first_admin() == second


# --- passwords --------------------------------------------------------------------------------------


def test_a_changed_password_ends_every_other_session() -> None:
    user = make_user(username="ada", password=PASSWORD)
    here, elsewhere = Client(), Client()
    guess(here, "ada", PASSWORD)
    guess(elsewhere, "ada", PASSWORD)
    answer = here.post(
        reverse("password_change"),
        {"old_password": PASSWORD, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD},
    )
    assert answer.headers["Location"] == reverse("password_change_done")
    assert signed_in_as(here) == user
    assert signed_in_as(elsewhere) is None
    user.refresh_from_db()
    assert user.check_password(NEW_PASSWORD)
    assert AuditEntry.objects.get().action == "password.changed"


@pytest.mark.parametrize(
    ("password", "reason"),
    [("short", "at least 12 characters"), ("password1234", "too common"), ("adalovelace1815", "similar")],
)
def test_weak_passwords_are_refused_with_the_reason(sign_in: SignIn, password: str, reason: str) -> None:
    client = sign_in(make_user(username="adalovelace1815"))
    answer = client.post(reverse("password_change"), {"new_password1": password, "new_password2": password})
    assert answer.status_code == 200
    assert reason in answer.content.decode()


def test_the_old_password_is_asked_for_where_there_is_one(sign_in: SignIn) -> None:
    user = make_user(password=PASSWORD)
    sign_in(user).post(
        reverse("password_change"), {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    )
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


# --- one-time sign-in links -------------------------------------------------------------------------


def link_for(user: User, **options: Any) -> str:
    out = StringIO()
    call_command("create_sign_in_link", user.username, base_url="http://testserver", stdout=out, **options)
    assert out.getvalue().count("\n") == 1
    return out.getvalue().strip()


def test_a_link_signs_in_once_and_only_by_the_button() -> None:
    user = make_user()
    url = link_for(user)
    preview = Client()
    assert preview.get(url).status_code == 200
    assert signed_in_as(preview) is None
    client = Client()
    assert client.post(url).headers["Location"] == reverse("password_change")  # there is no password yet
    assert signed_in_as(client) == user
    late = Client()
    for answer in (late.get(url), late.post(url)):
        assert answer.status_code == 404
        assert b"This link cannot be used" in answer.content
    assert signed_in_as(late) is None


def test_only_the_hash_of_a_link_is_kept() -> None:
    url = link_for(make_user())
    token = url.rstrip("/").rsplit("/", 1)[1]
    link = SignInLink.objects.get()
    assert link.token_hash == sha256_text(token)
    assert token not in str(SignInLink.objects.values()) + str(AuditEntry.objects.values())


def test_a_link_to_somebody_with_a_password_leads_home() -> None:
    url = link_for(make_user(password=PASSWORD))
    assert Client().post(url).headers["Location"] == reverse("home")


def test_expired_links_and_links_of_deactivated_people_do_not_work() -> None:
    expired, gone = make_user(), make_user()
    urls = [link_for(expired), link_for(gone)]
    SignInLink.objects.filter(user=expired).update(expires_at=timezone.now() - timedelta(seconds=1))
    User.objects.filter(pk=gone.pk).update(is_active=False)
    assert [
        Client().post(url).status_code for url in [*urls, reverse("use_sign_in_link", args=["invented"])]
    ] == [404] * 3


def test_of_two_presses_at_once_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request has read the unused row already when the first one uses it up."""
    url = link_for(make_user())
    true = accounts.consume
    inner: list[Any] = []

    def consume(*args: Any) -> bool:
        monkeypatch.setattr(accounts, "consume", true)
        inner.append(Client().post(url))
        return true(*args)

    monkeypatch.setattr(accounts, "consume", consume)
    outer = Client().post(url)
    assert [inner[0].status_code, outer.status_code] == [302, 404]


def test_signing_in_by_link_leaves_nothing_of_the_session_before(sign_in: SignIn) -> None:
    client = sign_in(make_user())
    session = client.session
    session["left"] = "behind"
    session.save()
    key = session.session_key
    user = make_user()
    client.post(link_for(user))
    assert signed_in_as(client) == user
    assert client.session.session_key != key and "left" not in client.session


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nobody"], "There is no active account 'nobody'"),
        (["ada", "--base-url", "example.org"], "--base-url: found 'example.org'"),
        (["ada", "--days", "0"], "--days: found 0"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], reason: str) -> None:
    make_user(username="ada")
    with pytest.raises(CommandError) as problem:
        call_command("create_sign_in_link", *arguments)
    assert reason in str(problem.value)
    assert not SignInLink.objects.exists()


# --- invitations ------------------------------------------------------------------------------------


def invite(project: Project, role: str = Role.REVIEWER, **fields: Any) -> tuple[Invitation, str]:
    invitation = Invitation(
        project=project, role=role, created_by=make_member(project=project, role=Role.ADMIN)
    )
    token = invitation.new_token(days=7)
    for name, value in fields.items():
        setattr(invitation, name, value)
    invitation.save()
    return invitation, reverse("accept_invitation", args=[token])


def account(username: str, password: str = NEW_PASSWORD) -> dict[str, str]:
    return {"username": username, "password1": password, "password2": password}


def test_a_new_person_makes_an_account_and_is_in(project: Project) -> None:
    invitation, url = invite(project)
    client = Client()
    assert project.name in client.get(url).content.decode()
    assert client.post(url, account("newcomer")).headers["Location"] == f"/p/{project.slug}/"
    user = User.objects.get(username="newcomer")
    assert signed_in_as(client) == user
    assert Membership.objects.get(user=user).role == Role.REVIEWER
    assert not user.is_staff and not user.is_superuser
    invitation.refresh_from_db()
    assert invitation.used_by == user and invitation.used_at
    assert Client().post(url, account("second")).status_code == 404
    assert not User.objects.filter(username="second").exists()


def test_a_signed_in_person_joins_by_one_button(project: Project, outsider: User, sign_in: SignIn) -> None:
    _invitation, url = invite(project, Role.ENGINEER)
    client = sign_in(outsider)
    assert b"password1" not in client.get(url).content
    assert not Membership.objects.filter(project=project, user=outsider).exists()
    client.post(url)
    assert Membership.objects.get(project=project, user=outsider).role == Role.ENGINEER


def test_a_member_does_not_use_an_invitation_up(project: Project, annotator: User, sign_in: SignIn) -> None:
    invitation, url = invite(project, Role.ADMIN)
    sign_in(annotator).post(url)
    invitation.refresh_from_db()
    assert invitation.used_at is None
    assert Membership.objects.get(project=project, user=annotator).role == Role.ANNOTATOR


def test_used_expired_invented_and_archived_invitations_read_alike(project: Project) -> None:
    past = timezone.now() - timedelta(seconds=1)
    urls = [invite(project, used_at=past)[1], invite(project, expires_at=past)[1]]
    urls.append(reverse("accept_invitation", args=["invented"]))
    archived = invite(project)[1]
    Project.objects.filter(pk=project.pk).update(archived_at=timezone.now())
    answers = [Client().get(url) for url in [*urls, archived]]
    assert {answer.status_code for answer in answers} == {404}
    mains = {answer.content.split(b"<main")[1] for answer in answers}
    assert len(mains) == 1 and b"This link cannot be used" in mains.pop()


@pytest.mark.parametrize(
    ("username", "reason"),
    [
        ("admin\u202e", "U+202E"),
        ("an\u200bna", "U+200B"),
        ("\u0430nna", "look alike (CYRILLIC, LATIN)"),
        ("ADA", "already exists"),
        ("imported-x", "kept for imports"),
        ("a" * 151, "150"),
        ("", "required"),
    ],
)
def test_names_that_deceive_are_refused_with_the_reason(project: Project, username: str, reason: str) -> None:
    make_user(username="ada")
    invitation, url = invite(project)
    answer = Client().post(url, account(username))
    assert answer.status_code == 200
    assert reason in answer.content.decode()
    invitation.refresh_from_db()
    assert invitation.used_at is None


def test_two_who_open_one_invitation_at_once_make_one_account(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _invitation, url = invite(project)
    true = accounts.consume
    inner: list[Any] = []

    def consume(*args: Any) -> bool:
        monkeypatch.setattr(accounts, "consume", true)
        inner.append(Client().post(url, account("first")))
        return true(*args)

    monkeypatch.setattr(accounts, "consume", consume)
    outer = Client().post(url, account("second"))
    assert [inner[0].status_code, outer.status_code] == [302, 404]
    assert User.objects.filter(username__in=["first", "second"]).count() == 1
