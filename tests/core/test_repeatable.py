"""On a GPU torch refuses operations that cannot repeat to the bit: no run may need one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.core import drive, tiny

REFUSED = {"median", "histc", "put", "put_", "nll_loss2d_forward", "reflection_pad1d", "max_unpool2d"}
"""By the names of aten; of cumsum those of fractions, of bincount those with weights."""
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"batch_tokens": 256},
    "reward_model": {"epochs": 1, "batch_pairs": 8, "members": 2, "annotators": "reliability"},
    "ppo": {"steps": 2, "rollout_prompts": 6, "max_new_tokens": 6, "entropy_coefficient": 0.1},
    "reinforce": {"steps": 2, "rollout_prompts": 6, "max_new_tokens": 6},
    "trpo": {"steps": 2, "rollout_prompts": 6, "max_new_tokens": 6},
    "sample": {"max_new_tokens": 6},
}


class NoneThatCannotRepeat(TorchDispatchMode):
    """Sees every operation, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        self.seen.add(name)
        fractions = isinstance(result, torch.Tensor) and result.is_floating_point()
        assert name not in REFUSED and not (name == "cumsum" and fractions), name
        assert not (name == "bincount" and (len(args) > 1 and args[1] is not None)), name
        return result


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_operation_of_a_run_is_refused_on_a_gpu(
    kind: str, gpt2: Path, reward_model: Path, tmp_path: Path
) -> None:
    """Source: the list in the docstring of torch.use_deterministic_algorithms."""
    rows = {"sft": tiny.demonstrations(), "reward_model": tiny.preferences()}.get(kind, tiny.prompts())
    name = "snapshot" if kind in ("sft", "reward_model") else "prompts"
    inputs = {"policy": gpt2, name: tiny.write_rows(tmp_path / "rows.jsonl", rows)}
    if name == "prompts":
        inputs |= {"reward_model": reward_model}
    if name == "prompts" and kind != "sample":
        inputs |= {"reference": gpt2}
    made = tiny.run_dir(tmp_path / "run", kind, SETTINGS[kind], inputs)
    with NoneThatCannotRepeat() as watched:
        assert drive.run(made) == {"status": "done"}, drive.events(made, "error")
    assert "cumsum" in watched.seen or kind in ("sft", "reward_model"), "it watches what happens"
    assert {"mm", "addmm", "bmm"} & watched.seen
