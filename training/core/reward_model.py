"""Reward model: a language model with one score a text, fitted to what people said of pairs.

    P(chosen is preferred) = sigmoid(score(chosen) - score(rejected))

and what `judgement.py` adds to it: ties, stated strengths, annotators. Each member of an ensemble has a head,
an order of data and a judgement of its own; all take their steps together. With held-out pairs, a member
keeps the weights of the epoch with its least held-out loss: small data overfits within a few epochs. At last
scores are given mean 0 and standard deviation 1 over the training completions, inside the saved weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import nn

from training.core import batches, data, held_out, lora, losses, models, score_scale
from training.core.configs import RewardModelConfig
from training.core.members import Member, member_seed
from training.core.types import Checkpoint, Event, Failure, Job, Metrics, Note, Pair, Phase, Saved

NON_FINITE_LIMIT = 3


def train(job: Job) -> Iterator[Event]:
    """Yield losses and held-out accuracy; leave the reward model, or all members, in `job.output`."""
    config = cast(RewardModelConfig, job.config)
    seeds = [member_seed(job.seed, number) for number in range(1, config.members + 1)]
    ensemble = [
        models.RewardModel(
            job.inputs["policy"], fresh_head_seed=seed, dtype=config.precision, compiled=config.compile
        )
        for seed in seeds
    ]
    if job.saved is None:
        yield Note("log", new_heads(seeds))
    limit = min(config.max_length, ensemble[0].context)
    pairs, unseen, counts = data.pairs(job.inputs["snapshot"], ensemble[0].chat, limit)
    yield from counts.notes(limit)
    if not ensemble[0].keeps_texts_apart:
        yield Note("log", "This model cannot keep two completions of one row apart: a pair takes two rows.")
    if not unseen:
        told = "There are no held-out pairs: accuracy is that on pairs it has seen, which says little."
        yield Note("warning", told)

    members = [
        Member(config, number, seed, model, pairs, unseen)
        for number, (seed, model) in enumerate(zip(seeds, ensemble, strict=True), start=1)
    ]
    steps = len(members[0].plan)
    per_epoch = steps // config.epochs
    step, skipped = 0, 0
    if job.saved is not None:
        step, skipped = job.saved.step, job.saved.facts["skipped"]
        for member in members:
            member.restore(job.saved)
    yield Phase("training", step, steps)
    if step == 0 and unseen:
        yield Metrics(0, steps, evaluate(job, members, unseen))

    while step < steps:
        step += 1
        started = time.monotonic()
        share = data.learning_rate_share(step, steps, config.warmup_fraction)
        values = mean([gradient(job, member, step, pairs) for member in members])
        if math.isfinite(values["train/grad_norm"] + values["train/loss"]):
            for member in members:
                member.step(share)
        else:
            values, skipped = {}, skipped + 1
            yield Note("warning", f"Step {step} was skipped: its loss or gradient is not finite.")
            if skipped >= NON_FINITE_LIMIT:
                raise Failure("non_finite", "the loss is not a number any more", "Lower learning_rate.")
        values["train/learning_rate"] = config.learning_rate * share
        count = sum(len(member.plan[step - 1]) for member in members)
        values["speed/pairs_per_second"] = count / (time.monotonic() - started)
        if unseen and step % per_epoch == 0:
            values |= evaluate(job, members, unseen)
            for member in members:
                member.keep_if_best(step)
        yield Metrics(step, steps, values)
        if step % config.checkpoint_every == 0 or job.stopping():
            held = {name: tensor for member in members for name, tensor in member.tensors().items()}
            facts = {f"member-{member.number}": member.best.facts() for member in members}
            yield Checkpoint(Saved(step, held, {"skipped": skipped, **facts}))

    for member in members:
        yield from member.return_to_best()
    if unseen:
        yield from last_look(job, members, unseen, steps)
    for member in members:
        if told := member.judgement.told():
            yield Note("log", member.named(told))
        told = score_scale.normalise(job, member.model, pairs, config.microbatch_tokens)
        yield Note("log", member.named(told))
    yield Phase("saving", steps, steps)
    for member in members:
        if config.lora_rank:
            lora.merge(member.model.model.base_model)
        member.model.save(models.member_folder(job.output, member.number))


def new_heads(seeds: Sequence[int]) -> str:
    """What the run's log says of score heads that no file holds yet."""
    if len(seeds) == 1:
        return f"The score head is new, drawn from seed {seeds[0]}."
    return f"The score heads are new, drawn from seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]}."


