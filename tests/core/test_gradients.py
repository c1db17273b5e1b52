"""What each algorithm climbs, against the enumerated gradient of reward - beta KL (items 19, 37, 46, 48).

The whole `train` runs, in the world of `test_optimum`, with an optimiser that writes gradients down and never
moves: every step is then one more independent estimate of the same gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.core.test_optimum import BETA, CONFIGS, LONGEST, World, job
from training.core import batches, configs, models, monitor, ppo, reinforce, rollout, state, tensors, trpo
from training.core.types import Metrics, Part, Rollout

ROLLOUTS, ROWS = 24, 128
STILL: dict[str, Any] = {
    "max_new_tokens": LONGEST, "kl_coefficient": BETA, "missing_eos_penalty": 0.0, "checkpoint_every": 1000,
    "max_grad_norm": 1e6, "steps": ROLLOUTS, "rollout_prompts": ROWS,
}  # fmt: skip
ESTIMATORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "none": (reinforce, {"baseline": "none", "completions_per_prompt": 1}),
    "running_mean": (reinforce, {"baseline": "running_mean", "completions_per_prompt": 1}),
    "leave_one_out": (reinforce, {"rollout_prompts": ROWS // 4, "completions_per_prompt": 4}),
    "value_head": (
        reinforce, {"baseline": "value_head", "completions_per_prompt": 1, "value_coefficient": 0.0},
    ),
    "ppo": (ppo, {"epochs": 1, "minibatches": 1, "gae_lambda": 1.0, "value_coefficient": 0.0}),
    "trpo": (trpo, {"gae_lambda": 1.0, "cg_iterations": 1, "fisher_share": 0.02, "backtracks": 1}),
}  # fmt: skip


def moved_policy(world: World) -> models.Policy:
    """A policy with a KL of about half a nat, so that the penalty has a gradient too."""
    policy = world.policy()
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.08 * torch.randn_like(weight)
    return policy


def logprobs(policy: models.Policy, world: World, place: int) -> Tensor:
    """Of every completion of one prompt, with their gradient."""
    batch = batches.rows([world.prompts[place].ids] * len(world.completions), world.completions, 0)
    whole = torch.zeros(batch.completion_mask.shape).masked_scatter(
        batch.completion_mask, policy.logprobs(batch)
    )
    return whole.sum(1)


def true_objective(world: World, policy: models.Policy) -> Tensor:
    """E[reward] - beta KL, over every completion there is."""
    values = []
    for place, prompt in enumerate(world.prompts):
        said = logprobs(policy, world, place)
        reward = torch.tensor([world.reward(prompt, ids) for ids in world.completions])
        ref = logprobs(world.reference, world, place).detach()
        values.append((said.exp() * (reward - BETA * (said - ref))).sum())
    return torch.stack(values).mean()


def flat_gradient(value: Tensor, policy: models.Policy) -> Tensor:
    return tensors.flatten(
        torch.autograd.grad(value, list(policy.model.parameters()), allow_unused=True, materialize_grads=True)
    )


class Estimates(NamedTuple):
    """One row for each rollout: an estimate of the gradient of the objective."""

    rows: Tensor
    truth: Tensor

    def cosine(self) -> float:
        return float(torch.cosine_similarity(self.rows.mean(0), self.truth, dim=0))

    def along_truth(self) -> float:
        """Standard errors between the mean estimate and the truth, along the truth."""
        along = self.rows @ self.truth / self.truth.norm()
        return float((along.mean() - self.truth.norm()) / along.std()) * len(along) ** 0.5

    def error(self) -> float:
        """Squared distance of the mean from the truth, as a share of what chance alone would make of it."""
        chance = self.rows.var(0).sum() / len(self.rows)
        return float(((self.rows.mean(0) - self.truth) ** 2).sum() / chance)


def start(monkeypatch: pytest.MonkeyPatch, policy: models.Policy, world: World) -> None:
    """Runs have these models; the critic's first values are wrong on purpose: no baseline may bias."""

    def load(job: Any, *, critic: str | None) -> Any:
        team = world.team(policy, critic)
        if team.critic is not None:
            torch.manual_seed(3)
            torch.nn.init.normal_(team.critic.head.weight, std=0.02)
        return team, world.prompts, []

    monkeypatch.setattr(rollout, "load", load)
    monkeypatch.setattr(monitor, "show", lambda *arguments: iter(()))
    monkeypatch.setattr(models.Policy, "save", lambda *arguments: None)


