"""Log-probabilities over a large vocabulary: never all logits at once, whatever asks for them (item 11)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd.profiler import profile

from tests.core import tiny
from tests.core.teams import job
from training.core import batches, configs, models, rewards, rollout, tensors, trpo

VOCABULARY, WIDTH, ROWS = 150_000, 8, 512
MIB = 1 << 20
WHOLE = ROWS * VOCABULARY * 4
"""Bytes of all logits in float32: 293 MiB."""


def peak(work: Callable[[], Any]) -> int:
    """Most bytes of tensors that were alive at a time during `work`, beyond those before it."""
    with profile(profile_memory=True) as seen:
        work()
    events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
    most = alive = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


@pytest.fixture
def head() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, VOCABULARY, bias=False)


def chunked(
    head: torch.nn.Linear, states: torch.Tensor, tokens: torch.Tensor, *, want_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return tensors.logprobs_and_entropy(
        head, states, tokens, temperature=0.7, want_entropy=want_entropy, vocabulary=VOCABULARY
    )


def test_the_hook_sees_a_whole_copy_where_there_is_one(head: torch.nn.Linear) -> None:
    """The measure itself: plain log_softmax holds logits and their log_softmax, twice all of them."""
    states = torch.randn(ROWS, WIDTH)
    assert peak(lambda: torch.log_softmax(head(states), -1).sum().backward()) > 2 * WHOLE


@pytest.mark.parametrize("want_entropy", [False, True])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_long_batches_hold_a_part_of_the_logits_at_a_time(
    head: torch.nn.Linear, with_gradient: bool, want_entropy: bool
) -> None:
    """At the limit that is shipped; logits, all that is made of them, and their gradients together."""
    states, tokens = torch.randn(ROWS, WIDTH), torch.randint(VOCABULARY, (ROWS,))

    def work() -> None:
        with torch.set_grad_enabled(with_gradient):
            found = torch.stack(chunked(head, states, tokens, want_entropy=want_entropy))
            if with_gradient:
                found.sum().backward()

    own = 2 * head.weight.numel() * 4 if with_gradient else 0  # the head's gradient: one part's, and the sum
    assert peak(work) - own < 1.25 * 4 * tensors.LOGITS_AT_ONCE < 0.6 * WHOLE


@pytest.mark.parametrize("rows", [300, 100])
def test_what_comes_in_parts_is_what_comes_whole(head: torch.nn.Linear, rows: int) -> None:
    """By log_softmax, gather and autograd; 300 tokens are more than the shipped limit, 100 are less."""
    states = torch.randn(rows, WIDTH, requires_grad=True)
    tokens, slopes = torch.randint(VOCABULARY, (rows,)), torch.randn(2, rows)
    found = chunked(head, states, tokens, want_entropy=True)
    gradient = torch.autograd.grad((torch.stack(found) * slopes).sum(), [states, head.weight])
    logprobs = torch.log_softmax(head(states).double() / 0.7, -1)
    exact = logprobs.gather(1, tokens[:, None]).squeeze(1), -(logprobs.exp() * logprobs).sum(1)
    expected = torch.autograd.grad((torch.stack(exact) * slopes).sum(), [states, head.weight])
    for one, other in zip([*found, *gradient], [*exact, *expected], strict=True):
        assert torch.allclose(
            one.double(), other.double(), atol=2e-6 * float(other.detach().abs().max()), rtol=1e-5
        )


def test_a_second_derivative_is_refused_instead_of_wrong(head: torch.nn.Linear) -> None:
    states, tokens = torch.randn(3, WIDTH, requires_grad=True), torch.tensor([0, 1, 2])
    logprobs, _entropies = chunked(head, states, tokens, want_entropy=False)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(logprobs.sum(), states, create_graph=True)


@pytest.fixture
def policy(tmp_path: Path) -> models.Policy:
    """Its head is frozen, for that one's own gradient is as large as the head."""
    model = tiny.llama(vocab_size=VOCABULARY, hidden_size=WIDTH)
    found = models.Policy(tiny.folder(tmp_path / "model", model=model))
    found.model.requires_grad_(False)
    found.model.base_model.layers.requires_grad_(True)
    return found


def test_a_policy_with_a_large_vocabulary_never_holds_all_logits(policy: models.Policy) -> None:
    """Through `Policy.logprobs`, as sft and the reference use it; the prompt's logits are not made at all."""
    random = torch.Generator().manual_seed(0)
    prompts, completions = torch.randint(5, 300, (2, 16, 32), generator=random).tolist()
    batch = batches.rows(prompts, completions, 0)
    assert int(batch.completion_mask.sum()) == ROWS
    assert peak(lambda: policy.logprobs(batch).sum().backward()) < 0.6 * WHOLE
    with torch.no_grad():
        assert peak(lambda: policy.logprobs(batch)) < 0.6 * WHOLE


def test_trpo_never_holds_all_logits(policy: models.Policy) -> None:
    """Neither its surrogate nor its Fisher products, which hold some tensors of the size of logits."""
    texts = torch.randint(5, 300, (2, 16, 32), generator=torch.Generator().manual_seed(0)).tolist()
    mask = torch.ones(16, 32, dtype=torch.bool)
    found: Any = SimpleNamespace(
        prompts=[SimpleNamespace(ids=ids) for ids in texts[0]],
        completions=[SimpleNamespace(ids=ids) for ids in texts[1]],
        completion_mask=mask,
        logprobs=torch.full(mask.shape, -12.0),
    )
    team = rollout.Team(policy, policy, None, rewards.WeightedSum({}), 0)
    config = configs.TRPOConfig(temperature=0.7)
    weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
    vector = torch.ones(sum(weight.numel() for weight in weights))

    def surrogate() -> None:
        trpo.surrogate(team, found, mask.float(), range(16), config, job(config), differentiate=True)

    def fisher() -> None:
        trpo.fisher_product(team, weights, found, range(16), config, job(config), vector)

    assert peak(surrogate) < 0.6 * WHOLE
    assert peak(fisher) < 0.8 * WHOLE
