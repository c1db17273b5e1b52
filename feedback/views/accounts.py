"""Coming in: password, invitations, one-time sign-in links. Sign-in and sign-out are Django's own."""

from __future__ import annotations

from datetime import datetime

from django.contrib import messages
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import PasswordChangeForm, SetPasswordForm
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods

from feedback.forms_accounts import AccountForm
from feedback.models import AuditEntry, Invitation, Membership, SignInLink, User
from rlhf_app.http import Request

PASSWORD_BACKEND = "django.contrib.auth.backends.ModelBackend"
"""Named because the throttling backend beside it never owns a session."""


def sign_in_as(request: HttpRequest, user: User) -> None:
    """Start a fresh session; whoever was signed in here before leaves nothing in it."""
    request.session.flush()
    login(request, user, backend=PASSWORD_BACKEND)


def link_unusable(request: HttpRequest) -> HttpResponse:
    """One answer for used, expired, revoked and invented links."""
    return render(request, "registration/link_unusable.html", status=404)


@require_http_methods(["GET", "POST"])
@sensitive_post_parameters()
def password_change(request: Request) -> HttpResponse:
    """Set a new password; who came by a one-time link and has none yet is not asked for the old one."""
    user = request.user
    form_class = PasswordChangeForm if user.has_usable_password() else SetPasswordForm
    form = form_class(user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            form.save()
            AuditEntry.record(user, "password.changed", user)
        # Every other session of this person ends here: their hash no longer matches.
        update_session_auth_hash(request, user)
        return redirect("password_change_done")
    return render(request, "registration/password_change.html", {"form": form})


@require_GET
def password_change_done(request: Request) -> HttpResponse:
    return render(request, "registration/password_change_done.html")


# --- one-time sign-in links -------------------------------------------------------------------------


@login_not_required
@never_cache
@require_http_methods(["GET", "POST"])
def use_sign_in_link(request: HttpRequest, token: str) -> HttpResponse:
    """GET only asks, so that a link preview cannot use the link up; POST signs in, once."""
    link = (
        SignInLink.objects.select_related("user")
        .filter(SignInLink.usable(token), user__is_active=True)
        .first()
    )
    if link is None:
        return link_unusable(request)
    if request.method == "GET":
        return render(request, "registration/use_sign_in_link.html", {"link": link})
    with transaction.atomic():
        if not consume(link, timezone.now()):
            return link_unusable(request)
        AuditEntry.record(link.user, "sign_in_link.used", link)
    sign_in_as(request, link.user)
    if not link.user.has_usable_password():
        messages.info(request, _("Choose a password now: the link you came by works only once."))
        return redirect("password_change")
    return redirect("home")


def consume(link: SignInLink | Invitation, now: datetime) -> bool:
    """Compare-and-set: of two requests with one link, one gets True."""
    rows = type(link)._default_manager.filter(pk=link.pk, used_at=None, expires_at__gt=now)
    return rows.update(used_at=now) == 1


# --- invitations ------------------------------------------------------------------------------------


@login_not_required
@never_cache
@require_http_methods(["GET", "POST"])
@sensitive_post_parameters()
def accept_invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Join a project: a signed-in person by one button, a new one by choosing a name and a password."""
    rows = Invitation.objects.select_related("project").filter(project__archived_at=None)
    invitation = rows.filter(Invitation.usable(token)).first()
    if invitation is None:
        return link_unusable(request)
    if isinstance(request.user, User):
        return join(request, invitation, request.user)
    form = AccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            if not consume(invitation, timezone.now()):
                return link_unusable(request)
            user = form.save()
            become_member(invitation, user)
        sign_in_as(request, user)
        return redirect("loop", invitation.project.slug)
    return render(request, "registration/accept_invitation.html", {"form": form, "invitation": invitation})


def join(request: HttpRequest, invitation: Invitation, user: User) -> HttpResponse:
    """The signed-in person's half of `accept_invitation`."""
    project = invitation.project
    if project.memberships.filter(user=user).exists():
        messages.info(request, _("You are a member of %s already; the invitation was not used up.") % project)
        return redirect("loop", project.slug)
    if request.method == "GET":
        return render(request, "registration/accept_invitation.html", {"invitation": invitation})
    with transaction.atomic():
        if not consume(invitation, timezone.now()):
            return link_unusable(request)
        become_member(invitation, user)
    return redirect("loop", project.slug)


def become_member(invitation: Invitation, user: User) -> None:
    Invitation.objects.filter(pk=invitation.pk).update(used_by=user)
    membership = Membership.objects.create(project=invitation.project, user=user, role=invitation.role)
    AuditEntry.record(user, "member.joined", membership, username=user.username, role=invitation.role)
