"""Checkpoints: safetensors and JSON in a sealed folder, the last two kept. Nothing here is ever unpickled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.core import protocol
from training.core.types import Note, Saved

KEPT = 2


def write(run_dir: Path, saved: Saved, spec: dict[str, Any]) -> None:
    """`spec`: the one that the run was begun with, whatever has become of its file since."""
    final = protocol.checkpoint_folder(run_dir, saved.step)
    aside = final.with_name(f".{final.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in saved.tensors.items()}
    save_file(tensors, aside / "state.safetensors")
    facts = {"step": saved.step, "facts": saved.facts, "spec": protocol.spec_hash(spec)}
    protocol.write_json(aside / "facts.json", facts)
    protocol.seal(aside, final)
    for old in protocol.checkpoints(run_dir)[KEPT:]:
        shutil.rmtree(old)


def read_newest(run_dir: Path, spec: dict[str, Any]) -> tuple[Saved | None, list[Note]]:
    """The newest whole checkpoint, and a warning for each damaged one, which is set aside.

    Raises ProtocolError where it belongs to another specification: to go on from it would be neither run.
    """
    own = protocol.spec_hash(spec)
    notes: list[Note] = []
    for folder in protocol.checkpoints(run_dir):
        try:
            protocol.verify(folder)
            facts = protocol.read_json(folder / "facts.json")
            tensors = load_file(folder / "state.safetensors")
        except (protocol.ProtocolError, OSError, SafetensorError) as error:
            notes.append(Note("warning", f"Checkpoint {folder.name} is damaged and was skipped: {error}"))
            set_aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(set_aside, ignore_errors=True)
            folder.rename(set_aside)
            continue
        if facts.get("spec", own) != own:  # older checkpoints say nothing of it
            told = "was written under another spec.json: put that back, or remove checkpoints/"
            raise protocol.ProtocolError(f"checkpoint {folder.name} {told}")
        return Saved(facts["step"], tensors, facts["facts"]), notes
    return None, notes
