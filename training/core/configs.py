"""One frozen dataclass per run kind: every setting has a default, a sentence and a range.

Web forms, docs and the trainer all read this file, so it imports neither torch nor Django.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from typing import Any, ClassVar


def setting(
    default: Any,
    sentence: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    advanced: bool = False,
) -> Any:
    """A dataclass field with what a form, a range check and the docs need to know of it."""
    metadata = {
        "help": sentence, "low": low, "high": high, "choices": choices, "unit": unit, "advanced": advanced,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def precision_setting() -> Any:
    sentence = "bfloat16: products of matrices are computed in it, learned weights stay float32; faster and smaller on GPUs made for it."
    return setting("float32", sentence, choices=("float32", "bfloat16"), advanced=True)


def compile_setting() -> Any:
    sentence = "Compile training passes (torch.compile): they wait for the compiler at first, and then are faster on a GPU."
    return setting(False, sentence, advanced=True)


class ConfigError(ValueError):
    """A configuration that no run may start with. `problems` maps a setting's name to what is wrong."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every kind has; forms, launch and loop page know a kind by nothing else."""

    kind: ClassVar[str]
    title: ClassVar[str]
    sentence: ClassVar[str]
    station: ClassVar[str]
    """The station of the loop at which it works: completions, reward_model or policy."""
    inputs: ClassVar[dict[str, str]]
    """What the run reads, with a sentence each; "?" marks an optional one."""
    data: ClassVar[tuple[str, str]]
    """The input that is a file of frozen data, and what it holds: preferences, demonstrations or prompts."""
    more_data: ClassVar[dict[str, str]] = {}
    """Further inputs that are files, all optional, and what they hold."""
    trains: ClassVar[bool] = True
    """Whether it changes weights: then it is kept from prompts that are held out or set aside for reviews."""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def cross_problems(self) -> dict[str, str]:
        """Problems that involve more than one setting."""
        return {}


