"""A world so small that the optimum of reward - beta KL is known to the last digit, for the trainer as it is.

Five words and an end, at most five tokens, four prompts: 3,906 completions of each prompt, and every one is
looked at. The policy is a real model folder (a GPT of 0.1M weights, pre-trained on strings of a
made-up grammar), the runs are the production generators, fed with a parsed configuration as
`training/core/run.py` feeds them. One thing is put in the reward model's place: the world's own reward.

    J(pi)  = E[r] - beta KL(pi || ref)                  pi*(y) = ref(y) exp(r(y) / beta) / Z
    J*     = beta log Z                                 J* - J(pi) = beta KL(pi || pi*)
    regret = (J* - J(pi)) / (J* - J(ref))               0 is optimal, 1 has learned nothing
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from training.core import batches, configs, models, ppo, reinforce, rewards, state, trpo
from training.core.types import Checkpoint, Completion, Job, Metrics, Prompt

TOKENS = ["<pad>", "<end>", "P0", "P1", "P2", "P3", "a", "b", "c", "d", "e"]
PAD, END, FIRST_PROMPT, FIRST_WORD = 0, 1, 2, 6
PROMPTS, WORDS, LONGEST, CONTEXT = 4, 5, 5, 8
BETA = 0.3
PRETRAINING = 400
REPEAT, NO_END = -0.6, -1.0
WORTH = (1.0, 0.6, 0.2, -0.3, -0.8)
"""What the words are worth to the first prompt; each further prompt moves them on by one."""
NEVER = -40.0
"""Bias of tokens that a completion cannot hold: their whole probability is below 1e-16."""
TRAINERS: dict[str, Callable[[Job], Iterator[Any]]] = {
    "ppo": ppo.train,
    "reinforce": reinforce.train,
    "trpo": trpo.train,
}


# --- the reward -------------------------------------------------------------------------------------


def worth(prompt: int, words: Sequence[int]) -> float:
    """What the words of a completion earn; what a missing end costs is the trainer's own setting."""
    distinct = set(words)
    return sum(WORTH[(word - prompt) % WORDS] for word in distinct) + REPEAT * (len(words) - len(distinct))


def score(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> rewards.Scores:
    """The world's reward as a reward function of the trainer."""
    return [
        worth(asked.ids[-1] - FIRST_PROMPT, [token - FIRST_WORD for token in row.ids if token != END])
        for asked, row in zip(prompts, completions, strict=True)
    ]


@contextmanager
def reward() -> Iterator[None]:
    """Runs earn the world's reward: all of `rollout.load` is real, only what its settings name is not."""
    with mock.patch.object(rewards, "configured", lambda *_: rewards.WeightedSum({"world": (1.0, score)})):
        yield


# --- the folders that a run reads -------------------------------------------------------------------


def build(folder: Path, *, seed: int = 0) -> None:
    """policy/, reward_model/ (loaded by every run, asked by none) and prompts.jsonl."""
    rows = [{"prompt": question(prompt), "prompt_id": prompt} for prompt in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first_weights(folder / "random", seed)
    policy = models.Policy(folder / "random")
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=3e-3)
    written = strings(seed)
    for _step in range(PRETRAINING):
        prompts, completions = zip(*itertools.islice(written, 128), strict=True)
        optimizer.zero_grad()
        (-policy.logprobs(batches.rows(prompts, completions, PAD)).mean()).backward()
        optimizer.step()
    (folder / "policy").mkdir()
    policy.save(folder / "policy")
    models.RewardModel(folder / "policy", fresh_head_seed=seed).save(folder / "reward_model")


def question(prompt: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"P{prompt}"}]


