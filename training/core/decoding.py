"""What makes decoding quick: one forward pass of one token a row, some hundred times, on frozen weights.

    keys and values   written in place into room made beforehand, instead of copied whole at each token
    attention         of one query by plain products; heads that share keys are one product (CPU)
    weights           copied once to the order, or the precision, in which the products read them

Nothing here knows a model: all three hang on what `transformers` models have in common, and `sampling`
compares a few tokens with the plain way before it relies on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from training.core import shared_prompt

# --- keys and values --------------------------------------------------------------------------------


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, B x heads x columns x d, with columns to spare behind those in use.

    In bfloat16 where products are: autocast would round them at each token, and float32 takes twice the room.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, filled: Sequence[DynamicLayer], rows: Tensor, spare: int, mixed: bool) -> None:
        """Row b goes on from row `rows[b]` of `filled`, one after the other."""
        super().__init__()
        self.used = filled[0].get_seq_length()
        self.dtype = torch.bfloat16 if mixed else filled[0].dtype
        self.device, self.is_initialized = filled[0].device, True
        keys = torch.cat([cast(Tensor, layer.keys).to(self.dtype) for layer in filled])
        values = torch.cat([cast(Tensor, layer.values).to(self.dtype) for layer in filled])
        self._make(keys, values, rows, spare)

    def _make(self, keys: Tensor, values: Tensor, rows: Tensor, spare: int) -> None:
        self.keys = with_room(keys, rows, spare)
        self.values = with_room(values, rows, spare, turned=keys.device.type == "cpu")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, self.used = self.used, self.used + key_states.shape[-2]
        self.keys[..., start : self.used, :] = key_states
        self.values[..., start : self.used, :] = value_states
        return self.keys[..., : self.used, :], self.values[..., : self.used, :]

    def get_seq_length(self) -> int:
        return self.used

    def batch_select_indices(self, indices: Tensor) -> None:
        keys, values = (part[..., : self.used, :] for part in (self.keys, self.values))
        self._make(keys, values, indices, self.keys.shape[-2] - self.used)


def with_room(filled: Tensor, rows: Tensor, spare: int, *, turned: bool = False) -> Tensor:
    """`filled[rows]` with `spare` columns more in the last dimension but one.

    `turned`: a row's columns lie side by side in memory, as the product with attention weights reads them. On
    a CPU this is faster for values; fused kernels want it the other way.
    """
    heads, columns, width = filled.shape[1:]
    if turned:
        made = filled.new_empty(len(rows), heads, width, columns + spare).transpose(-1, -2)
    else:
        made = filled.new_empty(len(rows), heads, columns + spare, width)
    made[..., :columns, :] = filled[rows]
    return made


def with_spare_columns(caches: Sequence[Cache], rows: Tensor, spare: int, *, mixed: bool) -> Cache:
    """One cache for `spare` tokens more, whose row b goes on from row `rows[b]` of all `caches` have."""
    layers = zip(*(cast(list[DynamicLayer], cache.layers) for cache in caches), strict=True)
    return Cache(layers=[RoomyLayer(filled, rows, spare, mixed) for filled in layers])


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to a query's scores, B x 1 x 1 x columns: nothing, or minus infinity at padding."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(mask == 0, torch.finfo(dtype).min)[:, None, None, :]


def is_possible(model: Any) -> bool:
    """Whether all layers look at all columns, and take a bias, by the model's code."""
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    known = model.config._attn_implementation in ("sdpa", "eager")
    return plain and known and not shared_prompt.looks_through_a_window(model)


# --- attention --------------------------------------------------------------------------------------


def one_query(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """softmax(q k' + bias) v for one query a row, B x heads x 1 x d -> B x 1 x heads x d; else as `sdpa`.

    The fused kernel splits its work by queries: with a single one, and keys that several heads share, plain
    products take half its time on two cores.
    """
    special = any(more.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    if query.shape[2] != 1 or special or torch.is_grad_enabled():
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    batch, heads, _one, width = query.shape
    shared = query.reshape(batch, key.shape[1], -1, width)  # heads that use the same keys stand together
    scores = torch.matmul(shared * (width**-0.5 if scaling is None else scaling), key.transpose(-1, -2))
    if attention_mask is not None:
        scores += attention_mask
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights, value).reshape(batch, 1, heads, value.shape[-1]), None


AttentionInterface.register("one_query", one_query)
AttentionMaskInterface.register("one_query", sdpa_mask)


@contextmanager
def attention(config: Any, name: str) -> Iterator[None]:
    """The attention function of a model for as long as this lasts."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


# --- weights ----------------------------------------------------------------------------------------


@contextmanager
def held(model: nn.Module, layout: Callable[[Any], Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """All linear layers on copies of their weights that `layout` makes: these must not change meanwhile."""
    layers = [
        layer
        for layer in model.modules()
        if type(layer) in (nn.Linear, Conv1D) and "forward" not in vars(layer)
    ]
    for layer in layers:
        layer.forward = layout(layer)  # an attribute of the instance hides the class's method
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Of y = x W' + b, out x in; GPT-2's layers hold W'."""
    return (layer.weight.t() if isinstance(layer, Conv1D) else layer.weight).detach(), layer.bias


def laid_out(layer: Any) -> Callable[[Tensor], Tensor]:
    """In the order in which oneDNN's kernels read them.

    For a few rows the ordinary product spends as long on arranging the weights as on multiplying.
    """
    weight, bias = weight_and_bias(layer)
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    product = torch.ops.mkldnn._linear_pointwise.default

    def forward(states: Tensor) -> Tensor:
        return product(states, ordered, bias, "none", [], "")

    return forward


def in_bfloat16(layer: Any) -> Callable[[Tensor], Tensor]:
    """As autocast makes them, once instead of at each token."""
    weight, bias = weight_and_bias(layer)
    weight, bias = weight.bfloat16(), None if bias is None else bias.bfloat16()

    def forward(states: Tensor) -> Tensor:
        return F.linear(states.bfloat16(), weight, bias)

    return forward


def can_lay_out(model: Any) -> bool:
    return (
        model.device.type == "cpu"
        and all(weight.dtype == torch.float32 for weight in model.parameters())
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


# --- all of it --------------------------------------------------------------------------------------


@contextmanager
def quick(model: Any, *, mixed: bool) -> Iterator[None]:
    """The model as it decodes fastest; `mixed`: it computes in bfloat16 from float32 weights."""
    layout = in_bfloat16 if mixed else laid_out if can_lay_out(model) else None
    products = model.device.type == "cpu" and model.config._attn_implementation == "sdpa"
    with (
        attention(model.config, "one_query") if products else nullcontext(),
        held(model, layout) if layout else nullcontext(),
    ):
        yield
