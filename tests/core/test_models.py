"""Texts, padding, log-probabilities and scores of real (tiny) transformers models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
)

from tests.core import tiny
from training.core import batches, models, state, tensors
from training.core.chat import Chat
from training.core.types import Failure

PROMPTS = [[5, 9, 40], [7, 8, 9, 10, 11, 12], [3]]
COMPLETIONS = [[20, 21, 1], [30], [40, 41, 42, 43, 1]]


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


# --- the text format (items 12, 13) -----------------------------------------------------------------


def test_prompt_and_completion_ids_are_the_template_s() -> None:
    chat = Chat(tiny.tokenizer())
    messages = tiny.question("what is cup")
    whole = chat.tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": "the cup is red"}], tokenize=False
    )
    ids = chat.prompt_ids(messages) + chat.completion_ids("the cup is red")
    assert chat.tokenizer.decode(ids) == whole
    assert ids[-1] == chat.eos_id and ids.count(chat.eos_id) == 1


def test_a_tokenizer_without_template_gets_a_plain_one_with_one_leading_space() -> None:
    chat = Chat(tiny.tokenizer(template=None))
    assert chat.render(tiny.question("hello")) == "User: hello\nAssistant:"
    assert chat.lead == " "
    ids = chat.prompt_ids(tiny.question("hello")) + chat.completion_ids("the cup")
    assert chat.tokenizer.decode(ids) == "User: hello\nAssistant: the cup<|end|>"
    assert chat.text(chat.completion_ids("the cup")) == "the cup"


def test_ids_survive_the_round_trip_through_text() -> None:
    chat = Chat(tiny.tokenizer())
    for text in ("the cup is blue", "Ünïcödé ☃, 12,345!", "a\nb"):
        assert chat.text(chat.completion_ids(text)) == text
        assert chat.completion_ids(chat.text(chat.completion_ids(text))) == chat.completion_ids(text)


def test_long_prompts_lose_their_oldest_turns_and_never_the_separator() -> None:
    chat = Chat(tiny.tokenizer())
    turns = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "old " * 10}, {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "the cup"},
    ]  # fmt: skip
    short = [turns[0], turns[3]]
    ids, lost = chat.fit(turns, len(chat.prompt_ids(turns)))
    assert not lost and ids == chat.prompt_ids(turns)
    ids, lost = chat.fit(turns, len(chat.prompt_ids(turns)) - 1)
    assert lost and ids == chat.prompt_ids(short)
    ids, lost = chat.fit(turns, 4)
    assert lost and ids == chat.prompt_ids(short)[-4:]
    assert ids[-1] == chat.tokenizer.convert_tokens_to_ids("<|assistant|>")


# --- padding and log-probabilities (items 3, 4, 5, 7, 10, 11) ---------------------------------------


def one_by_one(folder: Path, temperature: float = 1.0) -> list[torch.Tensor]:
    """Oracle: plain transformers, a batch of one, cross_entropy of the logits shifted by one."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0] / temperature
        places = logits[len(prompt) - 1 : -1]
        found.append(-torch.nn.functional.cross_entropy(places, torch.tensor(completion), reduction="none"))
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_batched_logprobs_equal_a_batch_of_one(folder: Path, temperature: float) -> None:
    policy = models.Policy(folder)
    with torch.no_grad():
        batch = batches.rows(PROMPTS, COMPLETIONS, policy.chat.pad_id)
        found = policy.logprobs(batch, temperature=temperature)
    assert torch.allclose(found, torch.cat(one_by_one(folder, temperature)), atol=1e-5)


def test_neither_pad_columns_nor_the_pad_id_change_anything(folder: Path) -> None:
    """Item 7: the pad is EOS here, and EOS is still scored."""
    policy = models.Policy(folder)
    prompts, completions = [*PROMPTS, [6] * 30], [*COMPLETIONS, [50] * 20]
    with torch.no_grad():
        small = policy.logprobs(batches.rows(PROMPTS, COMPLETIONS, policy.chat.pad_id))
        large = policy.logprobs(batches.rows(prompts, completions, policy.chat.eos_id))
    assert torch.allclose(small, large[: len(small)], atol=1e-6)


