"""`./run e2e`: the whole loop with real processes, from a clean checkout to a better model, measured.

Four parts, each with its own figures: the loop itself, driven in a browser; a run whose trainer and worker
are killed; a queue of ten thousand comparisons; a control whose preferences are coin flips, and the same
coins turned over. Prints one JSON object as its last line. Bars in seconds are those of the machine they were
set on, times how much slower this one is (`benchmarks/yardstick.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import psutil

from benchmarks.browser import Admin, browser
from benchmarks.installation import Installation, installation, measured
from benchmarks.judging_site import make_project
from benchmarks.yardstick import slowness

PROJECT = "support-desk"
JUDGED_BY_HAND = 20
JUDGEMENTS = 200
REVIEW_PROMPTS = 300
NOISE = 0.1
"""Share of the training judgements that is turned round; the reviewers say what they mean."""
ENDS = ("reward/mean", "kl/reference", "policy/entropy", "final/reward/mean", "final/kl/reference")
"""`final/...` is measured with the weights that are saved; the others before the last update."""
WIN_RATE = 0.7
"""Of blind comparisons with the starter, in the mean of at most two roads: one road's rate differs by five
points with the judgements that happen to be made (seven of them: 66 to 82 %)."""
LIMITS = {
    "demo_ready_seconds": 300.0,
    "loop_seconds": 600.0,
    "launch_to_first_metric_seconds": 15.0,
    "stop_seconds": 5.0,
    "second_start_seconds": 8.0,
}
"""On the machine of the yardstick."""


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


# --- the loop ---------------------------------------------------------------------------------------


def the_loop(installed: Installation, admin: Admin, begin: float) -> dict[str, Any]:
    """Judge, train, optimise, review, promote, write again; returns what was seen."""
    from training.models import PromotedVersion, Run

    figures: dict[str, Any] = {}
    admin.sign_in(installed.sign_in)
    figures["judged_by_keyboard_seconds"] = admin.judge_by_keyboard(PROJECT, JUDGED_BY_HAND)
    figures["simulated"] = installed.simulate(PROJECT, JUDGEMENTS, noise=NOISE, seed=1)
    say("the judgements are in")

    reward_run = admin.launch_and_watch(PROJECT, "reward_model")
    figures["reward_model"] = {"seconds": seconds(reward_run), **reward_run.version.metrics}
    policy_run = admin.launch_and_watch(PROJECT, "ppo")
    figures["ppo"] = {"seconds": seconds(policy_run), **ends(policy_run)}
    figures["launch_to_first_metric_seconds"] = max(first_metric(reward_run), first_metric(policy_run))
    limit = policy_run.config["kl_limit"]
    figures["kl_within_limit"] = figures["ppo"]["final/kl/reference"] <= limit
    say(f"policy {policy_run.version}: {figures['ppo']}")

    figures["review"] = reviewed(installed, PROJECT, policy_run.version, seed=2)
    review = figures["review"]
    figures["wins"] = won([review])
    admin.compare(PROJECT, policy_run.version)
    admin.promote(PROJECT, policy_run.version)
    figures["promoted"] = (
        PromotedVersion.objects.get(project__slug=PROJECT).version_id == policy_run.version.pk
    )
    figures["loop_seconds"] = round(time.monotonic() - begin, 1)

    written = admin.launch_and_watch(PROJECT, "sample")
    read = Run.objects.get(pk=written.pk).inputs.get(name="policy").model_version
    figures["the_promoted_version_writes_next"] = (
        read == policy_run.version and read.completions.filter(sampling__run=written.pk).exists()
    )
    return figures


def won(reviews: list[dict[str, Any]]) -> bool:
    """Whether the new versions win often enough on average, and each of them beyond chance."""
    rates = [review["win_rate"] for review in reviews]
    return sum(rates) / len(rates) >= WIN_RATE and all(review["low"] > 0.5 for review in reviews)


def once_more(installed: Installation) -> dict[str, Any]:
    """The same road on other judgements, for when the first one misses its bar."""
    project = project_with_starter("once-more")
    run(project, "sample", compare=True)
    installed.simulate(project.slug, JUDGEMENTS, noise=NOISE, seed=5)
    return learned_from(installed, project)


def reviewed(installed: Installation, slug: str, candidate: Any, *, seed: int) -> dict[str, Any]:
    """A blind review of `candidate` beside the promoted version, by annotators who never judged before."""
    from feedback.models import Project
    from training import registry, review
    from training.models import Review

    project = Project.objects.get(slug=slug)
    plan = review.plan(
        project, candidate, registry.promoted(project), actor=None, prompts=REVIEW_PROMPTS, seed=seed
    )
    deadline = time.monotonic() + 180
    while plan.state == Review.State.SAMPLING and time.monotonic() < deadline:
        time.sleep(1)
        plan.refresh_from_db()
    progress = review.progress(plan)
    installed.simulate(slug, progress.planned, noise=0.0, seed=100 + seed, name="fresh")
    verdict = review.close(plan, actor=None).verdict
    return {key: verdict[key] for key in ("win_rate", "low", "high", "wins", "ties", "losses", "words")}


# --- the control ------------------------------------------------------------------------------------


def the_control(installed: Installation) -> dict[str, Any]:
    """The same road on coin flips, and once more on the same coins turned over: no win in both.

    A reward model of two hundred coins leans somewhere by chance, and a policy may follow it to a better
    place; with the coins turned over it leans the other way. Whoever wins both has seen the taste elsewhere.
    """
    coins = project_with_starter("coins")
    run(coins, "sample", compare=True)
    installed.simulate(coins.slug, JUDGEMENTS, noise=0.0, seed=3, shuffled=True)
    figures = {"coins": learned_from(installed, coins)}
    turned = project_with_starter("turned")
    file = installed.folder / "turned.jsonl"
    file.write_text(turned_over(coins), encoding="utf-8")
    installed.manage("import_file", turned.slug, str(file))
    figures["turned"] = learned_from(installed, turned)
    return {**figures, "no_win": min(found["review"]["low"] for found in figures.values()) <= 0.5}


def project_with_starter(slug: str) -> Any:
    """The demo's prompts and starter model, in a project of its own."""
    from feedback.models import Project, Prompt
    from training import registry
    from training.models import ModelVersion

    demo = Project.objects.get(slug=PROJECT)
    starter = ModelVersion.objects.get(project=demo, kind="base", run__isnull=False)
    project = Project.objects.create(name=slug, slug=slug, overlap=1)
    for prompt in demo.prompts.all():
        Prompt.objects.create(project=project, messages=prompt.messages, split=prompt.split)
    base = registry.register_base(project, starter.path, actor=None, note="the starter")
    registry.promote(base, actor=None, reason="the control starts from the starter", expected=None)
    return project


