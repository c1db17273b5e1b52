"""The anchor's model, tokenizer and prompts as folders that the trainer reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from training.core import models

IDENTITY = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
NEVER = "<|never|>"
"""The end of a completion: a token that the model has no logit for, so that each has the same length."""


def write(theirs: str, shape: str, ours: str) -> None:
    """policy/, reward_model/ and prompts.jsonl in `ours`."""
    policy = Path(ours) / "policy"
    shutil.copytree(Path(theirs) / f"model_{shape}", policy)
    shutil.copytree(Path(theirs) / "tokenizer", policy, dirs_exist_ok=True)
    for name in ("config.json", "generation_config.json"):
        change(policy / name, eos_token_id=None)
    tokenizer = json.loads((policy / "tokenizer.json").read_text(encoding="utf-8"))
    last = len(tokenizer["model"]["vocab"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": last, "content": NEVER, "special": True, **flags})
    (policy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    change(policy / "tokenizer_config.json", eos_token=NEVER, bos_token=None, chat_template=IDENTITY)
    models.RewardModel(policy, fresh_head_seed=7).save(Path(ours) / "reward_model")
    rows = (Path(theirs) / "prompts_train.jsonl").read_text(encoding="utf-8").splitlines()
    with (Path(ours) / "prompts.jsonl").open("w", encoding="utf-8") as lines:
        for number, row in enumerate(map(json.loads, rows)):
            asked = {"prompt": [{"role": "user", "content": row["prompt"]}], "prompt_id": number}
            lines.write(json.dumps(asked) + "\n")


def change(path: Path, **values: object) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known, **values}), encoding="utf-8")
