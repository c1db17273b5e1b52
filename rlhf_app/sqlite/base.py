"""Django's SQLite backend; the threads of one process that want to write queue for it.

SQLite lets a writer who finds the database locked sleep and look again, ever longer: whoever comes while the
lock is free gets it first, and with twenty people at once some waited seconds. Here the threads of a process
wait for each other at a lock that wakes them. Other processes are met as before, by SQLite's own lock.
"""

from __future__ import annotations

import threading
from typing import Any

from django.db.backends.sqlite3 import base

TURN = threading.Lock()
"""Held from BEGIN IMMEDIATE to the end of the transaction."""


class DatabaseWrapper(base.DatabaseWrapper):
    """One connection. Whoever waits longer than the timeout asks SQLite, which says "locked"."""

    holds_turn = False

    def _start_transaction_under_autocommit(self) -> None:
        self.holds_turn = TURN.acquire(timeout=self.settings_dict["OPTIONS"].get("timeout", 5))
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._give_turn()
            raise

    def _give_turn(self) -> None:
        if self.holds_turn:
            self.holds_turn = False
            TURN.release()

    def _commit(self) -> Any:
        super()._commit()  # type: ignore[misc]  # the stubs leave these out
        self._give_turn()  # not after an error: the transaction is still open, and is rolled back

    def _rollback(self) -> Any:
        try:
            return super()._rollback()  # type: ignore[misc]
        finally:
            self._give_turn()

    def _close(self) -> Any:
        try:
            return super()._close()  # type: ignore[misc]
        finally:
            self._give_turn()
