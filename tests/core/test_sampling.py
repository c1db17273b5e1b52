"""The decode loop against full forward passes and the exact distribution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from tests.core import tiny
from training.core import batches, decoding, models, sampling, state
from training.core.types import Completions

PROMPTS = [[5, 9, 40], [7, 8, 9, 10, 11, 12], [3], [5, 9, 40]]


def decode(policy: models.Policy, prompts: list[list[int]] = PROMPTS, **changes: object) -> Completions:
    settings: dict[str, object] = {
        "max_new_tokens": 12,
        "temperature": 1.0,
        "generator": state.generator(0),
        "rows_at_once": 64,
        "safe_point": lambda: None,
    }
    return sampling.decode(policy, prompts, **{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["gpt2", "llama"])
def policy(request: pytest.FixtureRequest) -> models.Policy:
    return models.Policy(request.getfixturevalue(request.param))


def eager_to_stop(policy: models.Policy) -> models.Policy:
    """Many stop tokens, so that rows end at different times."""
    policy.chat.stop_ids = set(range(0, 300, 8))
    return policy


def test_cached_left_padded_decoding_has_the_logprobs_of_a_full_forward(policy: models.Policy) -> None:
    """Items 1, 4 and 9: at temperature 0.7, with rows that end early and leave the batch."""
    written = decode(eager_to_stop(policy), temperature=0.7)
    assert len({len(ids) for ids in written.ids}) > 1
    for prompt, ids, logprob in zip(PROMPTS, written.ids, written.logprobs, strict=True):
        with torch.no_grad():
            logits = policy.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        exact = torch.log_softmax(logits, -1)[torch.arange(len(ids)), ids].sum()
        assert logprob == pytest.approx(exact.item(), abs=1e-3)


def test_a_row_says_the_same_whatever_stands_beside_it(policy: models.Policy) -> None:
    together = decode(eager_to_stop(policy))
    apart = decode(policy, rows_at_once=1)
    assert together.ids == apart.ids and together.finished == apart.finished


def test_decoding_ends_with_the_first_stop_token_which_is_kept(policy: models.Policy) -> None:
    """Item 14: nothing follows the stop token, and nothing is cut before it."""
    policy = eager_to_stop(policy)
    for ids, finished in zip(*(decode(policy)[place] for place in (0, 2)), strict=True):
        assert not any(token in policy.chat.stop_ids for token in ids[:-1])
        assert finished is (ids[-1] in policy.chat.stop_ids)
        assert finished or len(ids) == 12


def test_seeds_differ_and_repeat(policy: models.Policy) -> None:
    """Item 9: sampled, not greedy, although the folder's generation config asks for greedy decoding."""
    policy.model.generation_config.do_sample = False
    first = decode(policy)
    assert decode(policy, generator=state.generator(0)).ids == first.ids
    assert decode(policy, generator=state.generator(1)).ids != first.ids
    assert first.ids[0] != first.ids[3]  # the same prompt twice


def test_the_first_token_follows_the_softmax(gpt2: Path) -> None:
    """Item 2: chi-square of 50,000 draws from a real model's first distribution, nothing cut off."""
    policy = models.Policy(gpt2)
    with torch.no_grad():
        logits = policy.model(torch.tensor([[5, 9, 40]])).logits[0, -1] * 4 / 0.8
    draws, _logprobs = sampling.draw(
        logits.expand(50_000, -1), torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    )
    expected = torch.softmax(logits.double(), -1) * 50_000
    found = torch.bincount(draws, minlength=300).double()
    chi_square = ((found - expected) ** 2 / expected).sum().item()
    freedom = 299
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5
    greedy_or_cut = torch.softmax(logits.topk(50).values.double(), -1)
    assert len(greedy_or_cut) < (found > 0).sum()


def test_draws_at_the_ends_of_the_unit_interval_are_tokens_that_can_occur() -> None:
    logits = torch.tensor([[-1e9, 0.0, 0.0, -1e9]]).expand(2, -1)
    tokens, logprobs = sampling.draw(logits, torch.tensor([0.0, 1.0 - 1e-7]))
    assert tokens.tolist() == [1, 2]
    assert torch.allclose(logprobs, torch.tensor([0.5, 0.5]).log())


