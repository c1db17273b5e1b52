"""Prompts x policy x rewards -> Rollout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from training.core import data, lora, models, rewards, sampling, shared_prompt, tensors
from training.core.configs import PolicyConfig
from training.core.processes import Processes
from training.core.types import (
    Completion,
    Demonstration,
    Failure,
    Job,
    Note,
    Part,
    Prompt,
    Rollout,
    Rows,
)

ALONE = Processes()


class Team(NamedTuple):
    """The models of a run: policy and critic learn, the others never change."""

    policy: models.Policy
    reference: models.Policy | lora.WithoutAdapter
    critic: models.SharedCritic | models.SeparateCritic | None
    scorer: rewards.WeightedSum
    shared_hidden_size: int
    """The policy's, where policy, reference and critic can read several completions in one row; else 0."""

    def in_batches(
        self, rows: Sequence[int], prompts: Sequence[Prompt], completions: Sequence[Completion], budget: int
    ) -> Iterator[tuple[list[int], Rows]]:
        """These rows of a rollout, at most `budget` tokens a batch: their numbers, in its order, and it."""
        texts = [(prompts[row].ids, completions[row].ids) for row in rows]
        for places, batch in shared_prompt.in_batches(
            texts, budget, self.policy.chat.pad_id, self.shared_hidden_size
        ):
            yield [rows[place] for place in places], batch


def load(job: Job, *, critic: str | None) -> tuple[Team, list[Prompt], list[Note]]:
    """Models, prompts that fit, and what is to be said about them; `critic`: shared, separate or None."""
    config = cast(PolicyConfig, job.config)
    policy = models.Policy(job.inputs["policy"], dtype=config.precision, compiled=config.compile)
    reference = load_reference(job, policy)
    reward_model = rewards.RewardModelScore(
        models.RewardEnsemble(job.inputs["reward_model"], dtype=config.precision),
        policy.chat,
        microbatch_tokens=config.microbatch_tokens,
    )
    prompts, notes = data.prompts(
        job.inputs["prompts"], policy.chat, limit=policy.context, new_tokens=config.max_new_tokens
    )
    longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
    valuer, more = load_critic(job, policy, reward_model, critic, longest)
    scorer = rewards.configured(config, reward_model)
    team = Team(policy, reference, valuer, scorer, shared_hidden_size(policy, reference, valuer))
    return team, prompts, [*notes, *more]


def shared_hidden_size(
    policy: models.Policy,
    reference: models.Policy | lora.WithoutAdapter,
    critic: models.SharedCritic | models.SeparateCritic | None,
) -> int:
    """Asked once, of the weights that a run starts with: a resumed run must make the same batches."""
    readers = [policy, reference, *([critic] if critic else [])]
    able = all(reader.keeps_texts_apart for reader in readers)
    return models.hidden_size(policy.model) if able else 0


def load_reference(job: Job, policy: models.Policy) -> models.Policy | lora.WithoutAdapter:
    """The frozen reference: the policy without its adapter if both start alike, else a model of its own."""
    config = cast(PolicyConfig, job.config)
    same = job.inputs["policy"].resolve() == job.inputs["reference"].resolve()
    if config.lora_rank:
        lora.add(policy.model, config.lora_rank, seed=job.seed)
        if same:
            return lora.WithoutAdapter(policy)
    reference = models.Policy(job.inputs["reference"], dtype=config.precision, learns=False)
    alike = reference.chat.reads_ids_of(policy.chat) and reference.chat.id_count >= policy.chat.id_count
    if not alike or reference.context < policy.context:
        told = "policy and reference differ in tokenizer, template, number of tokens or context"
        raise Failure("bad_input", told, "Choose a reference that the policy descends from.")
    reference.model.requires_grad_(False)
    return reference


def load_critic(
    job: Job, policy: models.Policy, reward_model: rewards.RewardModelScore, kind: str | None, longest: int
) -> tuple[models.SharedCritic | models.SeparateCritic | None, list[Note]]:
    """A value head on the policy's trunk, or a model of its own, or none.

    It reads what the policy wrote, up to `longest` tokens: it starts as the reward model where that one can,
    else as the policy.
    """
    if kind is None:
        return None, []
    if kind == "shared":
        return models.SharedCritic(policy), []
    dtype = cast(PolicyConfig, job.config).precision
    if not reward_model.same_ids:
        why = "reads other tokens"
    elif reward_model.model.chat.id_count < policy.chat.id_count:
        why = "has fewer rows of tokens"
    elif reward_model.model.context < longest:
        why = "has a shorter context"
    else:
        return models.SeparateCritic(models.RewardModel(job.inputs["reward_model"], dtype=dtype)), []
    start = models.RewardModel(job.inputs["policy"], fresh_head_seed=job.seed, dtype=dtype)
    nn.init.zeros_(start.head.weight)
    told = f"The reward model {why}: the critic starts from the policy instead."
    return models.SeparateCritic(start), [Note("log", told)]


def load_demonstrations(
    job: Job, policy: models.Policy, coefficient: float
) -> tuple[list[Demonstration], list[Note]]:
    """What is mixed into the update, if anything: training demonstrations that fit the policy's context."""
    if not coefficient:
        return [], []
    if "demonstrations" not in job.inputs:
        raise Failure(
            "no_demonstrations",
            "ptx_coefficient is set, but there are no demonstrations",
            "Choose a snapshot of demonstrations, or set it to 0.",
        )
    found, _held_out, counts = data.demonstrations(job.inputs["demonstrations"], policy.chat, policy.context)
    return found, list(counts.notes(policy.context))