def test_padding_gets_no_gradient_and_eos_does(folder: Path) -> None:
    """Items 5 and 6, by the gradient on the logits themselves."""
    policy = models.Policy(folder)
    batch = batches.rows(PROMPTS, COMPLETIONS, policy.chat.pad_id)
    logits = policy.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.detach()
    logits.requires_grad_()
    chosen = batches.at(logits, batch.states)[batch.completion_mask]
    tensors.token_logprobs(chosen, batch.tokens[batch.completion_mask]).sum().backward()
    touched = logits.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        expected = [len(prompt) - 1 <= place < len(prompt) + len(completion) - 1 for place in range(8)]
        assert touched[row].tolist() == expected[: touched.shape[1]]
    assert batch.tokens[0, 2] == policy.chat.eos_id and batch.completion_mask[0, 2]


def test_dropout_is_off_so_that_two_passes_agree_to_the_bit(tmp_path: Path) -> None:
    made = tiny.folder(tmp_path / "m", model=tiny.gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5))
    policy = models.Policy(made)
    batch = batches.rows(PROMPTS, COMPLETIONS, 0)
    assert torch.equal(policy.logprobs(batch), policy.logprobs(batch))
    assert not policy.model.training


class Scaled(torch.nn.Module):
    """A model whose logits are not just head(hidden)."""

    def __init__(self, policy: models.Policy) -> None:
        super().__init__()
        self.inner = policy.model
        self.base_model = policy.model.base_model

    def get_output_embeddings(self) -> Any:
        return self.inner.get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        found = self.inner(**inputs)
        found.logits = 30 * torch.tanh(found.logits / 30)
        return found


