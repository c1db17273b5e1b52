"""Packing: several conversations in a row say, and teach, what each says and teaches alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core import drive, tiny
from tests.core.test_shared_prompt import by_distance, windowed
from training.core import __main__ as trainer
from training.core import batches, data, models, packing, protocol, sft
from training.core.configs import SFTConfig
from training.core.types import Demonstration

EXAMPLES = [
    Demonstration([], [5, 6, 7], [8, 9, 1]),
    Demonstration([], [50], [1]),
    Demonstration([], [20, 21, 22, 23, 24, 25, 26], [30, 31, 32, 33, 1]),
    Demonstration([], [60, 61], [62, 63, 64, 1]),
    Demonstration([], [70, 71, 72], [73, 1]),
]


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def alone(model: Any, example: Demonstration, skip: int) -> torch.Tensor:
    """-log p of each learned token by plain transformers' own logits, one conversation at a time."""
    ids = torch.tensor([example.prompt_ids + example.completion_ids])
    logits = model(ids).logits[0, skip - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, ids[0, skip:], reduction="none")


def gradients(model: Any) -> list[torch.Tensor]:
    return [weight.grad.clone() for weight in model.parameters()]


# --- the same log-probabilities and gradients -------------------------------------------------------


@pytest.mark.parametrize("completion_only", [True, False])
def test_loss_and_gradient_are_those_of_each_conversation_alone(folder: Path, completion_only: bool) -> None:
    config = SFTConfig(packing=True, completion_only=completion_only)
    policy = models.Policy(folder)
    (lines,) = sft.micro_batches(EXAMPLES, config, width=14)
    assert sorted(len(line) for line in lines) == [1, 2, 2]
    packed = -sft.token_logprobs(policy, lines, config)
    packed.mean().backward()
    found = gradients(policy.model)

    policy.model.zero_grad()
    order = [example for line in lines for example in line]
    skips = [len(example.prompt_ids) if completion_only else 1 for example in order]
    expected = torch.cat([alone(policy.model, *row) for row in zip(order, skips, strict=True)])
    expected.mean().backward()
    assert torch.allclose(packed, expected, atol=1e-5)
    for one, other in zip(found, gradients(policy.model), strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=0.0)


def test_a_conversation_does_not_see_its_neighbours(folder: Path) -> None:
    """Whatever stands before it or behind it in the row."""
    policy, config = models.Policy(folder), SFTConfig(packing=True)
    other = Demonstration([], [90, 91, 92], [93, 94, 1])
    first, second = EXAMPLES[0], EXAMPLES[3]
    with torch.no_grad():
        one = sft.token_logprobs(policy, [[first, second, EXAMPLES[1]]], config)
        two = sft.token_logprobs(policy, [[other, second, other]], config)
        whole = -alone(policy.model, second, len(second.prompt_ids))
    assert torch.allclose(one[3:7], two[3:7], atol=1e-5) and torch.allclose(one[3:7], whole, atol=1e-5)
    assert not torch.allclose(one[:3], two[:3], atol=1e-2)


def test_a_row_by_hand() -> None:
    found = packing.rows([[([5, 6], [7]), ([8], [9, 1])], [([4], [3])]], 0)
    assert found.input_ids.tolist() == [[5, 6, 7, 8, 9, 1], [4, 3, 0, 0, 0, 0]]
    assert found.positions is not None
    assert found.positions.tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 0, 0, 0, 0]]
    assert found.states[found.completion_mask].tolist() == [1, 3, 4, 0]
    assert found.tokens[found.completion_mask].tolist() == [7, 9, 1, 3]
    for row, columns in enumerate(["1", "11", "111", "   1", "   11", "   111"]):
        assert found.attention_mask[0, 0, row].tolist() == [mark == "1" for mark in columns.ljust(6)]
    assert found.attention_mask.any(-1).all(), "a token that sees nothing would be NaN"


# --- which conversations share a row, and a step ----------------------------------------------------


def test_rows_are_filled_without_loss_and_none_too_far() -> None:
    random_ = random.Random(0)
    for _trial in range(50):
        lengths = [random_.randint(1, 30) for _ in range(random_.randint(1, 40))]
        lines = packing.fill(lengths, 30)
        assert sorted(row for line in lines for row in line) == list(range(len(lengths)))
        sums = sorted(sum(lengths[row] for row in line) for line in lines)
        assert sums[-1] <= 30
        assert len(lines) == 1 or sum(sums[:2]) > 30, "two rows would be one"
    assert packing.fill([50, 3], 30) == [[0], [1]] and packing.fill([], 30) == []
    assert packing.fill([5, 5, 5, 5, 5, 5], 25) == [[0, 2, 4], [1, 3, 5]], "even rows: nothing is padding"