def run(project: Any, kind: str, **purpose: Any) -> Any:
    from training.launch import default_inputs, launch, wait

    inputs = default_inputs(project, kind, actor=None)
    done = wait(launch(project, kind, {}, actor=None, seed=7, inputs=inputs, purpose=purpose), seconds=600)
    if done.state != "done":
        raise RuntimeError(f"{project}: {kind} ended as {done.state}: {done.outcome}")
    return done


def learned_from(installed: Installation, project: Any) -> dict[str, Any]:
    """How the policy of a project's judgements does."""
    run(project, "reward_model")
    policy_run = run(project, "ppo")
    return {"review": reviewed(installed, project.slug, policy_run.version, seed=4), **ends(policy_run)}


def turned_over(project: Any) -> str:
    """The pairs that a project's reward model learned from, the other way round, as JSONL."""
    from training.models import RunInput

    read = RunInput.objects.get(run__project=project, run__kind="reward_model", name="snapshot").snapshot
    pairs = map(json.loads, read.path.read_text(encoding="utf-8").splitlines())
    rows = (
        {"prompt": pair["prompt"], "chosen": said(pair["rejected"]), "rejected": said(pair["chosen"])}
        for pair in pairs
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# --- the faults -------------------------------------------------------------------------------------


def the_faults(installed: Installation) -> dict[str, Any]:
    """Kill -9 the trainer, then the worker's whole tree, in the middle of PPO; the bytes must not change."""
    from feedback.models import Project
    from training.launch import default_inputs, launch, wait

    project = Project.objects.get(slug=PROJECT)
    inputs = default_inputs(project, "ppo", actor=None)
    config = {"steps": 12, "checkpoint_every": 2, "rollout_prompts": 32, "minibatches": 1}

    calm = wait(launch(project, "ppo", config, actor=None, seed=5, inputs=inputs), seconds=300)
    hurt = launch(project, "ppo", config, actor=None, seed=5, inputs=inputs)
    wait_for_step(hurt, 3)
    killed = time.monotonic()
    psutil.Process(hurt.pid).kill()
    after_trainer = resumed(hurt, killed)
    wait_for_step(hurt, 7)
    killed = time.monotonic()
    kill_tree(psutil.Process(hurt.pid).parent())
    after_worker = resumed(hurt, killed)
    hurt = wait(hurt, seconds=300)
    return {
        "resumed_after_trainer_kill_seconds": after_trainer,
        "resumed_after_worker_kill_seconds": after_worker,
        "within_90_seconds": max(after_trainer, after_worker) < 90,
        "same_output": calm.version.content_hash == hurt.version.content_hash,
        "attempts": hurt.attempt,
    }


def wait_for_step(run: Any, step: int, *, limit: float = 240) -> None:
    deadline = time.monotonic() + limit
    while run.step < step or not run.pid:
        if time.monotonic() > deadline or run.ended:
            raise RuntimeError(
                f"run {run.pk} is {run.state} at step {run.step}, wanted {step}: {run.outcome}"
            )
        time.sleep(0.1)
        run.refresh_from_db()


def kill_tree(worker: psutil.Process) -> None:
    """Celery's pool process, the worker above it and everything they started, with SIGKILL."""
    parent = worker.parent()
    tree = (
        [parent, *parent.children(recursive=True)]
        if parent and "celery" in " ".join(parent.cmdline())
        else [worker]
    )
    for process in tree:
        process.kill()


def resumed(run: Any, since: float, *, limit: float = 120) -> float:
    """Seconds from the kill until another trainer has taken a step."""
    old = run.pid
    begin_step = run.step
    while time.monotonic() - since < limit:
        run.refresh_from_db()
        if run.pid and run.pid != old and (run.step > begin_step or run.ended):
            return round(time.monotonic() - since, 1)
        time.sleep(0.1)
    raise RuntimeError(f"run {run.pk} did not resume within {limit} s: {run.state} at step {run.step}")


# --- the queue --------------------------------------------------------------------------------------


def the_queue(installed: Installation, comparisons: int = 10_000) -> dict[str, Any]:
    """One annotator, no thinking time, in a project of ten thousand open comparisons; over HTTP."""
    make_project("many", comparisons, overlap=1)
    summary = installed.simulate("many", 200, noise=0.1, seed=9, annotators=1)
    return {
        "comparisons": comparisons,
        **{key: summary[key] for key in ("judged", "next_ms_p50", "next_ms_p95")},
    }


# --- figures ----------------------------------------------------------------------------------------


def seconds(run: Any) -> float:
    return round((run.finished_at - run.started_at).total_seconds(), 1)


def first_metric(run: Any) -> float:
    """Seconds from the launch to the first row of metrics."""
    return round((run.metrics.order_by("step").first().at - run.created_at).total_seconds(), 1)


def ends(run: Any) -> dict[str, float]:
    """The metrics that tell how a policy run ended."""
    last = run.metrics.order_by("step").last().values
    return {name: round(last[name], 3) for name in ENDS if name in last}


def memory(installed: Installation) -> dict[str, float]:
    """MiB of resident memory of the web process."""
    assert installed.process
    family = psutil.Process(installed.process.pid).children(recursive=True)
    web = [process for process in family if "uvicorn" in " ".join(process.cmdline())]
    return {"web_mib": round(max(process.memory_info().rss for process in web) / 2**20, 1)}


def measure(figures: dict[str, Any], parts: list[str]) -> bool:
    passed: dict[str, bool] = {}
    figures["passed"] = passed
    slow = slowness()
    with installation() as installed:
        begin = time.monotonic()
        figures["demo_ready_seconds"] = round(installed.start(), 1)
        installed.use_models()
        if "loop" in parts:
            with browser() as page:
                figures["loop"] = loop = the_loop(installed, Admin(page, installed.url), begin)
            if not loop["wins"]:
                loop["once_more"] = more = once_more(installed)
                loop["wins"] = won([loop["review"], more["review"]])
            passed["loop"] = all(
                loop[key]
                for key in ("wins", "kl_within_limit", "promoted", "the_promoted_version_writes_next")
            )
        if "faults" in parts:
            figures["faults"] = faults = the_faults(installed)
            passed["faults"] = faults["within_90_seconds"] and faults["same_output"]
        if "queue" in parts:
            figures["queue"] = the_queue(installed)
            passed["queue"] = figures["queue"]["next_ms_p95"] < 100
        if "control" in parts:
            figures["control"] = the_control(installed)
            passed["control"] = figures["control"]["no_win"]
        figures |= memory(installed)
        passed["memory"] = figures["web_mib"] < 150
        stop_seconds, left = installed.stop()
        figures |= {"stop_seconds": round(stop_seconds, 1), "processes_left": left}
        passed["nothing_left"] = left == 0
        figures["second_start_seconds"] = round(installed.start(), 1)
    figures["slowness"] = slow = max(slow, slowness())
    passed |= in_time({**figures, **figures.get("loop", {})}, slow)
    return all(passed.values())


def in_time(figures: dict[str, Any], slow: float) -> dict[str, bool]:
    """Of everything that was timed: whether it took less than its limit on a machine as slow as this."""
    return {name: figures[name] < limit * slow for name, limit in LIMITS.items() if name in figures}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--parts", default="loop,faults,queue,control", help="which parts, comma separated")
    parts = parser.parse_args().parts.split(",")
    return measured("e2e", lambda figures: measure(figures, parts))


if __name__ == "__main__":
    sys.exit(main())
