"""What every test shares: an artefact folder of its own, a recorded doorbell, people with roles."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.db import connection
from django.test import Client
from django.utils import translation

from feedback import audit, guards
from feedback.models import Project, Role, User
from tests import factories
from training.guards import ALL as ALL_GUARDS

LEFT_OUT: list[str] = []
"""Guards that were not there when all migrations had run."""


@pytest.fixture(autouse=True)
def artifact_root(tmp_path: Path, settings: Any) -> Path:
    """An empty ARTIFACT_ROOT for each test."""
    settings.ARTIFACT_ROOT = tmp_path / "artifacts"
    settings.ARTIFACT_ROOT.mkdir()
    return settings.ARTIFACT_ROOT


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """Tests empty tables and set the scene by changing rows, which the product's triggers would refuse."""
    with django_db_blocker.unblock():
        LEFT_OUT.extend(guards.missing(connection, ALL_GUARDS))
        audit.remove_triggers(connection)
        guards.remove(connection, ALL_GUARDS)


Rings = list[tuple[str, tuple[Any, ...]]]


@pytest.fixture(autouse=True)
def doorbell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rings:
    """(task name, arguments) of messages that would have been sent; tests marked `processes` send them."""
    rings: Rings = []

    def ring(self: Celery, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> None:
        assert not kwargs, "a message carries an id and nothing else"
        rings.append((name, tuple(args or ())))

    if "processes" not in request.keywords:
        monkeypatch.setattr(Celery, "send_task", ring)  # Task.delay ends there too
    return rings


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """A language in which everything that went through gettext is in capitals."""

    def capitals(text: str) -> str:
        parts = re.split(r"(%(?:\(\w+\))?\d*[a-zA-Z])", text)
        return "".join(part if part.startswith("%") else part.upper() for part in parts)

    monkeypatch.setattr(translation._trans, "gettext", capitals)


@pytest.fixture
def project(db: None) -> Project:
    return factories.make_project()


@pytest.fixture
def annotator(project: Project) -> User:
    return factories.make_member(project=project, role=Role.ANNOTATOR)


@pytest.fixture
def reviewer(project: Project) -> User:
    return factories.make_member(project=project, role=Role.REVIEWER)


@pytest.fixture
def engineer(project: Project) -> User:
    return factories.make_member(project=project, role=Role.ENGINEER)


@pytest.fixture
def admin(project: Project) -> User:
    return factories.make_member(project=project, role=Role.ADMIN)


@pytest.fixture
def outsider(db: None) -> User:
    """Signed in, an admin somewhere else, and a member of nothing that a test looks at."""
    return factories.make_member(project=factories.make_project(), role=Role.ADMIN)


@pytest.fixture
def sign_in() -> Callable[[User], Client]:
    """`sign_in(user)` is a browser of that person's own."""

    def browser_of(user: User) -> Client:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return browser_of
