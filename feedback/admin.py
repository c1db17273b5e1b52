"""Staff's window on what people say. Judgements and the audit trail are read-only: lineage is not edited."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import UserChangeForm
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from feedback.models import (
    AuditEntry,
    Comparison,
    DataImport,
    Guideline,
    Invitation,
    Membership,
    Preference,
    Project,
    Prompt,
    User,
)


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # Django has no runtime generics here
    """Rows that are looked at: nobody adds, changes or deletes them by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def page_link(name: str, *args: Any) -> SafeString:
    """A link from a row of the admin to the page made for it."""
    return format_html('<a href="{}">{}</a>', reverse(name, args=args), _("Open"))


class Audited:
    """What staff change by hand stands in the audit trail like everything else."""

    def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
        with transaction.atomic():
            super().save_model(request, obj, form, change)  # type: ignore[misc]
            if change and form.changed_data:
                kept = {
                    name: plain(getattr(obj, name)) for name in form.changed_data if name in AUDITED_VALUES
                }
                AuditEntry.record(
                    request.user, "admin.change", obj, changed=sorted(form.changed_data), **kept
                )
            elif not change:
                AuditEntry.record(request.user, "admin.add", obj)


AUDITED_VALUES = ("is_active", "is_staff", "is_superuser", "simulated", "archived_at")


def plain(value: Any) -> Any:
    """As JSON holds it."""
    return value.isoformat() if isinstance(value, datetime) else value


class PersonForm(UserChangeForm):  # type: ignore[type-arg]
    """An account as staff change it."""

    def clean_is_active(self) -> bool:
        """A project keeps somebody who can let others in."""
        active: bool = self.cleaned_data["is_active"]
        if self.instance.is_active and not active and (alone := self.instance.administered_alone()):
            words = gettext("No other admin is left in: %(projects)s. Make somebody else one there first.")
            raise ValidationError(words % {"projects": ", ".join(map(str, alone))})
        return active


@admin.register(User)
class PersonAdmin(Audited, UserAdmin):  # type: ignore[type-arg]
    form = PersonForm
    list_display = ("username", "is_active", "is_staff", "simulated", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser", "simulated")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("What they may do"), {"fields": ("is_active", "is_staff", "is_superuser", "simulated")}),
        (_("Important dates"), {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")

    def user_change_password(self, request: Any, id: str, form_url: str = "") -> HttpResponse:
        """Django's page for it saves by its form, so `save_model` never hears of a new password."""
        with transaction.atomic():
            before = self.get_object(request, unquote(id))
            response = super().user_change_password(request, id, form_url)
            after = self.get_object(request, unquote(id))
            if before and after and before.password != after.password:
                AuditEntry.record(request.user, "admin.change", after, changed=["password"])
        return response

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Who leaves is made inactive: deleting would take memberships along, the last admin's too."""
        return False


@admin.register(Project)
class ProjectAdmin(Audited, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "slug", "kind", "overlap", "created_at", "archived_at", "page")
    exclude = (
        "kind",
        "candidates",
        "criteria",
        "gold_rate",
    )  # these depend on each other: on the settings page
    search_fields = ("name", "slug")
    list_filter = ("archived_at",)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A project is archived: deleting it would take its judgements and versions along."""
        return False

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Date and time are two inputs, and Django's label names neither."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and db_field.name == "archived_at":
            for widget, label in zip(
                field.widget.widgets, (_("Archived, date"), _("Archived, time")), strict=True
            ):
                widget.attrs["aria-label"] = label
        return field

    @admin.display(description=_("page"))
    def page(self, project: Project) -> SafeString:
        return page_link("loop", project.slug)


@admin.register(Membership)
class MembershipAdmin(ReadOnly):
    """Changed on the people page, which keeps the last admin and writes the audit trail."""

    list_display = ("user", "project", "role", "created_at", "page")
    list_select_related = ("user", "project")
    list_filter = ("role", "project")
    search_fields = ("user__username",)

    @admin.display(description=_("page"))
    def page(self, membership: Membership) -> SafeString:
        return page_link("people", membership.project.slug)


@admin.register(Invitation)
class InvitationAdmin(ReadOnly):
    list_display = ("project", "role", "note", "created_by", "created_at", "expires_at", "used_by")
    list_select_related = ("project", "created_by", "used_by")
    list_filter = ("role", "project")
    exclude = ("token_hash",)


@admin.register(Guideline)
class GuidelineAdmin(ReadOnly):
    list_display = ("project", "version", "author", "created_at")
    list_select_related = ("project", "author")
    list_filter = ("project",)


@admin.register(DataImport)
class DataImportAdmin(ReadOnly):
    list_display = ("id", "project", "file_name", "format", "state", "created_by", "created_at", "page")
    list_select_related = ("project", "created_by")
    list_filter = ("state", "project")  # not by format: a file that waits to be confirmed may have none yet
    search_fields = ("file_name", "sha256")

    @admin.display(description=_("page"))
    def page(self, data_import: DataImport) -> SafeString:
        return page_link("import_detail", data_import.project.slug, data_import.pk)


@admin.register(Prompt)
class PromptAdmin(ReadOnly):
    list_display = ("id", "project", "split", "source", "external_id", "created_at", "page")
    list_select_related = ("project",)
    list_filter = ("split", "project")
    search_fields = ("external_id", "source")
    show_full_result_count = False

    @admin.display(description=_("page"))
    def page(self, prompt: Prompt) -> SafeString:
        return page_link("prompt_detail", prompt.project.slug, prompt.pk)


@admin.register(Comparison)
class ComparisonAdmin(ReadOnly):
    list_display = ("id", "project", "kind", "purpose", "state", "overlap", "priority", "created_at", "page")
    list_select_related = ("project",)
    list_filter = ("kind", "purpose", "state", "project")
    show_full_result_count = False

    @admin.display(description=_("page"))
    def page(self, comparison: Comparison) -> SafeString:
        return page_link("prompt_detail", comparison.project.slug, comparison.prompt_id)


@admin.register(Preference)
class PreferenceAdmin(ReadOnly):
    list_display = (
        "id",
        "comparison",
        "annotator",
        "kind",
        "strength",
        "acceptability",
        "withdrawn",
        "late",
        "simulated",
        "imported",
        "adjudication",
        "created_at",
    )
    list_select_related = ("comparison", "annotator")
    list_filter = (
        "kind",
        "imported",
        "simulated",
        "adjudication",
        "withdrawn",
        "late",
        "strength",
        "comparison__project",
    )
    search_fields = ("annotator__username",)
    show_full_result_count = False


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ("id", "at", "actor", "project", "action", "target")
    list_select_related = ("actor", "project")
    list_filter = ("action", "project")
    search_fields = ("target", "actor__username")
    date_hierarchy = "at"
    show_full_result_count = False
