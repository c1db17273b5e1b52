"""The run directory: the whole conversation between supervisor and trainer. No torch, no Django.

    RUN_DIR/
      spec.json        {"version": 1, "kind", "config", "seed", "threads"?: int,
                        "inputs": {name: {"path", "sha256"}}}; names by kind: configs.py; the hash of a
                       folder: `folder_hash`
                       threads: with how many the trainer computes on a CPU; they split sums, which decides
                       last bits. Without it, as in older specs: as many as the environment says
                       A part of any other name is refused: one that is misspelt would be passed over
      inputs/          links or copies: policy/, reference/, reward_model/ (folders), *.jsonl
      events.jsonl     append-only, one object a line, each with "type" and "time" (seconds since the epoch)
      checkpoints/     step-000040/ complete or absent; manifest.json (sha256 of each file) is written last
      tensorboard/     the metrics and samples of events.jsonl once more, as event files for TensorBoard
      output/          the finished model (or completions.jsonl) with its manifest.json
      outcome.json     {"status": "done", "spec": hash of what spec.json says} or {"status": "cancelled"} or
                       {"status": "failed", "code", "message", "hint"}

Input files (JSONL, one object a line, UTF-8); those of a snapshot are preferences or demonstrations:
    preferences     {"prompt": [messages], "chosen": str, "rejected": str, "margin": float, "tie": bool,
                     "weight": float, "split": "train" | "held_out", "prompt_id": int, "preference_id": int,
                     "annotator"?: int (within this file only), "agreement"?: float (share of the comparison's
                     other judgements that say the same, a tie counted half; absent where there is no other)};
                     margin: 1, 2, 3 from slightly to much better, 0 where no strength was said, others are
                     read as the nearest of these; margin and weight are finite and 0 at least; annotator and
                     agreement may be null
    demonstrations  {"prompt": [messages], "completion": str, "split": "train" | "held_out"}
    prompts         {"prompt": [messages], "prompt_id": int}
`sample` writes output/completions.jsonl: {"prompt_id", "index", "completion", "token_count", "finish_reason":
    "stop" | "length", "logprob": float (sum over the completion), "score": float | null}

Events:
    phase    {"phase": str, "step": int, "total_steps": int}
    metrics  {"step": int, "total_steps": int, "seconds_left": float | null, "values": {path: float}}
    sample   {"step", "index", "messages", "completion", "score": float | null, "kl": float | null}
    log / warning / error   {"message": str}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

VERSION = 1
SPEC = ("version", "kind", "config", "seed", "threads", "inputs")
CHUNK = 1024 * 1024


class ProtocolError(Exception):
    """A run directory that breaks the protocol; says which file and why."""


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """{relative path: sha256} of every file below `folder` except its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def content_hash(hashes: dict[str, str]) -> str:
    """One hash of a folder: of its sorted file names and their hashes."""
    text = json.dumps(hashes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def folder_hash(folder: Path) -> str:
    return content_hash(file_hashes(folder))


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Whole or absent: written aside (several processes each for itself), synced, renamed, folder synced."""
    aside = path.with_name(f"{os.getpid()}.{path.name}.part")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProtocolError(f"{path.name} cannot be read: {error}") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:  # of text, a part of many lines would be decoded at once
        for line in file:
            yield json.loads(line)


# --- folders that are complete or absent ------------------------------------------------------------


def seal(aside: Path, final: Path) -> str:
    """Write the manifest of `aside`, sync every file, rename it to `final`; returns the content hash."""
    hashes = file_hashes(aside)
    for name in hashes:
        descriptor = os.open(aside / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    write_json(aside / "manifest.json", {"files": hashes, "content_hash": content_hash(hashes)})
    if final.exists():
        shutil.rmtree(final)
    aside.replace(final)
    sync_folder(final.parent)
    return content_hash(hashes)


def verify(folder: Path) -> str:
    """The content hash of a sealed folder; raises ProtocolError naming the first file that differs."""
    manifest = read_json(folder / "manifest.json")
    stated = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(stated, dict):
        raise ProtocolError(f"{folder.name}/manifest.json names no files")
    found = file_hashes(folder)
    for name in sorted(stated.keys() | found.keys()):
        if found.get(name) != stated.get(name):
            raise ProtocolError(f"{folder.name}/{name} differs from its manifest")
    return content_hash(found)


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:06d}"


def checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoint folders, newest first; half-written ones have another name."""
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)


