"""Every page of the site as a visitor sees it. A named address is here, or named as no page with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.contrib.admin import site
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from playwright.sync_api import Page as BrowserPage

from tests.browser.seed import Seeded
from training.core.configs import KINDS


@dataclass(frozen=True)
class Page:
    """One picture: the address, who looks (None: signed out), and what is done before it is taken."""

    name: str
    """URL name, and after a dot which state of the page it is."""
    path: str
    visitor: str | None = "ana"
    prepare: Callable[[BrowserPage], object] | None = None
    status: int = 200


NO_PAGE = {
    "health": "JSON for machines",
    "sign_out": "takes POST only",
    "judge_skip": "takes POST only",
    "judge_undo": "takes POST only",
    "judge_renew": "takes POST only",
    "comparisons_put_up": "takes POST only",
    "gold_make": "takes POST only",
    "gold_withdraw": "takes POST only",
    "adjudication_withdraw": "takes POST only",
    "adjudication_next": "leads to another page",
    "judge_text": "JSON for the judging page",
    "judge_ahead": "takes POST only",
    "judge_draft": "takes POST only",
    "import_cancel": "takes POST only",
    "import_again": "takes POST only",
    "import_status": "a part of import_detail",
    "import_errors": "a download",
    "export_preferences": "a download",
    "invite": "takes POST only",
    "member_role": "takes POST only",
    "member_remove": "takes POST only",
    "invitation_revoke": "takes POST only",
    "run_status": "a part of run_detail",
    "run_metrics": "JSON for the charts",
    "run_cancel": "takes POST only",
    "snapshot_file": "a download",
    "version_write": "takes POST only",
    "review_status": "a part of review_detail",
    "review_close": "takes POST only",
}


def named_addresses() -> set[str]:
    """The names in the URL map; the admin keeps its own in a namespace and is represented by a few pages."""

    def names(patterns: list[URLPattern | URLResolver]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            if isinstance(pattern, URLResolver):
                found |= set() if pattern.namespace else names(pattern.url_patterns)
            elif pattern.name:
                found.add(pattern.name)
        return found

    return names(get_resolver().url_patterns)


def pages(done: Seeded) -> list[Page]:
    return [page for section in SECTIONS.values() for page in section(done)]


def signed_out(done: Seeded) -> list[Page]:
    return [
        Page("sign_in", reverse("sign_in"), None),
        Page("sign_in.refused", reverse("sign_in"), None, refused_sign_in),
        Page("accept_invitation", reverse("accept_invitation", args=[done.invitation]), None),
        Page("accept_invitation.used", reverse("accept_invitation", args=["used"]), None, status=404),
        Page("accept_invitation.join", reverse("accept_invitation", args=[done.invitation]), "newcomer"),
        Page("use_sign_in_link", reverse("use_sign_in_link", args=[done.sign_in_link]), None),
    ]


def outside_projects(_done: Seeded) -> list[Page]:
    return [
        Page("home", reverse("home")),
        Page("home.annotator", reverse("home"), "mei"),
        Page("home.empty", reverse("home"), "newcomer"),
        Page("home.menu", reverse("home"), "ana", open_account_menu),
        Page("password_change", reverse("password_change")),
        Page("password_change.refused", reverse("password_change"), "ana", refused_password),
        Page("password_change_done", reverse("password_change_done")),
        Page("project_create", reverse("project_create")),
    ]


def in_project(done: Seeded) -> list[Page]:
    slug = [done.project.slug]
    prompt = done.project.prompts.order_by("pk").first()
    assert prompt is not None
    imports = [
        Page(f"import_detail.{name}", reverse("import_detail", args=[*slug, row.pk]), "eva")
        for name, row in done.imports.items()
    ]
    return [
        Page("loop", reverse("loop", args=slug)),
        Page("loop.empty", reverse("loop", args=["translations"])),
        Page("judge", reverse("judge", args=slug), "mei"),
        Page(
            "judge.chosen",
            reverse("judge", args=slug),
            "mei",
            lambda page: (page.keyboard.press("2"), page.keyboard.press("o")),
        ),
        Page("judge.skip", reverse("judge", args=slug), "mei", lambda page: page.keyboard.press("s")),
        Page("judge.guidelines", reverse("judge", args=slug), "mei", lambda page: page.keyboard.press("h")),
        Page("judge.keys", reverse("judge", args=slug), "mei", lambda page: page.keyboard.press("?")),
        Page("judge.edit", reverse("judge", args=slug), "mei", improve),
        Page("judge.ranking", reverse("judge", args=["code-ranking"]), "mei", rank_some),
        Page("judge.ranking_formatted", reverse("judge", args=["code-ranking"]), "mei", show_formatted),
        Page("judge.rating", reverse("judge", args=["code-rating"]), "mei", rate_some),
        Page("judge.rating_differences", reverse("judge", args=["code-rating"]), "mei", show_differences),
        Page("judge.demonstration", reverse("judge", args=["code-demonstration"]), "mei"),
        Page("progress.ranking", reverse("progress", args=["code-ranking"]), "mei"),
        Page("judge.empty", reverse("judge", args=["translations"])),
        Page("progress", reverse("progress", args=slug), "mei"),
        Page("progress.empty", reverse("progress", args=["translations"])),
        Page("data", reverse("data", args=slug)),
        Page("data.empty", reverse("data", args=["translations"])),
        Page("prompt_list", reverse("prompt_list", args=slug)),
        Page("prompt_detail", reverse("prompt_detail", args=[*slug, prompt.pk])),
        Page("import_upload", reverse("import_upload", args=slug), "eva"),
        Page("import_preview", reverse("import_preview", args=[*slug, done.imports["uploaded"].pk]), "eva"),
        Page("import_upload.refused", reverse("import_upload", args=slug), "eva", submit_without_file),
        *imports,
        Page("guidelines", reverse("guidelines", args=slug)),
        Page("guidelines.annotator", reverse("guidelines", args=slug), "mei"),
        Page("people", reverse("people", args=slug)),
        Page("comparisons", reverse("comparisons", args=slug), "eva"),
        Page("comparisons.empty", reverse("comparisons", args=["code-demonstration"])),
        Page("project_settings", reverse("project_settings", args=slug)),
    ]


def quality(done: Seeded) -> list[Page]:
    """Figures, disagreements and decisions, of each kind of judgement; and where there is nothing yet."""
    slug = ["opinions"]
    listing = reverse("disagreements", args=slug)
    assert done.opinions is not None
    decided, *others = done.opinions.comparisons.order_by("pk")
    of_kind = {row.kind: row for row in others}
    return [
        Page("quality", reverse("quality", args=slug)),
        Page("quality.simulated", reverse("quality", args=slug) + "?by=simulated", "ana"),
        Page("quality.alone", reverse("quality", args=[done.project.slug]), "ravi"),
        Page("quality.empty", reverse("quality", args=["translations"])),
        Page("disagreements", listing),
        Page("disagreements.decided", f"{listing}?show=decided"),
        Page("disagreements.empty", reverse("disagreements", args=["translations"])),
        Page("adjudication.decided", reverse("adjudication", args=[*slug, decided.pk])),
        *(
            Page(f"adjudication.{kind}", reverse("adjudication", args=[*slug, row.pk]))
            for kind, row in of_kind.items()
        ),
    ]


def runs(done: Seeded) -> list[Page]:
    slug = [done.project.slug]
    details = [
        Page(f"run_detail.{name}", reverse("run_detail", args=[*slug, run.pk]))
        for name, run in done.runs.items()
    ]
    launches = [Page(f"run_launch.{kind}", reverse("run_launch", args=[*slug, kind])) for kind in KINDS]
    snapshot = done.snapshots["preferences"]
    return [
        Page("run_list", reverse("run_list", args=slug)),
        Page("run_list.empty", reverse("run_list", args=["translations"])),
        *launches,
        Page("run_launch.missing", reverse("run_launch", args=["translations", "ppo"])),
        *details,
        Page("snapshot_detail", reverse("snapshot_detail", args=[*slug, snapshot.pk])),
    ]


def versions(done: Seeded) -> list[Page]:
    slug = [done.project.slug]
    v0, v1, v2 = (done.versions[name].pk for name in ("v0", "v1", "v2"))
    compare = reverse("version_compare", args=slug)
    details = [
        Page(f"version_detail.{name}", reverse("version_detail", args=[*slug, row.pk]))
        for name, row in done.versions.items()
    ]
    reviews = [
        Page(f"review_detail.{name}", reverse("review_detail", args=[*slug, row.pk]))
        for name, row in done.reviews.items()
    ]
    return [
        Page("version_list", reverse("version_list", args=slug)),
        Page("version_list.empty", reverse("version_list", args=["translations"])),
        *details,
        Page("version_compare", f"{compare}?a={v0}&b={v1}&sort=gain&diff=1"),
        Page("version_compare.empty", compare),
        Page("version_promote", reverse("version_promote", args=[*slug, v2])),
        Page("version_rollback", reverse("version_rollback", args=slug)),
        Page("review_create", f"{reverse('review_create', args=slug)}?candidate={v2}&baseline={v0}"),
        *reviews,
    ]


def admin(done: Seeded) -> list[Page]:
    """The first page, sign-in, and for each table of ours its list and the form of one row."""
    listed = [Page("admin_index", reverse("admin_index")), Page("admin.login", reverse("admin:login"), None)]
    for model in sorted(site._registry, key=lambda model: model._meta.label_lower):
        if model._meta.app_label not in ("feedback", "training"):
            continue
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        listed.append(Page(f"admin.{name}", reverse(f"admin:{name}_changelist")))
        row = model._default_manager.first()
        if row:
            listed.append(Page(f"admin.{name}.row", reverse(f"admin:{name}_change", args=[row.pk])))
    return listed


def errors(_done: Seeded) -> list[Page]:
    return [
        Page("404", "/no/such/page/", status=404),
        Page("404.signed_out", "/no/such/page/", None, status=404),
        Page("404.foreign", reverse("people", args=["support-desk"]), "mei", status=404),
        *(Page(str(status), f"/on-purpose/{status}/", status=status) for status in (400, 403, 500, 503)),
        Page("403.csrf", "/on-purpose/csrf/", status=403),
        Page("locked_out", "/on-purpose/locked-out/", None, status=429),
    ]


# --- what visitors do -------------------------------------------------------------------------------


def refused_sign_in(page: BrowserPage) -> None:
    page.get_by_label("Username").fill("mei")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.locator(".errors").wait_for()


def refused_password(page: BrowserPage) -> None:
    for name in ("old_password", "new_password1", "new_password2"):
        page.locator(f"[name={name}]").fill("12345")
    page.get_by_role("button", name="Save password").click()
    page.locator(".errors").first.wait_for()


def submit_without_file(page: BrowserPage) -> None:
    page.locator("main form").first.evaluate("form => { form.noValidate = true; form.requestSubmit(); }")
    page.locator(".errors").first.wait_for()


def improve(page: BrowserPage) -> None:
    page.keyboard.press("e")
    page.locator("[data-edit] textarea").wait_for()


def rank_some(page: BrowserPage) -> None:
    for key in ("2", "=", "1", "4"):
        page.keyboard.press(key)


def rate_some(page: BrowserPage) -> None:
    for key in "45":
        page.keyboard.press(key)


def show_formatted(page: BrowserPage) -> None:
    look(page, "m")


def show_differences(page: BrowserPage) -> None:
    look(page, "d")


def look(page: BrowserPage, letter: str) -> None:
    """In this view alone: the next page by the same visitor starts plain."""
    page.keyboard.press(letter)
    page.locator(f"[data-view={letter}][aria-pressed=true]").wait_for()
    page.context.clear_cookies(name="judge_view")


def open_account_menu(page: BrowserPage) -> None:
    page.locator("details.drop summary").last.click()


SECTIONS: dict[str, Callable[[Seeded], list[Page]]] = {
    "signed out": signed_out,
    "outside projects": outside_projects,
    "in a project": in_project,
    "quality": quality,
    "runs": runs,
    "versions": versions,
    "admin": admin,
    "errors": errors,
}