# fmt: off
@dataclass(frozen=True, kw_only=True)
class SFTConfig(Config):
    kind: ClassVar[str] = "sft"
    title: ClassVar[str] = "Supervised fine-tuning"
    sentence: ClassVar[str] = "Teach a language model to write like the demonstrations it is shown."
    station: ClassVar[str] = "policy"
    inputs: ClassVar[dict[str, str]] = {"policy": "The version that learns to write like the demonstrations.", "snapshot": "The demonstrations."}
    data: ClassVar[tuple[str, str]] = ("snapshot", "demonstrations")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "starter": {"learning_rate": 3e-3, "batch_tokens": 768, "completion_only": False, "checkpoint_every": 250, "evaluate_every": 125},
    }

    epochs: int = setting(1, "How many times each demonstration is shown.", low=1, high=100)
    learning_rate: float = setting(1e-4, "Peak step size of AdamW.", low=1e-8, high=1e-1)
    batch_tokens: int = setting(4096, "Tokens (padding included) in one optimiser step.", low=16, high=10_000_000, unit="tokens")
    max_length: int = setting(512, "Longer conversations lose their oldest turns.", low=8, high=131_072, unit="tokens")
    warmup_fraction: float = setting(0.05, "Share of the steps in which the step size rises from 0.", low=0.0, high=0.9, advanced=True)
    weight_decay: float = setting(0.01, "Decoupled weight decay.", low=0.0, high=1.0, advanced=True)
    lora_rank: int = setting(0, "Rank of low-rank adapters on all layers; 0 trains the whole model.", low=0, high=4096, advanced=True)
    max_grad_norm: float = setting(1.0, "Gradients longer than this are scaled down to it.", low=1e-6, high=1e6, advanced=True)
    completion_only: bool = setting(True, "Learn from the assistant's last turn only, not from the prompt.")
    packing: bool = setting(False, "Put several conversations into one row, each blind to the others: no padding, and batches of mixed lengths.", advanced=True)
    checkpoint_every: int = setting(50, "Optimiser steps between checkpoints.", low=1, high=100_000, unit="steps", advanced=True)
    evaluate_every: int = setting(25, "Optimiser steps between held-out losses and sample texts.", low=1, high=100_000, unit="steps", advanced=True)
    microbatch_tokens: int = setting(8192, "Tokens (padding included) in one forward pass: fewer need less memory, the result is the same.", low=16, high=10_000_000, unit="tokens", advanced=True)
    precision: str = precision_setting()
    compile: bool = compile_setting()


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig(Config):
    kind: ClassVar[str] = "reward_model"
    title: ClassVar[str] = "Reward model"
    sentence: ClassVar[str] = "Learn from the judgements which completion people would prefer."
    station: ClassVar[str] = "reward_model"
    inputs: ClassVar[dict[str, str]] = {"policy": "Its weights are where the reward model starts.", "snapshot": "The judgements."}
    data: ClassVar[tuple[str, str]] = ("snapshot", "preferences")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "many judgements": {"epochs": 1},
        "large model": {"epochs": 1, "learning_rate": 1e-5},
    }

    epochs: int = setting(4, "How many times each pair is shown; the epoch with the best held-out loss is kept.", low=1, high=100)
    learning_rate: float = setting(3e-4, "Peak step size of AdamW.", low=1e-8, high=1e-1)
    batch_pairs: int = setting(16, "Pairs in one optimiser step.", low=1, high=100_000, unit="pairs")
    max_length: int = setting(512, "Longer transcripts lose their oldest tokens.", low=8, high=131_072, unit="tokens")
    ties: str = setting("rao_kupper", "What a tie says. Half: half a win for each; Rao-Kupper, Davidson: an answer of its own, whose frequency is learned.", choices=("half", "rao_kupper", "davidson"))
    margins: str = setting("learned", "Learned: 'slightly', 'better' and 'much better' say how far apart two scores are, by margins that are learned; none: they say no more than 'better'.", choices=("none", "learned"))
    annotators: str = setting("equal", "Reliability: how often each annotator's judgements are turned round is learned; equal: all count alike.", choices=("equal", "reliability"))
    members: int = setting(1, "Reward models trained with different seeds and orders of data; where they disagree, none is to be trusted.", low=1, high=16)
    centring: float = setting(0.01, "Weight of the penalty that keeps the mean of a pair's scores at zero.", low=0.0, high=10.0, advanced=True)
    label_smoothing: float = setting(0.0, "Share of judgements assumed to be slips.", low=0.0, high=0.49, advanced=True)
    warmup_fraction: float = setting(0.05, "Share of the steps in which the step size rises from 0.", low=0.0, high=0.9, advanced=True)
    weight_decay: float = setting(0.01, "Decoupled weight decay.", low=0.0, high=1.0, advanced=True)
    lora_rank: int = setting(0, "Rank of low-rank adapters on all layers; 0 trains the whole model.", low=0, high=4096, advanced=True)
    max_grad_norm: float = setting(1.0, "Gradients longer than this are scaled down to it.", low=1e-6, high=1e6, advanced=True)
    checkpoint_every: int = setting(20, "Optimiser steps between checkpoints.", low=1, high=100_000, unit="steps", advanced=True)
    microbatch_tokens: int = setting(8192, "Tokens (padding included) in one forward pass: fewer need less memory, the result is the same.", low=16, high=10_000_000, unit="tokens", advanced=True)
    precision: str = precision_setting()
    compile: bool = compile_setting()

    def cross_problems(self) -> dict[str, str]:
        problems = {}
        if self.ties == "davidson" and self.margins == "learned":
            problems["ties"] = "davidson has no place for margins: set margins to none, or choose half or rao_kupper"
        if self.annotators == "reliability" and self.label_smoothing:
            problems["label_smoothing"] = "must be 0 where slips are learned for each annotator"
        return problems


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(Config):
    """What the policy-gradient kinds share: rollouts, rewards, the KL penalty and its limit."""

    station: ClassVar[str] = "policy"
    inputs: ClassVar[dict[str, str]] = {
        "policy": "The version to improve.",
        "reference": "The KL penalty holds the policy near this version.",
        "reward_model": "Scores each completion.",
        "prompts": "What the policy completes while it learns.",
    }
    data: ClassVar[tuple[str, str]] = ("prompts", "prompts")
    step_sizes: ClassVar[str] = "learning_rate"
    """The settings that say how far one update moves the policy."""

    steps: int = setting(16, "Rollouts, each followed by an update.", low=1, high=1_000_000, unit="steps")
    rollout_prompts: int = setting(64, "Prompts completed in one rollout.", low=1, high=100_000, unit="prompts")
    completions_per_prompt: int = setting(1, "Completions of each prompt in a rollout.", low=1, high=1000)
    max_new_tokens: int = setting(64, "Longest completion.", low=1, high=16_384, unit="tokens")
    temperature: float = setting(1.0, "Sampling temperature of rollouts; log-probabilities use it too.", low=0.05, high=5.0)
    learning_rate: float = setting(3e-4, "Step size of Adam for policy and critic; falls to 0 over the run.", low=1e-8, high=1e-1)
    kl_coefficient: float = setting(0.05, "Reward lost per nat away from the reference.", low=0.0, high=100.0)
    kl_target: float = setting(0.0, "Aim of the adaptive coefficient, in nats per completion; 0 keeps it fixed.", low=0.0, high=10_000.0, unit="nats")
    kl_horizon: float = setting(2000.0, "Completions over which the adaptive coefficient can grow or shrink by a fifth.", low=1.0, high=1e9, unit="completions", advanced=True)
    kl_limit: float = setting(20.0, "The run ends with its last weights within this when the mean KL of a rollout passes it; it fails when no update stays within.", low=0.01, high=100_000.0, unit="nats")
    gamma: float = setting(1.0, "Discount of later rewards.", low=0.0, high=1.0, advanced=True)
    score_clip: float = setting(10.0, "Scores beyond +- this are cut before the KL penalty.", low=0.01, high=1e6, advanced=True)
    score_scaling: bool = setting(False, "Divide scores by their running standard deviation; their mean stays.", advanced=True)
    missing_eos_penalty: float = setting(1.0, "Taken from the score of a completion that was cut off by its length.", low=0.0, high=1e6, advanced=True)
    reward_model_weight: float = setting(1.0, "Weight of the reward model's score.", low=-1e6, high=1e6, advanced=True)
    caution: float = setting(1.0, "Where the reward model has several members: how much their disagreement takes off the score.", low=0.0, high=1000.0, advanced=True)
    length_weight: float = setting(0.0, "Score for each token of a completion; below 0 shorter ones earn more.", low=-1e6, high=1e6, advanced=True)
    pattern: str = setting("", "A regular expression; completions that contain it earn pattern_weight.", advanced=True)
    pattern_weight: float = setting(0.0, "Score of a completion that contains the pattern.", low=-1e6, high=1e6, advanced=True)
    lora_rank: int = setting(0, "Rank of low-rank adapters on all layers; 0 trains the whole policy. The reference is then free.", low=0, high=4096, advanced=True)
    max_grad_norm: float = setting(1.0, "Gradients longer than this are scaled down to it.", low=1e-6, high=1e6, advanced=True)
    checkpoint_every: int = setting(5, "Steps between checkpoints.", low=1, high=100_000, unit="steps", advanced=True)
    sample_every: int = setting(5, "Steps between sample texts on the run's page.", low=1, high=100_000, unit="steps", advanced=True)
    microbatch_tokens: int = setting(8192, "Tokens (padding included) in one forward pass: fewer need less memory, the result is the same.", low=16, high=10_000_000, unit="tokens", advanced=True)
    precision: str = precision_setting()
    compile: bool = compile_setting()

    def cross_problems(self) -> dict[str, str]:
        problems = {}
        if self.kl_target and not self.kl_coefficient:
            problems["kl_target"] = "needs kl_coefficient above 0, which it adapts"
        if self.pattern_weight and not self.pattern:
            problems["pattern_weight"] = "needs a pattern"
        try:
            re.compile(self.pattern)
        except re.error as error:
            problems["pattern"] = f"not a regular expression: {error}"
        if not (self.reward_model_weight or self.length_weight or self.pattern_weight):
            problems["reward_model_weight"] = "all weights are 0: there would be nothing to learn"
        return problems


