"""Pages of feedback: accounts, judging, data, people."""

from django.contrib.auth import views as auth_views
from django.urls import URLPattern, path

from feedback.views import accounts, comparisons, data, imports, judging, people, progress, projects, quality

urlpatterns: list[URLPattern] = [
    # accounts
    path(
        "account/sign-in/",
        auth_views.LoginView.as_view(
            template_name="registration/sign_in.html", redirect_authenticated_user=True
        ),
        name="sign_in",
    ),
    path("account/sign-out/", auth_views.LogoutView.as_view(), name="sign_out"),
    path("account/password/", accounts.password_change, name="password_change"),
    path("account/password/done/", accounts.password_change_done, name="password_change_done"),
    path("invitation/<str:token>/", accounts.accept_invitation, name="accept_invitation"),
    path("sign-in-link/<str:token>/", accounts.use_sign_in_link, name="use_sign_in_link"),
    # judging
    path("p/<slug:slug>/judge/", judging.judge, name="judge"),
    path("p/<slug:slug>/judge/skip/", judging.judge_skip, name="judge_skip"),
    path("p/<slug:slug>/judge/undo/", judging.judge_undo, name="judge_undo"),
    path("p/<slug:slug>/judge/text/", judging.judge_text, name="judge_text"),
    path("p/<slug:slug>/judge/ahead/", judging.judge_ahead, name="judge_ahead"),
    path("p/<slug:slug>/judge/draft/", judging.judge_draft, name="judge_draft"),
    path("p/<slug:slug>/judge/renew/", judging.judge_renew, name="judge_renew"),
    path("p/<slug:slug>/progress/", progress.progress, name="progress"),
    # data
    path("p/<slug:slug>/data/", data.data, name="data"),
    path("p/<slug:slug>/data/prompts/", data.prompt_list, name="prompt_list"),
    path("p/<slug:slug>/data/prompts/<int:pk>/", data.prompt_detail, name="prompt_detail"),
    path("p/<slug:slug>/data/import/", imports.import_upload, name="import_upload"),
    path("p/<slug:slug>/data/imports/<int:pk>/", imports.import_detail, name="import_detail"),
    path("p/<slug:slug>/data/imports/<int:pk>/preview/", imports.import_preview, name="import_preview"),
    path("p/<slug:slug>/data/imports/<int:pk>/status/", imports.import_status, name="import_status"),
    path("p/<slug:slug>/data/imports/<int:pk>/bad-rows/", imports.import_errors, name="import_errors"),
    path("p/<slug:slug>/data/imports/<int:pk>/cancel/", imports.import_cancel, name="import_cancel"),
    path("p/<slug:slug>/data/imports/<int:pk>/again/", imports.import_again, name="import_again"),
    path("p/<slug:slug>/data/export/", data.export_preferences, name="export_preferences"),
    # comparisons
    path("p/<slug:slug>/comparisons/", comparisons.comparisons, name="comparisons"),
    path("p/<slug:slug>/comparisons/put-up/", comparisons.comparisons_put_up, name="comparisons_put_up"),
    path("p/<slug:slug>/comparisons/gold/<int:pk>/make/", comparisons.gold_make, name="gold_make"),
    path(
        "p/<slug:slug>/comparisons/gold/<int:pk>/withdraw/", comparisons.gold_withdraw, name="gold_withdraw"
    ),
    # quality
    path("p/<slug:slug>/quality/", quality.quality, name="quality"),
    path("p/<slug:slug>/quality/disagreements/", quality.disagreement_list, name="disagreements"),
    path("p/<slug:slug>/quality/disagreements/<int:pk>/", quality.adjudication, name="adjudication"),
    path(
        "p/<slug:slug>/quality/disagreements/<int:pk>/next/",
        quality.adjudication_next,
        name="adjudication_next",
    ),
    path(
        "p/<slug:slug>/quality/disagreements/<int:pk>/withdraw/",
        quality.adjudication_withdraw,
        name="adjudication_withdraw",
    ),
    # project
    path("projects/new/", projects.project_create, name="project_create"),
    path("p/<slug:slug>/settings/", projects.project_settings, name="project_settings"),
    path("p/<slug:slug>/guidelines/", projects.guidelines, name="guidelines"),
    path("p/<slug:slug>/people/", people.people, name="people"),
    path("p/<slug:slug>/people/invite/", people.invite, name="invite"),
    path("p/<slug:slug>/people/<int:pk>/role/", people.member_role, name="member_role"),
    path("p/<slug:slug>/people/<int:pk>/remove/", people.member_remove, name="member_remove"),
    path(
        "p/<slug:slug>/people/invitations/<int:pk>/",
        people.invitation_revoke,
        name="invitation_revoke",
    ),
]
