"""Runs with the trail that a trainer leaves: metrics of each step, sample texts, a log."""

from __future__ import annotations

import hashlib
import math
import random
from datetime import timedelta
from typing import Any

from django.utils import timezone

from feedback.models import Project, User
from tests import factories
from training import starter
from training.models import Run, RunLog, RunMetric, RunSample


def answer(index: int, voice: str) -> str:
    """What this voice of the starter grammar says in case `index`."""
    draw = random.Random(f"seeded case {index}")
    case = starter._case(draw)
    parts = starter.VOICES[voice].speak(random.Random(f"{index} {voice}"), case)
    return " ".join(starter._fill(part, case) for part in parts if part)


def make_run(
    project: Project,
    kind: str,
    inputs: dict[str, Any],
    *,
    by: User,
    steps: int,
    step: int | None = None,
    state: str = Run.State.DONE,
    finished: int = 0,
) -> Run:
    """A run with metrics, samples and log up to `step`; `finished` is in hours ago."""
    now = timezone.now()
    step = steps if step is None else step
    started = now - timedelta(hours=finished, minutes=9)
    config = (
        {"steps": steps, "kl_limit": 12.0, "learning_rate": 1e-4, "temperature": 1.0}
        if kind == "ppo"
        else {"epochs": 1}
    )
    made = factories.make_run(
        project=project,
        kind=kind,
        inputs=inputs,
        config=config,
        seed=project.runs.count(),
        state=state,
        step=step,
        total_steps=steps,
        created_by=by,
        attempt=0 if state == Run.State.QUEUED else 1,
    )
    times: dict[str, Any] = {"created_at": started - timedelta(seconds=8)}
    if state != Run.State.QUEUED:
        times |= {"started_at": started, "worker": "train@gpu-1"}
        trail(made, kind, step)
    if made.ended:
        times["finished_at"] = now - timedelta(hours=finished)
        times["outcome"] = {"status": "cancelled" if state == Run.State.CANCELLED else "done"}
    if state == Run.State.RUNNING:
        times |= {
            "phase": "training",
            "seconds_left": 190.0,
            "heartbeat_at": now,
            "lease_expires_at": now + timedelta(hours=2),
            "fencing_token": 1,
            "pid": 4711,
        }
    Run.objects.filter(pk=made.pk).update(**times)
    return Run.objects.get(pk=made.pk)


def beat() -> None:
    """What a supervisor does every few seconds: the pages are looked at for minutes."""
    Run.objects.filter(state=Run.State.RUNNING).update(heartbeat_at=timezone.now())


def wiggle(name: str, step: int) -> float:
    """A number in -1..1 that depends only on its arguments."""
    return int(hashlib.sha256(f"{name} {step}".encode()).hexdigest()[:8], 16) / 2**31 - 1


def values(kind: str, step: int) -> dict[str, float]:
    rise = 1 - math.exp(-step / 30)
    if kind == "sft":
        return {
            "train/loss": 3.4 * math.exp(-step / 50) + 1.1 + 0.05 * wiggle("a", step),
            "held_out/loss": 3.4 * math.exp(-step / 50) + 1.2,
        }
    if kind == "reward_model":
        return {
            "train/loss": 0.7 - 0.2 * rise,
            "train/accuracy": 0.5 + 0.25 * rise + 0.03 * wiggle("b", step),
            "held_out/accuracy": 0.5 + 0.21 * rise,
        }
    if kind == "ppo":
        return {
            "reward/mean": 0.1 + 1.5 * rise + 0.1 * wiggle("r", step),
            "reward/score": 0.1 + 1.8 * rise + 0.1 * wiggle("s", step),
            "kl/reference": 8 * rise + 0.3 * wiggle("k", step),
            "value/explained_variance": 0.75 * rise + 0.04 * wiggle("v", step),
            "policy/loss": -0.02 + 0.01 * wiggle("p", step),
            "value/loss": 0.4 * math.exp(-step / 20) + 0.05,
            "policy/clip_fraction": 0.12 + 0.03 * wiggle("c", step),
            "policy/entropy": 2.6 - 0.9 * rise,
            "completion/length": 31 + 6 * rise + 2 * wiggle("l", step),
            "time/rollout": 1.4,
            "time/update": 2.3,
        }
    return {}


def trail(made: Run, kind: str, last: int) -> None:
    """What the trainer told the supervisor: metrics of each step, sample texts at some, a log."""
    now = timezone.now()
    every = 5 if kind == "sft" else 1
    RunMetric.objects.bulk_create(
        RunMetric(run=made, step=step, values=found)
        for step in range(every, last + 1, every)
        if (found := values(kind, step))
    )
    lines = [
        ("info", f"{kind} of {made.inputs.count()} inputs, seed {made.seed}"),
        ("info", f"checkpoint step {last // 5 * 5} written, 52 MB"),
        ("warning", "clip fraction 0.31 at step 6: the steps are large"),
    ]
    RunLog.objects.bulk_create(
        RunLog(run=made, at=now - timedelta(seconds=40 - 9 * n), level=level, message=text)
        for n, (level, text) in enumerate(lines)
    )
    if kind not in ("ppo", "sft"):
        return
    shown = sorted({0, last // 3, 2 * last // 3, last})
    for index in range(3):
        case = starter._case(random.Random(f"seeded case {index}"))
        for place, step in enumerate(shown):
            RunSample.objects.create(
                run=made,
                step=step,
                index=index,
                messages=case.messages,
                completion=answer(index, ("evasive", "curt", "precise", "warm")[place % 4]),
                score=None if kind == "sft" else round(-0.4 + 0.5 * place + 0.1 * index, 2),
                kl=None if kind == "sft" else round(1.9 * place, 1),
            )