@dataclass(frozen=True, kw_only=True)
class PPOConfig(PolicyConfig):
    kind: ClassVar[str] = "ppo"
    title: ClassVar[str] = "PPO"
    sentence: ClassVar[str] = "Optimise the policy against the reward model, held near its reference by a KL penalty."
    inputs: ClassVar[dict[str, str]] = {**PolicyConfig.inputs, "demonstrations?": "Optional: mixed into each update with the weight ptx_coefficient."}
    more_data: ClassVar[dict[str, str]] = {"demonstrations": "demonstrations"}
    step_sizes: ClassVar[str] = "learning_rate or epochs"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"steps": 10, "rollout_prompts": 32, "checkpoint_every": 5},
        "careful": {"steps": 40, "learning_rate": 1e-4, "kl_coefficient": 0.1, "kl_limit": 12.0},
        "large model": {"learning_rate": 3e-6, "critic": "separate"},
    }

    epochs: int = setting(4, "Passes over each rollout.", low=1, high=100)
    minibatches: int = setting(2, "Optimiser steps in each pass.", low=1, high=1000)
    critic: str = setting("shared", "Shared: a value head on the policy, half the work; separate: a second model that starts as the reward model.", choices=("shared", "separate"), advanced=True)
    clip: float = setting(0.2, "Probability ratios beyond 1 +- this earn nothing more.", low=0.01, high=1.0, advanced=True)
    value_trains_trunk: bool = setting(True, "Whether the loss of a shared critic moves the policy's trunk as well; off, the value head only reads it.", advanced=True)
    value_clip: float = setting(0.2, "The critic's clip around its old values.", low=0.01, high=100.0, advanced=True)
    value_coefficient: float = setting(0.5, "Weight of the critic's loss.", low=0.0, high=100.0, advanced=True)
    gae_lambda: float = setting(0.95, "0: trust the critic; 1: trust the sampled return.", low=0.0, high=1.0, advanced=True)
    whiten_rewards: bool = setting(False, "Give token rewards unit variance before the advantages; their mean stays.", advanced=True)
    entropy_coefficient: float = setting(0.0, "Weight of a bonus for undecided next tokens.", low=0.0, high=10.0, advanced=True)
    ptx_coefficient: float = setting(0.0, "Weight of the loss of demonstrations that are mixed into each update (PPO-ptx); 0 mixes none in.", low=0.0, high=1000.0, advanced=True)
    epoch_kl_stop: float = setting(0.1, "Passes over a rollout end early when the policy has moved this far per token.", low=0.0, high=100.0, unit="nats", advanced=True)

    def cross_problems(self) -> dict[str, str]:
        problems = super().cross_problems()
        completions = self.rollout_prompts * self.completions_per_prompt
        if self.minibatches > completions:
            problems["minibatches"] = f"at most one per completion ({completions}), got {self.minibatches}"
        return problems


