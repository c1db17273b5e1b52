"""What becomes of the completions of a `sample` run: rows, and comparisons when it is for that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from feedback.models import Completion, Prompt, sha256_text
from feedback.putting_up import put_up
from training.core import protocol
from training.models import ModelVersion, Run

BATCH = 500
Written = dict[int, list[Completion]]
"""Prompt id -> its completions, in the order in which they were written, each text once."""


def register(run: Run) -> None:
    """Create the run's completions and, if its purpose is {"compare": true}, put them up for judgement.

    A review creates those of its runs itself, once both are done: till then they could be read under a name.
    """
    if "review" in run.purpose:
        return
    for lines in _batches(_lines(run)):
        completions = _save(run, lines)
        if run.purpose.get("compare"):
            put_up(run.project, completions, overlap=run.purpose.get("overlap"))


def completions_of(run: Run) -> Written:
    """The completions that a run wrote, created if need be; a text that its version wrote before stands."""
    found: Written = {}
    for lines in _batches(_lines(run)):
        found.update(_save(run, lines))
    return found


def _lines(run: Run) -> Iterator[dict[str, Any]]:
    """Lines of completions.jsonl, in text that every database can hold (PostgreSQL has no NUL)."""
    for line in protocol.read_jsonl(run.directory / "output" / "completions.jsonl"):
        yield {**line, "completion": line["completion"].replace("\0", "\ufffd")}


def _batches(lines: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Batches that never part the completions of one prompt."""
    batch: list[dict[str, Any]] = []
    for _prompt_id, group in itertools.groupby(lines, key=lambda line: line["prompt_id"]):
        batch.extend(group)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _version(run: Run) -> ModelVersion:
    version = run.inputs.get(name="policy").model_version
    assert version is not None  # launch lets no other policy in
    return version


def _save(run: Run, lines: list[dict[str, Any]]) -> Written:
    version = _version(run)
    known = Prompt.objects.filter(project=run.project_id).in_bulk({line["prompt_id"] for line in lines})
    settings = {"run": run.pk, "temperature": run.config["temperature"], "seed": run.seed}
    settings["max_new_tokens"] = run.config["max_new_tokens"]
    scorer = run.inputs.filter(name="reward_model").values_list("model_version", flat=True).first()
    rows = [
        Completion(
            prompt=known[line["prompt_id"]],
            text=line["completion"],
            text_hash=sha256_text(line["completion"]),
            source=Completion.Source.SAMPLED,
            model_version=version,
            sampling={**settings, "index": line["index"], **_scored(line, scorer)},
            token_count=line["token_count"],
            finish_reason=line["finish_reason"],
            logprob=line["logprob"],
        )
        for line in lines
    ]
    # The same version may have written the same text before: that row stands, with its own sampling facts.
    Completion.objects.bulk_create(rows, ignore_conflicts=True)
    return _find(run, lines)


def _scored(line: dict[str, Any], scorer: int | None) -> dict[str, Any]:
    """The score of a line, and the reward model that gave it: scores of different ones do not compare."""
    return {} if line["score"] is None else {"score": line["score"], "reward_model": scorer}


def _find(run: Run, lines: list[dict[str, Any]]) -> Written:
    prompts = {line["prompt_id"] for line in lines}
    rows = Completion.objects.filter(model_version=_version(run), prompt__in=prompts)
    by_text = {(row.prompt_id, row.text_hash): row for row in rows}
    found: Written = {}
    for line in sorted(lines, key=lambda line: line["index"]):
        row = by_text[line["prompt_id"], sha256_text(line["completion"])]
        kept = found.setdefault(line["prompt_id"], [])
        if row not in kept:
            kept.append(row)
    return found