def test_draws_invert_the_cumulative_distribution() -> None:
    """Oracle: one cumulative sum over the whole vocabulary, which is not a multiple of a block."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 1003, generator=generator, dtype=torch.float64) * 4
    uniform = torch.rand(2000, generator=generator)
    tokens, logprobs = sampling.draw(logits.float(), uniform)
    exact = torch.softmax(logits, -1)
    cumulative = exact.cumsum(-1)
    above = cumulative.gather(1, tokens.unsqueeze(1)).squeeze(1)
    chance = exact.gather(1, tokens.unsqueeze(1)).squeeze(1)
    assert (above > uniform - 1e-6).all() and (above - chance < uniform + 1e-6).all()
    assert torch.allclose(logprobs.double(), chance.log(), atol=1e-5)


def test_stopping_is_possible_between_any_two_tokens(gpt2: Path) -> None:
    class Stop(Exception):
        pass

    calls = []

    def safe_point() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stop

    with pytest.raises(Stop):
        decode(models.Policy(gpt2), safe_point=safe_point)


def test_a_model_with_absolute_positions_is_not_shifted_by_padding(tmp_path: Path) -> None:
    """Item 4: large position embeddings would show a missing position id at once."""
    model = tiny.gpt2()
    model.transformer.wpe.weight.data *= 50
    policy = models.Policy(tiny.folder(tmp_path / "m", model=model))
    written = decode(policy, prompts=[[9], [8] * 40])
    with torch.no_grad():
        alone = policy.logprobs(batches.rows([[9]], [written.ids[0]], 0)).sum()
    assert written.logprobs[0] == pytest.approx(alone.item(), abs=1e-3)


# --- the quick way ----------------------------------------------------------------------------------


def test_the_quick_way_says_token_for_token_what_the_plain_way_says(policy: models.Policy) -> None:
    """Rows of different lengths, that end at different times, against the model's own growing cache."""
    quick = decode(eager_to_stop(policy))
    assert policy.decodes_in_place
    policy.decodes_in_place = False
    plain = decode(policy)
    assert quick.ids == plain.ids and quick.finished == plain.finished
    assert quick.logprobs == pytest.approx(plain.logprobs, abs=1e-4)


