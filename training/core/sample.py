"""Write completions: each prompt is answered several times, and scored if there is a reward model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, cast

from training.core import data, models, protocol, rewards, sampling, state
from training.core.configs import SampleConfig
from training.core.types import Checkpoint, Completion, Event, Job, Metrics, Phase, Prompt, Sample, Saved

CHECKPOINT_EVERY = 8
"""Batches between checkpoints."""


def train(job: Job) -> Iterator[Event]:
    """Yield progress and one sample a batch; leave completions.jsonl in `job.output`, prompt after prompt."""
    config = cast(SampleConfig, job.config)
    policy = models.Policy(job.inputs["policy"], dtype=config.precision, learns=False)
    limit = policy.context
    prompts, notes = data.prompts(
        job.inputs["prompts"], policy.chat, limit=limit, new_tokens=config.max_new_tokens
    )
    yield from notes
    scorer = None
    if "reward_model" in job.inputs:
        judge = models.RewardEnsemble(job.inputs["reward_model"], dtype=config.precision)
        scorer = rewards.RewardModelScore(judge, policy.chat)

    wanted = [(prompt, index) for prompt in prompts for index in range(config.completions_per_prompt)]
    steps = -(-len(wanted) // config.batch_size)
    step, lines = (job.saved.step, job.saved.facts["lines"]) if job.saved else (0, [])
    yield Phase("writing", step, steps)
    while step < steps:
        step += 1
        started = time.monotonic()
        batch = wanted[(step - 1) * config.batch_size : step * config.batch_size]
        written = sampling.decode(
            policy,
            [prompt.ids for prompt, _index in batch],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            generator=state.generator(job.seed, step),
            rows_at_once=config.batch_size,
            safe_point=job.safe_point,
        )
        texts = [policy.chat.text(ids) for ids in written.ids]
        completions = [Completion(*row) for row in zip(written.ids, texts, written.finished, strict=True)]
        scores: rewards.Scores = [None] * len(batch)
        if scorer is not None:
            scores = scorer([prompt for prompt, _index in batch], completions)
        for row, (prompt, index) in enumerate(batch):
            line: dict[str, Any] = {
                "prompt_id": prompt.prompt_id,
                "index": index,
                "completion": texts[row],
                "token_count": len(written.ids[row]),
                "finish_reason": "stop" if written.finished[row] else "length",
                "logprob": written.logprobs[row],
                "score": scores[row],
            }
            lines.append(line)
        first: Prompt = batch[0][0]
        yield Sample(step, 0, first.messages, texts[0], scores[0])
        tokens = sum(len(ids) for ids in written.ids)
        values = {
            "completion/length": tokens / len(batch),
            "completion/eos_rate": sum(written.finished) / len(batch),
            "speed/tokens_per_second": tokens / (time.monotonic() - started),
        }
        if known := [score for score in scores if score is not None]:
            values["reward/mean"] = sum(known) / len(known)
        yield Metrics(step, steps, values)
        if step % CHECKPOINT_EVERY == 0 or job.stopping():
            yield Checkpoint(Saved(step, {}, {"lines": lines}))

    yield Phase("saving", steps, steps)
    text = "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)
    protocol.write_text(job.output / "completions.jsonl", text)
