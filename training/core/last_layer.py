"""Hidden states at the places that somebody reads, without the last layer's work at all others.

A token's own last hidden state is of use to nobody but its reader: other tokens see a token through
attention, and after the last layer there is none. So that layer's feed-forward network, two thirds of its
work, runs where a loss or a score looks: on completions and not on their prompts, or on one token of a whole
text. In a model of four layers and prompts longer than completions this saves a tenth of all products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from training.core.types import Rows

WORTH = 0.9
"""Share of the places from which on all may as well be computed."""


def hidden_at(trunk: Any, wanted: Tensor, input_ids: Tensor, **inputs: Any) -> Tensor:
    """Last hidden states at N places, numbers in the flattened batch: N x d."""
    network = feed_forward(trunk) if len(wanted) < WORTH * input_ids.numel() else None
    # Each place once: completions that share a prompt begin at the same one, and its gradient counts once.
    with only_at(network, torch.unique(wanted)) if network is not None else nullcontext():
        whole = trunk(input_ids=input_ids, **{"use_cache": False, **inputs})[0]
    return whole.flatten(0, 1).index_select(0, wanted)


def hidden_of(trunk: Any, wanted: Tensor, batch: Rows) -> Tensor:
    """The same of a batch, with its mask and positions."""
    more = {} if batch.positions is None else {"position_ids": batch.positions}
    return hidden_at(trunk, wanted, batch.input_ids, attention_mask=batch.attention_mask, **more)


def places(input_ids: Tensor, columns: Tensor) -> Tensor:
    """Numbers of `columns`, B or B x T, of each row in the flattened batch; of the same shape."""
    rows, width = input_ids.shape
    starts = torch.arange(rows, device=columns.device) * width
    return columns + (starts if columns.dim() == 1 else starts.unsqueeze(1))


@contextmanager
def only_at(network: Any, wanted: Tensor) -> Iterator[None]:
    """The network gives 0 at all other places of its B x L x d input; each stands in `wanted` once."""
    plain = network.forward

    def forward(states: Tensor) -> Tensor:
        flat = states.flatten(0, 1)
        found = plain(flat.index_select(0, wanted).unsqueeze(0)).squeeze(0)
        return found.new_zeros(flat.shape).index_copy(0, wanted, found).view_as(states)

    network.forward = forward  # an attribute of the instance hides the class's method
    try:
        yield
    finally:
        del network.forward


_known: WeakKeyDictionary[nn.Module, nn.Module | None] = WeakKeyDictionary()


def feed_forward(trunk: Any) -> nn.Module | None:
    """The network of the last layer; None where the model has none of its own that works token by token."""
    if hasattr(trunk, "_orig_mod"):  # compiled: what is put on its modules would be seen too late
        return None
    if trunk not in _known:
        layers = decoder_layers(trunk)
        network = getattr(layers[-1], "mlp", None) if layers else None
        found = isinstance(network, nn.Module) and "forward" not in vars(network)
        _known[trunk] = network if found and _agrees(trunk, network) else None
    return _known[trunk]


def decoder_layers(trunk: nn.Module) -> nn.ModuleList | None:
    """All layers, in the order in which the model uses them."""
    count = getattr(trunk.config.get_text_config(), "num_hidden_layers", None)  # type: ignore[operator,union-attr]
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    return None


@torch.no_grad()
def _agrees(trunk: Any, network: Any) -> bool:
    """Whether the places that are read stay as they are, by an example."""
    where = next(trunk.parameters()).device
    ids = torch.tensor([[1, 2, 3, 1, 2], [2, 1, 1, 3, 2]], device=where)
    wanted = torch.tensor([2, 3, 9], device=where)
    plain = trunk(input_ids=ids, use_cache=False)[0].flatten(0, 1)[wanted]
    try:
        with only_at(network, wanted):
            found = trunk(input_ids=ids, use_cache=False)[0].flatten(0, 1)[wanted]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False  # the network takes another shape, or gives more than states
    tolerance = 1e-5 if plain.dtype == torch.float32 else 0.1
    return torch.allclose(found, plain, atol=tolerance * float(plain.abs().max()), rtol=0.0)
