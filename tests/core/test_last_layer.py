"""The last layer's network at the places that are read: the same states and gradients, and less work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import OPTConfig, OPTModel

from training.core import last_layer, models
from training.core.batches import rows

PROMPTS = [[5, 9, 40, 7, 7, 8], [7, 8], [3, 4, 5]]
COMPLETIONS = [[20, 1], [30, 31, 32], [9, 8, 1]]


@pytest.fixture(params=["gpt2", "llama"])
def policy(request: pytest.FixtureRequest) -> models.Policy:
    return models.Policy(request.getfixturevalue(request.param))


def test_states_and_gradients_are_those_of_the_whole_model(policy: models.Policy) -> None:
    batch = rows(PROMPTS, COMPLETIONS, policy.chat.pad_id)
    trunk = policy.model.base_model
    assert last_layer.feed_forward(trunk) is not None
    found = models.completion_states(trunk, batch)
    places = [(row, len(PROMPTS[row]) - 1 + t) for row in range(3) for t in range(len(COMPLETIONS[row]))]
    whole = trunk(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
    wanted = torch.stack([whole[place] for place in places])  # oracle: the plain model, place by place
    assert torch.allclose(found, wanted, atol=1e-6)
    gradients = []
    for states in (found, wanted):
        policy.model.zero_grad()
        states.pow(3).sum().backward()
        gradients.append({n: w.grad for n, w in policy.model.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        assert torch.allclose(gradients[0][name], gradient, atol=1e-5 * float(gradient.abs().max())), name


def test_the_network_sees_no_more_than_what_is_read(policy: models.Policy) -> None:
    batch = rows(PROMPTS, COMPLETIONS, policy.chat.pad_id)
    network = last_layer.feed_forward(policy.model.base_model)
    assert network is not None
    inner = next(module for module in network.modules() if module is not network)
    seen: list[int] = []
    inner.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0].flatten(0, -2).shape[0]))
    policy.logprobs(batch)
    assert seen == [sum(map(len, COMPLETIONS))]
    assert "forward" not in vars(network)  # what was put on it is taken off


def test_a_model_without_such_a_network_is_left_alone() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32}
    trunk = OPTModel(OPTConfig(vocab_size=50, word_embed_proj_dim=16, **shape)).eval()
    assert last_layer.feed_forward(trunk) is None
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(last_layer.hidden_at(trunk, torch.tensor([2]), ids), trunk(input_ids=ids)[0][:, 2])


def test_a_network_that_mixes_tokens_is_found_out(gpt2: Path) -> None:
    trunk = models.Policy(gpt2).model.base_model
    network = trunk.h[-1].mlp
    plain = type(network).forward

    class Mixing(type(network)):  # type: ignore[misc]
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return plain(self, states) + states.mean(1, keepdim=True)

    network.__class__ = Mixing
    assert last_layer.feed_forward(trunk) is None


def test_many_places_take_the_plain_way(policy: models.Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, ids = policy.model.base_model, torch.tensor([[1, 2, 3, 1, 2]])
    monkeypatch.setattr(last_layer, "only_at", lambda *_: pytest.fail("all places were asked for"))
    found = last_layer.hidden_at(trunk, torch.arange(5), ids)
    assert torch.equal(found, trunk(input_ids=ids)[0][0])