# --- completions and all that is known of them ------------------------------------------------------


def collect(
    team: Team,
    prompts: Sequence[Prompt],
    config: PolicyConfig,
    *,
    beta: float,
    generator: torch.Generator,
    safe_point: Callable[[], None],
    processes: Processes = ALONE,
    per_prompt: int = 1,
    deviation: rewards.RunningDeviation | None = None,
) -> Rollout:
    """Let the policy answer each prompt `per_prompt` times, and look at the answers with all models, once.

    Each process does a share of the rows, and all have the whole rollout afterwards.

    Log-probabilities are computed again by the forward pass that training uses, so that the first ratio of an
    update is 1, and at the sampling temperature, for policy and reference alike.
    """
    started = time.monotonic()
    whole = [prompt for prompt in prompts for _ in range(per_prompt)]
    mine = cast(range, processes.share(range(len(whole))))
    asked = [whole[row] for row in mine]
    # The numbers of the rows before: then each row's are those it would have if one process drew for all.
    torch.rand(mine.start * config.max_new_tokens, generator=generator)
    written = sampling.decode(
        team.policy,
        [prompt.ids for prompt in asked],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        generator=generator,
        rows_at_once=rows_at_once(whole, config),  # a process may have none
        safe_point=safe_point,
    )
    decoded = time.monotonic()
    completions = [
        Completion(ids, team.policy.chat.text(ids), finished)
        for ids, finished in zip(written.ids, written.finished, strict=True)
    ]
    sums, parts = team.scorer(asked, completions)
    asked, completions, sums = whole, processes.gather(completions), processes.gather(sums)
    parts = {name: processes.gather(found) for name, found in parts.items()}
    decoded_logprobs = processes.gather(written.logprobs)
    kept = [row for row, score in enumerate(sums) if score is not None]
    if not kept:
        raise Failure(
            "no_scores",
            "no completion could be scored",
            "Lower max_new_tokens, or use a reward model with more context whose scores are finite numbers.",
        )
    asked, completions = [asked[row] for row in kept], [completions[row] for row in kept]
    scores = torch.tensor([sums[row] for row in kept])
    spread = (deviation or rewards.RunningDeviation()).value
    paid = rewards.pay(scores, torch.tensor([row.finished for row in completions]), config, spread)
    mask, logprobs, ref_logprobs, values, entropy = look(
        team, asked, completions, config, safe_point, processes
    )
    kl = tensors.kl_k1(logprobs, ref_logprobs)
    return Rollout(
        prompts=asked,
        groups=torch.tensor(kept) // per_prompt,
        completions=completions,
        parts={name: [cast(float, found[row]) for row in kept] for name, found in parts.items()},
        scores=scores,
        paid=paid,
        unscored=len(sums) - len(kept),
        completion_mask=mask,
        logprobs=logprobs,
        decoded_logprobs=torch.tensor([decoded_logprobs[row] for row in kept]),
        ref_logprobs=ref_logprobs,
        values=values,
        entropy=entropy,
        rewards=tensors.token_rewards(paid, kl, mask, beta=beta),
        seconds={"time/rollout": decoded - started, "time/score": time.monotonic() - decoded},
    )


def rows_at_once(prompts: Sequence[Prompt], config: PolicyConfig) -> int:
    """A cached token is cheaper than one that gradients flow through: eight times as many stand together.

    It holds two vectors a layer; a training pass keeps some forty, and logits.
    """
    longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
    return max(1, 8 * config.microbatch_tokens // longest)


@torch.no_grad()
def look(
    team: Team,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    config: PolicyConfig,
    safe_point: Callable[[], None],
    processes: Processes,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """completion_mask, logprobs, ref_logprobs, values and entropy, each B x longest completion."""
    lengths = torch.tensor([len(row.ids) for row in completions])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    found = torch.zeros(4, *mask.shape)
    mine = processes.share(range(len(prompts)))
    for group, batch in team.in_batches(mine, prompts, completions, config.microbatch_tokens):
        safe_point()
        hidden, logprobs, entropy = team.policy.facts(batch, temperature=config.temperature, entropy=True)
        flat = (
            logprobs,
            team.reference.logprobs(batch, temperature=config.temperature),
            torch.zeros_like(logprobs) if team.critic is None else team.critic(batch, hidden).float(),
            entropy,
        )
        for whole, part in zip(found, flat, strict=True):
            block = torch.zeros(len(group), whole.shape[1])
            block[mask[group]] = part.cpu()
            whole[group] = block
    found = processes.add(found.to(team.policy.device)).cpu()
    return mask, found[0], found[1], found[2], found[3]


def parts(job: Job, team: Team, found: Rollout, rows: Sequence[int]) -> Iterator[Part]:
    """This process's share of the rows, in micro-batches of similar length."""
    budget = cast(PolicyConfig, job.config).microbatch_tokens
    mine = job.processes.share(rows)
    for some, batch in team.in_batches(mine, found.prompts, found.completions, budget):
        job.safe_point()
        yield Part(some, found.completion_mask[some], batch)