def test_logits_that_are_more_than_the_head_are_noticed(gpt2: Path) -> None:
    policy = models.Policy(gpt2)
    assert policy.plain_head
    batch = batches.rows(PROMPTS, COMPLETIONS, 0)
    plain = policy.outputs(batch)[1]
    policy.model.transformer.ln_f.weight.data *= 50
    policy.model = Scaled(policy)
    assert not policy._head_is_plain()
    policy.plain_head = False
    whole = policy.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    expected = batches.at(whole, batch.states)[batch.completion_mask]
    assert torch.allclose(policy.outputs(batch)[1], expected, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_facts_are_those_of_the_whole_logits(folder: Path) -> None:
    policy = models.Policy(folder)
    batch = batches.rows(PROMPTS, COMPLETIONS, policy.chat.pad_id)
    with torch.no_grad():
        hidden, logits = policy.outputs(batch)
        facts = policy.facts(batch, temperature=0.7, entropy=True)
    exact = torch.distributions.Categorical(logits=logits / 0.7)
    assert torch.equal(facts.hidden, hidden)
    assert torch.allclose(facts.logprobs, exact.log_prob(batch.tokens[batch.completion_mask]), atol=1e-6)
    assert torch.allclose(facts.entropy, exact.entropy(), atol=1e-6)


@pytest.mark.parametrize("plain_head", [True, False])
def test_logits_made_piece_by_piece_change_neither_facts_nor_gradient(
    folder: Path, plain_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = models.Policy(folder)
    policy.plain_head = plain_head
    batch = batches.rows(PROMPTS, COMPLETIONS, policy.chat.pad_id)

    def facts_and_gradient() -> list[torch.Tensor]:
        policy.model.zero_grad()
        facts = policy.facts(batch, temperature=0.7, entropy=True)
        (facts.logprobs.sum() + facts.entropy.square().sum()).backward()
        return [*facts, *(weight.grad.clone() for weight in policy.model.parameters())]

    whole = facts_and_gradient()
    monkeypatch.setattr(tensors, "LOGITS_AT_ONCE", 2 * 300)
    for one, other in zip(whole, facts_and_gradient(), strict=True):
        assert torch.allclose(one, other, atol=1e-6 * max(1.0, float(one.abs().max())), rtol=1e-5)


# --- scores (items 51, 52, 8) -----------------------------------------------------------------------


def test_the_score_is_read_at_the_last_real_token(folder: Path) -> None:
    model = models.RewardModel(folder, fresh_head_seed=0)
    with torch.no_grad():
        batch = batches.rows(PROMPTS, COMPLETIONS, model.chat.pad_id)
        found = model.scores(batch)
        wide = batches.rows([*PROMPTS, [9] * 50], [*COMPLETIONS, [9] * 40], model.chat.pad_id)
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            hidden = model.model.base_model(torch.tensor([prompt + completion]))[0]
            assert found[row].item() == pytest.approx(model.head(hidden[0, -1]).item(), abs=1e-5)
        assert torch.allclose(model.scores(wide)[:3], found, atol=1e-5)


def test_plain_transformers_gives_the_same_scores_left_or_right_padded(folder: Path, tmp_path: Path) -> None:
    model = models.RewardModel(folder, fresh_head_seed=0)
    model.save(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    pad = AutoTokenizer.from_pretrained(tmp_path).pad_token_id
    batch = batches.rows(PROMPTS, COMPLETIONS, pad)
    with torch.no_grad():
        found = model.scores(batch)
        right = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.squeeze(-1)
        left_ids, left_mask = (torch.stack([turned(row, used) for row, used in zip(
            part, batch.attention_mask.sum(1).tolist(), strict=True)]) for part in (
                batch.input_ids, batch.attention_mask))  # fmt: skip
        positions = (left_mask.cumsum(1) - left_mask).clamp(min=0)
        left = plain(input_ids=left_ids, attention_mask=left_mask, position_ids=positions).logits.squeeze(-1)
    assert torch.allclose(found, right, atol=1e-5)
    assert torch.allclose(found, left, atol=1e-4)


def turned(row: torch.Tensor, used: int) -> torch.Tensor:
    """A right-padded row with its padding on the left."""
    return torch.cat([row[used:], row[:used]])


def test_a_fresh_head_has_the_published_spread_and_no_bias(tmp_path: Path) -> None:
    made = tiny.folder(tmp_path / "wide", model=tiny.gpt2(n_embd=1024, n_layer=1))
    head = models.RewardModel(made, fresh_head_seed=0).head
    assert head.weight.std().item() == pytest.approx((1 / 1025) ** 0.5, rel=0.1)
    assert abs(head.weight.mean().item()) < 4 * (1 / 1025) ** 0.5 / 1024**0.5
    assert head.bias is None or not head.bias.any()


@pytest.mark.parametrize("pad", [None, "<|end|>"])
def test_a_missing_or_ambiguous_pad_becomes_one_of_its_own_without_changing_scores(
    tmp_path: Path, pad: str | None
) -> None:
    made = tiny.folder(tmp_path / "m", pad=pad)
    model = models.RewardModel(made, fresh_head_seed=0)
    assert model.chat.pad_id not in model.chat.stop_ids
    assert model.model.config.pad_token_id == model.chat.pad_id == 300
    plain = models.RewardModel(tiny.folder(tmp_path / "n"), fresh_head_seed=0)
    with torch.no_grad():
        expected = plain.scores(batches.rows(PROMPTS, COMPLETIONS, 0))
        assert torch.equal(model.scores(batches.rows(PROMPTS, COMPLETIONS, 300)), expected)


# --- saved and restored -----------------------------------------------------------------------------


def test_a_saved_policy_is_the_same_to_plain_transformers(folder: Path, tmp_path: Path) -> None:
    policy = models.Policy(folder)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.01
    policy.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    batch = batches.rows(PROMPTS, COMPLETIONS, 0)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    held = dict(policy.model.named_parameters())
    assert all(torch.equal(weight, held[name]) for name, weight in plain.named_parameters())
    # Not to the bit: GPT-2's activation is another kernel here, see `folders.fuse_gelu`.
    assert torch.allclose(plain(**inputs).logits, policy.model(**inputs).logits, atol=1e-6)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tiny.TEMPLATE
    assert plain.generation_config.eos_token_id == 1
    assert not list(tmp_path.glob("*.bin"))


def test_adam_goes_on_to_the_bit_after_its_state_was_written_and_read(gpt2: Path) -> None:
    def step(policy: models.Policy, optimizer: torch.optim.Optimizer, seed: int) -> None:
        optimizer.zero_grad()
        ids = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(seed))
        policy.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    first, second = models.Policy(gpt2), models.Policy(gpt2)
    adam = torch.optim.Adam(first.model.parameters(), lr=1e-2, eps=1e-5)
    step(first, adam, 0)
    held = {**state.named_weights(first.model, "p."), **state.optimizer_tensors(adam, "o.")}
    held = {name: tensor.clone() for name, tensor in held.items()}  # as a checkpoint file would
    again = torch.optim.Adam(second.model.parameters(), lr=1e-2, eps=1e-5)
    state.restore_weights(second.model, held, "p.")
    state.restore_optimizer(again, held, "o.")
    for seed in (1, 2):
        step(first, adam, seed)
        step(second, again, seed)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_random_numbers_of_different_places_differ_and_repeat() -> None:
    drawn = {
        place: torch.rand(4, generator=state.generator(7, *place)).tolist()
        for place in [(1, 0), (0, 1), (1, 1), (2,), ()]
    }
    assert len({tuple(numbers) for numbers in drawn.values()}) == 5
    assert torch.rand(4, generator=state.generator(7, 1, 0)).tolist() == drawn[1, 0]
    assert torch.rand(4, generator=state.generator(8, 1, 0)).tolist() != drawn[1, 0]


def test_an_ensemble_scores_by_its_mean_and_knows_its_doubt(tmp_path: Path, gpt2: Path) -> None:
    """Against each member alone; a folder of one member has no doubt."""
    folder = tmp_path / "ensemble"
    members = [models.RewardModel(gpt2, fresh_head_seed=seed) for seed in (1, 2, 3)]
    for number, member in enumerate(members, start=1):
        path = models.member_folder(folder, number)
        path.mkdir(parents=True)
        member.save(path)
    batch = batches.rows([[5, 9], [7]], [[30, 31, 1], [40, 1]], 0)
    with torch.no_grad():
        alone = torch.stack([member.scores(batch) for member in members])
        together = models.RewardEnsemble(folder)
        assert torch.allclose(together.each(batch), alone.T, atol=1e-5)
        single = models.RewardEnsemble(folder / "member-2")
        assert torch.equal(single.each(batch), members[1].each(batch))
        assert torch.allclose(members[1].each(batch), alone[1].unsqueeze(1), atol=1e-5)


def test_capped_logits_are_seen_though_the_pad_token_s_are_zero(tmp_path: Path) -> None:
    """Gemma 2 caps logits and its padding row is zero: an example of the padding alone would not tell."""
    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "final_logit_softcapping": 5.0}
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**shape, **heads, **ends)).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(40.0)
    policy = models.Policy(tiny.folder(tmp_path / "gemma", model=model))
    assert not policy.plain_head
    batch = batches.rows([[5, 9]], [[30, 31, 1]], 0)
    whole = model(torch.tensor([[5, 9, 30, 31, 1]])).logits[0, 1:-1].log_softmax(-1)
    expected = whole[torch.arange(3), torch.tensor([30, 31, 1])]
    assert torch.allclose(policy.logprobs(batch), expected, atol=1e-4)


def test_a_template_that_refuses_system_turns_is_named(tmp_path: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    chat = Chat(tiny.tokenizer(template=refusing))
    with pytest.raises(Failure, match="refuses a conversation of system, user: no system role"):
        chat.render([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
