"""Low-rank adapters (Hu et al. 2021, "LoRA") on all linear layers, by peft: few trained weights, one trunk.

The reference policy is the policy without its adapter, so that it costs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from training.core.models import Policy
from training.core.types import Rows


def add(model: Any, rank: int, *, seed: int) -> None:
    """Freeze the model and add adapters that change nothing at first (B = 0)."""
    from peft import LoraConfig, inject_adapter_in_model  # 9 s to import: only runs that want it wait

    model.requires_grad_(False)
    torch.manual_seed(seed)  # A is drawn from the global generator
    names = linear_layers(model)
    turned = any(
        type(model.get_submodule(name)).__name__ == "Conv1D" for name in names
    )  # in x out, as in GPT-2
    settings = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names, fan_in_fan_out=turned
    )
    inject_adapter_in_model(settings, model)
    model.eval()


def linear_layers(model: Any) -> list[str]:
    """Full names of the layers that get an adapter: every matrix but the output head."""
    head = model.get_output_embeddings()
    kinds = ("Linear", "Conv1D")
    return [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in kinds and module is not head
    ]


def _layers(model: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """The model as it was before `add`; the adapters are on again afterwards, whatever happened."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for layer in _layers(model):
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in _layers(model):
            layer.enable_adapters(True)
        for weight in trained:
            weight.requires_grad_(True)


def merge(model: Any) -> None:
    """Put the adapters into the weights for good: a plain model again, to be saved like any other."""
    for name, layer in [(name, module) for name, module in model.named_modules() if module in _layers(model)]:
        layer.merge()
        parent, _dot, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


class WithoutAdapter:
    """The reference policy under LoRA: the same model, its adapter switched off."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.keeps_texts_apart = policy, policy.keeps_texts_apart

    @torch.no_grad()
    def logprobs(self, batch: Rows, *, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of all completion tokens of the batch, row after row: N."""
        with switched_off(self.policy.model):
            return self.policy.logprobs(batch, temperature=temperature)