def estimate(monkeypatch: pytest.MonkeyPatch, name: str) -> Estimates:
    world = World()
    policy = moved_policy(world)
    truth = flat_gradient(true_objective(world, policy), policy)
    start(monkeypatch, policy, world)
    algorithm, own = ESTIMATORS[name]
    seen: list[Tensor] = []

    class Notebook(torch.optim.SGD):
        def __init__(self, weights: Any, **named: Any) -> None:
            super().__init__(weights, lr=0.0)

        def step(self, closure: Any = None) -> None:
            if algorithm is not trpo:  # whose optimiser has the critic only
                grads = [weight.grad for group in self.param_groups for weight in group["params"]]
                seen.append(-tensors.flatten(grads)[: len(truth)])

    def no_step(product: Any, gradient: Tensor, iterations: int) -> tuple[Tensor, float]:
        seen.append(gradient.clone())
        return 1e-12 * gradient, 0.0

    monkeypatch.setattr(torch.optim, "Adam", Notebook)
    monkeypatch.setattr(tensors, "conjugate_gradient", no_step)
    settings = CONFIGS[algorithm](**{**STILL, **own})
    if algorithm is trpo:
        monkeypatch.setattr(state, "move", lambda *arguments: None)
    events = list(algorithm.train(job(settings)))
    values = [event.values for event in events if isinstance(event, Metrics)]
    lengths = [known["completion/length"] for known in values if "completion/length" in known]
    rows = torch.stack(seen)
    if algorithm is not reinforce:  # a mean over tokens: times a completion's mean length it is one over them
        rows = rows * torch.tensor(lengths).unsqueeze(1)
    return Estimates(rows, truth)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_have_the_true_gradient_as_their_mean(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Advantages are not whitened here: that scales the gradient, which the next test allows."""
    monkeypatch.setattr(tensors, "whiten", lambda values, mask, **_: torch.where(mask, values, 0.0))
    found = estimate(monkeypatch, name)
    assert len(found.rows) == ROLLOUTS
    assert found.cosine() > 0.97
    assert abs(found.along_truth()) < 3.0
    assert found.error() < 2.0


def test_whitened_advantages_point_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    found = estimate(monkeypatch, "ppo")
    assert found.cosine() > 0.97


def test_an_end_that_is_not_trained_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rollout.parts

    def without_ends(job: Any, team: Any, found: Rollout, rows: Any) -> Any:
        for part in real(job, team, found, rows):
            tokens = part.batch.tokens != 1
            ids = torch.zeros(part.mask.shape, dtype=torch.long)
            ids[part.mask] = part.batch.tokens[part.batch.completion_mask]
            batch = part.batch._replace(completion_mask=part.batch.completion_mask & tokens)
            yield Part(part.rows, part.mask & (ids != 1), batch)

    monkeypatch.setattr(rollout, "parts", without_ends)
    found = estimate(monkeypatch, "leave_one_out")
    assert found.error() > 4.0


def test_k3_in_the_reward_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 19: unbiased as a measure of the KL, wrong as a reward."""
    monkeypatch.setattr(tensors, "kl_k1", tensors.kl_k3)
    found = estimate(monkeypatch, "leave_one_out")
    assert found.error() > 4.0


def test_k1_as_a_loss_has_no_expected_gradient() -> None:
    """Item 19: sum over every y of pi(y) x gradient of (log pi - log ref)(y); the KL itself has one."""
    world = World()
    policy = moved_policy(world)

    def expected_k1(*, sampled: bool) -> Tensor:
        total = torch.zeros(())
        for place in range(2):
            said, ref = (logprobs(one, world, place) for one in (policy, world.reference))
            chance = said.exp().detach() if sampled else said.exp()
            total = total + (chance * tensors.kl_k1(said, ref.detach())).sum()
        return total

    right = flat_gradient(expected_k1(sampled=False), policy).norm()
    assert right > 0.1
    assert flat_gradient(expected_k1(sampled=True), policy).norm() < 1e-4 * right


# --- TRPO: the direction, its length, and what the line search lets through (item 48) -------------------


class Step(NamedTuple):
    """One step of TRPO, as it was taken."""

    world: World
    policy: models.Policy
    before: models.Policy
    found: Rollout
    facts: dict[str, float]
    seen: list[Any]  # what `look` found where the conjugate gradient began


def trpo_step(
    monkeypatch: pytest.MonkeyPatch, look: Callable[..., Any], *, head_only: bool = False, **own: Any
) -> Step:
    world = World()
    policy = moved_policy(world)
    before = copy.copy(policy)
    before.model = copy.deepcopy(policy.model)
    if head_only:
        policy.model.requires_grad_(False)
        policy.model.lm_head.requires_grad_(True)
    start(monkeypatch, policy, world)
    found: list[Rollout] = []
    seen: list[Any] = []
    collect, solve = rollout.collect, tensors.conjugate_gradient

    def collected(*arguments: Any, **named: Any) -> Rollout:
        found.append(collect(*arguments, **named))
        return found[-1]

    def solved(product: Any, gradient: Tensor, iterations: int) -> Any:
        answer = solve(product, gradient, iterations)
        seen.append(look(product, gradient, answer[0], found[0], before))
        return answer

    monkeypatch.setattr(rollout, "collect", collected)
    monkeypatch.setattr(tensors, "conjugate_gradient", solved)
    settings = {"steps": 1, "rollout_prompts": 400, "fisher_share": 1.0, "step_kl": 0.01, **own}
    events = list(trpo.train(job(configs.TRPOConfig(**{**STILL, **settings}))))
    facts = next(event.values for event in events if isinstance(event, Metrics))
    return Step(world, policy, before, found[0], facts, seen)


def dense_fisher(found: Rollout, policy: models.Policy) -> Tensor:
    """Of the output head, from its definition: mean over tokens of J' (diag(p) - p p') J, J = d logits."""
    hidden = []
    for prompt, completion in zip(found.prompts, found.completions, strict=True):
        ids = torch.tensor([prompt.ids + completion.ids[:-1]])
        with torch.no_grad():
            hidden.append(policy.model.transformer(ids)[0][0, len(prompt.ids) - 1 :])
    states = torch.cat(hidden).double()
    chance = torch.softmax(policy.model.lm_head.double()(states), -1).detach()
    policy.model.lm_head.float()
    states = torch.cat([states, torch.ones(len(states), 1)], 1)
    curvature = torch.diag_embed(chance) - chance.unsqueeze(2) * chance.unsqueeze(1)
    blocks = torch.einsum("nij,na,nb->iajb", curvature, states, states) / len(states)
    tokens, width = chance.shape[1], states.shape[1]
    weights = torch.arange(tokens * width).view(tokens, width)
    order = torch.cat([weights[:, :-1].reshape(-1), weights[:, -1]])  # all of the weight, then the bias
    return blocks.reshape(tokens * width, -1)[order][:, order]


def test_the_step_of_a_small_head_is_the_dense_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    damping, step_kl = 0.01, 0.01

    def look(product: Any, gradient: Tensor, direction: Tensor, found: Rollout, before: models.Policy) -> Any:
        matrix = dense_fisher(found, before) + damping * torch.eye(len(gradient), dtype=torch.double)
        right = torch.linalg.solve(matrix, gradient.double())
        return direction, right, (2.0 * step_kl / (right @ matrix @ right)).sqrt() * right

    step = trpo_step(
        monkeypatch, look, head_only=True, cg_damping=damping, cg_iterations=100, step_kl=step_kl
    )
    direction, right, whole = step.seen[0]
    assert len(direction) == 7 * 33
    assert (direction - right).norm() < 1e-3 * right.norm()
    now, then = (tensors.flatten(list(one.model.lm_head.parameters())) for one in (step.policy, step.before))
    taken = whole * 0.5 ** step.facts["policy/halvings"]
    assert step.facts["policy/halvings"] <= 2
    assert (now - then - taken).norm() < 2e-3 * taken.norm()


def kl_gradient(found: Rollout, old: Any, model: Any) -> Tensor:
    """Gradient of the mean KL(old || model) per token, over the whole vocabulary, without the trainer."""
    width = max(len(row.ids) for row in found.completions)
    ids = torch.tensor(
        [
            p.ids + c.ids + [0] * (width - len(c.ids))
            for p, c in zip(found.prompts, found.completions, strict=True)
        ]
    )
    with torch.no_grad():
        then = torch.log_softmax(old(ids).logits[:, :-1], -1)
    now = torch.log_softmax(model(ids).logits[:, :-1], -1)
    kl = (then.exp() * (then - now)).sum(-1)[found.completion_mask].mean()
    weights = list(model.parameters())
    return tensors.flatten(torch.autograd.grad(kl, weights, allow_unused=True, materialize_grads=True))


def test_fisher_products_are_differences_of_kl_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Symmetric and positive, too. The differences are taken in float64."""
    damping = 0.5

    def look(product: Any, gradient: Tensor, direction: Tensor, found: Rollout, before: models.Policy) -> Any:
        one, other = (torch.randn(len(gradient), generator=torch.Generator().manual_seed(n)) for n in (0, 1))
        old = copy.deepcopy(before.model).double()
        sides = []
        for sign in (1.0, -1.0):
            model, place = copy.deepcopy(old), 0
            with torch.no_grad():
                for weight in model.parameters():
                    weight += sign * 1e-4 * one[place : place + weight.numel()].view_as(weight)
                    place += weight.numel()
            sides.append(kl_gradient(found, old, model))
        return one, other, product(one), product(other), (sides[0] - sides[1]) / 2e-4

    step = trpo_step(monkeypatch, look, rollout_prompts=100, cg_damping=damping, cg_iterations=1)
    one, other, along_one, along_other, expected = step.seen[0]
    found = along_one - damping * one
    assert (found - expected).norm() < 1e-3 * expected.norm()
    assert float(other @ along_one) == pytest.approx(float(one @ along_other), rel=1e-3)
    assert float(one @ found) > 0.0


def test_an_accepted_step_keeps_the_exact_constraint_and_raises_the_exact_objective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = trpo_step(monkeypatch, lambda *_: None, cg_damping=0.01, cg_iterations=10, step_kl=0.02)
    total, tokens = 0.0, 0.0
    with torch.no_grad():
        lengths = torch.tensor([float(len(ids)) for ids in step.world.completions])
        for place in range(2):
            old, new = (logprobs(policy, step.world, place) for policy in (step.before, step.policy))
            total += float((old.exp() * (old - new)).sum())
            tokens += float((old.exp() * lengths).sum())
        gained = true_objective(step.world, step.policy) - true_objective(step.world, step.before)
    assert step.facts["policy/gain"] >= 0.0
    assert 0.0 < total / tokens <= 1.6 * 0.02
    assert gained > 0.0


def test_a_run_whose_step_is_rejected_leaves_the_policy_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    real = trpo.surrogate

    def worse(*arguments: Any, **named: Any) -> Any:
        gain, kl, error = real(*arguments, **named)
        return (gain if named["differentiate"] else gain - 1e3), kl, error

    monkeypatch.setattr(trpo, "surrogate", worse)
    step = trpo_step(monkeypatch, lambda *_: None, rollout_prompts=50, backtracks=3)
    assert step.facts["policy/halvings"] == 4 and step.facts["policy/gain"] == 0.0
    for old, new in zip(step.before.model.parameters(), step.policy.model.parameters(), strict=True):
        assert torch.equal(old, new)
