"""Staff's window on runs and versions: read-only, because lineage must not be edited."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from feedback.admin import ReadOnly
from feedback.models import Project
from training.core.configs import KINDS
from training.models import ModelVersion, Promotion, Review, Run, RunInput, Snapshot

PAGES: dict[type[Model], str] = {
    Run: "run_detail",
    ModelVersion: "version_detail",
    Snapshot: "snapshot_detail",
    Review: "review_detail",
}


def page_link(row: Any, text: Any) -> SafeString:
    """A link to the row's real page."""
    url = reverse(PAGES[type(row)], args=[row.project.slug, row.pk])
    return format_html('<a href="{}">{}</a>', url, text)


def launch_url(project: Project, kind: str) -> str:
    return reverse("run_launch", args=[project.slug, kind])


class ReadOnlyAdmin(ReadOnly):
    """Rows with a page of their own; they are made and changed there only."""

    list_per_page = 50
    show_full_result_count = False

    @admin.display(description=_("page"))
    def page(self, row: Model) -> SafeString:
        return page_link(row, _("Open"))


class InputInline(admin.TabularInline):  # type: ignore[type-arg]  # not subscriptable at run time
    model = RunInput
    extra = 0
    can_delete = False
    fields = ("name", "model_version", "snapshot", "sha256")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = (
        "__str__",
        "project",
        "kind",
        "state",
        "step",
        "attempt",
        "created_by",
        "created_at",
        "page",
    )
    list_filter = ("state", "kind", "project")
    list_select_related = ("project", "created_by")
    date_hierarchy = "created_at"
    inlines = (InputInline,)
    change_list_template = "admin/training/run/change_list.html"

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        projects = Project.objects.filter(archived_at=None)[:20]
        launch = [
            (project, [(config.title, launch_url(project, kind)) for kind, config in KINDS.items()])
            for project in projects
        ]
        return super().changelist_view(request, {**(extra_context or {}), "launch": launch})


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "project", "kind", "parent", "made_by", "state", "created_at", "page")
    list_filter = ("kind", "state", "project")
    list_select_related = ("project", "parent", "run__project")
    search_fields = ("content_hash", "note")

    @admin.display(description=_("made by"))
    def made_by(self, version: ModelVersion) -> SafeString | str:
        return page_link(version.run, version.run.title) if version.run else "–"


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "project", "kind", "sha256", "created_by", "created_at", "page")
    list_filter = ("kind", "project")
    list_select_related = ("project", "created_by")
    search_fields = ("sha256",)


@admin.register(Review)
class ReviewAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "project", "state", "words", "created_by", "created_at", "page")
    list_filter = ("state", "project")
    list_select_related = ("project", "candidate", "baseline", "created_by")

    @admin.display(description=_("verdict"))
    def words(self, review: Review) -> str:
        return str(review.verdict.get("words", "–"))


@admin.register(Promotion)
class PromotionAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "project", "version_page", "previous", "by", "at", "roll_back", "reason")
    list_filter = ("roll_back", "project")
    list_select_related = ("project", "version__project", "previous", "by")

    @admin.display(description=_("version"))
    def version_page(self, promotion: Promotion) -> SafeString:
        return page_link(promotion.version, str(promotion.version))
