"""Why a run could not go on: code, message and hint for outcome.json."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

from training.core import configs, protocol

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def kind_of(run_dir: Path) -> str:
    """The kind that spec.json names; "" where it cannot be read."""
    try:
        return str(protocol.read_spec(run_dir).get("kind", ""))
    except protocol.ProtocolError:
        return ""


def memory_hint(kind: str) -> str:
    """Which settings of this kind need less memory when they are lower, the cheapest first."""
    known = {field.name for field in dataclasses.fields(configs.KINDS.get(kind, configs.PPOConfig))}
    without_loss = {"microbatch_tokens": "microbatch_tokens (the result stays the same)"}
    names = ["microbatch_tokens", "batch_size", "max_length", "max_new_tokens"]
    lower = " or ".join(without_loss.get(name, name) for name in names if name in known)
    hint = f"Lower {lower}, or set precision to bfloat16"
    return hint + (", or train adapters alone (lora_rank)." if "lora_rank" in known else ".")


def says_all(error: Exception) -> bool:
    """Whether it was raised in words for a person, who needs no traceback beside them."""
    return hasattr(error, "hint") or isinstance(error, configs.ConfigError | protocol.ProtocolError)


def explain(error: Exception, kind: str = "") -> dict[str, str] | None:
    """code, message and hint of an error that a person can mend; None for one that is ours."""
    if hasattr(error, "code") and hasattr(error, "hint"):
        return {"code": error.code, "message": error.message, "hint": error.hint}  # type: ignore[attr-defined]
    text = str(error)
    if isinstance(error, configs.ConfigError):
        return {"code": "bad_config", "message": text, "hint": "Change the named settings and launch again."}
    if isinstance(error, protocol.ProtocolError):
        hint = "Mend what is named in the run directory, or launch the run again from whole inputs."
        return {"code": "bad_input", "message": text, "hint": hint}
    full = isinstance(error, OSError) and error.errno in FULL
    if full or any(os.strerror(number) in text for number in FULL):  # safetensors raises errors of its own
        hint = (
            "Free space under the artefact folder, or raise its quota or file size limit, and launch again."
        )
        return {"code": "disk_full", "message": text, "hint": hint}
    compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
    if compiler or "torch.compile" in text:  # the latter where this Python or system has none
        hint = "Switch compile off, or install what it needs: a C++ compiler on a CPU, Triton on a GPU."
        return {"code": "cannot_compile", "message": text.splitlines()[0], "hint": hint}
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or "not enough memory" in text or "can't allocate memory" in text:
        return {"code": "out_of_memory", "message": text.splitlines()[0], "hint": memory_hint(kind)}
    return None


def facts(run_dir: Path, error: Exception) -> dict[str, str]:
    """Code, message and hint of a run that cannot go on."""
    hint = "This is a fault of the program: the run's log file has the details."
    ours = {"code": "unexpected", "message": f"{type(error).__name__}: {error}", "hint": hint}
    return explain(error, kind_of(run_dir)) or ours
