"""Model folders: what is never loaded, and what is said of weights that are missing or too many."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.core import drive, tiny
from training.core import folders, models
from training.core.types import Failure

# --- what is never loaded ---------------------------------------------------------------------------


def test_pickled_weights_are_refused_without_being_opened(gpt2: Path, tmp_path: Path) -> None:
    made = shutil.copytree(gpt2, tmp_path / "m")
    (made / "model.safetensors").unlink()
    (made / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(Failure, match=r"pytorch_model\.bin, a pickle"):
        models.Policy(made)
    shutil.copy(gpt2 / "model.safetensors", made)
    with pytest.raises(Failure, match="a pickle"):  # also beside safetensors
        models.Policy(made)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_refused(gpt2: Path, tmp_path: Path, name: str) -> None:
    made = shutil.copytree(gpt2, tmp_path / "m")
    held = json.loads((made / name).read_text())
    (made / name).write_text(json.dumps({**held, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (made / "evil.py").write_text("raise SystemExit('pwned')")
    with pytest.raises(Failure, match="auto_map"):
        folders.refuse_unsafe(made)


# --- what is said of the weights --------------------------------------------------------------------


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What transformers says while it loads."""
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(listener)
    yield heard
    logger.removeHandler(listener)


def changed(folder: Path, target: Path, *, without: str = "", more: str = "") -> Path:
    """A copy of a model folder that lacks a weight, or holds one too many."""
    copy = shutil.copytree(folder, target)
    weights = load_file(copy / "model.safetensors")
    if without:
        del weights[without]
    if more:
        weights[more] = torch.zeros(3)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_nothing_frightens_when_only_the_score_head_is_new(
    request: pytest.FixtureRequest, said: list[str], name: str
) -> None:
    """GPT-2 shares its own head with the embeddings, this llama's is left over."""
    models.RewardModel(request.getfixturevalue(name), fresh_head_seed=3)
    assert said == []


def test_weights_that_are_missing_fail_and_are_not_made_up(gpt2: Path, tmp_path: Path) -> None:
    """A random head would give a reward that no judgement is behind, and another one at each start."""
    with pytest.raises(
        Failure, match=r"gpt2 lacks weights of a GPT2ForSequenceClassification: score\.weight"
    ):
        models.RewardModel(gpt2)
    lacking = changed(gpt2, tmp_path / "lacking", without="transformer.h.1.mlp.c_fc.weight")
    for load in (models.Policy, functools.partial(models.RewardModel, fresh_head_seed=3)):
        with pytest.raises(Failure, match=r"h\.1\.mlp\.c_fc\.weight$") as failed:
            load(lacking)
        assert failed.value.code == "bad_input"


def test_weights_of_another_shape_fail(gpt2: Path, tmp_path: Path) -> None:
    other = shutil.copytree(gpt2, tmp_path / "other")
    described = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**described, "n_positions": 64}))
    with pytest.raises(Failure, match=r"other lacks weights of a GPT2LMHeadModel: transformer\.wpe\.weight$"):
        models.Policy(other)


def test_weights_that_are_too_many_are_reported(gpt2: Path, tmp_path: Path, said: list[str]) -> None:
    models.RewardModel(changed(gpt2, tmp_path / "full", more="transformer.other"), fresh_head_seed=3)
    assert len(said) == 1 and "transformer.other" in said[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.safetensors", "the weights of .*/cut cannot be read"),
        ("config.json", "cut/config.json is not JSON"),
    ],
)
def test_a_file_that_ends_early_is_named(gpt2: Path, tmp_path: Path, name: str, words: str) -> None:
    cut = shutil.copytree(gpt2, tmp_path / "cut")
    (cut / name).write_bytes((cut / name).read_bytes()[:-50])
    with pytest.raises(Failure, match=words):
        models.Policy(cut)


