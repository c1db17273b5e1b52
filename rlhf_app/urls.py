"""The URL map. URL name = view name = template name."""

from django.contrib import admin
from django.urls import include, path

from rlhf_app import views

urlpatterns = [
    path("", views.home, name="home"),
    path("health/", views.health, name="health"),
    path("admin/", views.admin_index, name="admin_index"),
    path("admin/", admin.site.urls),
    path("", include("feedback.urls")),
    path("", include("training.urls")),
]

handler500 = "rlhf_app.views.server_error"