def strings(seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Words that follow one another by chance, differently for every prompt; two in five run on too long."""
    random_ = random.Random(seed)
    after = [
        [[random_.lognormvariate(0.0, 0.7) for _ in range(WORDS)] for _ in range(WORDS + 1)]
        for _ in range(PROMPTS)
    ]
    while True:
        prompt, words = random_.randrange(PROMPTS), [WORDS]
        while len(words) <= LONGEST and random_.random() > 0.15:
            words.append(random_.choices(range(WORDS), after[prompt][words[-1]])[0])
        end = [END] if len(words) <= LONGEST else []
        yield [FIRST_PROMPT + prompt], [FIRST_WORD + word for word in words[1:]] + end


def first_weights(folder: Path, seed: int) -> None:
    vocabulary = {token: place for place, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    chat.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    torch.manual_seed(seed)
    shape = {"n_positions": CONTEXT, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 16}
    ends = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
    model = GPTJForCausalLM(GPTJConfig(vocab_size=len(TOKENS), **shape, **ends))
    with torch.no_grad():
        model.lm_head.bias.zero_()
        model.lm_head.bias[[PAD, *range(FIRST_PROMPT, FIRST_WORD)]] = NEVER
    model.save_pretrained(folder)
    chat.save_pretrained(folder)


# --- a run, as training/core/run.py runs it -----------------------------------------------------------


def job(kind: str, settings: dict[str, Any], seed: int, inputs: dict[str, Path], output: Path) -> Job:
    torch.use_deterministic_algorithms(True)
    return Job(configs.parse(kind, settings), seed, inputs, output, None, lambda: None, lambda: False)


class Run(NamedTuple):
    metrics: dict[int, dict[str, float]]  # step -> values
    exact: dict[int, Exact]  # step -> the policy after it, from the checkpoint; the last from the output
    reference: Exact


def train(folder: Path, kind: str, settings: dict[str, Any], seed: int, output: Path) -> Run:
    """One run on the world in `folder`; four checkpoints and the output are evaluated without error."""
    quarter = settings["steps"] // 4
    whole = {
        "max_new_tokens": LONGEST, "kl_coefficient": BETA, "missing_eos_penalty": -NO_END,
        "checkpoint_every": quarter, "sample_every": 100_000, **settings,
    }  # fmt: skip
    inputs = {name: folder / name for name in ("policy", "reward_model")}
    inputs |= {"reference": folder / "policy", "prompts": folder / "prompts.jsonl"}
    metrics: dict[int, dict[str, float]] = {}
    exact: dict[int, Exact] = {}
    watched = models.Policy(folder / "policy")
    reference = tree(watched)
    with reward():
        for event in TRAINERS[kind](job(kind, whole, seed, inputs, output)):
            if isinstance(event, Metrics):
                metrics.setdefault(event.step, {}).update(event.values)
            if isinstance(event, Checkpoint):
                held = state.part(event.saved.tensors, "policy.", watched.device)  # those that are trained
                named = {name.removeprefix("policy."): weight for name, weight in held.items()}
                watched.model.load_state_dict(named, strict=False)
                exact[event.saved.step] = evaluate(tree(watched), reference)
    exact[max(metrics)] = evaluate(tree(models.Policy(output)), reference)  # a run may stop itself early
    return Run(metrics, exact, evaluate(reference, reference))


# --- everything that is exact -------------------------------------------------------------------------


class Tree(NamedTuple):
    """Log-probabilities of the next token after every prefix, and of every completion of every prompt."""

    after: list[Tensor]  # by length n of the prefix: PROMPTS x WORDS^n x vocabulary
    whole: Tensor  # PROMPTS x 3906: those of 0..4 words and an end, then those of five words


@torch.no_grad()
def tree(policy: models.Policy) -> Tree:
    model = copy.deepcopy(policy.model).double()
    places = torch.arange(WORDS ** (LONGEST - 1))
    words = torch.stack([places // WORDS**power % WORDS for power in reversed(range(LONGEST - 1))], 1)
    after: list[list[Tensor]] = [[] for _ in range(LONGEST)]
    for prompt in range(PROMPTS):
        asked = torch.full((len(words), 1), FIRST_PROMPT + prompt)
        logprobs = torch.log_softmax(model(torch.cat([asked, FIRST_WORD + words], 1)).logits, -1)
        for length in range(LONGEST):
            after[length].append(logprobs[:: WORDS ** (LONGEST - 1 - length), length])
    return joined([torch.stack(level) for level in after])


def joined(after: list[Tensor]) -> Tree:
    """The chain rule: a completion's log-probability from those of its tokens."""
    said = torch.zeros(PROMPTS, 1, dtype=torch.float64)
    whole = []
    for level in after:
        whole.append(said + level[:, :, END])
        said = (said.unsqueeze(2) + level[:, :, FIRST_WORD:]).flatten(1)
    return Tree(after, torch.cat([*whole, said], 1))


def earned() -> Tensor:
    """The reward of every completion, in the order of `Tree.whole`."""
    rows = []
    for prompt in range(PROMPTS):
        values = []
        for length in range(LONGEST + 1):
            for place in range(WORDS**length):
                words = [place // WORDS**power % WORDS for power in reversed(range(length))]
                values.append(worth(prompt, words) + (NO_END if length == LONGEST else 0.0))
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)


EARNED = earned()


def best_tree(reference: Tree) -> tuple[Tree, Tensor]:
    """pi* and V* of each prompt, token by token from the end: V(s) = beta log sum ref(a|s) exp(Q(s,a)/beta).

    Another way to the optimum than beta log Z over whole completions, which `evaluate` takes.
    """
    ends = EARNED.split([WORDS**length for length in range(LONGEST + 1)], 1)
    value = ends[LONGEST]
    after: list[Tensor] = []
    for length in reversed(range(LONGEST)):
        level = torch.full_like(reference.after[length], -math.inf)
        level[:, :, END] = ends[length]
        level[:, :, FIRST_WORD:] = value.view(PROMPTS, -1, WORDS)
        tilted = reference.after[length] + level / BETA
        value = BETA * tilted.logsumexp(-1)
        after.insert(0, tilted - value.unsqueeze(-1) / BETA)
    return joined(after), value.squeeze(1)


class Exact(NamedTuple):
    """Means over the prompts; deviations are those of one completion around its own prompt's mean."""

    reward: float
    kl: float
    objective: float
    regret: float
    identity_error: float  # |J* - J(pi) - beta KL(pi || pi*)|, pi* by another way than J*
    kl_deviation: float
    objective_deviation: float


def evaluate(policy: Tree, reference: Tree) -> Exact:
    chance, ratio = policy.whole.exp(), policy.whole - reference.whole
    net = EARNED - BETA * ratio
    best = BETA * torch.logsumexp(reference.whole + EARNED / BETA, 1).mean()
    start = (reference.whole.exp() * EARNED).sum(1).mean()
    optimum, _value = best_tree(reference)
    objective = (chance * net).sum(1).mean()
    to_optimum = (chance * (policy.whole - optimum.whole)).sum(1).mean()
    return Exact(
        reward=float((chance * EARNED).sum(1).mean()),
        kl=float((chance * ratio).sum(1).mean()),
        objective=float(objective),
        regret=float((best - objective) / (best - start)),
        identity_error=float((best - objective - BETA * to_optimum).abs()),
        kl_deviation=deviation(chance, ratio),
        objective_deviation=deviation(chance, net),
    )


def deviation(chance: Tensor, values: Tensor) -> float:
    mean = (chance * values).sum(1, keepdim=True)
    return float((chance * (values - mean) ** 2).sum(1).mean().sqrt())


def best_of(reference: Tree, n: int) -> Exact:
    """The best of n completions of the reference, by rank; among equals as the reference chooses."""
    found = []
    for prompt in range(PROMPTS):
        chance, values = reference.whole[prompt].exp(), EARNED[prompt]
        levels, level = torch.unique((values * 1e6).round(), return_inverse=True)
        mass = torch.zeros(len(levels), dtype=torch.float64).index_add(0, level, chance)
        up_to = mass.cumsum(0).clamp(max=1.0)
        won = up_to**n - (up_to - mass).clamp(min=0.0) ** n
        found.append(reference.whole[prompt] + (won / mass).log()[level])
    return evaluate(Tree([], torch.stack(found)), reference)