# --- the wrong model, or half of one ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_a_folder_without_its_tokenizer_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    """transformers makes one up, of special tokens: every text would be none."""
    shape = GPTNeoXConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    whole = (
        tiny.folder(tmp_path / "neox", model=GPTNeoXForCausalLM(shape))
        if name == "neox"
        else request.getfixturevalue(name)
    )
    bare = shutil.copytree(whole, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert not list(bare.glob("tokenizer*"))
    for load in (models.Policy, functools.partial(models.RewardModel, fresh_head_seed=3)):
        with pytest.raises(Failure, match=r"/bare holds no tokenizer"):
            load(bare)


@pytest.mark.parametrize("content", ["{}", "{", "[]"])
def test_a_tokenizer_that_is_none_is_refused(gpt2: Path, tmp_path: Path, content: str) -> None:
    bad = shutil.copytree(gpt2, tmp_path / "bad")
    (bad / "tokenizer.json").write_text(content)
    with pytest.raises(Failure, match="/bad") as failed:
        models.Policy(bad)
    assert failed.value.code == "bad_input"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": None}, "/odd/config.json names no model_type"),
        ({"model_type": "gpt99"}, "/odd is a gpt99, which transformers .* does not know"),
    ],
)
def test_a_model_that_transformers_does_not_know_is_refused(
    gpt2: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    odd = shutil.copytree(gpt2, tmp_path / "odd")
    described = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**described, **changes}))
    with pytest.raises(Failure, match=words):
        models.Policy(odd)


def test_a_text_that_the_model_has_no_token_for_is_told_of(gpt2: Path, tmp_path: Path) -> None:
    """Of 300. Some published tokenizers know one more than their model, which few texts hold."""
    more = tiny.tokenizer()
    more.add_tokens(["<|tool|>"])
    known = shutil.copytree(gpt2, tmp_path / "more")
    more.save_pretrained(known)
    chat = models.Policy(known).chat
    assert chat.completion_ids("red cup") == models.Policy(gpt2).chat.completion_ids("red cup")
    for read in (chat.completion_ids, lambda text: chat.prompt_ids([{"role": "user", "content": text}])):
        with pytest.raises(Failure, match=r"reads '<\|tool\|>' as 300, and the model knows 300 tokens"):
            read("red <|tool|> cup")


def test_an_encoder_is_no_policy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    with pytest.raises(Failure, match="/bert, a BertLMHeadModel, looks at the tokens that come after"):
        models.Policy(tiny.folder(tmp_path / "bert", model=BertForMaskedLM(shape)))
    shape.is_decoder = True
    models.Policy(tiny.folder(tmp_path / "decoder", model=BertLMHeadModel(shape)))


def test_a_model_that_answers_what_an_encoder_read_is_no_policy(tmp_path: Path) -> None:
    shape = T5Config(vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    with pytest.raises(Failure, match="/t5 is of a kind that transformers has no AutoModelForCausalLM of"):
        models.Policy(tiny.folder(tmp_path / "t5", model=T5ForConditionalGeneration(shape)))


def test_policy_and_reward_model_are_not_taken_for_one_another(gpt2: Path, tmp_path: Path) -> None:
    """GPT-2's own head is its embeddings, so no weight is missing when a reward model is read as a policy."""
    (tmp_path / "rm").mkdir()
    models.RewardModel(gpt2, fresh_head_seed=3).save(tmp_path / "rm")
    with pytest.raises(Failure, match="/rm is a GPT2ForSequenceClassification, as reward models are"):
        models.Policy(tmp_path / "rm")
    with pytest.raises(Failure, match="lacks weights") as failed:
        models.RewardModel(gpt2)
    assert "choose a reward model" in failed.value.hint


def test_a_reward_model_s_log_says_where_its_head_came_from(gpt2: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.preferences())
    for members, words in ((1, "The score head is new, drawn from seed 5."), (2, "drawn from seeds 5 and ")):
        settings = {"epochs": 1, "batch_pairs": 16, "members": members}
        inputs = {"policy": gpt2, "snapshot": rows}
        made = tiny.run_dir(tmp_path / str(members), "reward_model", settings, inputs, seed=5)
        assert drive.run(made) == {"status": "done"}
        assert any(words in event["message"] for event in drive.events(made, "log"))
