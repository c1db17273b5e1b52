"""A project itself: making one, its settings, its guidelines."""

from __future__ import annotations

from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from feedback.access import at_least, get_project
from feedback.forms_accounts import GuidelineForm, NewProjectForm, ProjectForm
from feedback.markdown import rendered
from feedback.models import AuditEntry, Guideline, Membership, Project, Role, User
from rlhf_app.http import Request, whole_number


@require_http_methods(["GET", "POST"])
def project_create(request: Request) -> HttpResponse:
    """A new workspace; whoever makes it is its first admin."""
    if not request.user.is_superuser:
        raise Http404
    form = NewProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            project = form.save()
            Membership.objects.create(project=project, user=request.user, role=Role.ADMIN)
            AuditEntry.record(request.user, "project.created", project, name=project.name)
        messages.success(request, _("The project is there. Tell people what a good completion is:"))
        return redirect("guidelines", project.slug)
    return render(request, "feedback/project_create.html", {"form": form})


@require_http_methods(["GET", "POST"])
def project_settings(request: Request, slug: str) -> HttpResponse:
    project = get_project(request.user, slug, Role.ADMIN)
    form = ProjectForm(request.POST or None, instance=project)
    before = {name: form.get_initial_for_field(field, name) for name, field in form.fields.items()}
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            form.save()
            changed = {name: [before[name], form.cleaned_data[name]] for name in form.changed_data}
            AuditEntry.record(request.user, "project.changed", project, changed=changed)
        messages.success(request, _("Saved."))
        return redirect("project_settings", slug)
    context = {"project": project, "place": "settings", "form": form}
    return render(request, "feedback/project_settings.html", context)


@require_http_methods(["GET", "POST"])
def guidelines(request: Request, slug: str) -> HttpResponse:
    """The guidelines in force, or an older version of them; engineers and admins save new versions."""
    project = get_project(request.user, slug)
    may_edit = at_least(project.role, Role.ENGINEER)  # type: ignore[attr-defined]  # set by get_project
    current = project.guideline()
    if request.method == "POST" and not may_edit:
        raise Http404
    form = GuidelineForm(request.POST or None, initial={"text": current.text if current else ""})
    base = request.POST.get("base", "")
    if request.method == "POST" and form.is_valid() and save_guideline(request.user, project, form, base):
        messages.success(request, _("Saved. Judgements from now on are made under this version."))
        return redirect("guidelines", slug)
    shown = current
    if wanted := request.GET.get("version", ""):
        shown = get_object_or_404(project.guidelines, version=whole_number(wanted))
    context = {
        "project": project,
        "place": "guidelines",
        "form": form,
        "may_edit": may_edit,
        "editing": may_edit and (request.method == "POST" or "edit" in request.GET or current is None),
        "current": current,
        "shown": shown,
        "text": rendered(shown.text) if shown else "",
        "history": project.guidelines.select_related("author"),
    }
    return render(request, "feedback/guidelines.html", context)


def save_guideline(user: User, project: Project, form: GuidelineForm, base: str) -> bool:
    """A new version, unless somebody else saved one since `base`, the version that this text started from."""
    text = form.cleaned_data["text"]
    with transaction.atomic():
        # One at a time, so that two who save at once do not both see `base` as the newest.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        current = project.guideline()
        number = current.version if current else 0
        if current and current.text == text:
            return True
        if base != str(number):
            form.add_error(
                "text", _("Somebody saved version %d meanwhile. Compare, then save again.") % number
            )
            return False
        guideline = Guideline.objects.create(project=project, version=number + 1, text=text, author=user)
        AuditEntry.record(user, "guideline.saved", guideline, version=guideline.version)
    return True