@dataclass(frozen=True, kw_only=True)
class REINFORCEConfig(PolicyConfig):
    kind: ClassVar[str] = "reinforce"
    title: ClassVar[str] = "REINFORCE"
    sentence: ClassVar[str] = "One plain gradient step on each rollout: the least that can work, often enough."
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "running mean": {"baseline": "running_mean", "rollout_prompts": 64, "completions_per_prompt": 1},
        "large model": {"learning_rate": 3e-6},
    }

    steps: int = setting(60, "Rollouts, each followed by an update.", low=1, high=1_000_000, unit="steps")
    rollout_prompts: int = setting(16, "Prompts completed in one rollout.", low=1, high=100_000, unit="prompts")
    completions_per_prompt: int = setting(4, "Completions of each prompt in a rollout.", low=1, high=1000)
    baseline: str = setting("leave_one_out", "What a return is compared with: nothing, the running mean, the prompt's other completions, or a value head.", choices=("none", "running_mean", "leave_one_out", "value_head"))
    baseline_decay: float = setting(0.9, "Share of the running mean that a step keeps.", low=0.0, high=1.0, advanced=True)
    value_coefficient: float = setting(0.5, "Weight of the value head's loss.", low=0.0, high=100.0, advanced=True)
    entropy_coefficient: float = setting(0.0, "Weight of a bonus for undecided next tokens.", low=0.0, high=10.0, advanced=True)

    def cross_problems(self) -> dict[str, str]:
        problems = super().cross_problems()
        if self.baseline == "leave_one_out" and self.completions_per_prompt < 2:
            problems["completions_per_prompt"] = "leave_one_out needs at least 2 completions of a prompt"
        return problems