def remove_half_written(run_dir: Path) -> None:
    """What a trainer that died or failed was about to write: nobody will ever read it."""
    for folder in [*run_dir.glob("checkpoints/.*.part"), *run_dir.glob(".output.part")]:
        shutil.rmtree(folder)


# --- events -----------------------------------------------------------------------------------------


def whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - CHUNK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def cut_half_line(run_dir: Path) -> None:
    """Take away what a trainer that was killed while writing left, before the next one appends to it."""
    path = run_dir / "events.jsonl"
    if path.exists():
        os.truncate(path, whole_lines(path))


class Events:
    """Appends to events.jsonl, a line at a time, flushed so that a tail sees it at once."""

    def __init__(self, run_dir: Path) -> None:
        cut_half_line(run_dir)
        self.file = (run_dir / "events.jsonl").open("a", encoding="utf-8")

    def write(self, type: str, **facts: object) -> None:
        line = json.dumps({"type": type, "time": time.time(), **facts}, ensure_ascii=False, allow_nan=False)
        self.file.write(line + "\n")
        self.file.flush()


def read_events(run_dir: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Events written since byte `offset`, and the new offset; an unfinished last line is left for later."""
    path = run_dir / "events.jsonl"
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(8 * CHUNK)
    end = block.rfind(b"\n") + 1
    return [json.loads(line) for line in block[:end].splitlines()], offset + end


# --- spec and outcome -------------------------------------------------------------------------------


def write_spec(
    run_dir: Path,
    *,
    kind: str,
    config: dict[str, Any],
    seed: int,
    inputs: dict[str, dict[str, str]],
    threads: int | None = None,
) -> None:
    spec = {"version": VERSION, "kind": kind, "config": config, "seed": seed, "inputs": inputs}
    write_json(run_dir / "spec.json", spec if threads is None else {**spec, "threads": threads})


def read_spec(run_dir: Path) -> dict[str, Any]:
    """What the run is to do; raises ProtocolError naming a part that is unknown or of a wrong type."""
    spec = read_json(run_dir / "spec.json")
    if not isinstance(spec, dict) or spec.get("version") != VERSION:
        raise ProtocolError(f"spec.json is not of version {VERSION}")
    for name, type_ in (("kind", str), ("config", dict), ("seed", int), ("inputs", dict)):
        if type(spec.get(name)) is not type_:
            raise ProtocolError(f"spec.json has no {name} of type {type_.__name__}")
    for name, described in spec["inputs"].items():
        stated = [described.get(part) for part in ("path", "sha256")] if isinstance(described, dict) else []
        if not stated or not all(isinstance(part, str) for part in stated):
            raise ProtocolError(f"input {name} in spec.json has no path and sha256")
    if unknown := spec.keys() - SPEC:
        raise ProtocolError(f"{min(unknown)} in spec.json is none of its parts: {', '.join(SPEC)}")
    threads = spec.get("threads", 1)
    if type(threads) is not int or threads < 1:
        raise ProtocolError(f"threads in spec.json must be a whole number from 1, not {threads!r}")
    return spec


def spec_hash(spec: dict[str, Any]) -> str:
    """Of all that spec.json says, however it is written."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def read_outcome(run_dir: Path) -> dict[str, Any] | None:
    """How the run ended; None while it has not, or when a new start takes an older outcome away."""
    try:
        return cast("dict[str, Any]", read_json(run_dir / "outcome.json"))
    except ProtocolError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def write_outcome(run_dir: Path, status: str, **facts: str) -> None:
    write_json(run_dir / "outcome.json", {"status": status, **facts})
