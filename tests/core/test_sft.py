"""Supervised fine-tuning, as the run directory shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.core import drive, tiny

CONFIG = {"epochs": 2, "batch_tokens": 256, "learning_rate": 3e-3, "evaluate_every": 5}


def run(path: Path, folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    snapshot = tiny.write_rows(path.with_suffix(".jsonl"), tiny.demonstrations() if rows is None else rows)
    made = tiny.run_dir(path, "sft", {**CONFIG, **changes}, {"policy": folder, "snapshot": snapshot})
    assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    return made


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_it_learns_and_leaves_a_folder_for_plain_transformers(folder: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "run", folder, epochs=6)
    rows = drive.metrics(made)
    steps = max(rows)
    assert rows[0]["held_out/loss"] > 5.0  # about log 300
    assert rows[steps]["held_out/loss"] < rows[0]["held_out/loss"] - 1.5
    plain = AutoModelForCausalLM.from_pretrained(made / "output").eval()
    tokenizer = AutoTokenizer.from_pretrained(made / "output")
    assert (made / "output" / "generation_config.json").exists()
    assert tokenizer.chat_template == tiny.TEMPLATE
    total = count = 0.0
    for row in tiny.demonstrations():
        if row["split"] == "held_out":
            prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
            before = tokenizer(prompt)["input_ids"]
            ids = before + tokenizer(row["completion"])["input_ids"] + [tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * len(before) + ids[len(before) :]])
            with torch.no_grad():
                loss = plain(torch.tensor([ids]), labels=labels).loss
            total, count = total + loss.item() * (len(ids) - len(before)), count + len(ids) - len(before)
    assert rows[steps]["held_out/loss"] == pytest.approx(total / count, abs=1e-4)


@pytest.mark.parametrize("completion_only", [True, False])
def test_the_split_into_micro_batches_changes_nothing(
    gpt2: Path, tmp_path: Path, completion_only: bool
) -> None:
    """Item 39, with uneven lengths: token means are over the whole optimiser step."""
    whole = run(tmp_path / "whole", gpt2, completion_only=completion_only, epochs=1)
    split = run(tmp_path / "split", gpt2, completion_only=completion_only, epochs=1, microbatch_tokens=16)
    expected, found = drive.steady(drive.metrics(whole)), drive.steady(drive.metrics(split))
    assert expected.keys() == found.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=1e-3, abs=1e-5)
    one, other = (load_file(made / "output" / "model.safetensors") for made in (whole, split))
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], atol=2e-4), name


def test_the_prompt_is_learned_only_when_asked(gpt2: Path, tmp_path: Path) -> None:
    """The first loss equals cross_entropy over exactly the tokens that should count."""
    row = {"prompt": tiny.question("the hat is red"), "completion": "the cup is blue", "split": "train"}
    tokenizer, model = tiny.tokenizer(), tiny.gpt2()
    prompt = tokenizer(
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    )
    ids = prompt["input_ids"] + tokenizer(row["completion"])["input_ids"] + [1]
    for completion_only in (True, False):
        made = run(tmp_path / str(completion_only), gpt2, [row], completion_only=completion_only, epochs=1)
        hidden = len(prompt["input_ids"]) if completion_only else 0
        labels = torch.tensor([[-100] * hidden + ids[hidden:]])
        with torch.no_grad():
            expected = model(torch.tensor([ids]), labels=labels).loss.item()
        assert drive.metrics(made)[1]["train/loss"] == pytest.approx(expected, abs=1e-5)
        assert "no held-out demonstrations" in drive.warnings(made)
