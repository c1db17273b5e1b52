"""Pages of training: loop, runs, versions, reviews."""

from django.urls import path

from training.views import loop, reviews, runs, versions

urlpatterns = [
    path("p/<slug:slug>/", loop.loop, name="loop"),
    # runs
    path("p/<slug:slug>/runs/", runs.run_list, name="run_list"),
    path("p/<slug:slug>/runs/new/<str:kind>/", runs.run_launch, name="run_launch"),
    path("p/<slug:slug>/runs/<int:pk>/", runs.run_detail, name="run_detail"),
    path("p/<slug:slug>/runs/<int:pk>/status/", runs.run_status, name="run_status"),
    path("p/<slug:slug>/runs/<int:pk>/metrics/", runs.run_metrics, name="run_metrics"),
    path("p/<slug:slug>/runs/<int:pk>/cancel/", runs.run_cancel, name="run_cancel"),
    path("p/<slug:slug>/snapshots/<int:pk>/", runs.snapshot_detail, name="snapshot_detail"),
    path("p/<slug:slug>/snapshots/<int:pk>/file/", runs.snapshot_file, name="snapshot_file"),
    # versions
    path("p/<slug:slug>/versions/", versions.version_list, name="version_list"),
    path("p/<slug:slug>/versions/compare/", versions.version_compare, name="version_compare"),
    path("p/<slug:slug>/versions/write/", versions.version_write, name="version_write"),
    path("p/<slug:slug>/versions/roll-back/", versions.version_rollback, name="version_rollback"),
    path("p/<slug:slug>/versions/<int:pk>/", versions.version_detail, name="version_detail"),
    path("p/<slug:slug>/versions/<int:pk>/promote/", versions.version_promote, name="version_promote"),
    # reviews
    path("p/<slug:slug>/reviews/new/", reviews.review_create, name="review_create"),
    path("p/<slug:slug>/reviews/<int:pk>/", reviews.review_detail, name="review_detail"),
    path("p/<slug:slug>/reviews/<int:pk>/status/", reviews.review_status, name="review_status"),
    path("p/<slug:slug>/reviews/<int:pk>/close/", reviews.review_close, name="review_close"),
]
