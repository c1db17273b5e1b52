"""Log-probabilities over a large vocabulary: never all logits at once, whatever asks for them (item 11)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.profiler import profile

from tests.core import tiny
from training.core import batches, models, tensors

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


def chunked(head: torch.nn.Linear, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    logprobs, _entropy = tensors.logprobs_and_entropy(
        head, states, tokens, temperature=0.7, want_entropy=True, vocabulary=VOCABULARY
    )
    return logprobs


def test_the_hook_sees_a_whole_copy_where_there_is_one(head: torch.nn.Linear) -> None:
    """The measure itself: plain log_softmax holds logits and their log_softmax, twice all of them."""
    states = torch.randn(ROWS, WIDTH)
    assert peak(lambda: torch.log_softmax(head(states), -1).sum().backward()) > 2 * WHOLE


@pytest.mark.parametrize("with_gradient", [False, True])
def test_long_batches_hold_a_part_of_the_logits_at_a_time(
    head: torch.nn.Linear, with_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = 16
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", ROWS * VOCABULARY // parts)
    states, tokens = torch.randn(ROWS, WIDTH), torch.randint(VOCABULARY, (ROWS,))

    def work() -> None:
        with torch.set_grad_enabled(with_gradient):
            found = chunked(head, states, tokens)
            if with_gradient:
                found.sum().backward()

    # logits, what logsumexp and the entropy make of them, and their gradients: of one part only
    assert peak(work) < 8 * WHOLE / parts < WHOLE


def test_what_comes_in_parts_is_what_comes_whole(
    head: torch.nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", 100 * VOCABULARY)
    states = torch.randn(300, WIDTH, requires_grad=True)
    tokens = torch.randint(VOCABULARY, (300,))
    found = chunked(head, states, tokens)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    exact = torch.log_softmax(head(states).double() / 0.7, -1).gather(1, tokens[:, None]).squeeze(1)
    (expected,) = torch.autograd.grad(exact.sum(), states)
    assert torch.allclose(found.double(), exact, atol=1e-4)
    assert torch.allclose(gradient, expected.float(), atol=1e-4)


def test_a_policy_with_a_large_vocabulary_never_holds_all_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `Policy.logprobs`, as sft and the reference use it; the prompt's logits are not made at all."""
    vocabulary = 50_000
    folder = tiny.folder(tmp_path / "model", model=tiny.llama(vocab_size=vocabulary, hidden_size=8))
    policy = models.Policy(folder)
    policy.model.requires_grad_(False)
    policy.model.base_model.requires_grad_(True)  # the head's own gradient is as large as the head
    random = torch.Generator().manual_seed(0)
    prompts, completions = torch.randint(5, 300, (2, 32, 40), generator=random).tolist()
    batch = batches.rows(prompts, completions, 0)
    whole = 32 * 40 * vocabulary * 4
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", 32 * 40 * vocabulary // 16)
    head = policy.model.get_input_embeddings().weight.numel() * 4
    assert peak(lambda: policy.logprobs(batch).sum().backward()) - 2 * head < whole
    with torch.no_grad():
        assert peak(lambda: policy.logprobs(batch)) < whole / 3
