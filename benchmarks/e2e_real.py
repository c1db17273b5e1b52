"""`./run e2e-real FILE`: the loop on real people's preferences, from the upload to two versions side by side.

FILE is any file the importer takes (HH-RLHF, TRL; gzip or not). A small model is made from the file's own
text, so nothing is downloaded. The point is that every step works on long multi-turn transcripts, not that
the model is good. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.browser import Admin, browser
from benchmarks.e2e import ends, say, seconds
from benchmarks.installation import ROOT, Installation, installation, measured

SLUG = "real-people"
# Small enough for two cores; the limits are the machine's, not the product's.
LENGTH = {"max_length": 256}
ROLLOUT = {"steps": 4, "rollout_prompts": 16, "minibatches": 1, "max_new_tokens": 32, "limit": 200}


def make_base(installed: Installation) -> str:
    """A randomly initialised model whose tokenizer knows the file's own text, registered as v0."""
    from feedback.models import Completion

    texts = Completion.objects.filter(prompt__project__slug=SLUG).values_list("text", flat=True)
    corpus, folder = installed.folder / "texts.jsonl", installed.folder / "base"
    corpus.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    subprocess.run(
        [ROOT / ".venv/bin/python", "-m", "training.core.starter", folder, corpus],
        cwd=installed.folder, check=True, stdout=sys.stderr,
    )  # fmt: skip
    return installed.manage("register_base", SLUG, str(folder), "--note", "made from the file's text").strip()


def the_loop(installed: Installation, admin: Admin, file: Path) -> dict[str, Any]:
    from feedback.models import Preference
    from training.models import RunSample

    figures: dict[str, Any] = {}
    admin.sign_in(installed.sign_in)
    admin.create_project("Real people", SLUG)
    begin = time.monotonic()
    imported = admin.import_file(SLUG, file)
    figures["import"] = {
        "state": imported.state,
        "seconds": round(time.monotonic() - begin, 1),
        **imported.counts,
    }
    figures["preferences"] = Preference.objects.filter(comparison__project__slug=SLUG).current().count()
    say(f"imported: {figures['import']}")
    make_base(installed)

    base = admin.launch_and_watch(SLUG, "sft", LENGTH)
    figures["sft"] = {"seconds": seconds(base), **rounded(base.version.metrics)}
    figures["sft_before"] = base.metrics.get(step=0).values["held_out/loss"]
    installed.manage("promote_version", SLUG, str(base.version), "--reason", "writes like the file")
    reward = admin.launch_and_watch(SLUG, "reward_model", {**LENGTH, "epochs": 1})
    figures["reward_model"] = {"seconds": seconds(reward), **rounded(reward.version.metrics)}
    policy = admin.launch_and_watch(SLUG, "ppo", ROLLOUT)
    figures["ppo"] = {"seconds": seconds(policy), **ends(policy)}
    for version in (base.version, policy.version):
        written = {"policy": version.pk, "completions_per_prompt": 1, "max_new_tokens": 32, "limit": 20}
        admin.launch_and_watch(SLUG, "sample", written)
    figures["compared_prompts"] = admin.compare(SLUG, policy.version)
    figures["sample_texts"] = RunSample.objects.filter(run=policy).count()
    return figures


def rounded(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in metrics.items()}


def measure(figures: dict[str, Any], file: Path) -> bool:
    with installation() as installed:
        begin = time.monotonic()
        installed.start("serve")
        installed.use_models()
        with browser() as page:
            figures |= the_loop(installed, Admin(page, installed.url), file)
        figures["seconds"] = round(time.monotonic() - begin, 1)
        installed.stop()
    accuracy = figures["reward_model"]
    low, high = accuracy["held_out/accuracy_low"], accuracy["held_out/accuracy_high"]
    figures["passed"] = passed = {
        "imported": figures["import"]["state"] == "done" and figures["preferences"] > 0,
        # Not a word on how good: a model of a few million weights that starts from nothing is near chance.
        "accuracy_with_interval": 0 < low < accuracy["held_out/accuracy"] < high < 1,
        "sft_learned": figures["sft"]["held_out/loss"] < figures["sft_before"],
        "policy_measured": "final/kl/reference" in figures["ppo"],
        "samples_shown": figures["sample_texts"] > 0,
        "side_by_side": figures["compared_prompts"] > 0,
    }
    return all(passed.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file.resolve(strict=True)
    return measured("e2e-real", lambda figures: measure(figures, file))


if __name__ == "__main__":
    sys.exit(main())
