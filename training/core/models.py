"""Policies, reward models and critics from local `transformers` folders.

Dropout stays off (`eval`) in training too: log-probabilities must be a function of the weights, or PPO's
ratio starts away from 1.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from training.core import shared_prompt
from training.core.batches import at, rows
from training.core.chat import Chat
from training.core.folders import load, load_tokenizer, save
from training.core.last_layer import decoder_layers, hidden_at, hidden_of, places
from training.core.tensors import fisher_along, logprobs_and_entropy
from training.core.types import Pair, Rows


def autocast(device: torch.device, mixed: bool) -> AbstractContextManager[Any]:
    """Products of matrices in bfloat16 where `mixed`; weights, sums and norms stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()


class TokenFacts(NamedTuple):
    """What a policy says of the N completion tokens of a batch, row after row."""

    hidden: Tensor  # N x d, the last hidden states before them
    logprobs: Tensor  # N, float32
    entropy: Tensor  # N, of the distribution each was drawn from; 0 unless asked for


SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""How families say that logits are more than a product; a cap is too flat to be seen in an example."""


class Policy:
    """A causal language model with its text format.

    In bfloat16 the weights stay float32 and autocast computes in bfloat16: a step of 1e-6 is less than
    bfloat16 can add to a weight, and would be lost. A model that is only read says the same to the bit from
    half the memory (`folders.halve`). Log-probabilities are float32 arithmetic either way.
    """

    mixed = False  # float32 weights, bfloat16 arithmetic
    compiled: Any = None
    decodes_in_place: bool | None = None  # `sampling` finds out

    def __init__(
        self, folder: Path, *, dtype: str = "float32", learns: bool = True, compiled: bool = False
    ) -> None:
        """`compiled`: training passes go through torch.compile, which a second derivative cannot."""
        self.chat = Chat(load_tokenizer(folder))
        self.mixed = dtype == "bfloat16"
        self.model = load(AutoModelForCausalLM, folder, halved=self.mixed and not learns)
        self.chat.id_count = len(self.model.get_input_embeddings().weight)
        self.device = self.model.device
        ends = self.model.generation_config.eos_token_id if self.model.generation_config else None
        self.chat.stop_ids |= set(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        self.plain_head = self._head_is_plain()
        if compiled:
            # One graph each for one row and many, with a gradient and without, one text a row and several, an
            # adapter on and off: what is over the limit is not compiled, silently.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
            self.compiled = torch.compile(self._whole(), dynamic=True)

    @property
    def context(self) -> int:
        return context_length(self.model)

    @cached_property
    def keeps_texts_apart(self) -> bool:
        """Whether several texts can stand in one row: completions of one prompt, or conversations."""
        return shared_prompt.possible(self.model.base_model, self.chat.pad_id)

    def _whole(self) -> Any:
        """What a training pass goes through before the head, where the head can be taken apart."""
        return self.model.base_model if self.plain_head else self.model

    def precision(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.mixed)

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Whether logits are just head(hidden); where a model scales or caps them, all are computed."""
        config, head = self.model.base_model.config, self.model.get_output_embeddings()
        if head is None or any(getattr(config, name, None) not in (None, 1.0) for name in SCALED_LOGITS):
            return False
        ids = torch.linspace(1, len(head.weight) - 1, 8, device=self.device).long().unsqueeze(0)
        with self.precision():
            hidden = self.model.base_model(input_ids=ids, use_cache=False)[0]
            whole = self.model(input_ids=ids, use_cache=False).logits
            if hidden.shape[-1] != head.weight.shape[-1]:
                return False
            largest = float(whole.abs().max())
            return largest > 0.0 and bool((head(hidden) - whole).abs().max() <= 1e-5 * largest)

    def next_logits(self, input_ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Logits of the token after the last column, B x V; `cache` grows by the columns of `input_ids`."""
        extra = {"position_ids": positions} if self.takes_positions else {}
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
            **extra,
        }
        with self.precision():
            if self.plain_head:
                last = places(input_ids, torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1))
                return self.model.get_output_embeddings()(hidden_at(self.model.base_model, last, **inputs))
            return self.model(**inputs).logits[:, -1]

    def _before_logits(self, batch: Rows) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Hidden states before every completion token, and what gives their logits of what: N x d, N x any.

        The head, which is most of the work where the vocabulary is large, sees these places only.
        """
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        if batch.positions is not None:
            inputs["position_ids"] = batch.positions
        whole = self._whole() if self.compiled is None else self.compiled
        with self.precision():
            if self.plain_head:
                hidden = completion_states(whole, batch)
                return hidden, hidden, self._head
            found = whole(**inputs, output_hidden_states=True)
            hidden, logits = (
                at(part, batch.states)[batch.completion_mask]
                for part in (found.hidden_states[-1], found.logits)
            )
            return hidden, logits, torch.clone  # what a head gives is written over

    def _head(self, hidden: Tensor) -> Tensor:
        with self.precision():
            return self.model.get_output_embeddings()(hidden)

    def hidden(self, batch: Rows) -> Tensor:
        """Last hidden states before every completion token, row after row, without the head's work: N x d."""
        return self._before_logits(batch)[0]

    def outputs(self, batch: Rows) -> tuple[Tensor, Tensor]:
        """Last hidden states and logits before every completion token, row after row: N x d and N x V."""
        hidden, states, head = self._before_logits(batch)
        return hidden, head(states)

    def facts(self, batch: Rows, *, temperature: float = 1.0, entropy: bool = False) -> TokenFacts:
        """What there is to know of the batch's completion tokens, without holding large logits whole."""
        hidden, states, head = self._before_logits(batch)
        logprobs, entropies = logprobs_and_entropy(
            head,
            states,
            batch.tokens[batch.completion_mask],
            temperature=temperature,
            want_entropy=entropy,
            vocabulary=self.model.config.get_text_config().vocab_size,
        )
        return TokenFacts(hidden, logprobs, entropies)

    def logprobs(self, batch: Rows, *, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of all completion tokens of the batch, row after row: N."""
        return self.facts(batch, temperature=temperature).logprobs

    def fisher_along(
        self, batch: Rows, weights: Sequence[Tensor], direction: Tensor, *, temperature: float
    ) -> Tensor:
        """Fisher matrix x `direction`, summed over the batch's completion tokens: see `tensors`."""
        _hidden, states, head = self._before_logits(batch)
        vocabulary = self.model.config.get_text_config().vocab_size
        return fisher_along(head, states, weights, direction, temperature=temperature, vocabulary=vocabulary)

    def train_last_layers(self, count: int) -> None:
        """Freeze all that stands before the last `count` layers, and what is tied to it."""
        layers = decoder_layers(self.model.base_model)
        assert layers is not None
        first = next(layers[-min(count, len(layers))].parameters())
        for weight in self.model.parameters():  # in the order in which the model uses them
            if weight is first:
                return
            weight.requires_grad_(False)

    def save(self, folder: Path) -> None:
        save(self.model, self.chat, folder)


class RewardModel:
    """A language model with one score for a whole text, read at its last real token.

    In bfloat16 it is as a `Policy` is; the score is a float32 product of the head in any case.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fresh_head_seed: int | None = None,
        dtype: str = "float32",
        learns: bool = True,
        compiled: bool = False,
    ) -> None:
        """`fresh_head_seed`: `folder` holds a language model, which gets a new head instead of having one."""
        self.chat = Chat(load_tokenizer(folder))
        self.mixed = dtype == "bfloat16"
        halved = self.mixed and not learns
        self.model = load(
            AutoModelForSequenceClassification,
            folder,
            halved=halved,
            new_head=fresh_head_seed is not None,
            num_labels=1,
        )
        self.device = self.model.device
        self.trunk = torch.compile(self.model.base_model, dynamic=True) if compiled else self.model.base_model
        self.head: nn.Linear = self.model.score
        if fresh_head_seed is not None:
            self._fresh_head(fresh_head_seed)
            self._own_padding()
        self.chat.id_count = len(self.model.get_input_embeddings().weight)

    def _fresh_head(self, seed: int) -> None:
        """Weights of standard deviation 1/sqrt(d+1), bias 0 (Stiennon et al. 2020, appendix B.1)."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(self.head.weight.shape, generator=generator) / (self.head.in_features + 1) ** 0.5
        with torch.no_grad():
            self.head.weight.copy_(weight)
            if self.head.bias is not None:
                self.head.bias.zero_()

    def _own_padding(self) -> None:
        """Plain `transformers` finds the last token by `ids != pad`: no text may end with the pad."""
        tokenizer = self.chat.tokenizer
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id in self.chat.stop_ids:
            tokenizer.add_special_tokens({"pad_token": "<|rlhf_pad|>"})
            if len(tokenizer) > self.model.get_input_embeddings().weight.shape[0]:
                self.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        self.chat.pad_id = tokenizer.pad_token_id
        self.model.config.pad_token_id = self.chat.pad_id

    @property
    def context(self) -> int:
        return context_length(self.model)

    def precision(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.mixed)

    def last_hidden(self, batch: Rows) -> Tensor:
        """Hidden state of each text's last token, N x d, float32."""
        with self.precision():
            return hidden_of(self.trunk, batch.ends, batch).float()

    def scores(self, batch: Rows) -> Tensor:
        return self.head(self.last_hidden(batch)).squeeze(-1)

    def each(self, batch: Rows) -> Tensor:
        """Its scores as those of the one member that it is: N x 1."""
        return self.scores(batch).unsqueeze(1)

    # --- pairs --------------------------------------------------------------------------------------

    @cached_property
    def keeps_texts_apart(self) -> bool:
        """Whether completions of one prompt can stand in one row."""
        return shared_prompt.possible(self.model.base_model, self.chat.pad_id)

    @property
    def shared_hidden_size(self) -> int:
        """0 where a row must hold one text."""
        return hidden_size(self.model) if self.keeps_texts_apart else 0

    def pair_tokens(self, pair: Pair) -> int:
        """Tokens that a forward pass of the pair takes, padding between its two sides included."""
        prompt, chosen, rejected = map(len, pair[:3])
        return prompt + chosen + rejected if self.keeps_texts_apart else 2 * (prompt + max(chosen, rejected))

    def pair_hidden(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Hidden states at the end of all chosen and all rejected completions, N x d each."""
        if self.keeps_texts_apart:
            lines = [(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in pairs]
            found = self.last_hidden(shared_prompt.rows(lines, self.chat.pad_id))
            chosen, rejected = found.unflatten(0, (-1, 2)).unbind(1)
            return chosen, rejected
        prompts, completions = (
            [pair.prompt_ids for pair in pairs] * 2,
            [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs],
        )
        chosen, rejected = self.last_hidden(rows(prompts, completions, self.chat.pad_id)).chunk(2)
        return chosen, rejected

    def pair_scores(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Scores of all chosen and all rejected completions, N each, from one forward pass."""
        chosen, rejected = (self.head(hidden).squeeze(-1) for hidden in self.pair_hidden(pairs))
        return chosen, rejected

    def save(self, folder: Path) -> None:
        save(self.model, self.chat, folder)


class RewardEnsemble:
    """All members of a reward model's folder, in the place of one `RewardModel` that only scores.

    The first member is the folder itself, the others are its sub-folders. Members are scaled alike (mean 0,
    deviation 1 over the same completions), so that their scores can be averaged. Source: Coste et al. 2023,
    "Reward Model Ensembles Help Mitigate Overoptimization".
    """

    def __init__(self, folder: Path, *, dtype: str = "float32") -> None:
        self.members = [RewardModel(path, dtype=dtype, learns=False) for path in member_folders(folder)]
        self.chat = self.members[0].chat
        self.context = min(member.context for member in self.members)
        for member in self.members:
            member.model.requires_grad_(False)

    @property
    def shared_hidden_size(self) -> int:
        return min(member.shared_hidden_size for member in self.members)

    def each(self, batch: Rows) -> Tensor:
        """Each member's score of each text: N x members."""
        return torch.stack([member.scores(batch) for member in self.members], dim=1)


def member_folder(folder: Path, number: int) -> Path:
    return folder if number == 1 else folder / f"member-{number}"


def member_folders(folder: Path) -> list[Path]:
    """Those that there are, the first member's folder included."""
    numbers = itertools.count(2)
    others = itertools.takewhile(Path.is_dir, (member_folder(folder, number) for number in numbers))
    return [folder, *others]


class SharedCritic(nn.Module):
    """A value head on the policy's trunk, zero at first: one forward pass for both, and half the memory."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        width = policy.model.get_input_embeddings().weight.shape[1]
        self.head = nn.Linear(width, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.keeps_texts_apart = True  # it reads what the policy computed

    def forward(self, batch: Rows, policy_hidden: Tensor) -> Tensor:
        """Values of the states before every completion token, row after row: N."""
        return self.head(policy_hidden.float()).squeeze(-1)


class SeparateCritic(nn.Module):
    """A model of its own that starts as the reward model: its score of half a text is a fair first value."""

    def __init__(self, start: RewardModel) -> None:
        super().__init__()
        self.model, self.head, self.precision = start.model.base_model, start.head, start.precision
        self.keeps_texts_apart = start.keeps_texts_apart

    def forward(self, batch: Rows, policy_hidden: Tensor | None) -> Tensor:
        with self.precision():
            hidden = completion_states(self.model, batch)
        return self.head(hidden.float()).squeeze(-1)


def completion_states(trunk: Any, batch: Rows) -> Tensor:
    """Hidden states before every completion token, row after row: N x d."""
    return hidden_of(trunk, places(batch.input_ids, batch.states)[batch.completion_mask], batch)


def hidden_size(model: Any) -> int:
    return int(model.config.get_text_config().hidden_size)


def context_length(model: Any) -> int:
    """Tokens that a text may have, prompt and completion together."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(found := config.to_dict().get(name), int):
            return found
    return 1 << 30  # relative positions without a limit
