"""Model versions: register what a run made, verify it, promote it, roll back, and say where it came from.

A version's folder lies under ARTIFACT_ROOT/models/HASH, is read-only and never changes; "the promoted
version" is one pointer row that moves by compare-and-set together with its Promotion and audit entry.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max, Q
from django.utils.translation import gettext as _

from feedback.models import AuditEntry, Project, User
from training import sampled
from training.core import protocol
from training.models import ModelVersion, PromotedVersion, Promotion, Run, RunMetric, Snapshot

UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".py", ".so")
"""Files that run code when loaded, or that a loader would prefer to the safetensors beside them."""


class Refused(Exception):
    """A change that must not happen; the message tells a person why."""


class Stale(Refused):
    """Somebody else changed the pointer first."""


# --- folders ----------------------------------------------------------------------------------------


def store(folder: Path) -> str:
    """Put a sealed folder under ARTIFACT_ROOT/models/HASH and return the hash; a second call changes nothing.

    Files are hard-linked where the file system can, so that the run directory stays whole at no cost, and
    copied where it cannot. The folder appears by one rename, complete or not at all.
    """
    content_hash = protocol.verify(folder)
    final = settings.ARTIFACT_ROOT / "models" / content_hash
    if final.exists():
        protocol.verify(final)
        return content_hash
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{uuid.uuid4().hex}.part")
    try:
        shutil.copytree(folder, aside, copy_function=_link_or_copy, symlinks=False)
        for path in aside.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        protocol.sync_folder(aside)
        aside.rename(final)
    except OSError:
        if not final.exists():  # another registration of the same bytes may have renamed first
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    protocol.sync_folder(final.parent)
    return content_hash


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target)
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def verify(version: ModelVersion) -> None:
    """Raise Refused, and mark the version damaged, unless its files are what was registered."""
    try:
        found = protocol.verify(version.path)
    except protocol.ProtocolError as error:
        ModelVersion.objects.filter(pk=version.pk).update(state=ModelVersion.State.DAMAGED)
        raise Refused(_("%(version)s is damaged: %(what)s") % {"version": version, "what": error}) from error
    if found != version.content_hash:
        ModelVersion.objects.filter(pk=version.pk).update(state=ModelVersion.State.DAMAGED)
        raise Refused(_("%(version)s is damaged: its content has another hash") % {"version": version})


# --- register ---------------------------------------------------------------------------------------


def register_base(project: Project, folder: Path, *, actor: User | None, note: str) -> ModelVersion:
    """Copy a `transformers` folder into the store and number it; the folder itself is left alone.

    Raises Refused for weights other than safetensors, custom code, and links.
    """
    _refuse_unsafe(folder)
    models = settings.ARTIFACT_ROOT / "models"
    models.mkdir(parents=True, exist_ok=True)
    copy, sealed = (models / f".{uuid.uuid4().hex}.{name}" for name in ("copy", "sealed"))
    try:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("manifest.json"))
        protocol.seal(copy, sealed)
        content_hash = store(sealed)
    finally:
        for path in (copy, sealed):
            shutil.rmtree(path, ignore_errors=True)
    with transaction.atomic():
        version = _number(
            project, ModelVersion(kind=ModelVersion.Kind.BASE, content_hash=content_hash, note=note)
        )
        AuditEntry.record(actor, "version.register", version, content_hash=content_hash, note=note)
    return version


def _refuse_unsafe(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise Refused(_("%(folder)s holds no config.json") % {"folder": folder.name})
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise Refused(_("%(file)s is a link") % {"file": path.name})
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            raise Refused(_("%(file)s: only safetensors weights are accepted") % {"file": path.name})
        if path.suffix == ".json" and path.name.endswith("config.json"):
            described = protocol.read_json(path)
            if isinstance(described, dict) and "auto_map" in described:
                raise Refused(_("%(file)s asks for custom code, which is never run") % {"file": path.name})
    if not any(folder.glob("*.safetensors")):
        raise Refused(_("%(folder)s holds no safetensors weights") % {"folder": folder.name})


def register_output(run: Run, *, content_hash: str | None = None) -> ModelVersion | None:
    """Register what a finished run left: a version, or for `sample` completions and what they are for.

    Safe to repeat: a run has one version, whatever dies in between. `content_hash` is that of an output which
    `store` has already put away, so that a caller's transaction need not wait for the hashing.
    """
    if run.kind == "sample":
        sampled.register(run)
        return None
    registered = ModelVersion.objects.filter(run=run).first()
    if registered is not None:
        return registered
    content_hash = content_hash or store(run.directory / "output")
    reward = run.kind == "reward_model"
    kind = ModelVersion.Kind.REWARD if reward else ModelVersion.Kind.POLICY
    if run.purpose.get("register") == "base":
        kind = ModelVersion.Kind.BASE
    parent = run.inputs.filter(name="policy").select_related("model_version").first()
    with transaction.atomic():
        version = _number(
            run.project,
            ModelVersion(
                kind=kind,
                run=run,
                content_hash=content_hash,
                parent=parent.model_version if parent else None,
                metrics=last_metrics(run),
                note=str(run.purpose.get("note", "")),
            ),
        )
        AuditEntry.record(run.created_by, "version.register", version, run=run.pk, content_hash=content_hash)
    return version


def last_metrics(run: Run) -> dict[str, float]:
    """The newest value of every metric path."""
    newest: dict[str, float] = {}
    for values in RunMetric.objects.filter(run=run).order_by("step").values_list("values", flat=True):
        newest.update(values)
    return newest


def _number(project: Project, version: ModelVersion) -> ModelVersion:
    """Save with the next number of its kind; the project's row is locked, so two never draw the same."""
    Project.objects.select_for_update().get(pk=project.pk)
    reward = Q(kind=ModelVersion.Kind.REWARD)
    same = ModelVersion.objects.filter(project=project).filter(
        reward if version.kind == ModelVersion.Kind.REWARD else ~reward
    )
    last = same.aggregate(last=Max("number"))["last"]
    first = 1 if version.kind == ModelVersion.Kind.REWARD else 0
    version.project = project
    version.number = first if last is None else last + 1
    version.save(force_insert=True)
    return version