# --- one step ---------------------------------------------------------------------------------------


def gradient(job: Job, member: Member, step: int, pairs: Sequence[Pair]) -> dict[str, float]:
    """Leave the gradient of one step's mean loss in the member's weights; return its figures."""
    config, plan = member.config, member.plan[step - 1]
    weight = sum(pairs[row].weight for row in plan)
    values = dict.fromkeys(("train/loss", "train/accuracy", "train/margin"), 0.0)
    member.optimizer.zero_grad()
    mine = job.processes.share(plan)
    for rows in batches.by_tokens([member.tokens[row] for row in mine], config.microbatch_tokens):
        job.safe_point()
        part = [pairs[mine[row]] for row in rows]
        chosen, rejected = member.model.pair_scores(part)
        fit = member.judgement(chosen - rejected, part) + config.centring * losses.centring(chosen, rejected)
        loss = (fit * torch.tensor([pair.weight for pair in part], device=fit.device)).sum() / weight
        loss.backward()
        values["train/loss"] += float(loss.detach())
        values["train/accuracy"] += float(held_out.right(chosen - rejected).sum()) / len(plan)
        values["train/margin"] += float((chosen - rejected).detach().sum()) / len(plan)
    job.processes.add_gradients(member.learned.parameters())
    values = job.processes.join(values)
    if config.annotators == "reliability":  # the step's share of the prior over all judgements
        (member.judgement.prior() / member.judgement.weight).backward()
    norm = float(nn.utils.clip_grad_norm_(member.model.model.parameters(), config.max_grad_norm))
    # The judges' own numbers are not clipped, but they must be numbers too.
    told = [weight.grad for weight in member.judgement.parameters() if weight.grad is not None]
    return {**values, "train/grad_norm": norm if nn.utils.get_total_norm(told).isfinite() else math.nan}


# --- all members ------------------------------------------------------------------------------------


def mean(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(found[name] for found in figures) / len(figures) for name in figures[0]}


def evaluate(job: Job, members: Sequence[Member], unseen: Sequence[Pair]) -> dict[str, float]:
    """Held-out figures, mean over members; what they learned of the judges; how far members disagree."""
    figures = []
    for member in members:
        member.difference = held_out.differences(job, member.model, unseen, member.config.microbatch_tokens)
        figures.append(
            held_out.figures(member.judgement, unseen, member.difference) | member.judgement.metrics()
        )
        member.held_out_loss = figures[-1].get("held_out/loss", math.inf)
    values = mean(figures)
    if len(members) > 1:
        together = torch.stack([member.difference for member in members])
        values["held_out/disagreement"] = float(together.std(0, correction=0).mean())
        if (decided := held_out.which_are_decided(unseen)).any():
            values["held_out/ensemble_accuracy"] = float(held_out.right(together.mean(0)[decided]).mean())
    return values


def last_look(job: Job, members: Sequence[Member], unseen: Sequence[Pair], steps: int) -> Iterator[Event]:
    """Held-out figures of the weights that are kept, before their scores are scaled."""
    found = evaluate(job, members, unseen)
    count = sum(not pair.tie for pair in unseen)
    if not count:
        yield Metrics(steps, steps, found)
        yield Note("warning", "All held-out pairs are ties: no accuracy can be told of them.")
        return
    low, high = held_out.wilson(found["held_out/accuracy"] * count, count)
    found |= {"held_out/accuracy_low": low, "held_out/accuracy_high": high}
    told = f"Held-out accuracy {found['held_out/accuracy']:.1%} ({low:.1%} to {high:.1%}) on {count} pairs"
    people = held_out.human_agreement(unseen)
    if people is not None:
        found["held_out/human_agreement"] = people
        told += f"; people agree with one another in {people:.1%}"
    correct = torch.stack([held_out.right(member.difference) for member in members]).mean(0)
    figures, in_words = held_out.by_group(unseen, correct)
    yield Metrics(steps, steps, found | figures)
    yield Note("log", told + ".")
    for words in in_words:
        yield Note("log", words)
