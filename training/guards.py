"""Which rows of training the database refuses to change (see feedback/guards.py)."""

from __future__ import annotations

from feedback.guards import Guard

SNAPSHOTS = Guard("snapshot_refuses_update", "training_snapshot", "snapshots are frozen")
REVIEW_PLANS = Guard(
    "review_plan_refuses_update",
    "training_review",
    "the plan of a review is fixed before anybody looks",
    # While completions are written, their number is still to be noted in the plan.
    "OLD.state <> 'sampling' AND NEW.plan <> OLD.plan",
)
