"""Tiny language models that tests make themselves: GPT-2 and Llama shapes, byte-level BPE included."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from training.core import protocol

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
COLOURS = ("red", "green", "blue", "grey", "black", "white")
THINGS = ("cup", "door", "car", "hat", "boat", "lamp")


def sentence(random_: random.Random) -> str:
    return f"the {random_.choice(THINGS)} is {random_.choice(COLOURS)}"


@functools.cache
def bpe() -> str:
    """A trained byte-level BPE of 300 tokens, as JSON."""
    random_ = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence(random_) for _ in range(200)], trainer)
    return tokenizer.to_str()


def tokenizer(*, template: str | None = TEMPLATE, pad: str | None = "<|pad|>") -> Any:
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe()), eos_token="<|end|>", pad_token=pad
    )
    made.chat_template = template
    return made


def gpt2(**changes: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**{**shape, **ends, **changes})).eval()


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "max_position_embeddings": 96, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**{**shape, **heads, **ends, **changes})).eval()


def folder(path: Path, *, model: Any = None, **changes: Any) -> Path:
    """A sealed model folder."""
    aside = path.with_name(path.name + ".part")
    aside.mkdir(parents=True)
    (model or gpt2()).save_pretrained(aside)
    tokenizer(**changes).save_pretrained(aside)
    protocol.seal(aside, path)
    return path


# --- data and run directories -----------------------------------------------------------------------


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def demonstrations(count: int = 48) -> list[dict[str, Any]]:
    random_ = random.Random(1)
    return [
        {
            "prompt": question(f"what is {random_.choice(THINGS)}"),
            "completion": " and ".join(sentence(random_) for _ in range(random_.randint(1, 3))),
            "split": "held_out" if index % 8 == 0 else "train",
        }
        for index in range(count)
    ]


def preferences(count: int = 48) -> list[dict[str, Any]]:
    """Blue is preferred to red."""
    random_ = random.Random(2)
    return [
        {
            "prompt": question(f"what is {(thing := random_.choice(THINGS))}"),
            "chosen": f"the {thing} is blue",
            "rejected": f"the {thing} is red" + " and red" * random_.randint(0, 2),
            "margin": float(random_.randint(1, 3)),
            "tie": False,
            "weight": 1.0,
            "split": "held_out" if index % 6 == 0 else "train",
            "prompt_id": index,
            "preference_id": index,
            "annotator": index % 3,
            "agreement": [1.0, 0.5][index % 2],
        }
        for index in range(count)
    ]


def prompts(count: int = 12) -> list[dict[str, Any]]:
    return [
        {"prompt": question(f"what is {THINGS[index % 6]}" + "?" * (index % 4)), "prompt_id": 100 + index}
        for index in range(count)
    ]


def run_dir(path: Path, kind: str, config: dict[str, Any], inputs: dict[str, Path], *, seed: int = 0) -> Path:
    """A run directory as the supervisor prepares it."""
    (path / "inputs").mkdir(parents=True)
    (path / "checkpoints").mkdir()
    described = {}
    for name, source in inputs.items():
        where = f"inputs/{name}" + source.suffix
        (path / where).symlink_to(source.resolve())
        sha256 = protocol.folder_hash(source) if source.is_dir() else protocol.sha256_file(source)
        described[name] = {"path": where, "sha256": sha256}
    protocol.write_spec(path, kind=kind, config=config, seed=seed, inputs=described)
    return path
