"""Sessions in the database, as Django keeps them, read by a query compiled once: every page reads one."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends import db
from django.utils import timezone

from rlhf_app.prepared import Prepared, moment, text


class SessionStore(db.SessionStore):
    def _get_session_from_db(self) -> Any:
        row = ROW.first(key=self.session_key, now=timezone.now())
        if row is None:
            self._session_key = None
        return row


ROW = Prepared(
    lambda: SessionStore.get_model_class().objects.filter(
        session_key=text("key"), expire_date__gt=moment("now")
    )
)
