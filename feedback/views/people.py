"""Who takes part: members and their roles, invitations. Admins only."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from feedback import queue
from feedback.access import get_in_project, get_project
from feedback.forms_accounts import InvitationForm, RoleForm
from feedback.gold import grades, share_in_words
from feedback.models import AuditEntry, Invitation, Membership, Project, Role
from rlhf_app.http import Request


def people_page(
    request: Request, project: Project, form: InvitationForm, *, link: str = "", status: int = 200
) -> HttpResponse:
    open_invitations = project.invitations.filter(used_at=None, expires_at__gt=timezone.now())
    context = {
        "project": project,
        "place": "people",
        "members": with_gold(project),
        "invitations": open_invitations.select_related("created_by").order_by("-pk"),
        "roles": Role.choices,
        "form": form,
        "link": link,
        "days": settings.INVITATION_DAYS,
    }
    return render(request, "feedback/people.html", context, status=status)


def with_gold(project: Project) -> list[tuple[Membership, str]]:
    """Each member, and how often they found the gold answer."""
    found = grades(project).by_annotator
    members = project.memberships.select_related("user").order_by("user__username")
    return [(member, share_in_words(found.get(member.user_id))) for member in members]


@require_GET
def people(request: Request, slug: str) -> HttpResponse:
    project = get_project(request.user, slug, Role.ADMIN)
    return people_page(request, project, InvitationForm(initial={"role": Role.ANNOTATOR}))


@require_POST
def invite(request: Request, slug: str) -> HttpResponse:
    """Make a link and show it: this once, since only its hash is kept."""
    project = get_project(request.user, slug, Role.ADMIN)
    form = InvitationForm(request.POST)
    if not form.is_valid():
        return people_page(request, project, form, status=422)
    invitation = form.save(commit=False)
    invitation.project, invitation.created_by = project, request.user
    token = invitation.new_token(days=settings.INVITATION_DAYS)
    with transaction.atomic():
        invitation.save()
        AuditEntry.record(request.user, "invitation.created", invitation, role=invitation.role)
    link = request.build_absolute_uri(reverse("accept_invitation", args=[token]))
    return people_page(request, project, InvitationForm(initial={"role": invitation.role}), link=link)


@require_POST
def invitation_revoke(request: Request, slug: str, pk: int) -> HttpResponse:
    project = get_project(request.user, slug, Role.ADMIN)
    invitation = get_in_project(project, Invitation.objects.all(), pk)
    with transaction.atomic():
        now = timezone.now()
        if Invitation.objects.filter(pk=invitation.pk, used_at=None).update(expires_at=now):
            AuditEntry.record(request.user, "invitation.revoked", invitation, role=invitation.role)
            messages.success(request, _("The invitation is taken back: its link is dead."))
    return redirect("people", slug)


@require_POST
def member_role(request: Request, slug: str, pk: int) -> HttpResponse:
    project = get_project(request.user, slug, Role.ADMIN)
    membership = get_in_project(project, Membership.objects.select_related("user"), pk)
    before = membership.role
    form = RoleForm(request.POST, instance=membership)
    if not form.is_valid():
        messages.error(request, _("That is not a role."))
        return redirect("people", slug)
    with transaction.atomic():
        if form.cleaned_data["role"] != Role.ADMIN and is_last_admin(project, membership.pk):
            messages.error(request, _("A project keeps at least one admin: make somebody else one first."))
            return redirect("people", slug)
        form.save()
        facts = {"username": membership.user.username, "before": before, "after": membership.role}
        AuditEntry.record(request.user, "member.role_changed", membership, **facts)
    messages.success(request, _("%(name)s is now: %(role)s.") % {
        "name": membership.user.username, "role": membership.get_role_display(),
    })  # fmt: skip
    return redirect("people", slug)


@require_POST
def member_remove(request: Request, slug: str, pk: int) -> HttpResponse:
    """The person can no longer open the project; what they judged stays."""
    project = get_project(request.user, slug, Role.ADMIN)
    membership = get_in_project(project, Membership.objects.select_related("user"), pk)
    username = membership.user.username
    with transaction.atomic():
        if is_last_admin(project, membership.pk):
            messages.error(request, _("A project keeps at least one admin: make somebody else one first."))
            return redirect("people", slug)
        AuditEntry.record(request.user, "member.removed", membership, username=username, role=membership.role)
        membership.delete()
        queue.release(project, membership.user)
    messages.success(request, _("%s is no longer a member. Their judgements stay.") % username)
    return redirect("people", slug)


def is_last_admin(project: Project, pk: int) -> bool:
    """Whether no other admin can sign in.

    Locks the admins' rows: of two admins who remove each other at once, the second waits, then sees.
    """
    admins = project.memberships.select_for_update().filter(role=Role.ADMIN, user__is_active=True)
    return list(admins.values_list("pk", flat=True)) == [pk]
