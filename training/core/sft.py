"""Supervised fine-tuning: maximise the likelihood of demonstrations, mostly of their completions only.

    loss = - sum over trained tokens of log pi(token | what stands before it) / number of trained tokens

AdamW (Loshchilov and Hutter 2019), linear warm-up and decay. The mean is taken over the tokens of the whole
optimiser step, however it is split into micro-batches. Conversations may be packed into rows (packing.py).
Left out: dropout (see models.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from training.core import batches, data, lora, models, packing, sampling, state
from training.core.configs import SFTConfig
from training.core.types import (
    Checkpoint,
    Demonstration,
    Event,
    Failure,
    Job,
    Metrics,
    Note,
    Phase,
    Sample,
    Saved,
)

SAMPLES = 4
SAMPLE_TOKENS = 64
HELD_OUT = 256
"""Held-out demonstrations that are looked at each time; the last evaluation looks at all of them."""
NON_FINITE_LIMIT = 3


def train(job: Job) -> Iterator[Event]:
    """Yield the loss of each step, held-out losses and sample texts; leave the model in `job.output`."""
    config = cast(SFTConfig, job.config)
    policy = models.Policy(job.inputs["policy"], dtype=config.precision, compiled=config.compile)
    if config.lora_rank:
        lora.add(policy.model, config.lora_rank, seed=job.seed)
    limit = min(config.max_length, policy.context)
    examples, held_out, counts = data.demonstrations(job.inputs["snapshot"], policy.chat, limit)
    yield from counts.notes(limit)
    if not held_out:
        yield Note("warning", "There are no held-out demonstrations: only the training loss is shown.")

    packs = config.packing and policy.keeps_texts_apart
    if config.packing and not packs:
        told = "This model cannot keep conversations of one row apart: packing is off, each takes a row."
        yield Note("warning", told)
    lengths = [length(example) for example in examples]
    cut = data.packed_batches if packs else data.token_batches
    plan = [
        batch
        for epoch in range(config.epochs)
        for batch in cut(lengths, config.batch_tokens, seed=job.seed, epoch=epoch)
    ]
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    step, skipped = 0, 0
    if job.saved is not None:
        step, skipped = job.saved.step, job.saved.facts["skipped"]
        state.restore_weights(policy.model, job.saved.tensors, "policy.")
        state.restore_optimizer(optimizer, job.saved.tensors, "optimizer.")
    yield Phase("training", step, len(plan))
    if step == 0:
        yield from evaluate(job, policy, held_out[:HELD_OUT], 0, len(plan))

    while step < len(plan):
        step += 1
        started = time.monotonic()
        share = data.learning_rate_share(step, len(plan), config.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        batch = [examples[row] for row in plan[step - 1]]
        trained = sum(len(loss_ids(example, config)) for example in batch)
        loss = 0.0
        optimizer.zero_grad()
        mine = job.processes.share(batch)
        for lines in micro_batches(mine, config, limit if packs else None):
            job.safe_point()
            part = -token_logprobs(policy, lines, config).sum() / trained
            part.backward()
            loss += float(part.detach())
        job.processes.add_gradients(policy.model.parameters())
        loss = job.processes.join({"loss": loss})["loss"]
        norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.max_grad_norm)
        finite = math.isfinite(float(norm) + loss)
        if finite:
            optimizer.step()
        else:
            skipped += 1
            yield Note("warning", f"Step {step} was skipped: its loss or gradient is not finite.")
            if skipped >= NON_FINITE_LIMIT:
                raise Failure(
                    "non_finite", "the loss is not a number any more", "Lower learning_rate or max_grad_norm."
                )
        seconds = time.monotonic() - started
        tokens = sum(lengths[row] for row in plan[step - 1])
        values = {
            **({"train/loss": loss, "train/grad_norm": float(norm)} if finite else {}),
            "train/learning_rate": config.learning_rate * share,
            "speed/tokens_per_second": tokens / seconds,
        }
        yield Metrics(step, len(plan), values)
        if step % config.evaluate_every == 0 and step < len(plan):
            yield from evaluate(job, policy, held_out[:HELD_OUT], step, len(plan))
        if step % config.checkpoint_every == 0 or job.stopping():
            held = state.named_weights(policy.model, "policy.")
            held |= state.optimizer_tensors(optimizer, "optimizer.")
            yield Checkpoint(Saved(step, held, {"skipped": skipped}))

    yield from evaluate(job, policy, held_out, len(plan), len(plan))
    yield Phase("saving", len(plan), len(plan))
    if config.lora_rank:
        lora.merge(policy.model)
    policy.save(job.output)


def loss_ids(example: Demonstration, config: SFTConfig) -> list[int]:
    """The tokens that are learned: the completion, or all but the very first, which nothing stands before."""
    if config.completion_only:
        return example.completion_ids
    return [*example.prompt_ids[1:], *example.completion_ids]


def length(example: Demonstration) -> int:
    return len(example.prompt_ids) + len(example.completion_ids)


Lines = list[list[Demonstration]]
"""Rows of one forward pass, and the conversations in each."""


def micro_batches(
    examples: Sequence[Demonstration], config: SFTConfig, width: int | None = None
) -> Iterator[Lines]:
    """All examples in parts of `microbatch_tokens`: packed into rows of `width`, or a row for each."""
    lengths = [length(example) for example in examples]
    lines = [[row] for row in range(len(examples))] if width is None else packing.fill(lengths, width)
    for some in batches.by_tokens(
        [sum(lengths[row] for row in line) for line in lines], config.microbatch_tokens
    ):
        yield [[examples[row] for row in lines[place]] for place in some]


def token_logprobs(policy: models.Policy, lines: Lines, config: SFTConfig) -> Tensor:
    """Log-probabilities of the learned tokens, line after line; logits are computed at these places only."""
    texts: list[list[batches.Text]] = []
    for line in lines:
        learned = [loss_ids(example, config) for example in line]
        whole = [[*example.prompt_ids, *example.completion_ids] for example in line]
        texts.append([(ids[: -len(some)], some) for ids, some in zip(whole, learned, strict=True)])
    if all(len(line) == 1 for line in texts):
        before, wanted = zip(*(line[0] for line in texts), strict=True)
        return policy.logprobs(batches.rows(before, wanted, policy.chat.pad_id))
    return policy.logprobs(packing.rows(texts, policy.chat.pad_id))


@torch.no_grad()
def evaluate(
    job: Job, policy: models.Policy, held_out: Sequence[Demonstration], step: int, steps: int
) -> Iterator[Event]:
    """Held-out loss in nats a token, and what the model now answers to the same few held-out prompts."""
    if not held_out:
        return
    config = cast(SFTConfig, job.config)
    total, count = 0.0, 0
    for lines in micro_batches(held_out, config):
        job.safe_point()
        found = token_logprobs(policy, lines, config)
        total, count = total - float(found.double().sum()), count + found.numel()
    yield Metrics(step, steps, {"held_out/loss": total / count})
    shown = [
        example for example in held_out[: 4 * SAMPLES]
        if len(example.prompt_ids) + SAMPLE_TOKENS <= policy.context
    ][:SAMPLES]  # fmt: skip
    written = sampling.decode(
        policy,
        [example.prompt_ids for example in shown],
        max_new_tokens=SAMPLE_TOKENS,
        temperature=1.0,
        generator=state.generator(job.seed, 3),
        rows_at_once=SAMPLES,
        safe_point=job.safe_point,
    )
    for index, (example, ids) in enumerate(zip(shown, written.ids, strict=True)):
        yield Sample(step, index, example.messages, policy.chat.text(ids))
