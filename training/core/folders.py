"""Model folders: what may be loaded, and what is left for plain `transformers` to load."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from training.core.batches import device
from training.core.chat import Chat
from training.core.types import Failure

transformers_logging.disable_progress_bar()
LOADING = logging.getLogger("transformers.modeling_utils")
"""Where transformers reports weights that a folder lacks, or holds in vain."""
HEAD = "score.weight"
"""Of every sequence classifier that transformers makes of a language model."""
WHOLE = "Give the whole folder, as save_pretrained of the model's class writes it."
SPACE = "▁"
"""sentencepiece's: with special tokens all that a made-up tokenizer knows."""
CAUSAL = "Choose a causal language model, such as a GPT or a Llama."
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def refuse_unsafe(folder: Path) -> None:
    """Weights that a pickle holds, and code that a checkpoint brings along, are never loaded."""
    if not (folder / "config.json").is_file():
        told = f"{called(folder)} holds no config.json"
        raise Failure("bad_input", told, "Give a transformers model folder.")
    for path in sorted(folder.glob("*.json")):
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Failure("bad_input", f"{called(folder)}/{path.name} is not JSON: {error}", WHOLE) from error
        if isinstance(described, dict) and "auto_map" in described:
            raise Failure(
                "custom_code",
                f"{called(folder)}/{path.name} asks for code of its own (auto_map)",
                "Only model classes that transformers itself brings are run.",
            )
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLE_SUFFIXES]
    if pickles or not any(folder.glob("*.safetensors")):
        found = f"{pickles[0]}, a pickle" if pickles else "no safetensors"
        raise Failure(
            "unsafe_weights",
            f"{called(folder)} holds {found}",
            "Convert the weights to safetensors, and remove every other weight file.",
        )


def called(folder: Path) -> str:
    """A folder's name and that of the one it lies in: every trained model lies in a folder named output."""
    return "/".join(folder.parts[-2:])


def load_tokenizer(folder: Path) -> Any:
    """Raises Failure where there is none: transformers would make one up that reads every text as nothing."""
    refuse_unsafe(folder)
    refuse_unknown(folder)
    try:
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        told = f"the tokenizer of {called(folder)} needs a package that is not installed: {first_line(error)}"
        raise Failure("bad_input", told, "Install it, or give a folder with a tokenizer.json.") from error
    except Exception as error:  # of a file that is missing or broken: which error depends on the class
        told = f"{called(folder)} holds no tokenizer that can be read: {first_line(error)}"
        raise Failure("bad_input", told, WHOLE) from error
    if not set(found.get_vocab()) - {*found.all_special_tokens, SPACE}:
        raise Failure("bad_input", f"{called(folder)} holds no tokenizer", WHOLE)
    return found


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def refuse_unknown(folder: Path) -> None:
    """What this transformers has no class for, by the model_type of its config.json."""
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = described.get("model_type") if isinstance(described, dict) else None
    if not isinstance(kind, str):
        raise Failure("bad_input", f"{called(folder)}/config.json names no model_type", WHOLE)
    if kind not in CONFIG_MAPPING:
        told = f"{called(folder)} is a {kind}, which transformers {transformers.__version__} does not know"
        raise Failure("bad_input", told, "Choose another model, or install a transformers that knows it.")


def refuse_classifier(folder: Path) -> None:
    """transformers would make a language model of a classifier's trunk, and say so on stderr at most."""
    classes = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    if found := [name for name in classes if name.endswith("Classification")]:
        told = f"{called(folder)} is a {found[0]}, as reward models are, not a language model"
        raise Failure("bad_input", told, "Choose a policy here.")


@torch.no_grad()
def refuse_encoder(model: Any, folder: Path) -> None:
    """transformers gives encoders a language model's head, too, and lets them look at what comes."""
    first, same = model.base_model(input_ids=torch.tensor([[1, 0], [1, 1]]), use_cache=False)[0][:, 0]
    if float((first - same).abs().max()) > 1e-4 * float(first.abs().max()):
        told = f"{called(folder)}, a {type(model).__name__}, looks at the tokens that come after"
        raise Failure("bad_input", told, CAUSAL)


def load(kind: Any, folder: Path, *, halved: bool = False, new_head: bool = False, **extra: Any) -> Any:
    """The model of `folder` in float32, dropout off; `halved`: its matrices in bfloat16, see `halve`.

    `new_head`: a language model is read as a classifier, and that it has no score head is as it should be.

    Raises Failure where weights are missing: transformers would fill them with random numbers of no seed.
    """
    refuse_unsafe(folder)
    refuse_unknown(folder)
    if kind is AutoModelForCausalLM:
        refuse_classifier(folder)
    held = HeldReport()
    LOADING.addFilter(held)
    try:
        model, found = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told of below, by name
            **extra,
        )
        if lacking := lacked(found) - ({HEAD} if new_head else set()):
            told = f"{called(folder)} lacks weights of a {type(model).__name__}: {first_few(lacking)}"
            bare = "It is a language model: choose a reward model, which the kind reward_model makes of one."
            raise Failure("bad_input", told, bare if lacking == {HEAD} else WHOLE)
        if new_head and only_the_head_differs(found):
            held.records.clear()
    except SafetensorError as error:
        told = f"the weights of {called(folder)} cannot be read: {error}"
        raise Failure("bad_input", told, WHOLE) from error
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        told = f"{called(folder)} is of a kind that transformers has no {kind.__name__} of"
        raise Failure("bad_input", told, CAUSAL) from error
    finally:
        LOADING.removeFilter(held)
        for record in held.records:
            LOADING.handle(record)
    if kind is AutoModelForCausalLM:
        refuse_encoder(model, folder)
    fuse_gelu(model)
    if halved:
        halve(model)
    return model.to(device()).eval()


def first_few(names: Collection[str], most: int = 3) -> str:
    """The first of them by name, and how many more there are."""
    first = ", ".join(sorted(names)[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


class HeldReport(logging.Filter):
    """Holds back the load report until it is known whether it says anything unexpected."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        self.records.append(record)
        return False


def lacked(found: dict[str, Any]) -> set[str]:
    """Weights that a model did not get from its folder, or not in its shape."""
    return set(found["missing_keys"]) | {name for name, *_shapes in found["mismatched_keys"]}


def only_the_head_differs(found: dict[str, Any]) -> bool:
    """Whether a classifier lacks its score head alone, and left nothing but the language model's head."""
    return lacked(found) == {HEAD} and found["unexpected_keys"] <= {"lm_head.weight"}


def fuse_gelu(model: nn.Module) -> None:
    """GPT-2's activation by torch's own kernel: one pass over memory instead of eight, the same formula.

    Measured: a third of a training step of a small GPT-2 on two cores. The saved config keeps the name.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, GELUTanh())


@torch.no_grad()
def halve(model: Any) -> None:
    """Put the matrices of a model that is only read under autocast into bfloat16: half the memory.

    Autocast would turn them into the same bfloat16 for each product, so what the model says stays the same
    to the bit. Embeddings, norms and the head of a sequence classifier are no products of autocast's.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    for module in [*model.base_model.modules(), *([] if tied or head is None else [head])]:
        if type(module) in (nn.Linear, Conv1D):
            module.to(torch.bfloat16)


def save(model: Any, chat: Chat, folder: Path) -> None:
    """A folder that plain `transformers` loads: safetensors, tokenizer, template, generation config."""
    model.save_pretrained(str(folder))
    chat.tokenizer.save_pretrained(str(folder))