def test_the_quick_way_has_the_logits_of_plain_transformers(gpt2: Path, llama: Path) -> None:
    """Oracle: a batch of one without cache, by a model that nothing was done to."""
    for folder in (gpt2, llama):
        policy, plain = models.Policy(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
        assert sampling.decodes_in_place(policy)
        with torch.inference_mode(), decoding.quick(policy.model, mixed=False):
            text = sampling.Text(policy, PROMPTS, 2, in_place=True)
            for token in (30, 31):
                text.write(torch.full((4,), token))
        with torch.no_grad():
            exact = torch.stack(
                [plain(torch.tensor([[*prompt, 30, 31]])).logits[0, -1] for prompt in PROMPTS]
            )
        assert torch.allclose(text.logits, exact, atol=1e-5)


def test_a_prompt_is_read_once_however_often_it_is_answered(
    policy: models.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    next_logits = policy.next_logits

    def counted(input_ids: torch.Tensor, *others: object) -> torch.Tensor:
        shapes.append(tuple(input_ids.shape))
        return next_logits(input_ids, *others)  # type: ignore[arg-type]

    sampling.decodes_in_place(policy)
    monkeypatch.setattr(policy, "next_logits", counted)
    policy.chat.stop_ids = set()
    written = decode(policy, [[5, 9, 40], [7, 8], [5, 9, 40], [5, 9, 40]], max_new_tokens=3)
    assert shapes == [(2, 3), (4, 1), (4, 1)]
    assert len({tuple(ids) for ids in written.ids}) == 4


def test_prompts_that_are_read_in_several_passes_are_answered_alike(
    policy: models.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = decode(policy)
    monkeypatch.setattr(sampling, "READ_AT_ONCE", 1)
    apart = decode(policy)
    assert together.ids == apart.ids
    assert together.logprobs == pytest.approx(apart.logprobs, abs=1e-4)


def test_nothing_is_copied_at_a_token_but_the_token(gpt2: Path) -> None:
    """The room for keys is the same memory from the first token to the last."""
    policy = models.Policy(gpt2)
    with torch.inference_mode():
        text = sampling.Text(policy, PROMPTS, 5, in_place=True)
        places = [layer.keys.data_ptr() for layer in text.cache.layers]
        for _token in range(5):
            text.write(torch.tensor([3, 4, 5, 6]))
    assert [layer.keys.data_ptr() for layer in text.cache.layers] == places
    assert text.cache.get_seq_length() == 6 + 5 == text.cache.layers[0].keys.shape[-2]


def test_the_model_is_afterwards_as_it_was(policy: models.Policy) -> None:
    """Weights that were laid out are of this moment: the next rollout must see the weights of then."""
    first = decode(policy)
    attention = policy.model.config._attn_implementation
    assert attention == "sdpa"
    assert not any("forward" in vars(module) for module in policy.model.modules())
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.5)
    second = decode(policy)
    assert first.ids != second.ids
    exact = policy.logprobs(batches.rows(PROMPTS, second.ids, 0)).sum()
    assert sum(second.logprobs) == pytest.approx(exact.item(), abs=1e-3)


def test_a_model_that_looks_through_a_window_is_decoded_the_plain_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 96}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    window = MistralForCausalLM(MistralConfig(**shape, **heads, sliding_window=4, pad_token_id=0))
    policy = models.Policy(tiny.folder(tmp_path / "m", model=window.eval()))
    policy.chat.stop_ids = set()
    written = decode(policy, [[5, 9, 40, 8, 3, 22], [7, 8], [7, 8]])
    assert policy.decodes_in_place is False
    for prompt, ids, logprob in zip([[5, 9, 40, 8, 3, 22], [7, 8], [7, 8]], *written[:2], strict=True):
        exact = policy.logprobs(batches.rows([prompt], [ids], 0)).sum()
        assert logprob == pytest.approx(exact.item(), abs=1e-3)


def test_a_model_that_disagrees_with_the_quick_way_is_decoded_the_plain_way(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault planted in the cache: the keys of the second token go where those of the first were."""
    policy = models.Policy(gpt2)

    def update(
        layer: decoding.RoomyLayer, keys: torch.Tensor, values: torch.Tensor, *_more: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer.keys[..., layer.used : layer.used + 1, :] = keys
        return layer.keys[..., : layer.used + 1, :], layer.values[..., : layer.used + 1, :]

    monkeypatch.setattr(decoding.RoomyLayer, "update", update)
    assert not sampling.decodes_in_place(policy)


@pytest.mark.parametrize("learns", [True, False])
def test_bfloat16_decoding_has_about_the_logprobs_of_a_full_forward(llama: Path, learns: bool) -> None:
    policy = models.Policy(llama, dtype="bfloat16", learns=learns)
    written = decode(policy, temperature=1.0)
    assert policy.decodes_in_place
    exact = models.Policy(llama).logprobs(batches.rows(PROMPTS, written.ids, 0))
    assert sum(written.logprobs) == pytest.approx(exact.sum().item(), rel=0.01)


def test_bfloat16_keeps_its_keys_and_values_in_bfloat16(policy: models.Policy) -> None:
    """Half the room; and no further from float32 than twice what rounding does to a full forward pass."""
    policy.mixed = True
    written = torch.randint(5, 300, (5, len(PROMPTS)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), decoding.quick(policy.model, mixed=True):
        text = sampling.Text(policy, PROMPTS, 5, in_place=True)
        for tokens in written:
            text.write(tokens)
    for layer in text.cache.layers:
        assert (layer.keys.dtype, layer.values.dtype) == (torch.bfloat16, torch.bfloat16)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt + written[:, row].tolist()])
        with torch.no_grad():
            exact = policy.model(ids).logits[0, -1]
            with policy.precision():
                rounded = policy.model(ids).logits[0, -1].float()
        tolerance = 2 * float((rounded - exact).abs().max())
        assert 0 < tolerance < 0.05 * float(exact.abs().max())
        assert float((text.logits[row].float() - exact).abs().max()) < tolerance
