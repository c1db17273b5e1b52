"""What a trainer says in events.jsonl becomes rows of its run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from training.models import Run, RunLog, RunMetric, RunSample

Event = dict[str, Any]
LEVELS = {"log": "info", "warning": "warning", "error": "error"}


def changes(events: Iterable[Event]) -> dict[str, Any]:
    """What the events say about the run itself: phase, step, steps in all, time left."""
    found: dict[str, Any] = {}
    for event in events:
        if event.get("type") == "phase":
            found["phase"] = str(event["phase"])[:80]
        if event.get("type") in ("phase", "metrics"):
            found["step"], found["total_steps"] = int(event["step"]), int(event["total_steps"])
        if event.get("type") == "metrics":
            found["seconds_left"] = event["seconds_left"]
    return found


def save(run: Run, events: Iterable[Event]) -> None:
    """Write metrics, samples and log lines; a step that is done again after a resume overwrites its rows."""
    values: dict[int, dict[str, float]] = {}
    samples: dict[tuple[int, int], RunSample] = {}
    lines: list[RunLog] = []
    for event in events:
        if event.get("type") == "metrics":
            values.setdefault(int(event["step"]), {}).update(event["values"])
        elif event.get("type") == "sample":
            samples[event["step"], event["index"]] = _sample(run, event)
        elif event.get("type") in LEVELS:
            at = datetime.fromtimestamp(event["time"], UTC)
            message = _storable(str(event["message"]))
            lines.append(RunLog(run=run, at=at, level=LEVELS[event["type"]], message=message))
    _save_metrics(run, values)
    RunSample.objects.bulk_create(
        samples.values(),
        update_conflicts=True,
        unique_fields=["run", "step", "index"],
        update_fields=["messages", "completion", "score", "kl"],
    )
    RunLog.objects.bulk_create(lines)


def _save_metrics(run: Run, values: dict[int, dict[str, float]]) -> None:
    """One row a step: what is said of a step later joins what was said before."""
    before = RunMetric.objects.filter(run=run, step__in=values).values_list("step", "values")
    merged = {step: {**old, **values[step]} for step, old in before}
    RunMetric.objects.bulk_create(
        [RunMetric(run=run, step=step, values=merged.get(step, new)) for step, new in values.items()],
        update_conflicts=True,
        unique_fields=["run", "step"],
        update_fields=["values", "at"],
    )


def _sample(run: Run, event: Event) -> RunSample:
    return RunSample(
        run=run,
        step=event["step"],
        index=event["index"],
        messages=[{**message, "content": _storable(message["content"])} for message in event["messages"]],
        completion=_storable(event["completion"]),
        score=event["score"],
        kl=event["kl"],
    )


def _storable(text: str) -> str:
    """PostgreSQL has no NUL in texts."""
    return text.replace("\0", "\ufffd")