# --- promote ----------------------------------------------------------------------------------------


def promoted(project: Project) -> ModelVersion | None:
    pointer = PromotedVersion.objects.filter(project=project).select_related("version").first()
    return pointer.version if pointer else None


def promote(
    version: ModelVersion, *, actor: User | None, reason: str, expected: ModelVersion | None
) -> Promotion:
    """Make this version the one that writes the next completions.

    `expected` is the promoted version that the person saw when deciding; raises Stale when it is another one
    by now, and Refused for reward models, damaged files, an empty reason or the version that stands already.
    """
    if version.kind == ModelVersion.Kind.REWARD:
        raise Refused(_("A reward model cannot be promoted."))
    if not reason.strip():
        raise Refused(_("Say why."))
    if expected is not None and expected.pk == version.pk:
        raise Refused(_("%(version)s is promoted already.") % {"version": version})
    verify(version)
    return _move_pointer(version, expected, actor=actor, reason=reason, roll_back=False)


def roll_back(project: Project, *, actor: User | None, reason: str) -> Promotion:
    """Promote the version that stood before the current one; rolling back again goes further back."""
    standing = _standing(project)
    if len(standing) < 2:
        raise Refused(_("There is no earlier version to roll back to."))
    if not reason.strip():
        raise Refused(_("Say why."))
    current, target = standing[-1], standing[-2]
    verify(target)
    return _move_pointer(target, current, actor=actor, reason=reason, roll_back=True)


def roll_back_target(project: Project) -> ModelVersion | None:
    """Where `roll_back` would go."""
    standing = _standing(project)
    return standing[-2] if len(standing) > 1 else None


def _standing(project: Project) -> list[ModelVersion]:
    """The versions that stood one after the other, oldest first; a roll-back takes the newest off again."""
    standing: list[ModelVersion] = []
    for promotion in Promotion.objects.filter(project=project).order_by("pk").select_related("version"):
        if promotion.roll_back:
            standing.pop()
        else:
            standing.append(promotion.version)
    return standing


def _move_pointer(
    version: ModelVersion,
    expected: ModelVersion | None,
    *,
    actor: User | None,
    reason: str,
    roll_back: bool,
) -> Promotion:
    project = version.project
    try:
        with transaction.atomic():
            promotion = Promotion.objects.create(
                project=project,
                version=version,
                previous=expected,
                by=actor,
                reason=reason.strip(),
                roll_back=roll_back,
            )
            if expected is None:
                PromotedVersion.objects.create(project=project, version=version, promotion=promotion)
            else:
                pointer = PromotedVersion.objects.filter(project=project, version=expected)
                if not pointer.update(version=version, promotion=promotion):
                    raise Stale(_stale_words(project))
            action = "version.roll_back" if roll_back else "version.promote"
            previous = str(expected) if expected else None
            AuditEntry.record(
                actor, action, version, version=str(version), previous=previous, reason=reason.strip()
            )
    except IntegrityError as error:
        if not PromotedVersion.objects.filter(project=project).exists():
            raise
        raise Stale(_stale_words(project)) from error
    return promotion


def _stale_words(project: Project) -> str:
    return _("Somebody else promoted %(version)s in the meantime: look again.") % {
        "version": promoted(project)
    }


# --- where a version came from ----------------------------------------------------------------------


class Link(NamedTuple):
    """A version in a lineage, how deep it stands, and through which input it was reached."""

    version: ModelVersion
    depth: int
    role: str
    """Empty for the version asked about; else policy, reference or reward_model."""
    run: Run | None
    snapshots: list[Snapshot]


def lineage(version: ModelVersion) -> list[Link]:
    """The version and all it was made from, depth first, each version once."""
    return list(_links(version, 0, "", set()))


def _links(version: ModelVersion, depth: int, role: str, seen: set[int]) -> Iterator[Link]:
    if version.pk in seen:
        return
    seen.add(version.pk)
    run = (
        Run.objects.filter(version=version)
        .prefetch_related("inputs__model_version", "inputs__snapshot")
        .first()
    )
    inputs = list(run.inputs.all()) if run else []
    snapshots = [read.snapshot for read in inputs if read.snapshot is not None]
    yield Link(version, depth, role, run, snapshots)
    for read in inputs:
        if read.model_version is not None:
            yield from _links(read.model_version, depth + 1, read.name, seen)