def test_steps_hold_every_conversation_once_in_the_order_of_chance() -> None:
    lengths = list(range(1, 41))
    plan = data.packed_batches(lengths, 60, seed=3, epoch=0)
    flat = [row for batch in plan for row in batch]
    assert sorted(flat) == list(range(40)) and flat != sorted(flat)
    sums = [sum(lengths[row] for row in batch) for batch in plan]
    assert max(sums) <= 60
    following = [lengths[batch[0]] for batch in plan[1:]]
    assert all(one + next_ > 60 for one, next_ in zip(sums, following, strict=False)), "each is full"
    assert plan != data.packed_batches(lengths, 60, seed=3, epoch=1)


# --- runs -------------------------------------------------------------------------------------------

CONFIG = {"epochs": 3, "batch_tokens": 256, "learning_rate": 3e-3, "packing": True}


def run(path: Path, folder: Path, **changes: Any) -> Path:
    snapshot = tiny.write_rows(path.with_suffix(".jsonl"), tiny.demonstrations())
    made = tiny.run_dir(path, "sft", {**CONFIG, **changes}, {"policy": folder, "snapshot": snapshot})
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    return made


def test_a_packed_run_learns_in_fewer_columns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: dict[bool, int] = {True: 0, False: 0}
    logprobs = models.Policy.logprobs
    packed = False

    def count(self: models.Policy, batch: Any, **how: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            columns[packed] += batch.input_ids.numel()
        return logprobs(self, batch, **how)

    monkeypatch.setattr(models.Policy, "logprobs", count)
    rows = {}
    for packed in (False, True):
        rows[packed] = drive.metrics(run(tmp_path / str(packed), folder, packing=packed))
    first, last = rows[True][0]["held_out/loss"], rows[True][max(rows[True])]["held_out/loss"]
    assert last < first - 1.0
    assert last == pytest.approx(rows[False][max(rows[False])]["held_out/loss"], abs=0.3)
    assert columns[True] < columns[False]


def test_the_split_into_micro_batches_changes_nothing(gpt2: Path, tmp_path: Path) -> None:
    whole, split = (
        drive.steady(drive.metrics(run(tmp_path / str(size), gpt2, epochs=1, microbatch_tokens=size)))
        for size in (8192, 96)
    )
    assert whole.keys() == split.keys()
    for step, values in whole.items():
        assert split[step] == pytest.approx(values, rel=1e-3, abs=1e-5)


def test_a_killed_packed_run_goes_on_to_the_same_output(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peace = run(tmp_path / "peace", gpt2, checkpoint_every=2)
    settings = {**CONFIG, "checkpoint_every": 2}
    inputs = {"policy": gpt2, "snapshot": tmp_path / "peace.jsonl"}
    made = tiny.run_dir(tmp_path / "run", "sft", settings, inputs)
    with monkeypatch.context() as patched, pytest.raises(drive.Killed):
        drive.kill_at(patched, 5)
        trainer.main([str(made)])
    assert drive.run(made) == {"status": "done"}
    assert protocol.verify(made / "output") == protocol.verify(peace / "output")
    assert drive.steady(drive.metrics(made)) == drive.steady(drive.metrics(peace))


@pytest.mark.parametrize("make", [windowed, by_distance])
def test_models_that_count_columns_take_plain_rows_and_say_so(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tiny.folder(tmp_path / "model", model=make().eval())
    plain, packed = (run(tmp_path / str(on), folder, epochs=1, packing=on) for on in (False, True))
    assert "packing is off" in drive.warnings(packed) and "packing" not in drive.warnings(plain)
    assert drive.steady(drive.metrics(plain)) == drive.steady(drive.metrics(packed))


def test_packed_and_padded_batches_have_the_same_shape_of_facts(gpt2: Path) -> None:
    """A packed batch is a batch like any other: the critic's hidden states come in the same order."""
    policy = models.Policy(gpt2)
    texts = [(example.prompt_ids, example.completion_ids) for example in EXAMPLES[:2]]
    plain = policy.facts(batches.rows(*zip(*texts, strict=True), 0), entropy=True)
    packed = policy.facts(packing.rows([texts], 0), entropy=True)
    for one, other in zip(plain, packed, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