@dataclass(frozen=True, kw_only=True)
class TRPOConfig(PolicyConfig):
    kind: ClassVar[str] = "trpo"
    title: ClassVar[str] = "TRPO"
    sentence: ClassVar[str] = "The largest step along the natural gradient that a KL constraint allows."
    step_sizes: ClassVar[str] = "step_kl"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "large model": {"trained_layers": 2, "critic": "separate", "fisher_share": 0.1},
    }

    learning_rate: float = setting(1e-3, "Step size of Adam for the critic; falls to 0 over the run. The policy needs none.", low=1e-8, high=1e-1)
    step_kl: float = setting(0.03, "How far one step may move the policy: mean KL per token.", low=1e-8, high=10.0, unit="nats")
    trained_layers: int = setting(0, "Only the last layers of the policy are trained, with its output head; 0 trains all.", low=0, high=10_000, unit="layers")
    critic: str = setting("shared", "Shared: a value head on the policy's trunk, which it does not move; separate: a second model that starts as the reward model.", choices=("shared", "separate"), advanced=True)
    value_epochs: int = setting(4, "Passes of the critic over each rollout.", low=1, high=100, advanced=True)
    gae_lambda: float = setting(0.95, "0: trust the critic; 1: trust the sampled return.", low=0.0, high=1.0, advanced=True)
    cg_iterations: int = setting(5, "Conjugate gradient iterations: each costs two backward passes.", low=1, high=1000, advanced=True)
    cg_damping: float = setting(1.0, "Added to the diagonal of the Fisher matrix: without it, rare tokens take most of the step.", low=0.0, high=100.0, advanced=True)
    fisher_share: float = setting(0.25, "Share of the rollout that Fisher-vector products look at.", low=0.001, high=1.0, advanced=True)
    backtracks: int = setting(10, "Halvings of a step that breaks the constraint or does not improve; then it is taken back.", low=1, high=100, advanced=True)

    def cross_problems(self) -> dict[str, str]:
        problems = super().cross_problems()
        if self.compile:
            problems["compile"] = "trpo differentiates twice, which compiled passes cannot"
        return problems


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Config):
    kind: ClassVar[str] = "sample"
    title: ClassVar[str] = "Write completions"
    sentence: ClassVar[str] = "Let a version write completions of prompts, for people to judge."
    station: ClassVar[str] = "completions"
    trains: ClassVar[bool] = False
    inputs: ClassVar[dict[str, str]] = {
        "policy": "The version that writes.",
        "prompts": "What it completes.",
        "reward_model?": "Optional: scores what is written, without changing it.",
    }
    data: ClassVar[tuple[str, str]] = ("prompts", "prompts")

    completions_per_prompt: int = setting(2, "Completions of each prompt.", low=1, high=64)
    max_new_tokens: int = setting(64, "Longest completion.", low=1, high=16_384, unit="tokens")
    temperature: float = setting(1.0, "0.05 is nearly greedy, 1 is the model's own distribution.", low=0.05, high=5.0)
    batch_size: int = setting(64, "Completions written at once.", low=1, high=100_000, advanced=True)
    precision: str = precision_setting()


# fmt: on
KINDS: dict[str, type[Config]] = {
    config.kind: config
    for config in (SFTConfig, RewardModelConfig, PPOConfig, REINFORCEConfig, TRPOConfig, SampleConfig)
}


def field_problem(field: dataclasses.Field[Any], value: Any) -> str | None:
    """What is wrong with the value of one setting, or None."""
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    wanted: Any = {"int": int, "float": (int, float), "bool": bool, "str": str}[str(field.type)]
    if not isinstance(value, wanted) or (isinstance(value, bool) and str(field.type) != "bool"):
        return f"wanted {field.type}, got {value!r}"
    if choices and value not in choices:
        return f"one of {', '.join(choices)}, got {value!r}"
    if low is not None and not low <= value <= high:
        return f"between {low:g} and {high:g}, got {value:g}"
    return None


def parse(kind: str, values: dict[str, Any]) -> Config:
    """The configuration of `kind` from plain values; raises ConfigError with every problem at once."""
    if kind not in KINDS:
        raise ConfigError({"kind": f"one of {', '.join(KINDS)}, got {kind!r}"})
    fields = {field.name: field for field in dataclasses.fields(KINDS[kind])}
    problems: dict[str, str] = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            problems[name] = "unknown key" + (f" - did you mean {near[0]!r}?" if near else "")
        elif problem := field_problem(fields[name], value):
            problems[name] = problem
    if problems:
        raise ConfigError(problems)
    config = KINDS[kind](**values)
    if problems := config.cross_problems():
        raise ConfigError(problems)
    return config
