"""Print a link that signs one person in once: the way into a fresh installation, or back in."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.urls import reverse

from feedback.models import AuditEntry, SignInLink, User


class Command(BaseCommand):
    help = "Print a single-use link that signs USERNAME in. Nothing but the link is printed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--base-url", default="http://127.0.0.1:8000", help="where the web process listens"
        )
        parser.add_argument("--days", type=int, default=1, help="how long the link works (default: 1 day)")

    def handle(self, *args: Any, **options: Any) -> None:
        base_url: str = options["base_url"]
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CommandError(f"--base-url: found {base_url!r}, wanted http://host:port or https://host")
        if not 1 <= options["days"] <= 30:
            raise CommandError(f"--days: found {options['days']}, wanted 1 to 30")
        user = User.objects.filter(username=options["username"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active account {options['username']!r}.")
        link = SignInLink(user=user)
        token = link.new_token(days=options["days"])
        with transaction.atomic():
            link.save()
            AuditEntry.record(None, "sign_in_link.created", link, username=user.username)
        self.stdout.write(urljoin(base_url, reverse("use_sign_in_link", args=[token])))
