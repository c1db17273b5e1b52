"""What the parts of the trainer hand to each other. B rows, T completion tokens, padded on the right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from training.core.configs import Config
from training.core.processes import Processes

Message = dict[str, str]


class Failure(Exception):
    """The run cannot go on; `hint` says which setting or input to change."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class Stopped(Exception):
    """Somebody asked the trainer to stop (SIGTERM); raised at a safe point only."""


class Saved(NamedTuple):
    """What a checkpoint holds: everything besides the spec that decides the rest of the run."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Job(NamedTuple):
    """One run, as a `train` generator sees it."""

    config: Config
    seed: int
    inputs: dict[str, Path]
    output: Path  # an empty folder for the finished model
    saved: Saved | None  # where to go on
    safe_point: Callable[[], None]  # called where stopping loses at most the current step; raises Stopped
    stopping: Callable[[], bool]  # asked at step boundaries: is a checkpoint wanted now?
    processes: Processes = Processes()  # which rows are this process's


# --- what a `train` generator yields ----------------------------------------------------------------


class Phase(NamedTuple):
    phase: str
    step: int
    total_steps: int


class Metrics(NamedTuple):
    step: int
    total_steps: int
    values: dict[str, float]


class Sample(NamedTuple):
    step: int
    index: int  # type: ignore[assignment]  # the protocol's word; nobody calls tuple.index
    messages: list[Message]
    completion: str
    score: float | None = None
    kl: float | None = None


class Note(NamedTuple):
    level: str  # log or warning
    message: str


class Checkpoint(NamedTuple):
    """Whoever drives the generator writes `saved` before asking for the next event."""

    saved: Saved


Event = Phase | Metrics | Sample | Note | Checkpoint


# --- data -------------------------------------------------------------------------------------------

UNKNOWN = -1
"""The one number of all judgements that came without an annotator."""


class Prompt(NamedTuple):
    messages: list[Message]
    ids: list[int]
    prompt_id: int


class Demonstration(NamedTuple):
    messages: list[Message]
    prompt_ids: list[int]
    completion_ids: list[int]  # EOS included


class Pair(NamedTuple):
    """Two completions of one prompt, `chosen` preferred unless `tie`, as one annotator judged them."""

    prompt_ids: list[int]
    chosen_ids: list[int]  # EOS included
    rejected_ids: list[int]
    margin: float  # stated strength: slightly (1), better (2), much better (3); 0 where none was stated
    tie: bool
    weight: float
    annotator: int = UNKNOWN  # a number local to the snapshot
    agreement: float | None = None  # share of the same comparison's other judgements that say the same


class Completions(NamedTuple):
    """What `sampling.decode` wrote, row by row."""

    ids: list[list[int]]  # the stop token included where there is one
    logprobs: list[float]  # nats, summed over the completion, at the sampling temperature
    finished: list[bool]  # ended by a stop token rather than by its length


class Completion(NamedTuple):
    """One completion, as reward functions see it."""

    ids: list[int]
    text: str
    finished: bool


class Rows(NamedTuple):
    """Texts, prompt and completion, as one batch of B rows, right-padded; most often one text a row."""

    input_ids: Tensor  # B x L
    attention_mask: Tensor  # B x L, 1 on real tokens; or B x 1 x L x L, true where a row may look at a column
    states: Tensor  # B x T, the position whose output decides completion token t
    tokens: Tensor  # B x T, completion tokens
    completion_mask: Tensor  # B x T, true on completion tokens, EOS included
    ends: Tensor  # of each text, the place of its last token in the flattened batch
    positions: Tensor | None = None  # B x L, where they are not the columns


class Part(NamedTuple):
    """Some rows of a rollout as one batch."""

    rows: list[int]
    mask: Tensor  # their rows of the rollout's completion_mask
    batch: Rows

    def flat(self, whole: Tensor) -> Tensor:
        """The rollout's B x T values at these rows' completion tokens, row after row: N."""
        return whole[self.rows][self.mask].to(self.batch.tokens.device)


class Rollout(NamedTuple):
    """B completions and everything the update needs of them; each tensor is B x T unless said otherwise."""

    prompts: list[Prompt]
    groups: Tensor  # B, the place of the row's prompt among those that were drawn
    completions: list[Completion]
    parts: dict[str, list[float]]  # B scores of each reward function, before its weight
    scores: Tensor  # B, their weighted sum
    paid: Tensor  # B, after scaling, clip and missing-EOS penalty, before the KL penalty
    unscored: int  # completions that no score could be given to, and that are not among the B
    completion_mask: Tensor
    logprobs: Tensor  # of the policy that sampled, from the forward pass that trains
    decoded_logprobs: Tensor  # B, their sums as the cached decoding had them
    ref_logprobs: Tensor
    values: Tensor  # 0 without a critic
    entropy: Tensor  # of the policy before each token
    rewards: Tensor  # -beta KL per token, and the paid score on the last
    seconds: dict[str, float]
