"""Which rows of training the database refuses to change (see feedback/guards.py)."""

from __future__ import annotations

from feedback.guards import PREFERENCES, PREFERENCES_STAY, Guard

SNAPSHOTS = Guard("snapshot_refuses_update", "training_snapshot", "snapshots are frozen")
SNAPSHOTS_STAY = (
    # Plans of reviews name them by number, where no foreign key would hold them.
    Guard("snapshot_refuses_delete", "training_snapshot", "snapshots are frozen", event="DELETE"),
    Guard("snapshot_refuses_truncate", "training_snapshot", "snapshots are frozen", event="TRUNCATE"),
)
REVIEW_PLANS = Guard(
    "review_plan_refuses_update",
    "training_review",
    "the plan of a review is fixed before anybody looks",
    # While completions are written, their number is still to be noted in the plan; there is no way back.
    "OLD.state <> 'sampling' AND (NEW.plan <> OLD.plan OR NEW.state = 'sampling')",
)
ALL = (PREFERENCES, *PREFERENCES_STAY, SNAPSHOTS, *SNAPSHOTS_STAY, REVIEW_PLANS)
